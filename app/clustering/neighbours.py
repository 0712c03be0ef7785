"""Nearest neighbours by cosine similarity, exact or with a recall that is kept, on the CPU or on GPUs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from app.clustering.candidates import (
    GPU_PAIRS,
    GpuMemory,
    Ids,
    TileResult,
    TileResults,
    has_gpu,
    search_approximately,
    search_exactly,
    search_on_gpus,
)
from app.core.arrays import Floats

SearchDevice = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Neighbours:
    """Each row's nearest other rows, most similar first and equal ones by index.

    `indices` (N,k) int64, -1 where there is none; `similarities` (N,k) float32, -inf where there is none.
    """

    indices: Ids
    similarities: Floats


@dataclass(frozen=True)
class NeighbourSearch:
    """How neighbours are searched for; by default exactly, on all cores of the CPU.

    On the CPU, queries against more than `exact_faces` squared pairs (None: never) are searched for approximately,
    with a recall of 0.98 (see approximate_offers). GPUs always search exactly; `auto` takes them where they pay.
    Besides its result a search holds some 100 MB, and 64 bytes for each row of an approximate one. `progress` is
    called between tiles of queries. The same rows give the same neighbours; a pair is equally similar from both sides.
    """

    device: SearchDevice = "cpu"
    exact_faces: int | None = None
    gpu_memory: GpuMemory = field(default_factory=GpuMemory)
    progress: Callable[[], None] = field(default=lambda: None, compare=False)

    def find_neighbours(self, embeddings: Floats, k: int) -> Neighbours:
        """(N,D) float32 unit length → the k nearest other rows of each row. Raises ValueError for a k below 1.

        A row is never its own neighbour, even among exact copies of itself. Of more than k rows that are equally
        near, any k may be found.
        """
        return self._find(embeddings, embeddings, k, own=True)

    def find_neighbours_in(self, queries: Floats, base: Floats, k: int) -> Neighbours:
        """(M,D) and (N,D) float32 unit length → the k nearest rows of `base` for each query."""
        return self._find(queries, base, k, own=False)

    def search_tiles(self, queries: Floats, base: Floats, k: int) -> TileResults:
        """(M,D) and (N,D) float32 contiguous, not empty → what parts of the base offer to parts of the queries."""
        pairs = len(queries) * len(base)
        if self.device == "gpu" or (self.device == "auto" and pairs > GPU_PAIRS and has_gpu()):
            return search_on_gpus(queries, base, k, self.gpu_memory)
        if self.exact_faces is None or pairs <= self.exact_faces**2:
            return search_exactly(queries, base, k)
        return search_approximately(queries, base, k)

    def _find(self, queries: Floats, base: Floats, k: int, *, own: bool) -> Neighbours:
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        shape = (len(queries), k)
        indices, similarities = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        if len(queries) and len(base):
            rows = np.ascontiguousarray(queries, np.float32)
            for offer in self.search_tiles(rows, rows if own else np.ascontiguousarray(base, np.float32), k + own):
                tile = slice(offer.start, offer.start + len(offer.indices))
                better = _remove_self(offer) if own else offer
                nearest, how_near = better.indices, better.similarities
                if (indices[tile] >= 0).any():  # what another part of the base has offered
                    nearest = np.hstack([indices[tile], nearest])
                    how_near = np.hstack([similarities[tile], how_near])
                nearest, how_near = _keep_most_similar(nearest, how_near, k)
                indices[tile, : nearest.shape[1]], similarities[tile, : nearest.shape[1]] = nearest, how_near
                self.progress()
        return Neighbours(indices, similarities)


EXACT = NeighbourSearch()


def _remove_self(offer: TileResult) -> TileResult:
    """Of an offer to rows by the same rows."""
    rows = offer.start + np.arange(len(offer.indices))
    is_self = offer.indices == rows[:, None]
    similarities = np.where(is_self, np.float32(-np.inf), offer.similarities)
    return TileResult(offer.start, np.where(is_self, -1, offer.indices), similarities)


def _keep_most_similar(indices: Ids, similarities: Floats, k: int) -> tuple[Ids, Floats]:
    """(n,m) each → the k most similar of each row in order, equal ones by index."""
    order = np.lexsort((indices, -similarities), axis=1)[:, :k]
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(similarities, order, axis=1)
