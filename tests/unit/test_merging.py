"""Merging of people by their mean faces, and local scaling of similarities."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from app.clustering.full import split_repeats_in_photos
from app.clustering.graph import FaceGraph, build_graph
from app.clustering.local_scaling import Neighbourhood, choose_strength, measure_neighbourhood, scale_similarities
from app.clustering.merging import average_faces, merge_people, merge_people_near
from app.clustering.neighbours import Neighbours, NeighbourSearch
from app.core.arrays import Floats
from app.core.roles import Role

THRESHOLD = 0.5


def graph_of(vectors: NDArray[np.float64], photos: Sequence[int] | None = None) -> FaceGraph:
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    numbers = np.arange(len(unit)) if photos is None else np.array(photos)
    return build_graph(unit, numbers, np.full(len(unit), Role.CORE, np.int8), NeighbourSearch())


def merged(graph: FaceGraph, labels: Sequence[int], threshold: float = THRESHOLD) -> list[int]:
    return merge_people(graph, np.array(labels), threshold)[0].tolist()


def two_halves(dimension: int = 8) -> NDArray[np.float64]:
    """Four faces: the similarities between the two halves are 0.44, the similarity of the halves' means is 0.55."""
    base = np.zeros((4, dimension))
    base[:, 0] = 0.66
    base[np.arange(4), 1 + np.arange(4)] = np.sqrt(1 - 0.66**2)
    base[:, 5] = 0
    return base


def test_people_whose_means_are_similar_are_merged() -> None:
    graph = graph_of(two_halves())
    across = graph.embeddings[0] @ graph.embeddings[2]
    means = average_faces(graph, np.array([0, 0, 1, 1]), np.array([0, 1]))
    assert across < THRESHOLD < means[0] @ means[1]
    assert merged(graph, [0, 0, 1, 1]) == [0, 0, 0, 0]


def test_two_single_faces_stay_two() -> None:
    graph = graph_of(np.array([[1, 0.1, 0], [1, -0.1, 0]]))
    assert merged(graph, [0, 1]) == [0, 1]


def test_siblings_in_many_photos_stay_two_though_their_means_are_similar() -> None:
    # The similarity of two photos is 0.55 of one sibling, and 0.3 across the two; that of the means is above 0.5.
    graph = graph_of(np.hstack([two_people(0.3, 0.55, photos=10), 1e-3 * np.eye(20)]))
    labels = [0] * 10 + [1] * 10
    means = average_faces(graph, np.array(labels), np.array([0, 1]))
    assert graph.embeddings[0] @ graph.embeddings[10] < 0.31 < THRESHOLD < means[0] @ means[1]
    assert merged(graph, labels) == labels
    # Of two photos each there is too little to tell.
    assert merged(graph.take(np.array([0, 1, 10, 11])), [0, 0, 1, 1], threshold=0.38) == [0, 0, 0, 0]


def two_people(across: float, within: float, photos: int) -> NDArray[np.float64]:
    """Unit vectors of two people, with these similarities of two faces across and within them."""
    both = np.kron(np.array([[within, across], [across, within]]), np.ones((photos, photos)))
    np.fill_diagonal(both, 1)
    return np.linalg.cholesky(both)


def lone_face(similarity: float, other: float = 0.0, faces: int = 3) -> FaceGraph:
    """A person of so many equal faces, another person, and a face that is so similar to the one and to the other."""
    rest = np.sqrt(1 - similarity**2 - other**2)
    return graph_of(np.array([[1, 0, 0]] * faces + [[0, 1, 0]] + [[similarity, other, rest]], np.float64))


def test_a_lone_face_joins_an_established_person_to_which_it_clearly_belongs() -> None:
    assert merged(lone_face(0.45), [0, 0, 0, 1, 2]) == [0, 0, 0, 1, 0]
    assert merged(lone_face(0.4), [0, 0, 0, 1, 2]) == [0, 0, 0, 1, 2]


def test_a_lone_face_that_is_nearly_as_similar_to_somebody_else_stays_alone() -> None:
    assert merged(lone_face(0.45, other=0.4), [0, 0, 0, 1, 2]) == [0, 0, 0, 1, 2]


def test_a_lone_face_does_not_join_a_person_of_two_photos_below_the_threshold() -> None:
    assert merged(lone_face(0.45, faces=2), [0, 0, 1, 2]) == [0, 0, 1, 2]


def test_people_who_are_not_similar_stay_two() -> None:
    graph = graph_of(two_halves())
    assert merged(graph, [0, 0, 1, 1], threshold=0.7) == [0, 0, 1, 1]


def test_people_who_are_in_the_same_photos_stay_two() -> None:
    graph = graph_of(two_halves(), photos=[1, 2, 1, 2])
    assert merged(graph, [0, 0, 1, 1]) == [0, 0, 1, 1]


