import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.core.arrays import Image
from app.core.pictures import PhotoLimits
from app.vision.decode import decode
from app.vision.photo_quality import MIN_SIDE_PX, Verdict, judge_photo, judge_photo_size
from benchmarks.accuracy.prefilter import Outcome, summarise
from tests import photos
from workshop.prefilter_photos import DAMAGES, FRAMINGS, Subject


def portrait(side_px: int = 400) -> Image:
    """A drawn head and shoulders that fill the frame, sharp to the pixel."""
    picture = np.full((400, 400, 3), (110, 130, 150), np.uint8)
    for centre, size, colour in [
        ((200, 420), (190, 130), (60, 40, 120)),  # shoulders
        ((200, 160), (125, 145), (50, 30, 20)),  # hair
        ((200, 195), (100, 130), (225, 185, 160)),  # face
        ((160, 175), (20, 10), (250, 250, 250)),  # eyes
        ((240, 175), (20, 10), (250, 250, 250)),
        ((160, 175), (9, 9), (30, 60, 90)),
        ((240, 175), (9, 9), (30, 60, 90)),
        ((200, 225), (12, 22), (195, 150, 125)),  # nose
        ((200, 275), (38, 12), (170, 60, 70)),  # mouth
    ]:
        cv2.ellipse(picture, centre, size, 0, 0, 360, colour, cv2.FILLED)
    return np.asarray(cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8)


def defocused(picture: Image, sigma_px: float) -> Image:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.uint8) if sigma_px else picture


def shaken(picture: Image, length_px: float, angle_deg: float) -> Image:
    """The mean of many copies along a line."""
    size = picture.shape[1], picture.shape[0]
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    moves = [np.array([[1, 0, s * cos], [0, 1, s * sin]]) for s in np.linspace(-length_px / 2, length_px / 2, 24)]
    copies = [cv2.warpAffine(picture, move, size, borderMode=cv2.BORDER_REFLECT) for move in moves]
    return np.asarray(np.mean(copies, axis=0), np.uint8)


def noisy(picture: np.ndarray, sigma: float) -> Image:
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def flat(luminance: float, side_px: int = 400) -> np.ndarray:
    return np.full((side_px, side_px, 3), luminance, np.float64)


def with_subject(scene: np.ndarray, side_px: int) -> Image:
    """The portrait, small, somewhere in a scene."""
    picture = scene.astype(np.uint8)
    picture[70 : 70 + side_px, 220 : 220 + side_px] = portrait(side_px)
    return picture


def assert_passes(verdict: Verdict) -> None:
    assert verdict.reason is None
    assert 50 <= verdict.score <= 100


def assert_fails(verdict: Verdict, reason: str) -> None:
    assert verdict.reason is not None
    assert verdict.reason.startswith(reason)
    assert 0 <= verdict.score < 50


def test_a_sharp_well_exposed_picture_has_the_full_score() -> None:
    assert judge_photo(portrait()) == Verdict(100, None, judge_photo(portrait()).measures)


def test_a_black_frame_is_almost_black() -> None:
    verdict = judge_photo(flat(0).astype(np.uint8))
    assert verdict.score == 0
    assert verdict.reason == (
        "The photo is almost black: 100 % of its pixels are darker than 26, and its brightest spot has 0 of 255."
    )


@pytest.mark.parametrize("sigma", [1, 4, 8])
def test_noise_does_not_light_up_a_covered_lens(sigma: float) -> None:
    assert_fails(judge_photo(noisy(flat(0), sigma)), "The photo is almost black: 100 % of its pixels")


@pytest.mark.parametrize("light", [0.02, 0.05, 0.1])
def test_a_picture_with_a_tenth_of_its_light_is_almost_black_with_noise_or_without(light: float) -> None:
    for sigma in (0, 3, 10):
        assert_fails(judge_photo(noisy(portrait() * light, sigma)), "The photo is almost black: ")


def test_a_picture_with_a_third_of_its_light_passes() -> None:
    assert_passes(judge_photo(noisy(portrait() * 0.35, 3)))


