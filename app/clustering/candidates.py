"""The search for candidates that may be nearest neighbours. Only this module uses FAISS.

Each search finds candidates for one tile (a block of rows) of the queries at a time. The similarities of the candidates
are then computed again, pair by pair in float32. So the similarity of a pair is the same number in every search, on
every machine and in both directions. In a product of matrices it is not: there its last bits depend on where in the
matrix the pair stands.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import faiss as faiss_with_stubs
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats

log = logging.getLogger(__name__)

# The stubs of FAISS lack much of what is used here.
faiss: Any = faiss_with_stubs

Ids = NDArray[np.int64]
Index: TypeAlias = Any
Resources: TypeAlias = Any
Search = Callable[[Floats], tuple[Floats, Ids]]

SPARE = 8
"""Candidates beyond the k neighbours. A search rounds similarities, in float16 most of all, so the k-th neighbour may
come a few places later in its order."""
TILE_ROWS, TILE_PAIRS = 10_000, 10**10
"""A tile has at most TILE_ROWS queries and TILE_PAIRS pairs, so progress is reported every few minutes at least."""

FEW_QUERIES, FEW_PAIRS = 256, 2 * 10**7
"""For at most FEW_QUERIES queries one product of matrices is several times as fast as FAISS. FEW_PAIRS bounds the size
of that product."""

GPU_MAX_K = 2048
"""On a GPU FAISS selects at most this many: https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU."""
GPU_PAIRS = 10**8
"""Two CPU cores compare so many pairs in about a second, the time that it takes to start on a GPU."""

QUANTISERS, QUANTISER_BITS = 128, 4
"""Product quantisation: an embedding is cut into QUANTISERS parts, and each part is stored as the number of its nearest
centroid, which takes QUANTISER_BITS. That is 64 bytes a face. FAISS scans codes of 4 bits in the CPU's registers (André
et al., "Cache locality is not enough", VLDB 2015). More quantisers, or more bits, cost as much time as they save by
needing fewer candidates."""
TRAINING_ROWS, TRAINING_ROUNDS = 4_096, 10
"""FAISS uses no more than 256 rows for each of the 16 centroids. 25 rounds of k-means gave the same recall as 10."""
SAMPLE_ROWS, RECALL = 1_000, 0.987
"""The share RECALL of the true neighbours must be among the candidates, as measured on SAMPLE_ROWS queries that are
searched exactly too. It is somewhat above the 0.98 that is promised, because a sample has an error of its own."""
MAX_DEPTH_PART = 64
"""Where more candidates than this are needed for each neighbour, the search is exact instead."""
DEPTH_ROWS = 10_000_000
"""Candidates of one tile, all queries together: they are held in memory."""


@dataclass(frozen=True)
class TileResult:
    """The best candidates for the n queries from row `start` on, in any order.

    `indices` (n,m) int64 are rows of the base, -1 where there is none; `similarities` (n,m) float32, -inf where there
    is none. A search in parts of the base gives several results for the same queries.
    """

    start: int
    indices: Ids
    similarities: Floats


TileResults = Iterator[TileResult]


def choose_tile_rows(base_rows: int) -> int:
    """How many queries one tile has in a search among so many rows."""
    return max(1, min(TILE_ROWS, TILE_PAIRS // max(base_rows, 1)))


def search_exactly(queries: Floats, base: Floats, k: int) -> TileResults:
    """(M,D), (N,D) float32 contiguous → the k most similar rows of `base` for each query, on all cores of the CPU."""
    count = min(k + SPARE, len(base))
    if len(queries) <= FEW_QUERIES:
        for start, tile in _split_into_tiles(queries, max(1, FEW_PAIRS // len(base))):
            yield _rank_candidates(start, tile, base, np.argpartition(tile @ base.T, -count, axis=1)[:, -count:], k)
        return
    for start, tile in _split_into_tiles(queries, choose_tile_rows(len(base))):
        _, found = faiss.knn(tile, base, count, metric=faiss.METRIC_INNER_PRODUCT)
        yield _rank_candidates(start, tile, base, found, k)


def search_approximately(queries: Floats, base: Floats, k: int) -> TileResults:
    """As `search_exactly`, with candidates that are found by their similarities to compressed rows.

    How many candidates reach RECALL (the depth) is measured on a sample of the queries that is searched exactly too.
    Where MAX_DEPTH_PART candidates for each neighbour are too few, all queries are searched exactly. The rows for the
    training and the sample are chosen by their values and not by their order. The order decides only which of equally
    similar compressed rows are the last candidates.
    """
    index = _compress(base)
    depth = _measure_depth(index, sample_evenly(queries, SAMPLE_ROWS), base, k)
    if depth is None:
        log.warning("compressed embeddings give too low a recall: the search is exact", extra={"faces": len(base)})
        yield from search_exactly(queries, base, k)
        return
    log.info("neighbours are searched for approximately", extra={"faces": len(base), "candidates": depth})
    for start, tile in _split_into_tiles(queries, min(choose_tile_rows(len(base)), DEPTH_ROWS // depth)):
        _, found = index.search(tile, depth)
        yield _rank_candidates(start, tile, base, found, k)


def search_on_gpus(queries: Floats, base: Floats, k: int, memory: "GpuMemory") -> TileResults:
    """As `search_exactly`, on all GPUs, each of which has a share of the base.

    A base that is larger than their memory is searched part by part. Raises ValueError for a k above what a GPU
    selects.
    """
    if k + SPARE > GPU_MAX_K:
        raise ValueError(f"A GPU search gives at most {GPU_MAX_K - SPARE - 1} neighbours, not {k}")
    gpus = [_open_gpu(memory.working_mb) for _ in range(faiss.get_num_gpus())]
    for first, part in _split_into_tiles(base, len(gpus) * memory.count_rows(base.shape[1])):
        index = _build_gpu_index(part, gpus, memory)
        search = partial(index.search, k=min(k + SPARE, len(part)))
        for start, tile, (_, found) in _search_ahead(_split_into_tiles(queries, choose_tile_rows(len(part))), search):
            yield _rank_candidates(start, tile, base, np.where(found >= 0, found + first, -1), k)
        del index, search  # before the next part is loaded


@dataclass(frozen=True)
class GpuMemory:
    """The memory that a search may take on each GPU: `working_mb` for similarities, `gallery_mb` for embeddings."""

    working_mb: int = 1_000
    gallery_mb: int = 8_000
    float16: bool = True

    def count_rows(self, dimension: int) -> int:
        """How many embeddings fit into `gallery_mb`."""
        return max(1, self.gallery_mb * 1_000_000 // (dimension * (2 if self.float16 else 4)))


def has_gpu() -> bool:
    """Whether this build of FAISS sees a GPU."""
    return bool(faiss.get_num_gpus() > 0)


def sample_evenly(rows: Floats, count: int) -> Floats:
    """(N,D) → at most `count` of the rows, the same ones whatever the order of the rows.

    The rows are sorted by their projection on a fixed direction, and taken at equal steps.
    """
    direction = np.random.default_rng(0).standard_normal(rows.shape[1], np.float32)
    along = np.argsort(rows @ direction, kind="stable")
    return rows[along[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]]


def _split_into_tiles(rows: Floats, size: int) -> Iterator[tuple[int, Floats]]:
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def _search_ahead(
    tiles: Iterator[tuple[int, Floats]], search: Search
) -> Iterator[tuple[int, Floats, tuple[Floats, Ids]]]:
    """Yields each tile with what was found for it, while a thread searches for the next tile."""
    with ThreadPoolExecutor(1) as pool:
        submitted = ((start, tile, pool.submit(search, tile)) for start, tile in tiles)
        current = next(submitted, None)
        while current is not None:
            following = next(submitted, None)
            start, tile, found = current
            yield start, tile, found.result()
            current = following


def _rank_candidates(start: int, queries: Floats, base: Floats, candidates: Ids, k: int) -> TileResult:
    """(n,D), (N,D), (n,c) → the best k + SPARE of each query's candidates, by similarities computed pair by pair.

    More than k, so that the caller can choose among candidates of equal similarity.
    """
    shape = (len(queries), min(k + SPARE, candidates.shape[1]))
    candidates = np.ascontiguousarray(candidates, np.int64)
    similarities, indices = np.empty(shape, np.float32), np.empty(shape, np.int64)
    # The last argument is the stride of `candidates`. With its default FAISS 1.15 reads past their end.
    faiss.knn_inner_products_by_idx(
        *map(faiss.swig_ptr, (queries, base, candidates)),
        *(base.shape[1], len(queries), len(base), candidates.shape[1], shape[1]),
        *map(faiss.swig_ptr, (similarities, indices)),
        candidates.shape[1],
    )
    return TileResult(start, indices, np.where(indices >= 0, similarities, np.float32(-np.inf)))


def _compress(base: Floats) -> Index:
    dimension = base.shape[1]
    quantisers = max(number for number in range(1, QUANTISERS + 1) if dimension % number == 0)
    index = faiss.IndexPQFastScan(dimension, quantisers, QUANTISER_BITS, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.niter = TRAINING_ROUNDS
    index.train(sample_evenly(base, TRAINING_ROWS))
    index.add(base)
    return index


def _measure_depth(index: Index, sample: Floats, base: Floats, k: int) -> int | None:
    """How many candidates `index` must give so that the share RECALL of the true k nearest are among them.

    None where that is more than MAX_DEPTH_PART candidates for each neighbour.
    """
    _, exact = faiss.knn(sample, base, min(k, len(base)), metric=faiss.METRIC_INNER_PRODUCT)
    _, found = index.search(sample, min(MAX_DEPTH_PART * k, len(base)))
    places = np.concatenate([np.flatnonzero(np.isin(row, near)) for row, near in zip(found, exact, strict=True)])
    needed = int(np.ceil(RECALL * exact.size))
    if len(places) < needed:
        return None
    return max(int(np.partition(places, needed - 1)[needed - 1]) + 1, k + SPARE)


def _open_gpu(working_mb: int) -> Resources:
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(working_mb * 1_000_000)
    return resources


def _build_gpu_index(rows: Floats, gpus: list[Resources], memory: GpuMemory) -> Index:
    """An index with an equal share of the rows on each GPU; all GPUs search at the same time."""
    dimension = rows.shape[1]
    shards = faiss.IndexShards(dimension, True, True)
    for device, share in enumerate(np.array_split(rows, min(len(gpus), len(rows)))):
        config = faiss.GpuIndexFlatConfig()
        config.device, config.useFloat16 = device, memory.float16
        index = faiss.GpuIndexFlatIP(gpus[device], dimension, config)
        for _, tile in _split_into_tiles(share, TILE_ROWS):
            index.add(tile)
        shards.add_shard(index)
    return shards
