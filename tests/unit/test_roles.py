"""Roles of faces by their quality."""

import cv2
import numpy as np
import pytest
import skimage

from app.core.records import GROUPING_MEASURES
from app.core.roles import WEAKNESSES, QualityBars, Role, assign_roles, explain_unassigned
from app.grouping.publish import PUBLISHED_MEASURES
from app.vision.align import align_faces
from app.vision.quality.fitted import load_quality_model
from app.vision.quality.inputs import CHIP_PX, FaceColumns
from app.vision.quality.measures import measure_quality, split_into_rows
from workshop.degradations import Portrait, put_dark_glasses, put_surgical_mask

BARS = QualityBars(core=50, border=20)


@pytest.mark.parametrize(
    ("unified", "role"),
    [(0, Role.NOISE), (19.9, Role.NOISE), (20, Role.BORDER), (49.9, Role.BORDER), (50, Role.CORE)],
)
def test_a_bar_is_reached_by_what_equals_it(unified: float, role: Role) -> None:
    assert assign_roles(np.array([unified], np.float32), BARS).tolist() == [role]


def test_a_face_that_was_stored_before_there_was_a_unified_score_is_a_core_face() -> None:
    assert assign_roles(np.array([np.nan], np.float32), BARS).tolist() == [Role.CORE]


def test_bars_that_nothing_can_pass_between_are_refused() -> None:
    with pytest.raises(ValueError, match=r"border \(60\) must not be above core \(50\)"):
        QualityBars(core=50, border=60)


def test_the_names_that_the_bars_had_before_are_read() -> None:
    assert QualityBars.model_validate({"found": 50, "join": 20}) == BARS


def test_all_that_is_read_of_a_stored_face_is_read_with_it() -> None:
    assert {"unified", *WEAKNESSES, *PUBLISHED_MEASURES} <= set(GROUPING_MEASURES)


@pytest.mark.parametrize("name", WEAKNESSES)
def test_the_reason_names_what_is_the_matter(name: str) -> None:
    assert WEAKNESSES[name] in explain_unassigned({"unified": 5.0, name: 3.0}, BARS)


def test_where_nothing_is_low_the_reason_names_the_lowest() -> None:
    scores = dict.fromkeys(WEAKNESSES, 90.0) | {"inter_eye_score": 60.0}
    assert explain_unassigned({"unified": 50.0, **scores}, BARS).startswith("Its quality is 50 of 100 (it is small)")


def test_a_blurred_face_is_not_said_to_have_covered_eyes() -> None:
    scores = dict.fromkeys(WEAKNESSES, 90.0) | {"eyes_covered_score": 2.0, "sharpness_score": 20.0}
    assert explain_unassigned({"unified": 10.0, **scores}, BARS) == "Its quality is 10 of 100, below 20: it is blurred."


def test_all_that_lowers_the_quality_is_named() -> None:
    scores = dict.fromkeys(WEAKNESSES, 90.0) | {"eyes_covered_score": 2.0, "under_exposure_score": 20.0}
    assert explain_unassigned({"unified": 10.0, **scores}, BARS).endswith("its eyes are covered and it is dark.")


def test_a_face_of_average_size_is_not_said_to_be_small() -> None:
    scores = dict.fromkeys(WEAKNESSES, 90.0) | {"inter_eye_score": 22.0, "sharpness_score": 48.0}
    assert "(it is blurred)" in explain_unassigned({"unified": 41.0, **scores}, BARS)


@pytest.mark.parametrize(
    ("damage", "words", "others"),
    [
        ("blur", "it is blurred", "covered"),
        ("glasses", "its eyes are covered", "blurred"),
        ("mask", "mouth", "blurred"),
    ],
)
def test_the_reason_is_the_damage_that_was_done_to_a_face(damage: str, words: str, others: str) -> None:
    """On NASA's portrait of Eileen Collins, public domain; the landmarks are read off by eye."""
    landmarks = np.array([(203, 101), (246, 102), (226, 126), (203, 140), (244, 141)], np.float32)
    portrait = Portrait(skimage.data.astronaut(), landmarks)
    damages = {
        "blur": lambda random: cv2.GaussianBlur(portrait.photo, (0, 0), random.uniform(2, 5)),
        "glasses": lambda random: put_dark_glasses(portrait, random),
        "mask": lambda random: put_surgical_mask(portrait, random),
    }
    bars = QualityBars(core=100, border=20)
    for seed in range(8):
        photo = np.asarray(damages[damage](np.random.default_rng(seed)), np.uint8)
        chips = align_faces(photo, landmarks[None], "arcface", CHIP_PX)
        box = np.array([[165, 45, 285, 195]], np.float32)
        faces = FaceColumns(chips, box, landmarks[None], np.ones(1, np.float32), np.full((1, 2), 512, np.float32))
        (quality,) = split_into_rows(measure_quality(faces, load_quality_model()))
        reason = explain_unassigned(quality, bars)
        assert words in reason, reason
        assert others not in reason, reason
