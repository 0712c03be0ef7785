"""Nearest neighbours by cosine similarity: exact, or approximate with a recall of 0.98; on the CPU or on GPUs."""

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
    """The nearest other rows of each row: the most similar first, and those of equal similarity by index.

    `indices` (N,k) int64, -1 where there is none; `similarities` (N,k) float32, -inf where there is none.
    """

    indices: Ids
    similarities: Floats


@dataclass(frozen=True)
class NeighbourSearch:
    """How neighbours are searched for; by default exactly, on all cores of the CPU.

    On the CPU, a search of more than `exact_faces` squared pairs (None: no limit) is approximate, with a recall of 0.98
    (see `search_approximately`). GPUs always search exactly; `auto` uses them for more than GPU_PAIRS pairs. Beside its
    result a search holds about 100 MB, and 64 bytes a row if it is approximate. `progress` is called between tiles of
    queries. The same rows give the same neighbours. A pair has the same similarity in both directions.
    """

    device: SearchDevice = "cpu"
    exact_faces: int | None = None
    gpu_memory: GpuMemory = field(default_factory=GpuMemory)
    progress: Callable[[], None] = field(default=lambda: None, compare=False)

    def find_neighbours(self, embeddings: Floats, k: int) -> Neighbours:
        """(N,D) float32 unit length → the k nearest other rows of each row. Raises ValueError for a k below 1.

        A row is never its own neighbour, even among exact copies of itself. Of more than k rows of equal similarity,
        any k may be found.
        """
        return self._find(embeddings, embeddings, k, own=True)

    def find_neighbours_in(self, queries: Floats, base: Floats, k: int) -> Neighbours:
        """(M,D) and (N,D) float32 unit length → the k nearest rows of `base` for each query."""
        return self._find(queries, base, k, own=False)

    def search_tiles(self, queries: Floats, base: Floats, k: int) -> TileResults:
        """(M,D) and (N,D) float32 contiguous, not empty → results, each of a part of the queries and of the base."""
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
            for result in self.search_tiles(rows, rows if own else np.ascontiguousarray(base, np.float32), k + own):
                tile = slice(result.start, result.start + len(result.indices))
                others = _remove_self(result) if own else result
                found, their_similarities = others.indices, others.similarities
                if (indices[tile] >= 0).any():  # found in another part of the base
                    found = np.hstack([indices[tile], found])
                    their_similarities = np.hstack([similarities[tile], their_similarities])
                found, their_similarities = _keep_most_similar(found, their_similarities, k)
                indices[tile, : found.shape[1]], similarities[tile, : found.shape[1]] = found, their_similarities
                self.progress()
        return Neighbours(indices, similarities)


EXACT = NeighbourSearch()


def _remove_self(result: TileResult) -> TileResult:
    """A result of rows among the same rows, without each row as a neighbour of itself."""
    rows = result.start + np.arange(len(result.indices))
    is_self = result.indices == rows[:, None]
    similarities = np.where(is_self, np.float32(-np.inf), result.similarities)
    return TileResult(result.start, np.where(is_self, -1, result.indices), similarities)


def _keep_most_similar(indices: Ids, similarities: Floats, k: int) -> tuple[Ids, Floats]:
    """(n,m), (n,m) → the k most similar of each row in order, those of equal similarity by index."""
    order = np.lexsort((indices, -similarities), axis=1)[:, :k]
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(similarities, order, axis=1)
