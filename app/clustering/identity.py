"""Person ids that stay the same from run to run: each cluster of a run is matched to a known person or to a new one.

Users' corrections come before the clustering: a face that a user confirmed for a person stays with that person, and a
face that was rejected for a person never gets that person.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, count

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import UNASSIGNED
from app.clustering.incremental import ReadEmbeddings
from app.core.records import FaceBatch, PersonRecord, make_person_id

_BLOCK = 1_024
"""How many faces are compared at once."""
_MOST_ROUNDS = 10


@dataclass(frozen=True)
class PersonMatches:
    """N person ids, None for unassigned faces; `merged` maps ids of people that were merged to the ids that they have
    now; `rejected_for` maps the ids of faces that are unassigned because of a rejection to the rejected person."""

    person_ids: list[str | None]
    merged: dict[str, str]
    rejected_for: dict[str, str]


@dataclass(frozen=True)
class _Before:
    """The faces' people before this run, and users' corrections. All ids are of people that are not merged.

    `people` are N person ids, None also where that person was rejected; `confirmed` are the rows whose person a user
    confirmed; `rejected` maps rows to the people that were rejected for them; `apart` has, in both orders, the pairs of
    people of whom a face of one was rejected for the other, or whom a user keeps apart.
    """

    people: list[str | None]
    confirmed: set[int]
    rejected: dict[int, frozenset[str]]
    apart: set[tuple[str, str]]


@dataclass(frozen=True)
class _Cluster:
    """The rows of one label, their smallest face id, and by person the numbers of its faces and confirmed faces."""

    rows: list[int]
    first: str
    faces: Counter[str] = field(default_factory=Counter)
    confirmed: Counter[str] = field(default_factory=Counter)

    def find_owner(self) -> str | None:
        """The person with most faces here; of equal ones, that with more confirmed faces."""
        return min(self.faces, key=lambda one: (-self.faces[one], -self.confirmed[one], one), default=None)

    def has_only_corrections(self, person: str, owner: str | None) -> bool:
        """Whether all faces of the person here are confirmed, in another owner's cluster: a user has moved just these
        to the person, which tells nothing about the cluster's other faces."""
        return person != owner and self.confirmed[person] == self.faces[person]

    def get_rank(self, person: str) -> tuple[int, int, int, str]:
        """The lower, the better the cluster fits: more of the person's faces, more confirmed ones, fewer of others."""
        return -self.faces[person], -self.confirmed[person], len(self.rows), self.first


def match_people(
    labels: NDArray[np.int64],
    faces: FaceBatch,
    known: Iterable[PersonRecord] = (),
    is_core: NDArray[np.bool_] | None = None,
    read_embeddings: ReadEmbeddings | None = None,
) -> PersonMatches:
    """(N,) labels of this run, N faces, all people known so far, (N,) which faces are core faces → N person ids.

    `read_embeddings` (the batch's own by default) is called only where several people keep their faces in one cluster.

    Each person claims one cluster: of those in which no other person has more faces, the one with most of its faces; if
    there is none, the one with most of its faces. A person with confirmed faces claims every cluster with one of these
    instead. Where a person's faces in another owner's cluster are all confirmed, they are no reason to claim it. So the
    larger part of a split person keeps the id, or the parts with confirmed faces do. A cluster without a claim is a new
    person. The claims are independent: an assignment with the greatest total overlap would, to keep the id of a small
    part, give a larger part the id and the name of another person.

    People with a claim to the same cluster are merged; the named or confirmed one stays, else the oldest. None is
    merged where two are named or confirmed, or where a face of one was rejected for another: all keep the faces they
    had, and each other face goes to the person of the most similar of these. A face that was rejected for its cluster's
    person keeps its former person; such faces without one become a new person, or are unassigned if none is core.

    All of this is repeated until nothing changes, for a face that moves may have kept two people from being merged.
    """
    if not len(labels) == len(faces) == len(faces.person_ids):
        raise ValueError(f"{len(faces)} faces need as many labels and person ids, not {len(labels)}")
    people = {person.person_id: person for person in known}
    merged: dict[str, str] = {}
    for _ in range(_MOST_ROUNDS):
        matched = _match_once(labels, faces, people, is_core, read_embeddings or faces.embeddings.__getitem__)
        if not matched.merged and matched.person_ids == faces.person_ids:
            break
        faces = replace(faces, person_ids=matched.person_ids)
        merged |= matched.merged
        people |= {old: _mark_merged(people, old, new) for old, new in matched.merged.items()}
    resolved = resolve_merged_ids(people.values())
    return replace(matched, merged={old: resolved[old] for old in merged})


