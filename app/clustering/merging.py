"""Merging of people: Chinese Whispers may leave the faces of one human in several people, whose mean faces are similar.

The mean of several faces of a person is called a template in the field. It is more similar to the person's other faces
than these are to each other, so the same threshold merges more. It is also more similar to other people's faces; local
scaling among the means takes that back. Two people of one face each are not merged: for them the means are the faces,
whose similarity was too low already.

For two established people, that alone would merge siblings: the more photos there are of both, the more similar their
means become, though no two of the photos are. So the mean similarity of all pairs of their faces has a share in it.

A person of one face may be a turned or covered face of somebody who is in many photos. So it is merged with an
established person from somewhat below the threshold on, where it is clearly more similar to that person than to any
other. Two strangers who are in one photo each never gain by this. It waits for a full run: in an incremental one the
faces to which a lone face really belongs may be still to come.

Each round merges pairs of people that are each other's most similar person above the threshold. Then means and
similarities are computed again, until no pair is left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.clustering.chinese_whispers import number_by_first_appearance
from app.clustering.graph import FaceGraph, Labels, Rows
from app.clustering.local_scaling import Neighbourhood, choose_strength, measure_neighbourhood
from app.clustering.neighbours import Neighbours
from app.core.arrays import Floats
from app.core.roles import Role

CANDIDATES = 24
"""So many other people are compared with a person: those with the face most similar to one of the person's faces."""
HALF_STRENGTH = 50
"""With so many people, half of the excess similarity is subtracted; see `choose_strength`."""
CONFLICTS = 0.1
"""Two people are not merged where both are in more photos than this part of the smaller one's faces. Fewer shared
photos may be mistakes."""
ESTABLISHED = 3
"""A person with so many faces is an established one: its mean is that of a person, not of a photo."""
PAIRS_SHARE = 0.25
"""The similarity of two established people is the geometric mean of that of their means, and of the mean similarity of
all pairs of their faces, which has this share of the weight."""
LONE_BELOW_PART, LONE_LEAD_PART = 0.16, 0.2
"""How far below the threshold the similarity of a person of one face to an established person may be, and by how much
it must exceed that to any other person. Both are parts of 1 - threshold, as in joining.py."""
BLOCK_PAIRS = 16_384
"""Pairs whose similarities are computed at once."""


@dataclass
class _Pairs:
    """Candidates for merging, each array (C,): the people `first` < `second`, and the `similarity` of their means, NaN
    until it is computed."""

    first: Labels
    second: Labels
    similarity: Floats


@dataclass
class _People:
    """P people while they are merged. `sums` (P,D) are the sums of their embeddings, whose direction is that of the
    mean; `faces` (M,) are rows of the graph, and `labels` (M,) the person of each of these, from 0 on."""

    sums: Floats
    faces: Rows
    labels: Labels
    pairs: _Pairs

    @property
    def sizes(self) -> NDArray[np.intp]:
        return np.bincount(self.labels, minlength=len(self.sums))

    def compare(self) -> None:
        """Compute the similarities that are missing."""
        missing = np.isnan(self.pairs.similarity)
        first, second, sizes = self.pairs.first[missing], self.pairs.second[missing], self.sizes
        lengths = np.linalg.norm(self.sums, axis=1)
        means = self.sums / lengths[:, None]
        similarity = compute_similarities(means, means, first, second)
        both = np.minimum(sizes[first], sizes[second]) >= ESTABLISHED
        # The mean of all pairs is the product of two means that are not normalised, whose lengths are these.
        lengths /= sizes
        similarity[both] *= (lengths[first] * lengths[second])[both] ** PAIRS_SHARE
        self.pairs.similarity[missing] = similarity

    def merge(self, merged: Labels) -> None:
        """(P,) the new number of each person; people of equal numbers become one."""
        self.sums = _sum_by_person(self.sums, merged)
        self.labels = merged[self.labels]
        self.pairs = _renumber_pairs(self.pairs, merged, np.bincount(merged) > 1)


