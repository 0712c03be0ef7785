"""Border faces: each joins the person to which it clearly belongs, or stays without a person.

A blurred or covered face is less similar to its own person than a sharp one, and no more similar to other people. So
its similarity may be somewhat below the threshold, but it must be clearly more similar to one person than to any other.
It is compared with the mean of a person's core faces: two single faces may be similar only because of the light.
"""

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import UNASSIGNED, FaceGraph, Labels, Rows
from app.clustering.merging import average_faces, compute_similarities
from app.core.arrays import Floats
from app.core.roles import Role

BELOW_PART, MARGIN_PART = 0.2, 0.12
"""How far below the threshold the similarity of a border face to its person may be, and by how much it must exceed that
to any other person. Both are parts of 1 - threshold, because embedders differ widely in their scale: 0.1 and 0.06 for a
threshold of 0.5."""


def join_border_faces(graph: FaceGraph, labels: Labels, threshold: float, border: Rows | None = None) -> Labels:
    """A graph of N faces, (N,) people → (N,) people, in which each face of `border` (all border faces by default) has
    joined a person or is UNASSIGNED. It joins no person that has a face in its photo already."""
    border = np.flatnonzero(graph.roles == Role.BORDER) if border is None else border
    joined = labels.copy()
    joined[border] = UNASSIGNED
    face, person, similarity = _list_nearby_people(graph, joined, border)
    if not len(face):
        return joined
    # A person that is in the photo already can't be joined, but it is compared all the same: where it is the most
    # similar one, or nearly so, the face joins no other either.
    assigned = np.flatnonzero(joined != UNASSIGNED)
    people = int(labels.max(initial=UNASSIGNED)) + 1
    taken_places = np.unique(graph.photos[assigned] * people + joined[assigned])
    places = graph.photos[border[face]] * people + person
    free = ~np.isin(places, taken_places)
    best, lead = _choose_best(face, similarity)
    clear = (similarity[best] >= threshold - BELOW_PART * (1 - threshold)) & (lead >= MARGIN_PART * (1 - threshold))
    chosen = best[clear & free[best]]
    # Of two border faces of one photo that chose the same person, only the more similar one joins it.
    chosen = chosen[np.argsort(-similarity[chosen], kind="stable")]
    _, first = np.unique(places[chosen], return_index=True)
    joined[border[face[chosen[first]]]] = person[chosen[first]]
    return joined


def _list_nearby_people(graph: FaceGraph, labels: Labels, border: Rows) -> tuple[Rows, Labels, Floats]:
    """All pairs of a border face and the person of one of its neighbours, by face and the most similar person first.

    Three arrays (P,): the face, as a number within `border`; the person; and the similarity of the face to the mean of
    the person's core faces.
    """
    near = graph.neighbours.indices[border]
    row, column = np.nonzero(near >= 0)
    people = max(int(labels.max(initial=UNASSIGNED)) + 1, 1)
    face, person = np.divmod(np.unique(row * people + labels[near[row, column]]), people)
    listed, place = np.unique(person, return_inverse=True)
    similarity = compute_similarities(graph.embeddings[border], average_faces(graph, labels, listed), face, place)
    order = np.lexsort((person, -similarity, face))
    return face[order], person[order], similarity[order]


def _choose_best(face: Rows, similarity: Floats) -> tuple[Rows, NDArray[np.float64]]:
    """(P,), (P,) of `_list_nearby_people` → for each face the row of its most similar person, and how much more similar
    that is than the second; infinitely much where there is no second."""
    best = np.flatnonzero(np.r_[True, face[1:] != face[:-1]])
    following = np.minimum(best + 1, len(face) - 1)
    has_next = (best + 1 < len(face)) & (face[following] == face[best])
    return best, np.where(has_next, similarity[best] - similarity[following], np.inf).astype(np.float64)
