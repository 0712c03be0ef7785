"""Dark faces are brightened; all others are left unchanged."""

import numpy as np
import pytest

from app.core.arrays import Image
from app.vision.light import BRIGHTEN_TO, DARK_BELOW, brighten


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