def merge_people(graph: FaceGraph, labels: Labels, threshold: float) -> tuple[Labels, Neighbourhood]:
    """A graph of N core faces, (N,) people numbered from 0 on → (N,) people, and the excess similarity of each
    person."""
    all_faces = np.arange(len(labels))
    pairs = _choose_candidates(graph.neighbours, labels, all_faces)
    people = _People(_sum_by_person(graph.embeddings, labels), all_faces, labels, pairs)
    while True:
        people.compare()
        neighbourhood = _measure_people_neighbourhood(people)
        strength = choose_strength(len(people.sums), HALF_STRENGTH)
        merged = _choose_merges(people, graph.photos, neighbourhood.excess, strength, threshold, with_lone=True)
        if merged is None:
            return people.labels, neighbourhood
        people.merge(merged)


def merge_people_near(
    graph: FaceGraph, labels: Labels, threshold: float, rows: Rows, known: Neighbourhood
) -> tuple[Labels, NDArray[np.float64]]:
    """As `merge_people`, but only for the people of the core faces `rows` (R,) and the people that are compared with
    them: a graph of N faces, (N,) people → (N,) people and (N,) the excess similarity of each face's person.

    `known.excess` (N,) is what an earlier run measured for each face's person, NaN for faces that it did not have.
    """
    pairs = _choose_candidates(graph.neighbours, labels, rows)
    involved = np.unique(np.r_[pairs.first, pairs.second, labels[rows]])
    place = np.full(int(labels.max(initial=-1)) + 2, -1)
    place[involved] = np.arange(len(involved))
    faces = np.flatnonzero(place[labels] >= 0)
    pairs = _Pairs(place[pairs.first], place[pairs.second], pairs.similarity)
    people = _People(_sum_by_person(graph.embeddings, place[labels[faces]], faces), faces, place[labels[faces]], pairs)
    people.compare()
    excess = _reuse_or_measure(people, known)
    strength = choose_strength(len(np.unique(labels)), HALF_STRENGTH)
    while (merged := _choose_merges(people, graph.photos, excess, strength, threshold)) is not None:
        excess = _average_by_person(excess[people.labels], merged[people.labels])
        people.merge(merged)
        people.compare()
    _, first = np.unique(people.labels, return_index=True)
    new_labels, person_excess = labels.copy(), known.excess.copy()
    new_labels[faces] = labels[faces[first]][people.labels]
    person_excess[faces] = excess[people.labels]
    return new_labels, person_excess


def _reuse_or_measure(people: _People, known: Neighbourhood) -> NDArray[np.float64]:
    """(P,) the excess of each person: the mean of what an earlier run measured for the person's faces. It is measured
    now for people all of whose faces are new."""
    excess = known.excess[people.faces]
    is_known = ~np.isnan(excess)
    mean = _average_by_person(excess[is_known], people.labels[is_known], len(people.sums))
    return np.where(np.isnan(mean), _measure_people_neighbourhood(people, known.typical).excess, mean)


def _average_by_person(values: NDArray[np.float64], labels: Labels, count: int = 0) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, values, count) / np.bincount(labels, minlength=count)


def _measure_people_neighbourhood(people: _People, typical: float | None = None) -> Neighbourhood:
    all_people = np.arange(len(people.sums))
    return measure_neighbourhood(_tabulate_nearest(people.pairs, len(all_people)), all_people, all_people, typical)


def average_faces(graph: FaceGraph, labels: Labels, people: Labels) -> Floats:
    """A graph of N faces, (N,) their people, (P,) sorted numbers of some people → (P,D) float32 of unit length: the
    mean of each of these people's core faces."""
    place = np.full(int(labels.max(initial=-1)) + 2, -1)
    place[people] = np.arange(len(people))
    faces = np.flatnonzero((place[labels] >= 0) & (graph.roles == Role.CORE))
    return _normalise(_sum_by_person(graph.embeddings, place[labels[faces]], faces))


