"""Which people may be one person: pairs that the clustering has nearly joined, for an owner to say yes or no.

The clustering joins people whose mean faces are similar enough in every respect (merging.py). A pair just below, or one
that local scaling has kept apart, is often one person who looks different in two sets of photos. Only the owner can
know.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.clustering.merging import CONFLICTS
from app.core.records import PersonRecord

BELOW_PART = 0.2
"""How far below the threshold the similarity of a suggested pair may be, as a part of 1 - threshold."""
MOST_SUGGESTIONS = 100
"""An owner answers a few of them; the most similar come first."""
_BLOCK = 1_024
"""How many people are compared with all others at once."""


@dataclass(frozen=True)
class Suggestion:
    """Two people who may be one: `person_id` is the one who is in more photos. `similarity` is that of their means."""

    person_id: str
    other: str
    similarity: float


def suggest_merges(
    person_ids: Sequence[str],
    means: NDArray[np.floating],
    threshold: float,
    photos_of: Mapping[str, Collection[str]],
    known: Iterable[PersonRecord] = (),
) -> list[Suggestion]:
    """P people, (P,D) means of unit length, the gallery's threshold, person id → ids of the person's photos, and all
    people with what users said of them → pairs, most similar first, MOST_SUGGESTIONS at most.

    A pair is suggested where each is the other's most similar person of those that may be suggested with it. Two people
    who are in one photo are not one person, but for mistakes (see CONFLICTS); those whom a user keeps apart, or both of
    whom are named, are not suggested.
    """
    if len(person_ids) != len(means):
        raise ValueError(f"{len(person_ids)} people need as many means, not {len(means)}")
    place = {person_id: number for number, person_id in enumerate(person_ids)}
    people = {person.person_id: person for person in known}
    named = np.array([bool(people[one].name) if one in people else False for one in person_ids], np.bool_)
    excluded = _list_excluded(place, people, photos_of)
    vectors = np.asarray(means, np.float32)
    best, similarity = np.full(len(vectors), -1), np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(vectors)))
        found = vectors[rows] @ vectors.T
        found[np.arange(len(rows)), rows] = -np.inf
        found[np.ix_(named[rows], named)] = -np.inf
        for row in rows:
            found[row - start, excluded[int(row)]] = -np.inf
        best[rows] = found.argmax(axis=1)
        similarity[rows] = found[np.arange(len(rows)), best[rows]]
    least = threshold - BELOW_PART * (1 - threshold)
    chosen = [
        (one, int(other))
        for one, other in enumerate(best)
        if one < other and best[other] == one and similarity[one] >= least
    ]
    chosen.sort(key=lambda pair: (-similarity[pair[0]], pair))
    return [_order(person_ids, pair, float(similarity[pair[0]]), photos_of) for pair in chosen[:MOST_SUGGESTIONS]]


def _order(
    person_ids: Sequence[str], pair: tuple[int, int], similarity: float, photos_of: Mapping[str, Collection[str]]
) -> Suggestion:
    more, fewer = sorted((person_ids[row] for row in pair), key=lambda one: (-len(photos_of.get(one, ())), one))
    return Suggestion(more, fewer, round(similarity, 4))


def _list_excluded(
    place: Mapping[str, int], people: Mapping[str, PersonRecord], photos_of: Mapping[str, Collection[str]]
) -> defaultdict[int, list[int]]:
    """Row of a person → rows of those who are kept apart from it, or are in too many photos with it."""
    excluded: defaultdict[int, list[int]] = defaultdict(list)
    for person in people.values():
        for apart in person.kept_apart:
            first, second = place.get(_find_now(people, person.person_id)), place.get(_find_now(people, apart))
            if first is not None and second is not None:
                excluded[first].append(second)
                excluded[second].append(first)
    shared: defaultdict[tuple[int, int], int] = defaultdict(int)
    for rows in _list_together(place, photos_of):
        for number, one in enumerate(rows):
            for other in rows[number + 1 :]:
                shared[one, other] += 1
    sizes = {row: len(photos_of.get(person_id, ())) for person_id, row in place.items()}
    for (one, other), count in shared.items():
        if count > CONFLICTS * min(sizes[one], sizes[other]):
            excluded[one].append(other)
            excluded[other].append(one)
    return excluded


def _list_together(place: Mapping[str, int], photos_of: Mapping[str, Collection[str]]) -> list[list[int]]:
    """The rows of the people of each photo."""
    on: defaultdict[str, list[int]] = defaultdict(list)
    for person_id, row in place.items():
        for photo in set(photos_of.get(person_id, ())):
            on[photo].append(row)
    return [sorted(rows) for rows in on.values()]


def _find_now(people: Mapping[str, PersonRecord], person_id: str) -> str:
    """The id that a merged person has now; runs and edits keep it one step away."""
    person = people.get(person_id)
    return person.merged_into if person and person.merged_into else person_id