@pytest.mark.parametrize("side_px", [30, 60, 150])
def test_a_small_bright_subject_in_the_dark_passes(side_px: int) -> None:
    verdict = judge_photo(with_subject(flat(4), side_px))
    assert_passes(verdict)
    assert verdict.measures["under_exposure"] > 0.8


def test_a_white_frame_is_over_exposed() -> None:
    for sigma in (0, 5):
        verdict = judge_photo(noisy(flat(255), sigma))
        assert_fails(verdict, "The photo is over-exposed: ")
        assert "100 % of its pixels are brighter than 246" in (verdict.reason or "")


def test_a_picture_that_is_white_but_for_a_few_black_lines_is_over_exposed() -> None:
    burnt = flat(255).astype(np.uint8)
    burnt[100:130, 100:300] = 0
    assert_fails(judge_photo(burnt), "The photo is over-exposed: ")


def test_a_small_subject_before_a_white_wall_passes() -> None:
    verdict = judge_photo(with_subject(flat(255), 60))
    assert_passes(verdict)
    assert verdict.measures["over_exposure"] > 0.9


@pytest.mark.parametrize("luminance", [60, 128, 220])
def test_a_wall_is_nearly_blank(luminance: float) -> None:
    shade = np.linspace(0, 15, 400)[None, :, None]
    verdict = judge_photo(noisy(flat(luminance) - shade, 3))
    assert_fails(verdict, "The photo is nearly blank: no part of it varies by more than ")


def test_a_picture_lost_in_fog_is_nearly_blank() -> None:
    assert_fails(judge_photo(noisy(portrait() * 0.05 + 150, 1)), "The photo is nearly blank: ")
    assert_passes(judge_photo(noisy(portrait() * 0.4 + 100, 1)))


@pytest.mark.parametrize("angle_deg", [0, 20, 45, 90, 110, 135])
def test_camera_shake_is_detected_in_any_direction(angle_deg: float) -> None:
    assert_fails(
        judge_photo(shaken(portrait(), 80, angle_deg)), "The photo is blurred: its sharpest part has a sharpness of "
    )
    assert_passes(judge_photo(shaken(portrait(), 6, angle_deg)))


def test_a_picture_far_out_of_focus_is_blurred() -> None:
    assert_fails(judge_photo(defocused(portrait(), 16)), "The photo is blurred: ")
    assert_passes(judge_photo(defocused(portrait(), 2)))


def test_blur_is_detected_at_any_contrast_and_brightness() -> None:
    for contrast, light in ((1, 0), (0.4, 20), (0.4, 140)):
        assert_fails(
            judge_photo((defocused(portrait(), 16) * contrast + light).astype(np.uint8)), "The photo is blurred: "
        )


@pytest.mark.parametrize("side_px", [40, 80, 160])
def test_a_small_sharp_subject_before_a_blurred_background_passes(side_px: int) -> None:
    background = defocused(portrait(), 20)
    assert_fails(judge_photo(background), "The photo is blurred: ")
    assert_passes(judge_photo(with_subject(background, side_px)))


@pytest.mark.parametrize("shake", [False, True])
def test_the_more_a_picture_is_blurred_the_lower_is_its_score(*, shake: bool) -> None:
    sizes_px = (0, 2, 4, 6, 8, 12, 16, 24)
    blurred = [shaken(portrait(), 4 * size_px, 30) if shake else defocused(portrait(), size_px) for size_px in sizes_px]
    scores = [judge_photo(picture).score for picture in blurred]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 100
    assert scores[-1] < 50
    # Full scores apart, every step counts.
    assert len({score for score in scores if score < 100}) == sum(score < 100 for score in scores) > 3


@pytest.mark.parametrize("sigma_px", [0, 8, 16])
def test_a_decode_at_a_smaller_scale_has_the_same_verdict(sigma_px: float) -> None:
    large = defocused(portrait(800), sigma_px * 2)
    small = cv2.resize(large, (200, 200), interpolation=cv2.INTER_AREA)
    seen, expected = judge_photo(np.asarray(small, np.uint8)), judge_photo(large)
    assert seen.score == pytest.approx(expected.score, abs=3)
    assert (seen.reason is None) == (expected.reason is None)


