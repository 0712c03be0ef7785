"""Photos in which no face can be recognised, told from a small copy before the costly networks run.

Every measure goes by the best part of a photo, never by its mean: a face that is lit in the dark, or sharp before a
blurred background, is a face. And since a face may fill the frame, a photo fails only by what such a face would not
survive either. Measures are named after ISO/IEC 29794-5; the limits come from `python -m benchmarks prefilter`: they
are where the faces of LFW, framed and damaged in many ways, were no longer found or no longer known again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from app.core.arrays import Floats, Image
from app.vision.quality.exposure import BRIGHT, DARK

WORK_PX = 96
"""Photos are shrunk to the area of a square of this side. At 64 small faces go under; at 128 camera shake is told less
well from content, as it is longer than what the measure looks at."""

LEAST_COPY_PX = 160
"""Longer side that a copy needs to be judged in the photo's stead: no less than WORK_PX² pixels up to 5:2."""

MIN_SIDE_PX = 20
"""A face that filled a photo of 19 px was known again once in some thousand, one of 20 px five times as often."""
MIN_BRIGHTEST = 34.0
"""Luminance of the brightest spot. At a tenth of the light SCRFD finds no face, with noise or without."""
MIN_WELL_EXPOSED = 0.3
"""Share of the best tile that is neither black nor white."""
MIN_VARIANCE = 6.5**2
"""Of the most varied tile. Below it, fog or darkness has taken what makes a face."""
MIN_SHARPNESS = 1.7
"""Reached by all but four of 2,298 faces that damage left usable; those four are in close-ups blurred by motion. At
1.9 eleven are lost, and a tenth more of the useless photos rejected."""

_PASS_SCORE = 50.0
_SPOT_PX, _DETAIL_PX, _PATCH_PX, _TILE_PX = 3, 5, 9, 11
"""Sides of the windows that the measures look through, in pixels of the working copy: smaller than most faces."""
_NOISE_SIGMA_PX = 1.0
_FINE_SIGMA_PX, _COARSE_SIGMA_PX = 0.7, 2.0
_ANGLES = np.arange(8) * np.pi / 8
_DIRECTIONS = np.stack([np.cos(_ANGLES) ** 2, np.sin(_ANGLES) ** 2, np.sin(2 * _ANGLES)], axis=1).astype(np.float32)
"""(8,3): weights of the structure tensor's xx, yy and xy in the squared slope along each direction."""
# Structure this faint beside the strongest of the photo, or in itself, is rounding and compression.
_FAINT, _LEAST_ENERGY = 0.03, 0.2


@dataclass(frozen=True)
class Verdict:
    """`score` is 0 to 100; below 50 the photo fails, and `reason` says in a sentence why."""

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
    """(H,W,3) uint8 RGB, the photo or a copy of it with a longer side of LEAST_COPY_PX or more → whether it will do.

    `under_exposure` and `over_exposure`: shares of the pixels that are so. `luminance_max`: of the brightest spot.
    `well_exposed`: share of the best-exposed tile. `luminance_variance`: of the most varied tile. `sharpness`: see
    `_measure_sharpness`. The score is that of the worst of them, 50 at its limit.
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
    """The score and, should that be too low, the reason of each measure that can fail a photo; where several do, the
    first says best what happened."""
    dark, bright, brightest = (measures[name] for name in ("under_exposure", "over_exposure", "luminance_max"))
    # What has neither black nor white in it is also missing in the dark, and there the brightest spot decides.
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
    """0 to 100, and 50 where a value is just enough."""
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
        "under_exposure": float(dark.mean()),
        "over_exposure": float(bright.mean()),
        "luminance_max": float(_average_tiles(luminance, _SPOT_PX).max()),
        "well_exposed": float(_average_tiles(well, _PATCH_PX).max()),
    }


def _measure_variance(luminance: Floats) -> float:
    """(h,w) 0..255 → the variance of the most varied tile, noise smoothed away."""
    smooth = _smooth(luminance, _NOISE_SIGMA_PX)
    return max(
        0.0, float((_average_tiles(smooth * smooth, _DETAIL_PX) - _average_tiles(smooth, _DETAIL_PX) ** 2).max())
    )


def _measure_sharpness(luminance: Floats) -> float:
    """(h,w) 0..255 → how much stronger the gradients of fine structure are than those of coarse structure.

    As in "The Blur Effect" (Crete et al., 2007), a copy that is blurred once more differs little from what was blurred
    before; the contrast drops out. Here energies of gradients are compared, in each of eight directions where the photo
    is sharpest in it, and the least sharp direction counts: camera shake leaves all others sharp.
    """
    fine = _compute_gradient_energy(_smooth(luminance, _FINE_SIGMA_PX))
    coarse = _compute_gradient_energy(_smooth(luminance, _COARSE_SIGMA_PX))
    faint = _FAINT * coarse.mean(axis=0).max() + _LEAST_ENERGY
    sharpest = (fine / (coarse + faint)).max(axis=(1, 2))
    return max(0.0, float(sharpest.min()))


def _compute_gradient_energy(luminance: Floats) -> Floats:
    """(h,w) → (8,h,w) float32, mean square of the slope along each direction in the tile about each pixel."""
    # Sobel's weights sum to 8: now it is in grey levels a pixel.
    dx, dy = (cv2.Sobel(luminance, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    tensor = np.stack([_average_tiles(product, _TILE_PX) for product in (dx * dx, dy * dy, dx * dy)])
    energy: Floats = np.tensordot(_DIRECTIONS, tensor, axes=1)
    return energy


def _smooth(luminance: Floats, sigma_px: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(luminance, (0, 0), sigma_px), np.float32)


def _average_tiles(values: Floats, side_px: int) -> Floats:
    """(h,w) → (h,w), the mean over the square tile about each pixel."""
    return np.asarray(cv2.blur(values, (side_px, side_px), borderType=cv2.BORDER_REFLECT), np.float32)
