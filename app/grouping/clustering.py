"""From embeddings to people: Chinese Whispers on the graph of nearest neighbours.

Biemann, "Chinese Whispers: an efficient graph clustering algorithm" (TextGraphs 2006), with two changes. An edge
weighs its similarity's margin over the threshold, so that many doubtful edges don't outvote a few sure ones and one
rule serves embedders whose thresholds differ widely. The visiting order comes from the data instead of a random
generator: the surest faces speak first, the result doesn't depend on the order of the rows, and a few new photos
don't reshuffle the whole gallery.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.grouping.joining import NOBODY, Labels, join_people
from app.grouping.neighbours import EXACT, Neighbours, NeighbourSearch
from app.vision.quality.roles import Role, Roles

# Enough for a person in hundreds of photos to hang together; memory grows with it.
NEIGHBOURS = 64

# Two faces of one photo are two people, unless nearly equal as in a collage or a photo of a photo: closer than this
# part of the way from the threshold to 1 (0.9 for a threshold of 0.5).
SAME_PHOTO_PART = 0.8

# Every change raises the total weight inside the groups, so the sweeps end by themselves; this guards against rounding.
MAX_SWEEPS = 100


def cluster(
    embeddings: NDArray[np.float32],
    image_ids: Sequence[str],
    threshold: float,
    roles: Roles | None = None,
    *,
    search: NeighbourSearch = EXACT,
) -> Labels:
    """(N,D) float32 unit length, N image ids, cosine threshold → (N,) int64 labels, numbered by first appearance.

    Without `roles` (N,) every face founds, and gets a label: one that is like no other is a person of one photo. Faces
    that may only join found nobody and bring nobody together; those without a person are NOBODY's, as are those that
    are left out. Rows sorted by face id give the same labels on every machine; another order gives the same groups as
    long as no two similarities are equal.
    """
    if len(image_ids) != len(embeddings):
        raise ValueError(f"{len(embeddings)} embeddings need as many image ids, not {len(image_ids)}")
    photos = np.unique(np.asarray(image_ids), return_inverse=True)[1]
    if roles is None:
        return _found_people(embeddings, photos, threshold, search=search)
    labels = np.full(len(embeddings), NOBODY, np.int64)
    founding, joining = (np.flatnonzero(roles == role) for role in (Role.FOUNDS, Role.JOINS))
    labels[founding] = _found_people(embeddings[founding], photos[founding], threshold, search=search)
    labels[joining] = join_people(embeddings, labels, photos, joining, threshold, search=search)
    return labels


def _found_people(
    embeddings: NDArray[np.float32], photos: NDArray[np.intp], threshold: float, *, search: NeighbourSearch
) -> Labels:
    neighbours = search.nearest_neighbours(embeddings, NEIGHBOURS)
    graph = _likely_pairs(neighbours, photos, threshold)
    surest_first = np.argsort(-_sureness(neighbours, threshold), kind="stable")
    return _numbered_by_first_appearance(_whisper(graph, surest_first))


def _likely_pairs(neighbours: Neighbours, photos: NDArray[np.intp], threshold: float) -> sparse.csr_array:
    """(N,k) neighbours, (N,) photo numbers → (N,N) sparse float64, symmetric: margins over the threshold."""
    rows, columns = np.nonzero(neighbours.similarities > threshold)
    others = neighbours.indices[rows, columns]
    similarities = neighbours.similarities[rows, columns].astype(np.float64)
    nearly_equal = threshold + SAME_PHOTO_PART * (1 - threshold)
    kept = (photos[rows] != photos[others]) | (similarities > nearly_equal)
    count = len(neighbours.indices)
    graph = sparse.csr_array((similarities[kept] - threshold, (rows[kept], others[kept])), shape=(count, count))
    graph = sparse.csr_array(graph.maximum(graph.T))
    graph.sort_indices()
    return graph


def _sureness(neighbours: Neighbours, threshold: float) -> NDArray[np.float64]:
    """(N,k) neighbours → (N,) float64: how far the nearest two lie above the threshold, together.

    Two and not one, or a photo that is there twice would make all of its faces the surest.
    """
    margins = neighbours.similarities[:, :2].astype(np.float64) - threshold
    sureness: NDArray[np.float64] = np.maximum(margins, 0).sum(axis=1)
    return sureness


def _whisper(graph: sparse.csr_array, order: NDArray[np.intp]) -> Labels:
    """(N,N) symmetric weights, (N,) visiting order → (N,) labels: each face takes the heaviest label around it.

    After the first sweep only faces next to a change are visited again. A face keeps its label unless another is
    strictly heavier.
    """
    labels = np.arange(len(order), dtype=np.int64)
    votes = np.zeros(len(order))
    waiting = np.diff(graph.indptr) > 0
    for _ in range(MAX_SWEEPS):
        for face in order[waiting[order]]:
            waiting[face] = False
            edges = slice(graph.indptr[face], graph.indptr[face + 1])
            heard = labels[graph.indices[edges]]
            votes[heard] = votes[labels[face]] = 0
            np.add.at(votes, heard, graph.data[edges])
            heaviest = votes[heard].max()
            if heaviest > votes[labels[face]]:
                labels[face] = heard[votes[heard] == heaviest].min()
                waiting[graph.indices[edges]] = True
        if not waiting.any():
            break
    return labels


def _numbered_by_first_appearance(labels: Labels) -> Labels:
    """(N,) any labels → (N,) int64: 0 for the first row's group, 1 for the next new one, and so on."""
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[group]
