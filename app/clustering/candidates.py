"""Who may be near whom: the only place that knows FAISS.

Each way of searching names candidates for a tile of queries; their similarities are then computed anew, pair by pair
in float32. So a pair's similarity is the same number in every way, on every machine and from both sides, which that
of a matrix product isn't: its last bits depend on where in the matrix the pair stands.
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

# Its stubs lack much of what is used here.
faiss: Any = faiss_with_stubs

Ids = NDArray[np.int64]
Index: TypeAlias = Any
Resources: TypeAlias = Any
Search = Callable[[Floats], tuple[Floats, Ids]]

SPARE = 8
"""So many more candidates than neighbours, for those that differ in the last bits, or by float16, at the end."""
TILE_ROWS, TILE_PAIRS = 10_000, 10**10
"""Queries searched for at once: no more than so many, nor so many that they take minutes without a sign of life."""

FEW_QUERIES, FEW_PAIRS = 256, 2 * 10**7
"""So few queries FAISS takes several times as long for as one product of matrices, whose size the other bounds."""

# https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU: k-selection on a GPU goes no further.
GPU_MAX_K = 2048
GPU_PAIRS = 10**8
"""So many pairs take two CPU cores a second, about what it takes to begin on a GPU."""

QUANTISERS, QUANTISER_BITS = 128, 4
"""64 bytes a face. Product quantisation of 4 bits is what FAISS scans in registers (André et al., "Cache locality is
not enough", VLDB 2015): more or finer quantisers cost as much more time as they save candidates."""
TRAINING_ROWS, TRAINING_ROUNDS = 4_096, 10
"""FAISS itself takes no more than 256 rows for each of 16 centroids; 25 rounds gave the same recall as 10."""
SAMPLE_ROWS, RECALL = 1_000, 0.987
"""Of neighbours, on a sample that is searched exactly too: somewhat above 0.98, for the sample's own error."""
MAX_DEPTH_PART = 64
DEPTH_ROWS = 10_000_000


@dataclass(frozen=True)
class TileResult:
    """Some of the best of the base for the queries from row `start` on, in any order: `indices` (n,m) int64 into the
    base, -1 where there is none, and `similarities` (n,m) float32, -inf where there is none."""

    start: int
    indices: Ids
    similarities: Floats


TileResults = Iterator[TileResult]


def choose_tile_rows(base_rows: int) -> int:
    """How many queries are searched for at once in a base of this size."""
    return max(1, min(TILE_ROWS, TILE_PAIRS // max(base_rows, 1)))


def search_exactly(queries: Floats, base: Floats, k: int) -> TileResults:
    """(M,D), (N,D) float32 contiguous → the k nearest by all M x N similarities, on all cores."""
    count = min(k + SPARE, len(base))
    if len(queries) <= FEW_QUERIES:
        for start, tile in _split_into_tiles(queries, max(1, FEW_PAIRS // len(base))):
            yield _rank_candidates(start, tile, base, np.argpartition(tile @ base.T, -count, axis=1)[:, -count:], k)
        return
    for start, tile in _split_into_tiles(queries, choose_tile_rows(len(base))):
        _, found = faiss.knn(tile, base, count, metric=faiss.METRIC_INNER_PRODUCT)
        yield _rank_candidates(start, tile, base, found, k)


def search_approximately(queries: Floats, base: Floats, k: int) -> TileResults:
    """As `search_exactly`, by similarities to compressed rows: candidates are taken so deep that RECALL is reached.

    How deep is measured on a sample of the queries, which is searched exactly too. Where not even MAX_DEPTH_PART
    candidates a neighbour suffice, all queries are searched exactly. What is trained on and what is sampled follows
    from the rows' values and not from their order; on the order depends only which of equally near compressed rows
    are candidates at the end of the list.
    """
    index = _compress(base)
    depth = _measure_depth(index, sample_evenly(queries, SAMPLE_ROWS), base, k)
    if depth is None:
        log.warning("compressed embeddings don't tell neighbours apart: searched exactly", extra={"faces": len(base)})
        yield from search_exactly(queries, base, k)
        return
    log.info("neighbours are searched for approximately", extra={"faces": len(base), "candidates": depth})
    for start, tile in _split_into_tiles(queries, min(choose_tile_rows(len(base)), DEPTH_ROWS // depth)):
        _, found = index.search(tile, depth)
        yield _rank_candidates(start, tile, base, found, k)


def search_on_gpus(queries: Floats, base: Floats, k: int, memory: "GpuMemory") -> TileResults:
    """As `search_exactly`, on all GPUs, each with a share of the base; in turns where the base doesn't fit into them.

    Raises ValueError for a k that a GPU can't select.
    """
    if k + SPARE > GPU_MAX_K:
        raise ValueError(f"A GPU search gives at most {GPU_MAX_K - SPARE - 1} neighbours, not {k}")
    gpus = [_open_gpu(memory.working_mb) for _ in range(faiss.get_num_gpus())]
    for first, part in _split_into_tiles(base, len(gpus) * memory.rows(base.shape[1])):
        index = _build_gpu_index(part, gpus, memory)
        search = partial(index.search, k=min(k + SPARE, len(part)))
        for start, tile, (_, found) in _search_ahead(_split_into_tiles(queries, choose_tile_rows(len(part))), search):
            yield _rank_candidates(start, tile, base, np.where(found >= 0, found + first, -1), k)
        del index, search  # before the next part is loaded


@dataclass(frozen=True)
class GpuMemory:
    """What a search may take on each GPU: `working_mb` for similarities, `gallery_mb` for embeddings."""

    working_mb: int = 1_000
    gallery_mb: int = 8_000
    float16: bool = True

    def rows(self, dimension: int) -> int:
        """How many embeddings fit."""
        return max(1, self.gallery_mb * 1_000_000 // (dimension * (2 if self.float16 else 4)))


def has_gpu() -> bool:
    """Whether this build of FAISS sees a GPU."""
    return bool(faiss.get_num_gpus() > 0)


def sample_evenly(rows: Floats, count: int) -> Floats:
    """(N,D) → at most `count` of them, spread evenly along a fixed direction: the same ones in any order of rows."""
    direction = np.random.default_rng(0).standard_normal(rows.shape[1], np.float32)
    along = np.argsort(rows @ direction, kind="stable")
    return rows[along[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]]


def _split_into_tiles(rows: Floats, size: int) -> Iterator[tuple[int, Floats]]:
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def _search_ahead(
    tiles: Iterator[tuple[int, Floats]], search: Search
) -> Iterator[tuple[int, Floats, tuple[Floats, Ids]]]:
    """Each tile with what is found for it; a GPU is at the next one meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        asked = ((start, tile, pool.submit(search, tile)) for start, tile in tiles)
        current = next(asked, None)
        while current is not None:
            following = next(asked, None)
            start, tile, found = current
            yield start, tile, found.result()
            current = following


def _rank_candidates(start: int, queries: Floats, base: Floats, candidates: Ids, k: int) -> TileResult:
    """(n,D), (N,D), (n,c) → somewhat more than the k best of each query's candidates, so that whoever cuts the list can
    choose among equal ones; by similarities computed pair by pair."""
    shape = (len(queries), min(k + SPARE, candidates.shape[1]))
    candidates = np.ascontiguousarray(candidates, np.int64)
    similarities, indices = np.empty(shape, np.float32), np.empty(shape, np.int64)
    # The last argument is the candidates' stride, whose default is wrong in FAISS 1.15: it reads past their end.
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
    """How many candidates of `index` hold the share RECALL of the k nearest; None where too many would be needed."""
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
    """An equal share of the rows on each GPU, which search at the same time."""
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