def test_one_photo_with_both_among_many_may_be_a_mistake() -> None:
    random = np.random.default_rng(0)
    vectors = np.zeros((24, 40))
    vectors[:, 0] = 0.66
    vectors[np.arange(24), 1 + np.arange(24)] = np.sqrt(1 - 0.66**2)
    labels = random.permutation(np.repeat([0, 1], 12))
    photos = np.arange(24)
    photos[np.flatnonzero(labels == 1)[0]] = photos[np.flatnonzero(labels == 0)[0]]
    assert set(merged(graph_of(vectors, photos.tolist()), labels.tolist())) == {0}


def test_only_people_near_the_given_faces_are_merged() -> None:
    graph = graph_of(np.concatenate([np.pad(two_halves(), ((0, 0), (0, 8))), np.pad(two_halves(), ((0, 0), (8, 0)))]))
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    known = Neighbourhood(np.zeros(8), 0.0)
    assert merge_people_near(graph, labels, THRESHOLD, np.array([6]), known)[0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]


def test_similarities_shrink_where_others_are_near_and_grow_where_they_are_far() -> None:
    near = Neighbours(np.array([[1, 2], [2, 0], [1, 0]]), np.array([[0.6, 0.4], [0.7, 0.6], [0.7, 0.4]], np.float32))
    excess = np.array([0.2, 0.0, -0.1])
    found = scale_similarities(near, excess, strength=0.5)
    np.testing.assert_allclose(found.similarities, [[0.55, 0.375], [0.725, 0.55], [0.725, 0.375]], atol=1e-6)
    assert found.indices.tolist() == [[1, 2], [2, 0], [1, 0]]


def test_the_excess_is_that_of_other_people_without_the_nearest_few() -> None:
    indices = np.tile(np.arange(1, 11), (1, 1))
    similarities = np.linspace(0.9, 0.0, 10, dtype=np.float32)[None]
    people = np.array([0, 0, *range(1, 10)])
    # The first is the face's own, the next two are skipped: the mean of the others is left.
    nearness = measure_neighbourhood(Neighbours(indices, similarities), people[:1], people, typical=0.1)
    assert nearness.excess[0] == pytest.approx(similarities[0, 3:].mean() - 0.1)


def test_with_few_neighbours_of_other_people_the_excess_is_0() -> None:
    near = Neighbours(np.array([[1, 2, -1]]), np.array([[0.9, 0.8, -np.inf]], np.float32))
    assert measure_neighbourhood(near, np.array([0]), np.array([0, 1, 2])).excess.tolist() == [0.0]


def test_the_strength_grows_with_the_people() -> None:
    assert [choose_strength(people, 50) for people in (0, 50, 150)] == [0, 0.5, 0.75]


def other_photos(graph: FaceGraph, labels: Sequence[int]) -> list[int]:
    return split_repeats_in_photos(graph, np.array(labels), THRESHOLD).tolist()


def circle(*degrees: float) -> Floats:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_of_two_faces_in_one_photo_the_less_similar_one_is_another_person() -> None:
    graph = graph_of(circle(0, 2, 4, 40).astype(np.float64), photos=[1, 2, 3, 3])
    assert other_photos(graph, [0, 0, 0, 0]) == [0, 0, 0, 1]


def test_nearly_equal_faces_of_a_collage_stay_one_person() -> None:
    graph = graph_of(circle(0, 2, 4, 6).astype(np.float64), photos=[1, 2, 3, 3])
    assert other_photos(graph, [0, 0, 0, 0]) == [0, 0, 0, 0]


def test_people_with_a_face_a_photo_stay_as_they_are() -> None:
    graph = graph_of(circle(0, 2, 90, 92).astype(np.float64))
    assert other_photos(graph, [7, 7, 3, 3]) == [7, 7, 3, 3]


def test_people_without_one_of_the_given_faces_stay_as_they_are() -> None:
    graph = graph_of(circle(0, 2, 4, 40, 90).astype(np.float64), photos=[1, 2, 3, 3, 4])
    labels = np.array([0, 0, 0, 0, 1])
    assert split_repeats_in_photos(graph, labels, THRESHOLD, np.array([4])).tolist() == labels.tolist()


def test_a_person_known_to_be_similar_to_many_is_merged_at_a_higher_similarity() -> None:
    graph = graph_of(two_halves())
    labels, rows = np.array([0, 0, 1, 1]), np.arange(4)
    as_usual = merge_people_near(graph, labels, THRESHOLD, rows, Neighbourhood(np.zeros(4), 0.0))
    like_many = merge_people_near(graph, labels, THRESHOLD, rows, Neighbourhood(np.full(4, 3.0), 0.0))
    assert as_usual[0].tolist() == [0, 0, 0, 0]
    assert like_many[0].tolist() == [0, 0, 1, 1]
