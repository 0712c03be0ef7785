"""The prefilter: it rejects photos in which no face can be recognised, by a small copy, before the costly networks run.

Every measure is of the best part of a photo, never the mean: a bright face in the dark, or a sharp face before a
blurred background, can be recognised. And since a face may fill the frame, a photo fails only by damage that such a
face would not survive either. Measures are named after ISO/IEC 29794-5. The limits come from `python -m benchmarks
prefilter`: beyond them, the faces of LFW, framed and damaged in many ways, were no longer detected or no longer
recognised.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from app.core.arrays import Floats, Image
from app.vision.quality.exposure import BRIGHT, DARK

WORK_PX = 96
"""Photos are shrunk to the area of a square of this side. At 64, small faces are lost. At 128, camera shake is
harder to tell from content: it is longer than the windows of the sharpness measure."""

LEAST_COPY_PX = 160
"""Least longer side of a copy that is judged in place of the photo: it has WORK_PX² pixels up to a ratio of 5:2."""

MIN_SIDE_PX = 20
"""Of faces that filled a photo of 19 px, about one in a thousand was recognised; of 20 px, five times as many."""
MIN_BRIGHTEST = 34.0
"""Luminance of the brightest spot. At a tenth of the light SCRFD detects no face, with noise or without."""
MIN_WELL_EXPOSED = 0.3
"""Share of the best tile that is neither black nor white."""
MIN_VARIANCE = 6.5**2
"""Variance of the luminance in the most varied tile. Below it, in fog or darkness, a face has too little contrast."""
MIN_SHARPNESS = 1.7
"""All but four of the 2,298 faces that were usable despite their damage reach it; those four are in close-ups with
motion blur. At 1.9, eleven are lost, and a tenth more of the useless photos are rejected."""

_PASS_SCORE = 50.0
_SPOT_PX, _DETAIL_PX, _PATCH_PX, _TILE_PX = 3, 5, 9, 11
"""Sides of the windows that the measures look through, in pixels of the working copy: smaller than most faces."""
_NOISE_SIGMA_PX = 1.0
_FINE_SIGMA_PX, _COARSE_SIGMA_PX = 0.7, 2.0
_ANGLES = np.arange(8) * np.pi / 8
_DIRECTIONS = np.stack([np.cos(_ANGLES) ** 2, np.sin(_ANGLES) ** 2, np.sin(2 * _ANGLES)], axis=1).astype(np.float32)
"""(8,3): weights of the structure tensor's xx, yy and xy in the squared slope along each direction."""
# Gradients below this share of the photo's strongest ones, or below this energy, are rounding and compression.
_FAINT, _LEAST_ENERGY = 0.03, 0.2


@dataclass(frozen=True)
class Verdict:
    """`score` is 0 to 100; below 50 the photo is rejected, and `reason` is a sentence that says why."""

    score: float
    reason: str | None
    measures: Mapping[str, float]


def judge_photo_size(width_px: int, height_px: int) -> Verdict | None:
    """The verdict on a photo that is too small whatever it shows, from its header alone; otherwise None."""
    side_px = min(width_px, height_px)
    if side_px >= MIN_SIDE_PX:
        return None
    reason = f"The photo is too small: {width_px} x {height_px} px, where a face needs {MIN_SIDE_PX} px a side."
    return Verdict(_score_value(side_px, MIN_SIDE_PX), reason, {"width_px": width_px, "height_px": height_px})


def judge_photo(picture: Image) -> Verdict:
    """(H,W,3) uint8 RGB, the photo or a copy of it with a longer side of LEAST_COPY_PX or more → the verdict.

    `under_exposure` and `over_exposure`: shares of the pixels that are too dark and too bright. `luminance_max`: of the
    brightest spot. `well_exposed`: share of the best-exposed tile. `luminance_variance`: of the most varied tile.
    `sharpness`: see `_measure_sharpness`. The score is that of the worst measure; 50 is its limit.
    """
    luminance = _compute_luminance(picture)
    measures = {
        **_measure_exposure(luminance),
        "luminance_variance": _measure_variance(luminance),
        "sharpness": _measure_sharpness(luminance),
    }
    findings = _find_faults(measures)
    reason = next((reason for score, reason in findings if score < _PASS_SCORE), None)
    return Verdict(min(score for score, _ in findings), reason, measures)


