"""Dark faces and dark parts of photos are brightened; all others are left unchanged."""

import numpy as np
import pytest

from app.core.arrays import Image
from app.vision.light import (
    BRIGHTEN_PARTS_TO,
    BRIGHTEN_TO,
    DARK_BELOW,
    DARK_PART_BELOW,
    _find_percentile,
    brighten,
    brighten_parts,
)


def chip(brightness: float, seed: int = 0) -> Image:
    """(112,112,3) uint8: a smooth pattern up to this brightness."""
    wave = 0.6 + 0.4 * np.sin(np.linspace(0, 9 + seed, 112))
    return np.repeat((brightness * np.outer(wave, wave))[..., None], 3, axis=2).astype(np.uint8)


def brightest(image: Image) -> float:
    return float(np.percentile(image, 95))


def test_a_dark_face_is_as_bright_as_others() -> None:
    dark = chip(20)
    (bright,) = brighten(dark[None])
    assert brightest(dark) < 20
    assert brightest(bright) == pytest.approx(BRIGHTEN_TO, rel=0.05)


def test_what_a_dark_face_shows_stays() -> None:
    (bright,) = brighten(chip(40)[None])
    assert np.corrcoef(bright.ravel(), chip(200).ravel())[0, 1] > 0.99


def test_the_noise_of_a_very_dark_face_is_smoothed() -> None:
    random = np.random.default_rng(0)
    noisy = np.clip(chip(20) + random.normal(0, 3, (112, 112, 3)), 0, 255).astype(np.uint8)
    (bright,) = brighten(noisy[None])
    expected = brighten(chip(20)[None])[0].astype(float)
    gain = BRIGHTEN_TO / brightest(noisy)
    assert np.std(bright - expected) < 0.7 * np.std((noisy.astype(float) - chip(20)) * gain)


def test_well_exposed_faces_are_unchanged_next_to_a_dark_one() -> None:
    chips = np.stack([chip(220), chip(15), chip(DARK_BELOW * 1.2, seed=3)])
    before = chips.copy()
    result = brighten(chips)
    assert np.array_equal(chips, before)
    assert np.array_equal(result[[0, 2]], before[[0, 2]])
    assert not np.array_equal(result[1], before[1])


@pytest.mark.parametrize("count", [0, 2])
def test_without_dark_faces_nothing_is_copied(count: int) -> None:
    chips = np.stack([chip(220)] * count) if count else np.empty((0, 112, 112, 3), np.uint8)
    assert brighten(chips) is chips


def test_a_black_chip_stays_black() -> None:
    assert not brighten(np.zeros((1, 112, 112, 3), np.uint8)).any()


def photo(*halves: float) -> Image:
    """(160,320,3) uint8: two halves of a smooth pattern up to these brightnesses."""
    parts = [np.tile(chip(brightness)[:80, :80], (2, 2, 1)) for brightness in halves]
    return np.concatenate(parts, axis=1)


def test_a_photo_without_dark_parts_is_itself() -> None:
    bright = np.full((160, 320, 3), DARK_PART_BELOW + 1, np.uint8)
    assert brighten_parts(bright) is bright


def test_the_dark_half_of_a_photo_is_brightened_and_the_other_stays() -> None:
    given = photo(20, 250)
    found = brighten_parts(given)
    assert given[:, :160].max() <= 20
    assert np.percentile(found[:, 16:100], 95) == pytest.approx(BRIGHTEN_PARTS_TO, rel=0.2)
    assert np.array_equal(found[:, 240:], given[:, 240:])
    assert np.corrcoef(found[:, 16:100].ravel(), photo(100, 100)[:, 16:100].ravel())[0, 1] > 0.95


def test_something_dark_beside_something_lit_stays() -> None:
    given = np.full((160, 160, 3), 120, np.uint8)
    given[72:88, 72:88] = 10
    assert brighten_parts(given) is given


def test_black_stays_black_and_a_photo_of_one_pixel_is_one() -> None:
    assert brighten_parts(np.zeros((64, 96, 3), np.uint8)).max() == 0
    assert brighten_parts(np.full((1, 1, 3), 9, np.uint8)).shape == (1, 1, 3)


@pytest.mark.parametrize("pixels", [1, 784, 3136])
def test_a_percentile_is_that_of_numpy(pixels: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, pixels), np.uint8)
    assert _find_percentile(values, 0.95) == pytest.approx(np.percentile(values, 95, axis=1))
