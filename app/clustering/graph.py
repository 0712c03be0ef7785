"""A gallery's faces and, for each, the founding faces it is most like: what people are found from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.clustering.neighbours import Neighbours, NeighbourSearch
from app.core.arrays import Floats
from app.core.roles import Role, Roles

Labels = NDArray[np.int64]
Rows = NDArray[np.intp]

UNASSIGNED = -1
NEIGHBOURS = 64
"""Enough for a person in hundreds of photos to hang together; memory grows with it."""
BLOCK_SIMILARITIES = 16_000_000


@dataclass(frozen=True)
class FaceGraph:
    """N faces: `embeddings` (N,D) float32 unit length, `photos` (N,) int64 numbers of photos, `roles` (N,) int8, and as
    `neighbours` (N,NEIGHBOURS) of each face that founds or may join the other founding faces it is most like."""

    embeddings: Floats
    photos: Labels
    roles: Roles
    neighbours: Neighbours

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def founding(self) -> Rows:
        """The rows of faces that found people."""
        return np.flatnonzero(self.roles == Role.CORE)

    def take(self, rows: Rows) -> "FaceGraph":
        """The graph of these faces alone, in this order."""
        if np.array_equal(rows, np.arange(len(self))):
            return self
        place = np.full(len(self) + 1, -1, np.int64)
        place[rows] = np.arange(len(rows))
        # A missing neighbour is -1, and so is the last place.
        indices = place[self.neighbours.indices[rows]]
        similarities = np.where(indices < 0, np.float32(-np.inf), self.neighbours.similarities[rows])
        near = Neighbours(indices, similarities)
        gaps = np.any((indices[:, :-1] < 0) & (indices[:, 1:] >= 0), axis=1)
        _sort_neighbours(near, np.flatnonzero(gaps))
        return FaceGraph(self.embeddings[rows], self.photos[rows], self.roles[rows], near)


def build_graph(embeddings: Floats, photos: Labels, roles: Roles, search: NeighbourSearch) -> FaceGraph:
    """(N,D) float32 unit length, (N,) photo numbers, (N,) roles → their graph."""
    founding, joining = (np.flatnonzero(roles == role) for role in (Role.CORE, Role.BORDER))
    neighbours = _make_empty_neighbours((len(roles), NEIGHBOURS))
    good = embeddings[founding]
    _put_neighbours(neighbours, founding, search.find_neighbours(good, NEIGHBOURS), founding)
    _put_neighbours(neighbours, joining, search.find_neighbours_in(embeddings[joining], good, NEIGHBOURS), founding)
    return FaceGraph(embeddings, photos, roles, neighbours)


def add_faces(graph: FaceGraph, embeddings: Floats, photos: Labels, roles: Roles, search: NeighbourSearch) -> FaceGraph:
    """`graph` with M more faces behind its own: their neighbours are searched for, and they become neighbours.

    A list that lost faces to `take` is not filled up with worse ones than it has.
    """
    known, count = len(graph), len(graph) + len(roles)
    everybody = np.concatenate([graph.embeddings, embeddings])
    all_roles = np.concatenate([graph.roles, roles])
    none, listed = _make_empty_neighbours((len(roles), NEIGHBOURS)), graph.neighbours
    neighbours = Neighbours(
        np.concatenate([listed.indices, none.indices]), np.concatenate([listed.similarities, none.similarities])
    )
    founding = np.flatnonzero(all_roles == Role.CORE)
    _insert_newcomers(neighbours, everybody[:known], graph, everybody, founding[founding >= known])
    asking = known + np.flatnonzero(roles != Role.NOISE)
    good = everybody if len(founding) == count else everybody[founding]
    found = search.find_neighbours_in(everybody[asking], good, NEIGHBOURS + 1)
    itself = (found.indices >= 0) & (founding[found.indices] == asking[:, None])
    found = Neighbours(np.where(itself, -1, found.indices), np.where(itself, np.float32(-np.inf), found.similarities))
    _sort_neighbours(found, np.flatnonzero(itself.any(axis=1)))
    _put_neighbours(neighbours, asking, Neighbours(found.indices[:, :-1], found.similarities[:, :-1]), founding)
    return FaceGraph(everybody, np.concatenate([graph.photos, photos]), all_roles, neighbours)


def _insert_newcomers(
    neighbours: Neighbours, known: Floats, graph: FaceGraph, everybody: Floats, newcomers: Rows
) -> None:
    """Put new founding faces into the lists of known faces where they are more like them than the last there."""
    if not len(newcomers):
        return
    last = graph.neighbours.similarities[:, -1].copy()
    if len(graph.founding) > NEIGHBOURS:
        # What is missing was taken away; whatever else lies below the last one left isn't known.
        short = np.flatnonzero(np.isneginf(last))
        finite = np.where(
            np.isneginf(graph.neighbours.similarities[short]), np.inf, graph.neighbours.similarities[short]
        )
        last[short] = finite.min(axis=1)
    last[graph.roles == Role.NOISE] = np.inf
    rows_a_block = max(1, BLOCK_SIMILARITIES // len(newcomers))
    for begin in range(0, len(known), rows_a_block):
        similarities = known[begin : begin + rows_a_block] @ everybody[newcomers].T
        face, newcomer = np.nonzero(similarities > last[begin : begin + rows_a_block, None])
        rows, first, count = np.unique(face, return_index=True, return_counts=True)
        place = np.repeat(np.arange(len(rows)), count), np.arange(len(face)) - np.repeat(first, count)
        offered = _make_empty_neighbours((len(rows), int(count.max(initial=0))))
        offered.indices[place], offered.similarities[place] = newcomers[newcomer], similarities[face, newcomer]
        rows = begin + rows
        both = np.concatenate([neighbours.similarities[rows], offered.similarities], axis=1)
        indices = np.concatenate([neighbours.indices[rows], offered.indices], axis=1)
        best = np.argsort(-both, axis=1, kind="stable")[:, :NEIGHBOURS]
        neighbours.indices[rows] = np.take_along_axis(indices, best, axis=1)
        neighbours.similarities[rows] = np.take_along_axis(both, best, axis=1)


def number_photos(image_ids: Sequence[str]) -> Labels:
    """N image ids → (N,) a number for each photo."""
    return np.unique(np.asarray(image_ids), return_inverse=True)[1].astype(np.int64)


def _make_empty_neighbours(shape: tuple[int, int]) -> Neighbours:
    return Neighbours(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))


def _put_neighbours(into: Neighbours, rows: Rows, found: Neighbours, base: Rows) -> None:
    """What was found among `base` for these rows."""
    into.indices[rows] = np.where(found.indices >= 0, np.r_[base, -1][found.indices], -1)
    into.similarities[rows] = found.similarities


def _sort_neighbours(near: Neighbours, rows: Rows) -> None:
    """The most similar first again, in these rows."""
    order = np.argsort(-near.similarities[rows], axis=1, kind="stable")
    near.indices[rows] = np.take_along_axis(near.indices[rows], order, axis=1)
    near.similarities[rows] = np.take_along_axis(near.similarities[rows], order, axis=1)