def _mark_merged(people: Mapping[str, PersonRecord], old: str, new: str) -> PersonRecord:
    return replace(people.get(old, PersonRecord(old, "", 0, 0)), merged_into=new)


def _match_once(
    labels: NDArray[np.int64],
    faces: FaceBatch,
    people: Mapping[str, PersonRecord],
    is_core: NDArray[np.bool_] | None,
    read_embeddings: ReadEmbeddings,
) -> PersonMatches:
    before = _read_before(faces, people, resolve_merged_ids(people.values()))
    clusters = _list_clusters(labels, faces, before)
    claims = _find_claims(clusters)
    merged = _choose_merges(clusters, claims, before, people)
    before = _apply_merges(before, merged)
    ids = _NewIds(faces, before, people, merged)
    assigned: dict[int, str] = {}
    rejected_for: dict[str, str] = {}
    for cluster, claimants in zip(clusters, claims, strict=True):
        owners = sorted({merged.get(person, person) for person in claimants}) or [ids.make(cluster.rows)]
        assigned |= _split_cluster(cluster.rows, owners, read_embeddings, before)
        remaining = [row for row in cluster.rows if row not in assigned]
        if remaining and (is_core is None or is_core[remaining].any()):
            assigned |= dict.fromkeys(remaining, ids.make(remaining))
        else:
            rejected_for |= {faces.face_ids[row]: owners[0] for row in remaining}
    assigned |= {row: person for row in before.confirmed if (person := before.people[row])}
    return PersonMatches([assigned.get(row) for row in range(len(faces))], merged, rejected_for)


def resolve_merged_ids(people: Iterable[PersonRecord]) -> dict[str, str]:
    """Id of each merged person → id of the person that it is now, however many merges lie between."""
    into = {person.person_id: person.merged_into for person in people if person.merged_into}
    resolved = {}
    for person_id in into:
        passed = [person_id]
        while passed[-1] in into and into[passed[-1]] not in passed:
            passed.append(into[passed[-1]])
        resolved[person_id] = passed[-1]
    return resolved


def _read_before(faces: FaceBatch, known: Mapping[str, PersonRecord], resolved: Mapping[str, str]) -> _Before:
    people = [resolved.get(person, person) if person else None for person in faces.person_ids]
    kept = {
        (resolved.get(one.person_id, one.person_id), resolved.get(other, other))
        for one in known.values()
        for other in one.kept_apart
    }
    kept |= {(b, a) for a, b in kept}
    if not faces.confirmed and not faces.rejected:
        return _Before(people, set(), {}, kept)
    row_of = {face_id: row for row, face_id in enumerate(faces.face_ids)}
    confirmed = {row_of[face_id] for face_id in faces.confirmed if people[row_of[face_id]]}
    rejected = {}
    for face_id, ones in faces.rejected.items():
        row = row_of[face_id]
        own = {people[row]} if row in confirmed else set()
        rejected[row] = frozenset(resolved.get(one, one) for one in ones) - own
        if people[row] in rejected[row]:
            people[row] = None
    pairs = {(person, one) for row, ones in rejected.items() for one in ones if (person := people[row])}
    return _Before(people, confirmed, rejected, pairs | {(b, a) for a, b in pairs} | kept)


def _apply_merges(before: _Before, merged: Mapping[str, str]) -> _Before:
    people = [merged.get(person, person) if person else None for person in before.people]
    rejected = {row: frozenset(merged.get(one, one) for one in ones) for row, ones in before.rejected.items()}
    for row, ones in rejected.items():
        if people[row] in ones:
            people[row] = None
    return replace(before, people=people, rejected=rejected)


