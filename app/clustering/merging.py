"""People that Chinese Whispers left in pieces: put together where their mean faces are alike.

The mean of several faces of a person (a template, in the field's terms) is nearer to each other face of that person
than the faces are to each other, so the same threshold finds more; and the local scaling takes back what means are
nearer to everybody. Two single faces have nothing but their own similarity, which was already too low.
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
"""So many of the people around a person are compared with it: those with the most similar face."""
HALF_STRENGTH = 50
"""People of a gallery in which the local scaling counts half."""
CONFLICTS = 0.1
"""Two people stay two where they share more photos than this part of the smaller one's faces; fewer may be mistakes."""
BLOCK_PAIRS = 16_384


@dataclass
class _Pairs:
    """Pairs of people that may be one: `first` < `second` and `similarity` of their means, (P,), NaN until compared."""

    first: Labels
    second: Labels
    similarity: Floats


@dataclass
class _People:
    """People while they are put together: `sums` (P,D) of their faces, `sizes` (P,), `faces` (M,) rows of the graph,
    `labels` (M,) whose each is, from 0 on."""

    sums: Floats
    faces: Rows
    labels: Labels
    pairs: _Pairs

    @property
    def sizes(self) -> NDArray[np.intp]:
        return np.bincount(self.labels, minlength=len(self.sums))

    def compare(self) -> None:
        """Fill in the similarities that are missing."""
        fresh = np.isnan(self.pairs.similarity)
        means = _normalise(self.sums)
        first, second = self.pairs.first[fresh], self.pairs.second[fresh]
        self.pairs.similarity[fresh] = compute_similarities(means, means, first, second)

    def become(self, merged: Labels) -> None:
        """(P,) the new number of each."""
        self.sums = _sum_by_person(self.sums, merged)
        self.labels = merged[self.labels]
        self.pairs = _renumber_pairs(self.pairs, merged, np.bincount(merged) > 1)


def merge_people(graph: FaceGraph, labels: Labels, threshold: float) -> tuple[Labels, Neighbourhood]:
    """A graph of N founding faces, (N,) people numbered from 0 on → (N,) people, and how near others lie to each."""
    everybody = np.arange(len(labels))
    pairs = _choose_candidates(graph.neighbours, labels, everybody)
    people = _People(_sum_by_person(graph.embeddings, labels), everybody, labels, pairs)
    while True:
        people.compare()
        nearness = _measure_people_neighbourhood(people)
        strength = choose_strength(len(people.sums), HALF_STRENGTH)
        merged = _choose_merges(people, graph.photos, nearness.excess, strength, threshold)
        if merged is None:
            return people.labels, nearness
        people.become(merged)


def merge_beside(
    graph: FaceGraph, labels: Labels, threshold: float, rows: Rows, known: Neighbourhood
) -> tuple[Labels, NDArray[np.float64]]:
    """The same for (R,) founding rows and the people around them alone: a graph of N faces, (N,) people → (N,) people
    and how much nearer others lie to each.

    `known.beyond` (N,) is what an earlier run found of each face's person, NaN where it knew none.
    """
    pairs = _choose_candidates(graph.neighbours, labels, rows)
    around = np.unique(np.r_[pairs.first, pairs.second, labels[rows]])
    place = np.full(int(labels.max(initial=-1)) + 2, -1)
    place[around] = np.arange(len(around))
    faces = np.flatnonzero(place[labels] >= 0)
    pairs = _Pairs(place[pairs.first], place[pairs.second], pairs.similarity)
    people = _People(_sum_by_person(graph.embeddings, place[labels[faces]], faces), faces, place[labels[faces]], pairs)
    people.compare()
    excess = _reuse_or_measure(people, known)
    strength = choose_strength(len(np.unique(labels)), HALF_STRENGTH)
    while (merged := _choose_merges(people, graph.photos, excess, strength, threshold)) is not None:
        excess = _average_by_person(excess[people.labels], merged[people.labels])
        people.become(merged)
        people.compare()
    _, first = np.unique(people.labels, return_index=True)
    together, of_person = labels.copy(), known.excess.copy()
    together[faces] = labels[faces[first]][people.labels]
    of_person[faces] = excess[people.labels]
    return together, of_person


def _reuse_or_measure(people: _People, known: Neighbourhood) -> NDArray[np.float64]:
    """(P,) of people with faces that an earlier run knew what it found; the others are compared with those around."""
    excess = known.excess[people.faces]
    is_known = ~np.isnan(excess)
    mean = _average_by_person(excess[is_known], people.labels[is_known], len(people.sums))
    return np.where(np.isnan(mean), _measure_people_neighbourhood(people, known.typical).excess, mean)


def _average_by_person(values: NDArray[np.float64], labels: Labels, count: int = 0) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, values, count) / np.bincount(labels, minlength=count)


def _measure_people_neighbourhood(people: _People, typical: float | None = None) -> Neighbourhood:
    everybody = np.arange(len(people.sums))
    return measure_neighbourhood(_tabulate_nearest(people.pairs, len(everybody)), everybody, everybody, typical)


