"""Weak faces beside people that better faces have founded: whose each of them is, if anybody's.

A blurred or covered face is less like its own person than a good one, and no more like others. So it may lie somewhat
below the threshold, but must be clearly more like one person than like any other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.grouping.neighbours import EXACT, Neighbours, NeighbourSearch

Labels = NDArray[np.int64]

NOBODY = -1
BELOW_PART, MARGIN_PART = 0.2, 0.1
"""How far below the threshold a weak face may be, and by how much it must prefer its person, as parts of what lies
above the threshold: embedders differ widely in their scale. 0.1 and 0.05 for a threshold of 0.5."""
FACES = 3
"""A person's most similar faces speak for it by their mean; one alone may be alike by its light."""
NEIGHBOURS = 64


@dataclass(frozen=True)
class _Offers:
    """Which person could take which weak face: `weak`, `person` and `similarity` (P,), best first for each face."""

    weak: NDArray[np.intp]
    person: Labels
    similarity: NDArray[np.float64]


def join_people(
    embeddings: NDArray[np.float32],
    labels: Labels,
    photos: NDArray[np.intp],
    weak: NDArray[np.intp],
    threshold: float,
    *,
    search: NeighbourSearch = EXACT,
) -> Labels:
    """(N,D) unit vectors, (N,) people of the founding faces and NOBODY else, (N,) photos, (M,) rows of weak faces →
    (M,) people. Nobody gets a second face in a photo."""
    founding = np.flatnonzero(labels != NOBODY)
    joined = np.full(len(weak), NOBODY, np.int64)
    if not len(founding) or not len(weak):
        return joined
    near = search.nearest_in(embeddings[weak], embeddings[founding], NEIGHBOURS)
    offers = _offers(near, labels[founding])
    best, lead = _best_and_lead(offers, near, len(weak))
    free = ~_is_in_photo(offers, photos[weak], photos[founding], labels[founding])
    sure = offers.similarity[best] >= threshold - BELOW_PART * (1 - threshold)
    taken = best[sure & free[best] & (lead >= MARGIN_PART * (1 - threshold))]
    # The surest first: of two weak faces in one photo the other can't be the same person.
    taken = taken[np.argsort(-offers.similarity[taken], kind="stable")]
    places = photos[weak[offers.weak[taken]]] * (labels.max() + 1) + offers.person[taken]
    _, first = np.unique(places, return_index=True)
    joined[offers.weak[taken[first]]] = offers.person[taken[first]]
    return joined


def _offers(near: Neighbours, people: Labels) -> _Offers:
    """(M,k) nearest founding faces, their people (F,) → each person near a weak face, by the mean of its FACES best."""
    weak, column = np.nonzero(near.indices >= 0)
    person = people[near.indices[weak, column]]
    similarity = near.similarities[weak, column].astype(np.float64)
    # Rows come by face and then by similarity, so a stable sort keeps each person's best in front.
    order = np.lexsort((person, weak))
    weak, person, similarity = weak[order], person[order], similarity[order]
    begins = np.flatnonzero(np.r_[True, (weak[1:] != weak[:-1]) | (person[1:] != person[:-1])])
    counts = np.diff(np.r_[begins, len(weak)])
    place = np.arange(len(weak)) - np.repeat(begins, counts)
    total = np.add.reduceat(np.where(place < FACES, similarity, 0), begins)
    mean = total / np.minimum(counts, FACES)
    best_first = np.lexsort((person[begins], -mean, weak[begins]))
    return _Offers(weak[begins][best_first], person[begins][best_first], mean[best_first])


def _best_and_lead(offers: _Offers, near: Neighbours, count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each of `count` weak faces: the row of its best offer, and how much better that is than the next one's.

    Where all neighbours are of one person, anybody else is at most as near as the last of them.
    """
    best = np.searchsorted(offers.weak, np.arange(count))
    following = np.minimum(best + 1, len(offers.weak) - 1)
    has_next = (best + 1 < len(offers.weak)) & (offers.weak[following] == offers.weak[best])
    next_best = np.where(has_next, offers.similarity[following], near.similarities[:, -1])
    return best, offers.similarity[best] - next_best


def _is_in_photo(
    offers: _Offers, weak_photos: NDArray[np.intp], photos: NDArray[np.intp], people: Labels
) -> NDArray[np.bool_]:
    """(P,) whether the person of an offer has a founding face in the weak face's own photo."""
    width = people.max() + 1
    return np.isin(weak_photos[offers.weak] * width + offers.person, photos * width + people)
