"""People whose ids stay from run to run: which of a run's clusters is whom.

What users have said stands above what the clustering says: a face whose person a user confirmed stays there, and no
face comes to a person that was rejected for it.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, count

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import UNASSIGNED
from app.core.records import FaceBatch, PersonRecord

EmbeddingsOf = Callable[[NDArray[np.intp]], NDArray[np.float32]]
"""(M,) rows of faces → (M,D) float32 unit length."""
_BLOCK = 1_024
"""Faces compared at once."""
_MOST_ROUNDS = 10


@dataclass(frozen=True)
class PersonMatches:
    """What a run makes of the people: N person ids, None for nobody's faces; which ids became which; and the faces
    that are nobody's for having been rejected, with the person they were rejected for."""

    person_ids: list[str | None]
    merged: dict[str, str]
    turned_away: dict[str, str]


@dataclass(frozen=True)
class _UserWords:
    """What is known of the faces before, in ids of people that are not merged.

    `before` are N people, None also where the person was rejected; `pinned` are the rows that a user confirmed;
    `rejected` maps rows to people they are not; `apart` has, in both orders, the people of whom a face of one was
    rejected for the other.
    """

    before: list[str | None]
    pinned: set[int]
    rejected: dict[int, frozenset[str]]
    apart: set[tuple[str, str]]


@dataclass(frozen=True)
class _Cluster:
    """The rows of a label, its smallest face id, and how many faces, and confirmed ones, it has of whom."""

    rows: list[int]
    first: str
    faces: Counter[str] = field(default_factory=Counter)
    confirmed: Counter[str] = field(default_factory=Counter)

    def owner(self) -> str | None:
        """Who has most faces here; of equals, the one with more confirmed ones."""
        return min(self.faces, key=lambda one: (-self.faces[one], -self.confirmed[one], one), default=None)

    def is_taken_out(self, person: str, owner: str | None) -> bool:
        """Whether the person's faces here are confirmed ones alone, amid more of another's: a user took them from
        that one, which says nothing about the rest."""
        return person != owner and self.confirmed[person] == self.faces[person]

    def rank(self, person: str) -> tuple[int, int, int, str]:
        """Smaller where the person has more faces, more confirmed ones, or fewer others beside it."""
        return -self.faces[person], -self.confirmed[person], len(self.rows), self.first


def match_people(
    labels: NDArray[np.int64],
    faces: FaceBatch,
    known: Iterable[PersonRecord] = (),
    may_found: NDArray[np.bool_] | None = None,
    embeddings_of: EmbeddingsOf | None = None,
) -> PersonMatches:
    """(N,) labels of this run, N faces, everybody known so far, (N,) which face may be a person alone → N person ids.

    Embeddings are looked at where two people claim a cluster: `embeddings_of` gives those of some rows, the batch's
    unless it is given.

    Each person claims the cluster with most of its faces, of those in which nobody else has more; outnumbered in all,
    it claims the one with most of its faces all the same. A person with confirmed faces claims instead every cluster
    that has some. Confirmed faces alone amid more faces of another claim nothing, and take nobody along. So the larger
    part of a split person keeps the id, or the confirmed parts do. A cluster that nobody claims is somebody new. Each
    person decides for itself: the assignment with the greatest total overlap would, to save the id of a small part,
    hand a larger part a stranger's id and name.

    People that claim one cluster are merged; the named or confirmed one stays, else the oldest. Where two are named or
    confirmed, or a face of one was rejected for another, none is merged: all keep the faces they had, and further
    faces go to the nearest of these. A face that was rejected for its cluster's person stays whose it was, if it was
    another's; else such faces of a cluster are somebody new together, or nobody's where none of them may be a person.

    All this again, until it changes nothing: a face that moves may take away what kept two people apart.
    """
    if not len(labels) == len(faces) == len(faces.person_ids):
        raise ValueError(f"{len(faces)} faces need as many labels and person ids, not {len(labels)}")
    people = {person.person_id: person for person in known}
    merged: dict[str, str] = {}
    for _ in range(_MOST_ROUNDS):
        matched = _match_once(labels, faces, people, may_found, embeddings_of or faces.embeddings.__getitem__)
        if not matched.merged and matched.person_ids == faces.person_ids:
            break
        faces = replace(faces, person_ids=matched.person_ids)
        merged |= matched.merged
        people |= {old: _find_merges(people, old, new) for old, new in matched.merged.items()}
    living = resolve_merged_ids(people.values())
    return replace(matched, merged={old: living[old] for old in merged})


