"""Chinese Whispers: label propagation on the graph of nearest neighbours gives provisional people.

At the start each face has a label of its own. Then the faces are visited one by one, and each takes the label with the
largest total weight among its neighbours. This is repeated until no label changes. Faces of one label are one person.

The algorithm is that of Biemann, "Chinese Whispers: an efficient graph clustering algorithm" (TextGraphs 2006), with
two changes:

- The weight of an edge is its margin: its similarity less the threshold. So many edges just above the threshold don't
  outvote a few of high similarity, and one rule serves embedders whose thresholds differ widely.
- The order of the visits comes from the data instead of a random generator: the faces of the highest confidence are
  visited first. So the result does not depend on the order of the rows, and a few new photos change few people.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.clustering.graph import FaceGraph, Labels, Rows
from app.clustering.neighbours import Neighbours

SAME_PHOTO_PART = 0.8
"""Two faces of one photo are two people, unless they are nearly equal, as in a collage or a photo of a photo. They are
nearly equal above this part of the way from the threshold to 1: above 0.9 for a threshold of 0.5."""

MAX_SWEEPS = 100
"""Every change of a label raises the total weight of the edges inside people, so the sweeps end by themselves. This
limit guards against rounding errors."""


def propagate_all(graph: FaceGraph, threshold: float) -> Labels:
    """A graph of N core faces → (N,) int64 labels, equal for faces of one person."""
    weights = _weigh_edges(graph.neighbours, graph.photos, threshold)
    faces = np.arange(len(graph))
    by_confidence = np.argsort(-measure_confidence(graph.neighbours, threshold), kind="stable")
    return propagate_labels(weights, faces, by_confidence, faces)


def get_duplicate_threshold(threshold: float) -> float:
    """The similarity above which two faces of one photo may be the same person twice."""
    return threshold + SAME_PHOTO_PART * (1 - threshold)


def number_by_first_appearance(labels: Labels) -> Labels:
    """(N,) any labels → (N,) int64: 0 for the first row's group, 1 for the next new one, and so on."""
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[group]


def _weigh_edges(neighbours: Neighbours, photos: Labels, threshold: float) -> sparse.csr_array:
    """(N,k) neighbours, (N,) photo numbers → (N,N) sparse float64, symmetric: the margins over the threshold.

    Two faces of one photo have an edge only where they are nearly equal.
    """
    rows, columns = np.nonzero(neighbours.similarities > threshold)
    others = neighbours.indices[rows, columns]
    similarities = neighbours.similarities[rows, columns].astype(np.float64)
    kept = (photos[rows] != photos[others]) | (similarities > get_duplicate_threshold(threshold))
    count = len(neighbours.indices)
    weights = sparse.csr_array((similarities[kept] - threshold, (rows[kept], others[kept])), shape=(count, count))
    weights = sparse.csr_array(weights.maximum(weights.T))
    weights.sort_indices()
    return weights


def measure_confidence(neighbours: Neighbours, threshold: float) -> NDArray[np.float64]:
    """(N,k) neighbours → (N,) float64: the margins of the two most similar neighbours, added up; 0 for those below.

    With one neighbour alone, all faces of a photo that is in the gallery twice would have the highest confidence.
    """
    margins = neighbours.similarities[:, :2].astype(np.float64) - threshold
    total: NDArray[np.float64] = np.maximum(margins, 0).sum(axis=1)
    return total


def propagate_labels(weights: sparse.csr_array, faces: Rows, order: Rows, labels: Labels) -> Labels:
    """(R,N) weights of edges, (R,) faces that may change, (R,) the order of the visits, (N,) labels → (N,) labels.

    Row r of `weights` has the edges of the face `faces[r]` to all N faces; `order` has row numbers of `weights`. A face
    that is visited takes the label with the largest total weight among its neighbours, of equal ones the lowest. It
    keeps its own label unless another has strictly more weight. Faces that are not in `faces` keep their labels.

    The first sweep visits all faces that have edges. Later sweeps visit only faces with a neighbour that has changed
    its label since, to another label than the face's own.
    """
    labels = labels.copy()
    must_visit = np.zeros(len(labels), np.bool_)
    must_visit[faces] = np.diff(weights.indptr) > 0
    totals = np.zeros(int(labels.max(initial=-1)) + 1)
    for _ in range(MAX_SWEEPS):
        for row in order[must_visit[faces[order]]]:
            face = faces[row]
            must_visit[face] = False
            edges = slice(weights.indptr[row], weights.indptr[row + 1])
            neighbours = weights.indices[edges]
            their_labels = labels[neighbours]
            totals[their_labels] = totals[labels[face]] = 0
            np.add.at(totals, their_labels, weights.data[edges])
            largest = totals[their_labels].max(initial=0)
            if largest > totals[labels[face]]:
                labels[face] = their_labels[totals[their_labels] == largest].min()
                must_visit[neighbours[their_labels != labels[face]]] = True
        if not must_visit[faces].any():
            break
    return labels
