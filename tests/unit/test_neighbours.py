"""Nearest neighbours: exact, in a fixed order, and never oneself."""

import numpy as np
import pytest
from numpy.typing import NDArray

from app.grouping.neighbours import NeighbourSearch, gpu_available


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
    neighbours = NeighbourSearch().nearest_neighbours(embeddings, 7)
    np.testing.assert_array_equal(neighbours.indices, indices)
    np.testing.assert_allclose(neighbours.similarities, similarities, atol=1e-6)


def test_shapes_and_types_are_as_promised() -> None:
    neighbours = NeighbourSearch().nearest_neighbours(unit_rows(30), 4)
    assert (neighbours.indices.shape, neighbours.indices.dtype) == ((30, 4), np.int64)
    assert (neighbours.similarities.shape, neighbours.similarities.dtype) == ((30, 4), np.float32)


def test_equally_similar_neighbours_come_by_index() -> None:
    east, north = np.eye(2, dtype=np.float32)
    neighbours = NeighbourSearch().nearest_neighbours(np.stack([north, east, north, east, north]), 4)
    np.testing.assert_array_equal(neighbours.indices[0], [2, 4, 1, 3])
    np.testing.assert_array_equal(neighbours.indices[1], [3, 0, 2, 4])


@pytest.mark.parametrize("copies", [2, 5, 40])
def test_a_row_is_not_its_own_neighbour_even_among_exact_copies(copies: int) -> None:
    embeddings = np.repeat(unit_rows(1), copies, axis=0)
    neighbours = NeighbourSearch().nearest_neighbours(embeddings, 3)
    there = neighbours.indices >= 0
    assert not (neighbours.indices == np.arange(copies)[:, None]).any()
    np.testing.assert_array_equal(there.sum(axis=1), min(3, copies - 1))
    np.testing.assert_allclose(neighbours.similarities[there], 1, atol=1e-6)
    assert all(len(set(row[row >= 0])) == min(3, copies - 1) for row in neighbours.indices)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_places_without_a_neighbour_hold_minus_one_and_minus_infinity(count: int) -> None:
    neighbours = NeighbourSearch().nearest_neighbours(unit_rows(count), 5)
    assert neighbours.indices.shape == neighbours.similarities.shape == (count, 5)
    real = max(count - 1, 0)
    assert (neighbours.indices[:, :real] >= 0).all()
    assert (neighbours.indices[:, real:] == -1).all()
    assert np.isneginf(neighbours.similarities[:, real:]).all()


def test_asking_for_no_neighbours_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        NeighbourSearch().nearest_neighbours(unit_rows(3), 0)


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_available(), reason="this build of FAISS sees no GPU")
def test_a_gpu_finds_the_same_neighbours() -> None:
    embeddings = unit_rows(5_000, 128)
    on_cpu, on_gpu = (
        NeighbourSearch().nearest_neighbours(embeddings, 64),
        NeighbourSearch(use_gpu=True).nearest_neighbours(embeddings, 64),
    )
    np.testing.assert_allclose(on_gpu.similarities, on_cpu.similarities, atol=1e-3)
    assert (on_gpu.indices == on_cpu.indices).mean() > 0.99
