"""Chinese Whispers on the graph of nearest neighbours: faces to provisional people.

Biemann, "Chinese Whispers: an efficient graph clustering algorithm" (TextGraphs 2006), with two changes. An edge
weighs its similarity's margin over the threshold, so that many doubtful edges don't outvote a few sure ones and one
rule serves embedders whose thresholds differ widely. The visiting order comes from the data instead of a random
generator: the surest faces speak first, the result doesn't depend on the order of the rows, and a few new photos
don't reshuffle the whole gallery.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.clustering.graph import FaceGraph, Labels, Rows
from app.clustering.neighbours import Neighbours

SAME_PHOTO_PART = 0.8
"""Two faces of one photo are two people, unless nearly equal as in a collage or a photo of a photo: closer than this
part of the way from the threshold to 1 (0.9 for a threshold of 0.5)."""

MAX_SWEEPS = 100
"""Every change raises the total weight inside the groups, so the sweeps end by themselves; this guards against
rounding."""


def propagate_all(graph: FaceGraph, threshold: float) -> Labels:
    """A graph of N founding faces → (N,) int64 labels, those of one person equal."""
    likely = _weigh_edges(graph.neighbours, graph.photos, threshold)
    everybody = np.arange(len(graph))
    surest_first = np.argsort(-measure_confidence(graph.neighbours, threshold), kind="stable")
    return propagate_labels(likely, everybody, surest_first, everybody)


def get_duplicate_threshold(threshold: float) -> float:
    """The similarity from which on two faces of one photo may be one person twice."""
    return threshold + SAME_PHOTO_PART * (1 - threshold)


def number_by_first_appearance(labels: Labels) -> Labels:
    """(N,) any labels → (N,) int64: 0 for the first row's group, 1 for the next new one, and so on."""
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[group]


def _weigh_edges(neighbours: Neighbours, photos: Labels, threshold: float) -> sparse.csr_array:
    """(N,k) neighbours, (N,) photo numbers → (N,N) sparse float64, symmetric: margins over the threshold."""
    rows, columns = np.nonzero(neighbours.similarities > threshold)
    others = neighbours.indices[rows, columns]
    similarities = neighbours.similarities[rows, columns].astype(np.float64)
    kept = (photos[rows] != photos[others]) | (similarities > get_duplicate_threshold(threshold))
    count = len(neighbours.indices)
    graph = sparse.csr_array((similarities[kept] - threshold, (rows[kept], others[kept])), shape=(count, count))
    graph = sparse.csr_array(graph.maximum(graph.T))
    graph.sort_indices()
    return graph


def measure_confidence(neighbours: Neighbours, threshold: float) -> NDArray[np.float64]:
    """(N,k) neighbours → (N,) float64: how far the nearest two lie above the threshold, together.

    Two and not one, or a photo that is there twice would make all of its faces the surest.
    """
    margins = neighbours.similarities[:, :2].astype(np.float64) - threshold
    total: NDArray[np.float64] = np.maximum(margins, 0).sum(axis=1)
    return total


def propagate_labels(likely: sparse.csr_array, speaking: Rows, order: Rows, labels: Labels) -> Labels:
    """(R,N) weights of R faces to all, which faces these are, the order in which they speak, (N,) labels → (N,) labels:
    each of the R takes the heaviest label around it, the others keep theirs.

    After the first sweep only faces next to a change are visited again. A face keeps its label unless another is
    strictly heavier; so one that has the very label that a neighbour takes is not visited for that.
    """
    labels = labels.copy()
    waiting = np.zeros(len(labels), np.bool_)
    waiting[speaking] = np.diff(likely.indptr) > 0
    votes = np.zeros(int(labels.max(initial=-1)) + 1)
    for _ in range(MAX_SWEEPS):
        for row in order[waiting[speaking[order]]]:
            face = speaking[row]
            waiting[face] = False
            edges = slice(likely.indptr[row], likely.indptr[row + 1])
            others = likely.indices[edges]
            around = labels[others]
            votes[around] = votes[labels[face]] = 0
            np.add.at(votes, around, likely.data[edges])
            heaviest = votes[around].max(initial=0)
            if heaviest > votes[labels[face]]:
                labels[face] = around[votes[around] == heaviest].min()
                waiting[others[around != labels[face]]] = True
        if not waiting[speaking].any():
            break
    return labels
