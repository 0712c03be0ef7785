"""Nearest neighbours: exact, in a fixed order, and never oneself."""

from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from app.clustering import candidates
from app.clustering.candidates import GpuMemory
from app.clustering.neighbours import EXACT, NeighbourSearch


def unit_rows(count: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_brute_force(embeddings: NDArray[np.float32], k: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    similarities = embeddings @ embeddings.T
    np.fill_diagonal(similarities, -np.inf)
    indices = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(similarities, indices, axis=1)


def test_neighbours_are_those_of_the_full_similarity_matrix() -> None:
    embeddings = unit_rows(300)
    indices, similarities = by_brute_force(embeddings, 7)
    neighbours = EXACT.find_neighbours(embeddings, 7)
    np.testing.assert_array_equal(neighbours.indices, indices)
    np.testing.assert_allclose(neighbours.similarities, similarities, atol=1e-6)


def test_shapes_and_types_are_as_promised() -> None:
    neighbours = EXACT.find_neighbours(unit_rows(30), 4)
    assert (neighbours.indices.shape, neighbours.indices.dtype) == ((30, 4), np.int64)
    assert (neighbours.similarities.shape, neighbours.similarities.dtype) == ((30, 4), np.float32)


def test_equally_similar_neighbours_come_by_index() -> None:
    east, north = np.eye(2, dtype=np.float32)
    neighbours = EXACT.find_neighbours(np.stack([north, east, north, east, north]), 4)
    np.testing.assert_array_equal(neighbours.indices[0], [2, 4, 1, 3])
    np.testing.assert_array_equal(neighbours.indices[1], [3, 0, 2, 4])


@pytest.mark.parametrize("copies", [2, 5, 40])
def test_a_row_is_not_its_own_neighbour_even_among_exact_copies(copies: int) -> None:
    embeddings = np.repeat(unit_rows(1), copies, axis=0)
    neighbours = EXACT.find_neighbours(embeddings, 3)
    there = neighbours.indices >= 0
    assert not (neighbours.indices == np.arange(copies)[:, None]).any()
    np.testing.assert_array_equal(there.sum(axis=1), min(3, copies - 1))
    np.testing.assert_allclose(neighbours.similarities[there], 1, atol=1e-6)
    assert all(len(set(row[row >= 0])) == min(3, copies - 1) for row in neighbours.indices)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_places_without_a_neighbour_hold_minus_one_and_minus_infinity(count: int) -> None:
    neighbours = EXACT.find_neighbours(unit_rows(count), 5)
    assert neighbours.indices.shape == neighbours.similarities.shape == (count, 5)
    real = max(count - 1, 0)
    assert (neighbours.indices[:, :real] >= 0).all()
    assert (neighbours.indices[:, real:] == -1).all()
    assert np.isneginf(neighbours.similarities[:, real:]).all()


def test_asking_for_no_neighbours_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EXACT.find_neighbours(unit_rows(3), 0)


def test_queries_may_be_rows_of_the_base() -> None:
    base = unit_rows(50)
    neighbours = EXACT.find_neighbours_in(base[[7, 3]], base, 60)
    np.testing.assert_array_equal(neighbours.indices[:, 0], [7, 3])
    np.testing.assert_array_equal(neighbours.indices[:, 50:], -1)


def test_neither_the_order_of_rows_nor_the_tiles_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = unit_rows(500, 64)
    order = np.random.default_rng(1).permutation(500)
    neighbours = EXACT.find_neighbours(embeddings, 20)
    monkeypatch.setattr(candidates, "TILE_ROWS", 33)
    turned = EXACT.find_neighbours(embeddings[order], 20)
    np.testing.assert_array_equal(order[turned.indices], neighbours.indices[order])
    np.testing.assert_array_equal(turned.similarities, neighbours.similarities[order])


def test_two_faces_have_the_same_similarity_in_both_directions() -> None:
    embeddings = unit_rows(200, 64)
    neighbours = EXACT.find_neighbours(embeddings, 199)
    matrix = np.zeros((200, 200), np.float32)
    np.put_along_axis(matrix, neighbours.indices, neighbours.similarities, axis=1)
    np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("gallery_mb", [1, 1_000])
def test_parts_of_the_gallery_on_several_devices_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, gallery_mb: int
) -> None:
    """FAISS's indices on the CPU stand in for those on GPUs: 4,000 faces of 1 kB on three devices."""
    loads: list[int] = []

    class Device(faiss.IndexFlatIP):
        def __init__(self, _resources: object, dimension: int, config: SimpleNamespace) -> None:
            super().__init__(dimension)
            loads.append(config.device)

    resources = SimpleNamespace(setTempMemory=lambda size: None)
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", Device, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatConfig", SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: resources, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 3)
    embeddings = unit_rows(4_000, 512)
    embeddings[3_000:] = embeddings[:1_000]
    search = NeighbourSearch("gpu", gpu_memory=GpuMemory(gallery_mb=gallery_mb, float16=True))
    found, exact = search.find_neighbours(embeddings, 10), EXACT.find_neighbours(embeddings, 10)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.similarities, exact.similarities)
    assert loads == [0, 1, 2] * len(range(0, 4_000, 3 * gallery_mb * 1_000_000 // 1_024))


def test_progress_is_reported_after_every_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "TILE_ROWS", 150)
    told: list[None] = []
    NeighbourSearch(progress=lambda: told.append(None)).find_neighbours(unit_rows(400), 3)
    assert len(told) == 3


def test_a_few_queries_find_what_they_find_among_many() -> None:
    embeddings = unit_rows(1_000)
    many = EXACT.find_neighbours_in(embeddings, embeddings, 5)
    few = EXACT.find_neighbours_in(embeddings[:100], embeddings, 5)
    np.testing.assert_array_equal(few.indices, many.indices[:100])
    np.testing.assert_array_equal(few.similarities, many.similarities[:100])


APPROXIMATE = NeighbourSearch(exact_faces=1_000)


def people(count: int, dimension: int = 64) -> NDArray[np.float32]:
    """Faces of people with ten photos each, in mixed order."""
    near = np.repeat(unit_rows(count // 10, dimension), 10, axis=0) + 0.8 * unit_rows(count, dimension, seed=1)
    near = near[np.random.default_rng(2).permutation(count)].astype(np.float32)
    return near / np.linalg.norm(near, axis=1, keepdims=True)


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(row, near).mean() for row, near in zip(exact, found, strict=True)]))


