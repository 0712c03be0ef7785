"""The graph that clustering works on: a gallery's faces and, for each, the core faces that are most similar to it."""

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
"""Neighbours of each face: enough to connect all faces of a person in hundreds of photos. Memory grows with it."""
BLOCK_SIMILARITIES = 16_000_000
"""Similarities of known faces to new ones that are held in memory at once."""


@dataclass(frozen=True)
class FaceGraph:
    """N faces: `embeddings` (N,D) float32 unit length, `photos` (N,) int64 numbers of photos, `roles` (N,) int8.

    `neighbours` (N,NEIGHBOURS) are the most similar other core faces of each core face and of each border face; a noise
    face has none.
    """

    embeddings: Floats
    photos: Labels
    roles: Roles
    neighbours: Neighbours

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def core_rows(self) -> Rows:
        """The rows of the core faces."""
        return np.flatnonzero(self.roles == Role.CORE)

    def take(self, rows: Rows) -> "FaceGraph":
        """The graph of these faces alone, in this order."""
        if np.array_equal(rows, np.arange(len(self))):
            return self
        place = np.full(len(self) + 1, -1, np.int64)
        place[rows] = np.arange(len(rows))
        # The index of a missing neighbour, -1, reads the last entry of `place`, which is -1 too.
        indices = place[self.neighbours.indices[rows]]
        similarities = np.where(indices < 0, np.float32(-np.inf), self.neighbours.similarities[rows])
        near = Neighbours(indices, similarities)
        gaps = np.any((indices[:, :-1] < 0) & (indices[:, 1:] >= 0), axis=1)
        _sort_neighbours(near, np.flatnonzero(gaps))
        return FaceGraph(self.embeddings[rows], self.photos[rows], self.roles[rows], near)


def build_graph(embeddings: Floats, photos: Labels, roles: Roles, search: NeighbourSearch) -> FaceGraph:
    """(N,D) float32 unit length, (N,) photo numbers, (N,) roles → their graph."""
    core, border = (np.flatnonzero(roles == role) for role in (Role.CORE, Role.BORDER))
    neighbours = _make_empty_neighbours((len(roles), NEIGHBOURS))
    base = embeddings[core]
    _put_neighbours(neighbours, core, search.find_neighbours(base, NEIGHBOURS), core)
    _put_neighbours(neighbours, border, search.find_neighbours_in(embeddings[border], base, NEIGHBOURS), core)
    return FaceGraph(embeddings, photos, roles, neighbours)


def add_faces(graph: FaceGraph, embeddings: Floats, photos: Labels, roles: Roles, search: NeighbourSearch) -> FaceGraph:
    """`graph` with M more faces after its own. Each new face gets its neighbours, and each new core face is inserted
    into the neighbours of known faces.

    Neighbours that `take` removed are not replaced by less similar known faces; those are not searched for again.
    """
    known, count = len(graph), len(graph) + len(roles)
    all_embeddings = np.concatenate([graph.embeddings, embeddings])
    all_roles = np.concatenate([graph.roles, roles])
    empty, listed = _make_empty_neighbours((len(roles), NEIGHBOURS)), graph.neighbours
    neighbours = Neighbours(
        np.concatenate([listed.indices, empty.indices]), np.concatenate([listed.similarities, empty.similarities])
    )
    core = np.flatnonzero(all_roles == Role.CORE)
    _insert_newcomers(neighbours, graph, all_embeddings, core[core >= known])
    queries = known + np.flatnonzero(roles != Role.NOISE)
    base = all_embeddings if len(core) == count else all_embeddings[core]
    found = search.find_neighbours_in(all_embeddings[queries], base, NEIGHBOURS + 1)
    is_self = (found.indices >= 0) & (core[found.indices] == queries[:, None])
    found = Neighbours(np.where(is_self, -1, found.indices), np.where(is_self, np.float32(-np.inf), found.similarities))
    _sort_neighbours(found, np.flatnonzero(is_self.any(axis=1)))
    _put_neighbours(neighbours, queries, Neighbours(found.indices[:, :-1], found.similarities[:, :-1]), core)
    return FaceGraph(all_embeddings, np.concatenate([graph.photos, photos]), all_roles, neighbours)


def _insert_newcomers(neighbours: Neighbours, graph: FaceGraph, all_embeddings: Floats, newcomers: Rows) -> None:
    """Insert new core faces into the lists of the known faces of `graph`, where they are more similar than the last
    face listed."""
    if not len(newcomers):
        return
    last = graph.neighbours.similarities[:, -1].copy()
    if len(graph.core_rows) > NEIGHBOURS:
        # A list that is not full has lost entries to `take`. It is complete only down to its last remaining entry: a
        # known face that was never listed may be less similar than that and more similar than a newcomer. So a newcomer
        # must be more similar than the last remaining entry. A list without any entry takes no newcomer (inf).
        short = np.flatnonzero(np.isneginf(last))
        finite = np.where(
            np.isneginf(graph.neighbours.similarities[short]), np.inf, graph.neighbours.similarities[short]
        )
        last[short] = finite.min(axis=1)
    last[graph.roles == Role.NOISE] = np.inf
    rows_a_block = max(1, BLOCK_SIMILARITIES // len(newcomers))
    for begin in range(0, len(graph), rows_a_block):
        similarities = graph.embeddings[begin : begin + rows_a_block] @ all_embeddings[newcomers].T
        face, newcomer = np.nonzero(similarities > last[begin : begin + rows_a_block, None])
        rows, first, count = np.unique(face, return_index=True, return_counts=True)
        place = np.repeat(np.arange(len(rows)), count), np.arange(len(face)) - np.repeat(first, count)
        inserted = _make_empty_neighbours((len(rows), int(count.max(initial=0))))
        inserted.indices[place], inserted.similarities[place] = newcomers[newcomer], similarities[face, newcomer]
        rows = begin + rows
        both = np.concatenate([neighbours.similarities[rows], inserted.similarities], axis=1)
        indices = np.concatenate([neighbours.indices[rows], inserted.indices], axis=1)
        best = np.argsort(-both, axis=1, kind="stable")[:, :NEIGHBOURS]
        neighbours.indices[rows] = np.take_along_axis(indices, best, axis=1)
        neighbours.similarities[rows] = np.take_along_axis(both, best, axis=1)


def number_photos(image_ids: Sequence[str]) -> Labels:
    """N image ids → (N,) a number for each photo."""
    return np.unique(np.asarray(image_ids), return_inverse=True)[1].astype(np.int64)


def _make_empty_neighbours(shape: tuple[int, int]) -> Neighbours:
    return Neighbours(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))


def _put_neighbours(into: Neighbours, rows: Rows, found: Neighbours, base: Rows) -> None:
    """Store the neighbours of these rows, whose indices count within `base`."""
    into.indices[rows] = np.where(found.indices >= 0, np.r_[base, -1][found.indices], -1)
    into.similarities[rows] = found.similarities


def _sort_neighbours(near: Neighbours, rows: Rows) -> None:
    """Sort the neighbours of these rows again, the most similar first."""
    order = np.argsort(-near.similarities[rows], axis=1, kind="stable")
    near.indices[rows] = np.take_along_axis(near.indices[rows], order, axis=1)
    near.similarities[rows] = np.take_along_axis(near.similarities[rows], order, axis=1)