def _find_merges(people: Mapping[str, PersonRecord], old: str, new: str) -> PersonRecord:
    return replace(people.get(old, PersonRecord(old, "", 0, 0)), merged_into=new)


def _match_once(
    labels: NDArray[np.int64],
    faces: FaceBatch,
    people: Mapping[str, PersonRecord],
    may_found: NDArray[np.bool_] | None,
    embeddings_of: EmbeddingsOf,
) -> PersonMatches:
    said = _read_user_words(faces, resolve_merged_ids(people.values()))
    clusters = _list_clusters(labels, faces, said)
    claims = _find_claims(clusters)
    merged = _merge_into(clusters, claims, said, people)
    said = _name_new_people(said, merged)
    ids = _NewIds(faces, said, people, merged)
    shares: dict[int, str] = {}
    turned_away: dict[str, str] = {}
    for cluster, claimants in zip(clusters, claims, strict=True):
        owners = sorted({merged.get(person, person) for person in claimants}) or [ids.make(cluster.rows)]
        shares |= _split_cluster(cluster.rows, owners, embeddings_of, said)
        leavers = [row for row in cluster.rows if row not in shares]
        if leavers and (may_found is None or may_found[leavers].any()):
            shares |= dict.fromkeys(leavers, ids.make(leavers))
        else:
            turned_away |= {faces.face_ids[row]: owners[0] for row in leavers}
    shares |= {row: person for row in said.pinned if (person := said.before[row])}
    return PersonMatches([shares.get(row) for row in range(len(faces))], merged, turned_away)


def resolve_merged_ids(people: Iterable[PersonRecord]) -> dict[str, str]:
    """Id of each merged person → the id that its links lead to, however many merges lie between."""
    into = {person.person_id: person.merged_into for person in people if person.merged_into}
    living = {}
    for person_id in into:
        passed = [person_id]
        while passed[-1] in into and into[passed[-1]] not in passed:
            passed.append(into[passed[-1]])
        living[person_id] = passed[-1]
    return living


def _read_user_words(faces: FaceBatch, living: Mapping[str, str]) -> _UserWords:
    before = [living.get(person, person) if person else None for person in faces.person_ids]
    if not faces.confirmed and not faces.rejected:
        return _UserWords(before, set(), {}, set())
    row_of = {face_id: row for row, face_id in enumerate(faces.face_ids)}
    pinned = {row_of[face_id] for face_id in faces.confirmed if before[row_of[face_id]]}
    rejected = {}
    for face_id, ones in faces.rejected.items():
        row = row_of[face_id]
        rejected[row] = frozenset(living.get(one, one) for one in ones) - ({before[row]} if row in pinned else set())
        if before[row] in rejected[row]:
            before[row] = None
    pairs = {(person, one) for row, ones in rejected.items() for one in ones if (person := before[row])}
    return _UserWords(before, pinned, rejected, pairs | {(b, a) for a, b in pairs})


def _name_new_people(said: _UserWords, merged: Mapping[str, str]) -> _UserWords:
    before = [merged.get(person, person) if person else None for person in said.before]
    rejected = {row: frozenset(merged.get(one, one) for one in ones) for row, ones in said.rejected.items()}
    for row, ones in rejected.items():
        if before[row] in ones:
            before[row] = None
    return replace(said, before=before, rejected=rejected)