def _list_clusters(labels: NDArray[np.int64], faces: FaceBatch, before: _Before) -> list[_Cluster]:
    """All clusters, and the rows of each, in the order of face ids. UNASSIGNED is no cluster."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(faces)), key=faces.face_ids.__getitem__):
        rows_of[int(labels[row])].append(row)
    rows_of.pop(UNASSIGNED, None)
    return [
        _Cluster(
            rows,
            faces.face_ids[rows[0]],
            Counter(person for row in rows if (person := before.people[row])),
            Counter(person for row in rows if row in before.confirmed and (person := before.people[row])),
        )
        for rows in rows_of.values()
    ]


def _find_claims(clusters: Sequence[_Cluster]) -> list[list[str]]:
    """The people who claim each cluster."""
    owners = [cluster.find_owner() for cluster in clusters]
    places: dict[str, list[int]] = defaultdict(list)
    for number, cluster in enumerate(clusters):
        for person in cluster.faces:
            if not cluster.has_only_corrections(person, owners[number]):
                places[person].append(number)
    claims: list[list[str]] = [[] for _ in clusters]
    for person, numbers in places.items():
        owned = [number for number in numbers if owners[number] == person]
        confirmed = [number for number in numbers if clusters[number].confirmed[person]]
        best = min(owned or numbers, key=lambda number: clusters[number].get_rank(person))
        for number in confirmed or [best]:
            claims[number].append(person)
    return claims


def _choose_merges(
    clusters: Sequence[_Cluster], claims: Sequence[list[str]], before: _Before, people: Mapping[str, PersonRecord]
) -> dict[str, str]:
    """Person to merge → the person into which it is merged: both claim the same cluster."""
    fixed = {before.people[row] for row in before.confirmed} | {one.person_id for one in people.values() if one.name}
    merged: dict[str, str] = {}
    for cluster, claimants in zip(clusters, claims, strict=True):
        must_stay = [person for person in claimants if person in fixed]
        if len(must_stay) > 1 or any(pair in before.apart for pair in combinations(claimants, 2)):
            continue
        by_age = sorted(claimants, key=lambda one: (_get_first_run(people, one), -cluster.faces[one], one))
        stays = next(iter(must_stay or by_age), None)
        merged |= {person: stays for person in claimants if stays and person != stays}
    return merged


def _get_first_run(people: Mapping[str, PersonRecord], person_id: str) -> float:
    """The number of the run that made a person; infinite for one that this run makes."""
    return people[person_id].since if person_id in people else math.inf


def _split_cluster(
    rows: Sequence[int], owners: Sequence[str], read_embeddings: ReadEmbeddings, before: _Before
) -> dict[int, str]:
    """Row of a cluster → its person, without the rows for which all owners were rejected and that had no person."""
    has_rejected = {row for row in rows if not before.rejected.get(row, frozenset()).isdisjoint(owners)}
    kept = {row: one for row in rows if (one := before.people[row]) and (one in owners or row in has_rejected)}
    others = [row for row in rows if row not in kept]
    if len(owners) > 1:
        of_owners = {row: one for row, one in kept.items() if one in owners}
        return kept | _find_nearest(others, of_owners, read_embeddings, before)
    return kept | {row: owners[0] for row in others if row not in has_rejected}


def _find_nearest(
    rows: Sequence[int], people: Mapping[int, str], read_embeddings: ReadEmbeddings, before: _Before
) -> dict[int, str]:
    """Each row → the person of the most similar row in `people`, of the people that were not rejected for it; without
    the rows for which all were rejected."""
    nearest: dict[int, str] = {}
    if not rows:
        return nearest
    assigned = list(people)
    known = read_embeddings(np.array(assigned)).T
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for row, similarities in zip(block, read_embeddings(np.array(block)) @ known, strict=True):
            rejected = before.rejected.get(row, ())
            if rejected:
                similarities[[people[other] in rejected for other in assigned]] = -np.inf
            best = int(similarities.argmax())
            if np.isfinite(similarities[best]):
                nearest[row] = people[assigned[best]]
    return nearest


class _NewIds:
    """Ids for clusters that no person claims. People without a face in this run are `absent` and may come back."""

    def __init__(
        self, faces: FaceBatch, before: _Before, people: Mapping[str, PersonRecord], merged: Collection[str]
    ) -> None:
        self._faces, self._rejected = faces, before.rejected
        self._taken = {person for person in before.people if person} | set(merged)
        self._taken |= {one.person_id for one in people.values() if one.merged_into}
        self._absent = {name: one for name, one in people.items() if name not in self._taken}

    def make(self, rows: Sequence[int]) -> str:
        """Rows in the order of face ids → the id of an absent person that was made from one of them, or a new id.

        A new id is made from the first row. Another is tried while it is taken, as by a person that has lost that face.
        """
        excluded = self._taken.union(*(self._rejected.get(row, ()) for row in rows))
        made = {self._derive_id(row, 0) for row in rows} if self._absent else set()
        back = [self._absent[one] for one in made if one in self._absent and one not in excluded]
        if back:
            chosen = min(back, key=lambda one: (not one.name, one.since, one.person_id)).person_id
        else:
            chosen = next(one for attempt in count() if (one := self._derive_id(rows[0], attempt)) not in excluded)
        self._taken.add(chosen)
        return chosen

    def _derive_id(self, row: int, attempt: int) -> str:
        return make_person_id(self._faces.face_ids[row], self._faces.etags[row], attempt)
