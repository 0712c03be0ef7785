import tracemalloc

import cv2
import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from app.vision.align import TEMPLATES, align_faces, fit_similarity_transforms
from tests import photos

ARCFACE_112 = TEMPLATES["arcface"] * 112


def turned(points: np.ndarray, scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    """(5,2) → (5,2) float32, enlarged, turned and moved."""
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (scale * points @ rotation.T + shift).astype(np.float32)


def smooth_photo(width_px: int, height_px: int) -> np.ndarray:
    return cv2.GaussianBlur(photos.noise(width_px, height_px), (0, 0), 1.5)


def test_the_templates_lie_where_their_models_were_trained() -> None:
    assert TEMPLATES["arcface"][0] * 112 == pytest.approx((38.2946, 51.6963))
    # 150 px with a quarter of padding each side: the face's own square is 100 px wide and begins at 25.
    assert TEMPLATES["dlib"] * 150 == pytest.approx(
        np.array([(47.55, 46.6), (100.48, 46.6), (74.01, 76.56), (50.41, 103.02), (97.61, 103.02)])
    )


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, -135])
@pytest.mark.parametrize("scale", [0.3, 1, 7])
def test_landmarks_that_fit_the_template_land_exactly_on_it(degrees: float, scale: float) -> None:
    landmarks = turned(ARCFACE_112, scale, degrees, (500, 300))
    (matrix,) = fit_similarity_transforms(landmarks[None], ARCFACE_112)
    assert landmarks @ matrix[:, :2].T + matrix[:, 2] == pytest.approx(ARCFACE_112, abs=1e-3)


def test_landmarks_that_do_not_fit_get_the_least_squares_answer_of_scikit_image() -> None:
    rng = np.random.default_rng(1)
    landmarks = np.stack([turned(ARCFACE_112 + rng.normal(0, 8, (5, 2)), 2, angle, (90, 40)) for angle in range(50)])
    for matrix, points in zip(fit_similarity_transforms(landmarks, ARCFACE_112), landmarks, strict=True):
        expected = SimilarityTransform.from_estimate(points, ARCFACE_112).params[:2]
        assert matrix == pytest.approx(expected, abs=1e-4)


def test_a_mirrored_face_is_rotated_and_never_mirrored_back() -> None:
    mirrored = (ARCFACE_112 * (-1, 1)).astype(np.float32)
    (matrix,) = fit_similarity_transforms(mirrored[None], ARCFACE_112)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_five_landmarks_in_one_point_are_centred_at_scale_one() -> None:
    (matrix,) = fit_similarity_transforms(np.full((1, 5, 2), 40, np.float32), ARCFACE_112)
    assert matrix[:, :2] == pytest.approx(np.eye(2))
    assert matrix @ (40, 40, 1) == pytest.approx(ARCFACE_112.mean(axis=0))


@pytest.mark.parametrize("spread", [1e-30, 1e-6, 1e12])
def test_landmarks_no_face_has_still_give_a_chip(spread: float) -> None:
    landmarks = (np.random.default_rng(0).normal(0, spread, (1, 5, 2)) + 20).astype(np.float32)
    assert np.isfinite(fit_similarity_transforms(landmarks, ARCFACE_112)).all()
    assert align_faces(photos.gradient(), landmarks, "arcface", 112).shape == (1, 112, 112, 3)


def test_no_landmarks_give_no_chips() -> None:
    assert align_faces(photos.gradient(), np.empty((0, 5, 2), np.float32), "dlib", 150).shape == (0, 150, 150, 3)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("scale", [0.4, 1, 1.3, 1.8])
@pytest.mark.parametrize("shift", [(300, 200), (-30, -20), (560, 400)])
def test_chips_are_those_of_insightface_where_nothing_is_skipped(scale: float, shift: tuple[float, float]) -> None:
    from insightface.utils import face_align

    photo = smooth_photo(640, 480)
    jitter = np.random.default_rng(2).normal(0, 2, (5, 2))
    landmarks = turned(ARCFACE_112 + jitter, scale, 20, shift)
    (chip,) = align_faces(photo, landmarks[None], "arcface", 112)
    expected = face_align.norm_crop(photo, landmarks, 112)
    assert expected.any()
    assert np.abs(chip.astype(int) - expected.astype(int)).max() <= 1


def test_a_large_face_is_averaged_and_shows_no_moire() -> None:
    checks = (np.indices((1200, 1200)).sum(axis=0) % 2 * 255).astype(np.uint8)
    photo = np.repeat(checks[..., None], 3, axis=2)
    landmarks = turned(ARCFACE_112, 8.3, 7, (100, 60))
    (chip,) = align_faces(photo, landmarks[None], "arcface", 112)
    matrix = fit_similarity_transforms(landmarks[None], ARCFACE_112)[0]
    plain = cv2.warpAffine(photo, matrix, (112, 112))
    assert chip[20:90, 20:90].std() < 12 < plain[20:90, 20:90].std()


@pytest.mark.parametrize("scale", [1.5, 2.4, 5.3, 11])
def test_every_chip_pixel_shows_the_place_it_stands_for_at_any_scale(scale: float) -> None:
    """A ramp averages to its value in the middle, so a shift of a part of a pixel shows."""
    ramp = np.arange(1500, dtype=np.float64) / 6
    photo = np.repeat(np.broadcast_to(ramp.astype(np.uint8), (1500, 1500))[..., None], 3, axis=2)
    landmarks = turned(ARCFACE_112 - 62, scale, 25, (750, 750))
    (chip,) = align_faces(photo, landmarks[None], "arcface", 112)
    (matrix,) = fit_similarity_transforms(landmarks[None], ARCFACE_112)
    inverse = cv2.invertAffineTransform(matrix)
    y, x = np.mgrid[:112, :112]
    # uint8 cuts the ramp's fractions off: half a grey level on average.
    expected = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]) / 6 - 0.5 + 1 / 12
    inner = np.s_[40:85, 40:85]
    # A grey level is six pixels of the photo, so this bound is a third of a photo pixel.
    assert abs((chip[..., 0] - expected)[inner].mean()) < 0.06


def test_what_lies_outside_the_photo_is_black() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    outside = turned(ARCFACE_112, 1, 0, (500, 500))
    half = turned(ARCFACE_112, 1, 0, (-56, 0))
    far, near = align_faces(white, np.stack([outside, half]), "arcface", 112)
    assert not far.any()
    assert (near[:98, 58:] == 255).all()
    assert not near[:, :55].any()


def test_a_face_at_the_far_end_of_a_wide_panorama_is_found_there() -> None:
    photo = np.zeros((120, 40_000, 3), np.uint8)
    photo[:, 39_000:] = 200
    (chip,) = align_faces(photo, turned(ARCFACE_112, 1, 0, (39_500, 4))[None], "arcface", 112)
    assert (chip == 200).all()


def test_the_photo_is_never_copied() -> None:
    photo = photos.noise(3000, 2000)
    landmarks = turned(ARCFACE_112, 3, 10, (900, 700))[None]
    tracemalloc.start()
    try:
        align_faces(photo, landmarks, "arcface", 112)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < photo.nbytes / 10