def _list_clusters(labels: NDArray[np.int64], faces: FaceBatch, said: _UserWords) -> list[_Cluster]:
    """All clusters but UNASSIGNED, and the rows of each, by their smallest face ids."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(faces)), key=faces.face_ids.__getitem__):
        rows_of[int(labels[row])].append(row)
    rows_of.pop(UNASSIGNED, None)
    return [
        _Cluster(
            rows,
            faces.face_ids[rows[0]],
            Counter(person for row in rows if (person := said.before[row])),
            Counter(person for row in rows if row in said.pinned and (person := said.before[row])),
        )
        for rows in rows_of.values()
    ]


def _find_claims(clusters: Sequence[_Cluster]) -> list[list[str]]:
    """Who claims each cluster."""
    owners = [cluster.owner() for cluster in clusters]
    places: dict[str, list[int]] = defaultdict(list)
    for number, cluster in enumerate(clusters):
        for person in cluster.faces:
            if not cluster.is_taken_out(person, owners[number]):
                places[person].append(number)
    claims: list[list[str]] = [[] for _ in clusters]
    for person, numbers in places.items():
        owned = [number for number in numbers if owners[number] == person]
        sure = [number for number in numbers if clusters[number].confirmed[person]]
        best = min(owned or numbers, key=lambda number: clusters[number].rank(person))
        for number in sure or [best]:
            claims[number].append(person)
    return claims


def _merge_into(
    clusters: Sequence[_Cluster], claims: Sequence[list[str]], said: _UserWords, people: Mapping[str, PersonRecord]
) -> dict[str, str]:
    """People who claim a cluster that is another's → that one."""
    fixed = {said.before[row] for row in said.pinned} | {one.person_id for one in people.values() if one.name}
    merged: dict[str, str] = {}
    for cluster, claimants in zip(clusters, claims, strict=True):
        firm = [person for person in claimants if person in fixed]
        if len(firm) > 1 or any(pair in said.apart for pair in combinations(claimants, 2)):
            continue
        by_age = sorted(claimants, key=lambda one: (_get_first_run(people, one), -cluster.faces[one], one))
        stays = next(iter(firm or by_age), None)
        merged |= {person: stays for person in claimants if stays and person != stays}
    return merged


def _get_first_run(people: Mapping[str, PersonRecord], person_id: str) -> float:
    """The run that made a person; one that this run makes is younger than all."""
    return people[person_id].since if person_id in people else math.inf


def _split_cluster(
    rows: Sequence[int], owners: Sequence[str], embeddings_of: EmbeddingsOf, said: _UserWords
) -> dict[int, str]:
    """Row of a cluster → its person; rows that none of the owners may have, and that were nobody's, are left out."""
    refusing = {row for row in rows if not said.rejected.get(row, frozenset()).isdisjoint(owners)}
    shares = {row: person for row in rows if (person := said.before[row]) and (person in owners or row in refusing)}
    others = [row for row in rows if row not in shares]
    if len(owners) > 1:
        theirs = {row: one for row, one in shares.items() if one in owners}
        return shares | _find_nearest(others, theirs, embeddings_of, said)
    return shares | {row: owners[0] for row in others if row not in refusing}


def _find_nearest(
    rows: Sequence[int], people: Mapping[int, str], embeddings_of: EmbeddingsOf, said: _UserWords
) -> dict[int, str]:
    """Each row's most similar row of those in `people` that it may be → whose that is; rows that may be none are left
    out."""
    nearest: dict[int, str] = {}
    if not rows:
        return nearest
    theirs = list(people)
    known = embeddings_of(np.array(theirs)).T
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for row, similarities in zip(block, embeddings_of(np.array(block)) @ known, strict=True):
            refused = said.rejected.get(row, ())
            if refused:
                similarities[[people[other] in refused for other in theirs]] = -np.inf
            best = int(similarities.argmax())
            if np.isfinite(similarities[best]):
                nearest[row] = people[theirs[best]]
    return nearest


class _NewIds:
    """Ids for those whom nobody has claimed. `away` are people without a face in this run, who may come back."""

    def __init__(
        self, faces: FaceBatch, said: _UserWords, people: Mapping[str, PersonRecord], merged: Collection[str]
    ) -> None:
        self._faces, self._rejected = faces, said.rejected
        self._taken = {person for person in said.before if person} | set(merged)
        self._taken |= {one.person_id for one in people.values() if one.merged_into}
        self._away = {name: one for name, one in people.items() if name not in self._taken}

    def make(self, rows: Sequence[int]) -> str:
        """Rows by their face ids → who was made from one of these faces and has come back, else an id from the first.

        An id is made anew while it is taken, as by a person who has left the face behind that gave it the id.
        """
        refused = self._taken.union(*(self._rejected.get(row, ()) for row in rows))
        made = {self._made_from(row, 0) for row in rows} if self._away else set()
        back = [self._away[one] for one in made if one in self._away and one not in refused]
        if back:
            chosen = min(back, key=lambda one: (not one.name, one.since, one.person_id)).person_id
        else:
            chosen = next(one for attempt in count() if (one := self._made_from(rows[0], attempt)) not in refused)
        self._taken.add(chosen)
        return chosen

    def _made_from(self, row: int, attempt: int) -> str:
        # With the ETag, or a photo under an old name would bring its people's names to whoever is on it now.
        origin = f"{self._faces.face_ids[row]}#{self._faces.etags[row]}#{attempt}"
        return f"p{hashlib.blake2b(origin.encode(), digest_size=8).hexdigest()}"
