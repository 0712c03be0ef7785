"""The threshold that rises with the size of a gallery, in full and in incremental runs."""

import numpy as np
import pytest

from app.clustering.full import group
from app.clustering.graph import add_faces, build_graph
from app.clustering.neighbours import EXACT
from app.clustering.regrouping import regroup
from app.core.arrays import Floats
from app.core.roles import assign_core
from app.core.thresholds import Threshold, make_threshold


@pytest.mark.parametrize(
    ("people", "expected"), [(1, 0.47), (10, 0.47), (100, 0.5), (1_000, 0.53), (10**6, 0.62), (10**9, 0.62)]
)
def test_ten_times_as_many_people_raise_it_by_the_same_amount_within_bounds(people: int, expected: float) -> None:
    assert Threshold(0.5, 0.03).compute(people) == pytest.approx(expected)


def test_a_number_serves_every_size_and_no_threshold_reaches_1() -> None:
    assert {make_threshold(0.5).compute(people) for people in (1, 100, 10**6)} == {0.5}
    assert Threshold(0.98, 0.1).compute(10_000) == 0.99


def make_people(people: int, photos: int) -> Floats:
    """People at right angles, each with faces that are equal."""
    return np.repeat(np.eye(people, dtype=np.float32), photos, axis=0)


def run_full(faces: Floats, threshold: Threshold | float) -> float:
    graph = build_graph(faces, np.arange(len(faces)), assign_core(len(faces)), EXACT)
    return group(graph, threshold).threshold


def test_it_follows_from_the_number_of_people_and_not_of_their_photos() -> None:
    curve = Threshold(0.5, 0.1)
    assert run_full(make_people(20, 1), curve) == run_full(make_people(20, 30), curve) == curve.compute(20)
    assert run_full(make_people(200, 1), curve) == curve.compute(200)
    assert run_full(make_people(20, 1), 0.5) == 0.5


def test_strangers_of_a_large_gallery_need_more_similarity_than_those_of_a_small_one() -> None:
    # Two faces of similarity 0.5, among so many others.
    def count_people(others: int) -> int:
        faces = np.eye(others + 2, dtype=np.float32)
        faces[1, :2] = 0.5, np.sqrt(0.75)
        graph = build_graph(faces, np.arange(len(faces)), assign_core(len(faces)), EXACT)
        return len(np.unique(group(graph, Threshold(0.5, 0.05)).labels))

    assert count_people(20) == 21
    assert count_people(400) == 402


def test_a_gallery_that_grows_keeps_its_threshold_until_the_next_full_run() -> None:
    curve, faces = Threshold(0.5, 0.1), make_people(60, 1)
    graph = build_graph(faces[:40], np.arange(40), assign_core(40), EXACT)
    before = group(graph, curve)
    grown = regroup(before, add_faces(graph, faces[40:], np.arange(40, 60), assign_core(20), EXACT))
    assert grown.threshold == before.threshold == curve.compute(40)
    assert group(grown.graph, curve).threshold == curve.compute(60)