def test_a_picture_on_its_side_has_the_same_score() -> None:
    for picture in (shaken(portrait(), 30, 20), noisy(portrait() * 0.1, 2)):
        turned = np.ascontiguousarray(np.rot90(picture))
        assert judge_photo(turned).score == pytest.approx(judge_photo(picture).score, rel=0.02)


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 130), st.integers(1, 130), st.just(3))))
def test_any_picture_has_one_verdict_and_is_left_as_it_was(picture: Image) -> None:
    before = picture.copy()
    verdict = judge_photo(picture)
    assert judge_photo(picture) == verdict
    assert np.array_equal(picture, before)
    assert 0 <= verdict.score <= 100
    assert (verdict.reason is None) == (verdict.score >= 50)
    assert all(math.isfinite(value) for value in verdict.measures.values())


def test_noise_that_fills_the_range_is_neither_dark_nor_blank_nor_blurred() -> None:
    assert_passes(judge_photo(photos.noise(300, 200)))


@pytest.mark.parametrize(("width_px", "height_px"), [(MIN_SIDE_PX - 1, 4000), (4000, MIN_SIDE_PX - 1), (1, 1)])
def test_a_photo_too_small_for_a_face_fails_by_its_header(width_px: int, height_px: int) -> None:
    verdict = judge_photo_size(width_px, height_px)
    assert verdict is not None
    assert_fails(verdict, f"The photo is too small: {width_px} x {height_px} px")
    assert verdict.measures == {"width_px": width_px, "height_px": height_px}


def test_a_photo_large_enough_for_one_face_has_no_verdict_by_its_header() -> None:
    assert judge_photo_size(MIN_SIDE_PX, MIN_SIDE_PX) is None
    assert judge_photo_size(6000, 4000) is None


def test_every_photo_of_the_test_album_passes(shared_dir: Path) -> None:
    album = sorted((shared_dir / "album").glob("*.jpg"))
    assert album
    for path in album:
        verdict = judge_photo(decode(path.read_bytes(), PhotoLimits(50_000_000, 150_000_000)))
        assert verdict.score == 100, (path.name, verdict)


def test_the_benchmark_damages_a_photo_the_same_way_each_time() -> None:
    for damage in DAMAGES.values():
        first, again = (damage(portrait(200), np.random.default_rng(5)) for _ in range(2))
        assert np.array_equal(first, again)
        assert first.dtype == np.uint8


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_benchmark_knows_where_the_face_is_in_every_frame(framing: str) -> None:
    face = np.array([50, 32, 150, 162], np.float32)
    framed = FRAMINGS[framing](Subject(portrait(200), face / 2 + 25), portrait(200), np.random.default_rng(3))
    left, top, right, bottom = framed.box.round().astype(int)
    seen = cv2.resize(framed.photo[top:bottom, left:right], (50, 65), interpolation=cv2.INTER_AREA)
    expected = portrait(200)[41:106, 50:100]
    assert np.abs(seen.astype(int) - expected)[10:-10, 10:-10].mean() < 12


def test_the_benchmark_counts_usable_faces_that_are_rejected_as_lost() -> None:
    def outcome(damage: str, *, rejected: bool, usable: bool) -> Outcome:
        return Outcome("as it is", damage, rejected, usable, 0.002, 0.1)

    kept = [outcome("undamaged", rejected=False, usable=True)] * 3
    lost = [outcome("dark", rejected=True, usable=True)]
    useless = [outcome("dark", rejected=rejected, usable=False) for rejected in (True, True, False)]
    result = summarise([*kept, *lost, *useless])
    assert (result["usable_faces"], result["usable_faces_lost"], result["lost_share"]) == (4, 1, 0.25)
    assert result["rejected"] == {"undamaged": 0, "dark": 0.75}
    assert result["useless_rejected"] == {"dark": 0.6667}
    assert (result["prefilter_ms"], result["detection_ms"], result["detection_per_prefilter"]) == (2, 100, 50)