def _find_faults(measures: Mapping[str, float]) -> list[tuple[float, str]]:
    """For each measure that can fail a photo, its score and the reason to give where the score is too low; the reasons
    that describe the damage best come first."""
    dark, bright, brightest = (measures[name] for name in ("under_exposure", "over_exposure", "luminance_max"))
    # A dark photo has no well-exposed part either; for it, the brightest spot decides.
    well_exposed = measures["well_exposed"] if bright > dark else 1.0
    return [
        (
            _score_value(brightest, MIN_BRIGHTEST),
            f"The photo is almost black: {100 * dark:.0f} % of its pixels are darker than {DARK + 1}, "
            f"and its brightest spot has {brightest:.0f} of 255.",
        ),
        (
            _score_value(well_exposed, MIN_WELL_EXPOSED),
            f"The photo is over-exposed: {100 * bright:.0f} % of its pixels are brighter than {BRIGHT - 1}, "
            "and no part of it is well exposed.",
        ),
        (
            _score_value(measures["luminance_variance"], MIN_VARIANCE),
            "The photo is nearly blank: no part of it varies by more than "
            f"{measures['luminance_variance'] ** 0.5:.1f} of 255 grey levels.",
        ),
        (
            _score_value(measures["sharpness"], MIN_SHARPNESS),
            f"The photo is blurred: its sharpest part has a sharpness of {measures['sharpness']:.2f}, "
            f"where {MIN_SHARPNESS} is the least.",
        ),
    ]


def _score_value(value: float, limit: float) -> float:
    """0 to 100; 50 where the value is at its limit."""
    return min(100.0, _PASS_SCORE * value / limit)


def _compute_luminance(picture: Image) -> Floats:
    """(H,W,3) uint8 RGB → (h,w) float32 in 0..255, of at most WORK_PX² pixels."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = WORK_PX / (height * width) ** 0.5
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.float32)


def _measure_exposure(luminance: Floats) -> dict[str, float]:
    """(h,w) 0..255 → `under_exposure`, `over_exposure`, `luminance_max` and `well_exposed`."""
    dark, bright = luminance < DARK + 0.5, luminance > BRIGHT - 0.5
    well = np.asarray(~(dark | bright), np.float32)
    return {
        "under_exposure": np.count_nonzero(dark) / dark.size,
        "over_exposure": np.count_nonzero(bright) / bright.size,
        "luminance_max": float(_average_tiles(luminance, _SPOT_PX).max()),
        "well_exposed": float(_average_tiles(well, _PATCH_PX).max()),
    }


def _measure_variance(luminance: Floats) -> float:
    """(h,w) 0..255 → the variance in the most varied tile, after noise is smoothed away."""
    smooth = _smooth(luminance, _NOISE_SIGMA_PX)
    return max(
        0.0, float((_average_tiles(smooth * smooth, _DETAIL_PX) - _average_tiles(smooth, _DETAIL_PX) ** 2).max())
    )


def _measure_sharpness(luminance: Floats) -> float:
    """(h,w) 0..255 → how much stronger the gradients of fine structure are than those of coarse structure.

    As in "The Blur Effect" (Crete et al., 2007), a blurred photo changes little when it is blurred once more, and the
    ratio does not depend on the contrast. Here the energies of gradients are compared in eight directions, each in the
    tile that is sharpest in it. The least sharp direction counts, since camera shake leaves the others sharp.
    """
    fine = _compute_gradient_energy(_smooth(luminance, _FINE_SIGMA_PX))
    coarse = _compute_gradient_energy(_smooth(luminance, _COARSE_SIGMA_PX))
    faint = _FAINT * coarse.mean(axis=0).max() + _LEAST_ENERGY
    sharpest = (fine / (coarse + faint)).max(axis=(1, 2))
    return max(0.0, float(sharpest.min()))


def _compute_gradient_energy(luminance: Floats) -> Floats:
    """(h,w) → (8,h,w) float32, mean square of the slope along each direction in the tile about each pixel."""
    # Sobel's weights sum to 8, so this scale gives slopes in grey levels per pixel.
    dx, dy = (cv2.Sobel(luminance, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    tensor = np.stack([_average_tiles(product, _TILE_PX) for product in (dx * dx, dy * dy, dx * dy)])
    energy: Floats = (_DIRECTIONS @ tensor.reshape(len(tensor), -1)).reshape(-1, *luminance.shape)
    return energy


def _smooth(luminance: Floats, sigma_px: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(luminance, (0, 0), sigma_px), np.float32)


def _average_tiles(values: Floats, side_px: int) -> Floats:
    """(h,w) → (h,w), the mean over the square tile about each pixel."""
    return np.asarray(cv2.blur(values, (side_px, side_px), borderType=cv2.BORDER_REFLECT), np.float32)