def average_faces(graph: FaceGraph, labels: Labels, people: Labels) -> Floats:
    """A graph of N faces, (N,) their people, (P,) sorted numbers of some → (P,D) float32 of unit length: the means of
    these people's founding faces."""
    place = np.full(int(labels.max(initial=-1)) + 2, -1)
    place[people] = np.arange(len(people))
    faces = np.flatnonzero((place[labels] >= 0) & (graph.roles == Role.CORE))
    return _normalise(_sum_by_person(graph.embeddings, place[labels[faces]], faces))


def compute_similarities(one: Floats, other: Floats, first: Rows, second: Rows) -> Floats:
    """(P,) cosine similarities of these rows of the one to those rows of the other."""
    found = np.empty(len(first), np.float32)
    for begin in range(0, len(first), BLOCK_PAIRS):
        block = slice(begin, begin + BLOCK_PAIRS)
        found[block] = np.einsum("ij,ij->i", one[first[block]], other[second[block]])
    return found


def _sum_by_person(vectors: Floats, labels: Labels, rows: Rows | None = None) -> Floats:
    """(N,D), (M,) people from 0 on of these rows (all) → (P,D)."""
    rows = np.arange(len(labels)) if rows is None else rows
    shape = (int(labels.max(initial=-1)) + 1, len(vectors))
    members = sparse.csr_array((np.ones(len(rows), np.float32), (labels, rows)), shape)
    return np.asarray(members @ vectors, np.float32)


def _normalise(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _choose_candidates(neighbours: Neighbours, labels: Labels, rows: Rows) -> _Pairs:
    """The pairs of people that are compared, by these faces."""
    indices, similarities = neighbours.indices[rows], neighbours.similarities[rows]
    others = (indices >= 0) & (labels[indices] != labels[rows, None])
    others &= np.cumsum(others, axis=1) <= CANDIDATES
    face, column = np.nonzero(others)
    count = int(labels.max(initial=-1)) + 1
    pair = labels[rows[face]] * count + labels[indices[face, column]]
    similarity = similarities[face, column]
    # Each pair once, at its most similar faces; then the best of each person.
    order = np.lexsort((-similarity, pair))
    pair, similarity = pair[order], similarity[order]
    once = np.r_[True, pair[1:] != pair[:-1]] if len(pair) else np.zeros(0, np.bool_)
    pair, similarity = pair[once], similarity[once]
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
    """Each person's candidates as (P,CANDIDATES), most similar first."""
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
    people: _People, photos: NDArray[np.intp], excess: NDArray[np.float64], strength: float, threshold: float
) -> Labels | None:
    """(P,) the new number of each person, or None where nobody is put together: pairs that prefer each other."""
    pairs, count, sizes = people.pairs, len(people.sums), people.sizes
    similarity = pairs.similarity - strength * (excess[pairs.first] + excess[pairs.second]) / 2
    possible = (similarity > threshold) & ((sizes[pairs.first] > 1) | (sizes[pairs.second] > 1))
    first, second, similarity = pairs.first[possible], pairs.second[possible], similarity[possible]
    free = _share_few_photos(first, second, people.labels, photos[people.faces], sizes)
    first, second, similarity = first[free], second[free], similarity[free]
    best = np.full(count, -np.inf)
    np.maximum.at(best, np.r_[first, second], np.r_[similarity, similarity])
    chosen = (similarity == best[first]) & (similarity == best[second])
    if not chosen.any():
        return None
    into = np.arange(count)
    # Where similarities are equal a person may be in several chosen pairs; it then goes to the lowest of them.
    np.minimum.at(into, second[chosen], first[chosen])
    return number_by_first_appearance(into)


def _share_few_photos(
    first: Labels, second: Labels, labels: Labels, photos: NDArray[np.intp], sizes: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """(M,), (M,) people → whether each pair may be one by the photos that both are in."""
    involved = np.zeros(len(sizes), np.bool_)
    involved[first] = involved[second] = True
    faces = np.flatnonzero(involved[labels])
    shape = (len(sizes), int(photos.max(initial=0)) + 1)
    is_in = sparse.csr_array((np.ones(len(faces), np.bool_), (labels[faces], photos[faces])), shape).astype(np.float32)
    is_in.data[:] = 1
    shared: NDArray[np.float32] = np.asarray((is_in[first].multiply(is_in[second])).sum(axis=1)).ravel()
    return np.asarray(shared <= CONFLICTS * np.minimum(sizes[first], sizes[second]))


def _renumber_pairs(pairs: _Pairs, merged: Labels, is_new: NDArray[np.bool_]) -> _Pairs:
    """The pairs under new numbers; those with a new person have to be compared again."""
    first, second = merged[pairs.first], merged[pairs.second]
    low, high = np.minimum(first, second), np.maximum(first, second)
    count = len(is_new)
    kept, where = np.unique(low * count + high, return_index=True)
    first, second = np.divmod(kept, count)
    differ = first != second
    first, second, similarity = first[differ], second[differ], pairs.similarity[where[differ]]
    similarity[is_new[first] | is_new[second]] = np.nan
    return _Pairs(first, second, similarity)