def test_a_large_gallery_is_searched_with_a_recall_of_98_percent() -> None:
    embeddings = people(6_000)
    exact, found = EXACT.find_neighbours(embeddings, 64), APPROXIMATE.find_neighbours(embeddings, 64)
    assert 0.98 <= recall(found.indices, exact.indices) < 1, "not even 1, or it was searched exactly"
    both = found.indices == exact.indices
    np.testing.assert_array_equal(found.similarities[both], exact.similarities[both])


def test_an_approximate_search_hardly_depends_on_the_order_of_rows_and_not_on_chance() -> None:
    embeddings = people(3_000, 16)
    order = np.random.default_rng(3).permutation(3_000)
    found, again = (APPROXIMATE.find_neighbours(embeddings, 30) for _ in range(2))
    np.testing.assert_array_equal(found.indices, again.indices)
    turned = APPROXIMATE.find_neighbours(embeddings[order], 30)
    assert recall(order[turned.indices], found.indices[order]) > 0.995


def test_where_compression_gives_too_low_a_recall_the_search_is_exact(caplog: pytest.LogCaptureFixture) -> None:
    # One quantiser of four bits for all of a prime number of dimensions.
    embeddings = people(4_000, 131)
    found = APPROXIMATE.find_neighbours(embeddings, 5)
    np.testing.assert_array_equal(found.indices, EXACT.find_neighbours(embeddings, 5).indices)
    assert "the search is exact" in caplog.text


def test_the_sample_that_is_trained_on_does_not_depend_on_the_order_of_rows() -> None:
    rows = unit_rows(1_000)
    order = np.random.default_rng(4).permutation(1_000)
    np.testing.assert_array_equal(candidates.sample_evenly(rows, 100), candidates.sample_evenly(rows[order], 100))
