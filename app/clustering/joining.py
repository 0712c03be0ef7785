"""Weak faces beside people that better faces have founded: whose each of them is, if anybody's.

A blurred or covered face is less like its own person than a good one, and no more like others. So it may lie somewhat
below the threshold, but must be clearly more like one person than like any other. A person is the mean of its founding
faces: one face alone may be alike by its light.
"""

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import UNASSIGNED, FaceGraph, Labels, Rows
from app.clustering.merging import average_faces, compute_similarities
from app.core.arrays import Floats
from app.core.roles import Role

BELOW_PART, MARGIN_PART = 0.2, 0.12
"""How far below the threshold a weak face may be, and by how much it must prefer its person, as parts of what lies
above the threshold: embedders differ widely in their scale. 0.1 and 0.06 for a threshold of 0.5."""


def join_border_faces(graph: FaceGraph, labels: Labels, threshold: float, weak: Rows | None = None) -> Labels:
    """A graph of N faces, (N,) people → (N,) people once the `weak` faces (all that may join) have joined somebody,
    UNASSIGNED's where they don't. Nobody gets a second face in a photo."""
    weak = np.flatnonzero(graph.roles == Role.BORDER) if weak is None else weak
    joined = labels.copy()
    joined[weak] = UNASSIGNED
    face, person, similarity = _find_nearby_people(graph, joined, weak)
    if not len(face):
        return joined
    # Those in whose photo the person is already are no choice, but they tell what the face is like.
    somebodys = np.flatnonzero(joined != UNASSIGNED)
    people = int(labels.max(initial=UNASSIGNED)) + 1
    taken_places = np.unique(graph.photos[somebodys] * people + joined[somebodys])
    places = graph.photos[weak[face]] * people + person
    free = ~np.isin(places, taken_places)
    best, lead = _choose_best(face, similarity)
    sure = (similarity[best] >= threshold - BELOW_PART * (1 - threshold)) & (lead >= MARGIN_PART * (1 - threshold))
    chosen = best[sure & free[best]]
    # The surest first: of two weak faces in one photo the other can't be the same person.
    chosen = chosen[np.argsort(-similarity[chosen], kind="stable")]
    _, first = np.unique(places[chosen], return_index=True)
    joined[weak[face[chosen[first]]]] = person[chosen[first]]
    return joined


def _find_nearby_people(graph: FaceGraph, labels: Labels, weak: Rows) -> tuple[Rows, Labels, Floats]:
    """(P,) numbers of weak faces, people around each, and how alike they are: by face, and the best first."""
    near = graph.neighbours.indices[weak]
    row, column = np.nonzero(near >= 0)
    people = max(int(labels.max(initial=UNASSIGNED)) + 1, 1)
    face, person = np.divmod(np.unique(row * people + labels[near[row, column]]), people)
    offered, place = np.unique(person, return_inverse=True)
    similarity = compute_similarities(graph.embeddings[weak], average_faces(graph, labels, offered), face, place)
    order = np.lexsort((person, -similarity, face))
    return face[order], person[order], similarity[order]


def _choose_best(face: Rows, similarity: Floats) -> tuple[Rows, NDArray[np.float64]]:
    """The row of each face's best offer, and how much better that is than the next one's.

    Where there is no other among its neighbours, nobody else is near.
    """
    best = np.flatnonzero(np.r_[True, face[1:] != face[:-1]])
    following = np.minimum(best + 1, len(face) - 1)
    has_next = (best + 1 < len(face)) & (face[following] == face[best])
    return best, np.where(has_next, similarity[best] - similarity[following], np.inf).astype(np.float64)
