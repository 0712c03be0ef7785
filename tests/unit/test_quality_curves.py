"""The statistics by which quality measures are judged, and the photos they are judged on."""

import numpy as np
import pytest

from app.core.arrays import Floats
from benchmarks.accuracy.quality_curves import compute_auc, compute_error_versus_discard, compute_partial_area
from tests import photos
from workshop.degradations import COVERS, DEGRADATIONS, OVER_EYES, OVER_MOUTH, UNSEEN_COVERS, Portrait
from workshop.quality_samples import compute_genuine_similarities

GENUINE: Floats = np.linspace(0, 1, 1000, dtype=np.float32)
LANDMARKS = np.array([(80, 90), (120, 90), (100, 112), (85, 132), (115, 132)], np.float32)


def test_a_perfect_measure_leaves_no_error_once_as_much_is_discarded_as_was_wrong() -> None:
    curve = compute_error_versus_discard(GENUINE, GENUINE, 0.10)
    assert curve[0] == pytest.approx(0.10)
    assert curve[5] == pytest.approx(0.05 / 0.95, abs=1e-3)
    assert np.all(curve[10:] == 0)


def test_a_measure_that_says_nothing_leaves_the_error_as_it_was() -> None:
    for quality in (np.ones(1000, np.float32), np.random.default_rng(1).random(1000).astype(np.float32)):
        assert compute_partial_area(compute_error_versus_discard(GENUINE, quality, 0.10)) == pytest.approx(
            0.10, abs=0.02
        )


def test_a_measure_that_is_the_wrong_way_round_makes_it_worse() -> None:
    assert compute_partial_area(compute_error_versus_discard(GENUINE, -GENUINE, 0.10)) > 0.115


def test_auc_is_how_often_the_one_kind_is_above_the_other() -> None:
    low, high = np.float32([1, 2, 3]), np.float32([4, 5])
    assert (compute_auc(low, high), compute_auc(high, low), compute_auc(low, low)) == (1, 0, 0.5)
    assert compute_auc(np.float32([1, 3]), np.float32([2, 3])) == pytest.approx((1 + 0 + 1 + 0.5) / 4)


def test_a_face_is_compared_with_its_persons_clean_faces_of_other_photos_alone() -> None:
    people = np.array(["ann", "ann", "ann", "bob"])
    shots = np.array(["a1", "a2", "a1", "b1"])
    is_reference = np.array([True, True, False, True])
    embeddings = np.float32([[1, 0], [0, 1], [0.6, 0.8], [1, 0]])
    similarities = compute_genuine_similarities(people, shots, is_reference, embeddings)
    assert similarities[:3] == pytest.approx([0, 0, 0.8])
    assert np.isnan(similarities[3])


@pytest.mark.parametrize("kind", [*DEGRADATIONS, *COVERS])
def test_a_degradation_follows_from_its_seed_and_leaves_its_portrait_alone(kind: str) -> None:
    degrade = {**DEGRADATIONS, **COVERS}[kind]
    portrait = Portrait(np.asarray(photos.noise(200, 220) // 2 + 60, np.uint8), LANDMARKS)
    before = portrait.photo.copy()
    first, again, other = (degrade(portrait, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert np.array_equal(portrait.photo, before)


def test_every_cover_has_its_part_and_some_of_each_are_kept_from_the_fit() -> None:
    assert COVERS.keys() == OVER_EYES | OVER_MOUTH
    assert not OVER_EYES & OVER_MOUTH
    assert UNSEEN_COVERS & OVER_EYES
    assert UNSEEN_COVERS & OVER_MOUTH