def compute_similarities(one: Floats, other: Floats, first: Rows, second: Rows) -> Floats:
    """(P,) cosine similarities: row `first[i]` of `one` with row `second[i]` of `other`."""
    similarities = np.empty(len(first), np.float32)
    for begin in range(0, len(first), BLOCK_PAIRS):
        block = slice(begin, begin + BLOCK_PAIRS)
        similarities[block] = np.einsum("ij,ij->i", one[first[block]], other[second[block]])
    return similarities


def _sum_by_person(vectors: Floats, labels: Labels, rows: Rows | None = None) -> Floats:
    """(N,D), (M,) people from 0 on of M of the rows (by default all) → (P,D) sums."""
    rows = np.arange(len(labels)) if rows is None else rows
    shape = (int(labels.max(initial=-1)) + 1, len(vectors))
    members = sparse.csr_array((np.ones(len(rows), np.float32), (labels, rows)), shape)
    return np.asarray(members @ vectors, np.float32)


def _normalise(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _choose_candidates(neighbours: Neighbours, labels: Labels, rows: Rows) -> _Pairs:
    """The pairs of people to compare: for each person of these faces the CANDIDATES people with the most similar face
    among the faces' neighbours."""
    indices, similarities = neighbours.indices[rows], neighbours.similarities[rows]
    others = (indices >= 0) & (labels[indices] != labels[rows, None])
    others &= np.cumsum(others, axis=1) <= CANDIDATES
    face, column = np.nonzero(others)
    count = int(labels.max(initial=-1)) + 1
    pair = labels[rows[face]] * count + labels[indices[face, column]]
    similarity = similarities[face, column]
    # Each pair once, with the similarity of its most similar faces; then the most similar people of each person.
    order = np.lexsort((-similarity, pair))
    pair, similarity = pair[order], similarity[order]
    is_first = np.r_[True, pair[1:] != pair[:-1]] if len(pair) else np.zeros(0, np.bool_)
    pair, similarity = pair[is_first], similarity[is_first]
    order = np.lexsort((-similarity, pair // max(count, 1)))
    pair = pair[order]
    person = pair // max(count, 1)
    rank = np.arange(len(pair)) - np.searchsorted(person, person)
    first, second = np.divmod(pair[rank < CANDIDATES], max(count, 1))
    return _make_unique_pairs(first, second, count)


def _make_unique_pairs(first: Labels, second: Labels, count: int) -> _Pairs:
    pairs = np.unique(np.minimum(first, second) * count + np.maximum(first, second))
    first, second = np.divmod(pairs, max(count, 1))
    return _Pairs(first, second, np.full(len(pairs), np.nan, np.float32))


def _tabulate_nearest(pairs: _Pairs, count: int) -> Neighbours:
    """The pairs as neighbours (P,CANDIDATES): for each person the people it is compared with, most similar first."""
    person, other = np.r_[pairs.first, pairs.second], np.r_[pairs.second, pairs.first]
    similarity = np.r_[pairs.similarity, pairs.similarity]
    order = np.lexsort((other, -similarity, person))
    person, other, similarity = person[order], other[order], similarity[order]
    rank = np.arange(len(person)) - np.searchsorted(person, person)
    listed = rank < CANDIDATES
    place = person[listed], rank[listed]
    table = Neighbours(np.full((count, CANDIDATES), -1), np.full((count, CANDIDATES), -np.inf, np.float32))
    table.indices[place], table.similarities[place] = other[listed], similarity[listed]
    return table


def _choose_merges(
    people: _People,
    photos: NDArray[np.intp],
    excess: NDArray[np.float64],
    strength: float,
    threshold: float,
    *,
    with_lone: bool = False,
) -> Labels | None:
    """(P,) the new number of each person, or None where there is no pair to merge.

    A pair is merged where its scaled similarity is high enough, and for both people the highest of such pairs. Only
    `with_lone` may lone faces join established people from below the threshold on.
    """
    pairs, count, sizes = people.pairs, len(people.sums), people.sizes
    similarity = pairs.similarity - strength * (excess[pairs.first] + excess[pairs.second]) / 2
    possible = (similarity > threshold) & ((sizes[pairs.first] > 1) | (sizes[pairs.second] > 1))
    if with_lone:
        possible |= _belong_to_established(pairs, similarity, sizes, threshold)
    first, second, similarity = pairs.first[possible], pairs.second[possible], similarity[possible]
    allowed = _share_few_photos(first, second, people.labels, photos[people.faces], sizes)
    first, second, similarity = first[allowed], second[allowed], similarity[allowed]
    best = np.full(count, -np.inf)
    np.maximum.at(best, np.r_[first, second], np.r_[similarity, similarity])
    chosen = (similarity == best[first]) & (similarity == best[second])
    if not chosen.any():
        return None
    into = np.arange(count)
    # Where similarities are equal, a person may be in several chosen pairs; it is merged into the lowest number of
    # them.
    np.minimum.at(into, second[chosen], first[chosen])
    return number_by_first_appearance(into)


def _belong_to_established(
    pairs: _Pairs, similarity: NDArray[np.float64], sizes: NDArray[np.intp], threshold: float
) -> NDArray[np.bool_]:
    """(C,) which pairs are a person of one face and the established person to which it clearly belongs."""
    lone = np.where(sizes[pairs.first] == 1, pairs.first, pairs.second)
    people, both = np.r_[pairs.first, pairs.second], np.r_[similarity, similarity]
    order = np.lexsort((-both, people))
    rank = np.arange(len(order)) - np.searchsorted(people[order], people[order])
    best, second = np.full((2, len(sizes)), -np.inf)
    for place, values in ((0, best), (1, second)):
        rows = order[rank == place]
        values[people[rows]] = both[rows]
    lead = np.where(similarity == best[lone], similarity - second[lone], -np.inf)
    few, many = np.minimum(sizes[pairs.first], sizes[pairs.second]), np.maximum(sizes[pairs.first], sizes[pairs.second])
    near = similarity > threshold - LONE_BELOW_PART * (1 - threshold)
    is_clear = near & (lead >= LONE_LEAD_PART * (1 - threshold))
    return np.asarray(is_clear & (few == 1) & (many >= ESTABLISHED), np.bool_)


def _share_few_photos(
    first: Labels, second: Labels, labels: Labels, photos: NDArray[np.intp], sizes: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """(C,), (C,) pairs of people → (C,) whether few enough photos show both of them; see CONFLICTS."""
    involved = np.zeros(len(sizes), np.bool_)
    involved[first] = involved[second] = True
    faces = np.flatnonzero(involved[labels])
    shape = (len(sizes), int(photos.max(initial=0)) + 1)
    is_in = sparse.csr_array((np.ones(len(faces), np.bool_), (labels[faces], photos[faces])), shape).astype(np.float32)
    is_in.data[:] = 1
    shared: NDArray[np.float32] = np.asarray((is_in[first].multiply(is_in[second])).sum(axis=1)).ravel()
    return np.asarray(shared <= CONFLICTS * np.minimum(sizes[first], sizes[second]))


def _renumber_pairs(pairs: _Pairs, merged: Labels, is_new: NDArray[np.bool_]) -> _Pairs:
    """The pairs under the new numbers of their people, each once. A pair with a merged person loses its similarity."""
    first, second = merged[pairs.first], merged[pairs.second]
    low, high = np.minimum(first, second), np.maximum(first, second)
    count = len(is_new)
    kept, where = np.unique(low * count + high, return_index=True)
    first, second = np.divmod(kept, count)
    differ = first != second
    first, second, similarity = first[differ], second[differ], pairs.similarity[where[differ]]
    similarity[is_new[first] | is_new[second]] = np.nan
    return _Pairs(first, second, similarity)
