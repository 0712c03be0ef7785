"""Exact nearest neighbours by cosine similarity: the only place that knows FAISS."""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU: k-selection on a GPU goes no further.
GPU_MAX_K = 2048


@dataclass(frozen=True)
class Neighbours:
    """Each row's nearest other rows, most similar first and equal ones by index.

    `indices` (N,k) int64, -1 where there is none; `similarities` (N,k) float32, -inf where there is none.
    """

    indices: NDArray[np.int64]
    similarities: Floats


@dataclass(frozen=True)
class NeighbourSearch:
    """How neighbours are searched for. `use_gpu` needs a build of FAISS with GPU support and a k below 2,048."""

    use_gpu: bool = False

    def nearest_neighbours(self, embeddings: Floats, k: int) -> Neighbours:
        """(N,D) float32 unit length → the k nearest other rows of each row, (N,k) indices and cosine similarities.

        A row is never its own neighbour, even among exact copies of itself. The order is fixed because FAISS leaves
        that of equal similarities open.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        count = len(embeddings)
        found = min(k + 1, count)
        if found < 2:
            return Neighbours(np.full((count, k), -1, np.int64), np.full((count, k), -np.inf, np.float32))
        rows = np.ascontiguousarray(embeddings, np.float32)
        similarities, indices = _search(rows, rows, found, self.use_gpu)
        # The row itself goes last, whatever its similarity. Among many exact copies it may not be listed at all: then
        # the last column is the least of the others.
        similarities = np.where(indices == np.arange(count)[:, None], -np.inf, similarities).astype(np.float32)
        return _most_similar(similarities, indices, found - 1, k)

    def nearest_in(self, queries: Floats, base: Floats, k: int) -> Neighbours:
        """(M,D) and (N,D) float32 unit length → the k nearest rows of `base` for each query."""
        found = min(k, len(base))
        if not found or not len(queries):
            shape = (len(queries), k)
            return Neighbours(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
        similarities, indices = _search(
            np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(base, np.float32), found, self.use_gpu
        )
        return _most_similar(similarities, indices, found, k)


def _most_similar(similarities: Floats, indices: NDArray[np.int64], kept: int, k: int) -> Neighbours:
    """(M,n) of a search, in any order → the `kept` most similar of each row, filled up to k."""
    order = np.lexsort((indices, -similarities), axis=1)[:, :kept]
    padding = ((0, 0), (0, k - kept))
    return Neighbours(
        np.pad(np.take_along_axis(indices, order, axis=1), padding, constant_values=-1),
        np.pad(np.take_along_axis(similarities, order, axis=1), padding, constant_values=-np.inf),
    )


def gpu_available() -> bool:
    """Whether this build of FAISS sees a GPU."""
    return bool(faiss.get_num_gpus() > 0)


def _search(queries: Floats, base: Floats, k: int, use_gpu: bool) -> tuple[Floats, NDArray[np.int64]]:
    """(M,D), (N,D) float32, k <= N → (M,k) inner products and (M,k) indices."""
    metric = faiss.METRIC_INNER_PRODUCT
    if not use_gpu:
        similarities, indices = faiss.knn(queries, base, k, metric=metric)
        return similarities, indices
    if k > GPU_MAX_K:
        raise ValueError(f"A GPU search gives at most {GPU_MAX_K - 1} neighbours, not {k - 1}")
    resources = faiss.StandardGpuResources()
    similarities, indices = faiss.knn_gpu(resources, queries, base, k, metric=metric)
    return similarities, indices
