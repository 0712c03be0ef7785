"""People that Chinese Whispers left in pieces: put together where their mean faces are alike.

The mean of several faces of a person (a template, in the field's terms) is nearer to each other face of that person
than the faces are to each other, so the same threshold finds more; and the local scaling takes back what means are
nearer to everybody. Two single faces have nothing but their own similarity, which was already too low.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.grouping.graph import FaceGraph, Floats, Labels, Rows
from app.grouping.local_scaling import nearness_of_others, scaled, strength_of
from app.grouping.neighbours import Neighbours
from app.grouping.whispers import numbered_by_first_appearance

CANDIDATES = 24
"""So many of the people around a person are compared with it: those with the most similar face."""
HALF_STRENGTH = 50
"""People of a gallery in which the local scaling counts half."""
CONFLICTS = 0.1
"""Two people stay two where they share more photos than this part of the smaller one's faces; fewer may be mistakes."""
REACH_PART = 0.4
"""People without a pair of faces this near below the threshold, as a part of what lies above it, are never one."""
BLOCK_PAIRS = 16_384


@dataclass
class _Pairs:
    """Pairs of people that may be one: `first` < `second` and `similarity` of their means, (P,)."""

    first: Labels
    second: Labels
    similarity: Floats


def merge_people(
    graph: FaceGraph,
    labels: Labels,
    threshold: float,
    touched: NDArray[np.bool_] | None = None,
    typical: float | None = None,
) -> tuple[Labels, float]:
    """A graph of N founding faces, (N,) people numbered from 0 on → (N,) people, and the typical nearness of people.

    With `touched` (P,) only pairs with one of those people are put together, and `typical` is what an earlier run gave.
    """
    sums = _sums(graph.embeddings, labels)
    rows = np.arange(len(labels)) if touched is None else _faces_around(graph.neighbours, labels, touched, threshold)
    pairs = _candidates(graph.neighbours, labels, rows)
    fresh = np.ones(len(pairs.first), np.bool_)
    while True:
        means = _unit(sums)
        pairs.similarity[fresh] = similarities_of(means, means, pairs.first[fresh], pairs.second[fresh])
        table = _nearest_people(pairs, len(means))
        nearness = nearness_of_others(table, np.arange(len(means)), np.arange(len(means)), typical)
        typical = nearness.typical
        near = scaled(table, nearness.beyond, strength_of(len(means), HALF_STRENGTH))
        merged = _merged(near, labels, graph.photos, threshold, touched)
        if merged is None:
            return labels, typical
        labels = merged[labels]
        sums = _sums(sums, merged)
        if touched is not None:
            touched = np.bincount(merged, weights=touched) > 0
        pairs, fresh = _renamed(pairs, merged, np.bincount(merged) > 1)


def mean_faces(embeddings: Floats, labels: Labels) -> Floats:
    """(N,D) faces, (N,) people from 0 on → (P,D) float32 of unit length."""
    return _unit(_sums(embeddings, labels))


def similarities_of(one: Floats, other: Floats, first: Rows, second: Rows) -> Floats:
    """(P,) cosine similarities of these rows of the one to those rows of the other."""
    found = np.empty(len(first), np.float32)
    for begin in range(0, len(first), BLOCK_PAIRS):
        block = slice(begin, begin + BLOCK_PAIRS)
        found[block] = np.einsum("ij,ij->i", one[first[block]], other[second[block]])
    return found


def _sums(vectors: Floats, labels: Labels) -> Floats:
    rows = np.arange(len(labels))
    members = sparse.csr_array(
        (np.ones(len(labels), np.float32), (labels, rows)), (labels.max(initial=-1) + 1, len(rows))
    )
    return np.asarray(members @ vectors, np.float32)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _faces_around(neighbours: Neighbours, labels: Labels, touched: NDArray[np.bool_], threshold: float) -> Rows:
    """The faces of the touched people, and of those that might be one with them."""
    faces = touched[labels]
    near = neighbours.similarities[faces] > threshold - REACH_PART * (1 - threshold)
    around = touched.copy()
    around[labels[neighbours.indices[faces][near]]] = True
    return np.flatnonzero(around[labels])


def _candidates(neighbours: Neighbours, labels: Labels, rows: Rows) -> _Pairs:
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
    return _unique(first, second, count)


def _unique(first: Labels, second: Labels, count: int) -> _Pairs:
    pairs = np.unique(np.minimum(first, second) * count + np.maximum(first, second))
    first, second = np.divmod(pairs, max(count, 1))
    return _Pairs(first, second, np.full(len(pairs), np.nan, np.float32))


def _nearest_people(pairs: _Pairs, count: int) -> Neighbours:
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


def _merged(
    near: Neighbours, labels: Labels, photos: NDArray[np.intp], threshold: float, touched: NDArray[np.bool_] | None
) -> Labels | None:
    """(P,) the new number of each person, or None where nobody is put together: pairs that prefer each other."""
    count = len(near.indices)
    sizes = np.bincount(labels, minlength=count)
    first, column = np.nonzero(near.similarities > threshold)
    second, similarity = near.indices[first, column], near.similarities[first, column]
    possible = (sizes[first] > 1) | (sizes[second] > 1)
    if touched is not None:
        possible &= touched[first] | touched[second]
    first, second, similarity = first[possible], second[possible], similarity[possible]
    free = _share_few_photos(first, second, labels, photos, sizes)
    first, second, similarity = first[free], second[free], similarity[free]
    best = np.full(count, -np.inf, np.float32)
    np.maximum.at(best, np.r_[first, second], np.r_[similarity, similarity])
    chosen = (similarity == best[first]) & (similarity == best[second])
    if not chosen.any():
        return None
    into = np.arange(count)
    # Where similarities are equal a person may be in several chosen pairs; it then goes to the lowest of them.
    np.minimum.at(into, np.maximum(first, second)[chosen], np.minimum(first, second)[chosen])
    return numbered_by_first_appearance(into)


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


def _renamed(pairs: _Pairs, merged: Labels, is_new: NDArray[np.bool_]) -> tuple[_Pairs, NDArray[np.bool_]]:
    """The pairs under new numbers, and which of them have to be compared again."""
    first, second = merged[pairs.first], merged[pairs.second]
    low, high = np.minimum(first, second), np.maximum(first, second)
    count = len(is_new)
    kept, where = np.unique(low * count + high, return_index=True)
    kept_first, kept_second = np.divmod(kept, count)
    differ = kept_first != kept_second
    first, second = kept_first[differ], kept_second[differ]
    return _Pairs(first, second, pairs.similarity[where[differ]]), is_new[first] | is_new[second]
