"""Simple measures of how much a face can be trusted."""

import cv2
import numpy as np
from numpy.typing import NDArray

from app.vision.types import Floats, Image

# Hair, background and the black beyond the photo's edge fill the rim of a chip and say nothing about the face.
_RIM = 0.2
# Stored with the face: enough digits to compare, few enough to stay the same on every machine.
_DIGITS = 4


def measure(boxes: Floats, size_px: tuple[int, int], chips: NDArray[np.uint8]) -> list[dict[str, float]]:
    """(N,4) px of a photo of this width and height, (N,S,S,3) uint8 aligned chips → N mappings of measure to value.

    `size_px`: shorter side of the box, as far as it lies in the photo. `sharpness`: variance of the Laplacian of
    the inner chip's luminance (Pech-Pacheco et al., 2000); comparable between chips of one alignment and size.
    `luminance_mean`: mean luminance of the inner chip, 0 to 255.
    """
    sizes_px = _visible_sizes(boxes, *size_px)
    return [
        {"size_px": round(float(side_px), _DIGITS), **_inner_measures(chip)}
        for side_px, chip in zip(sizes_px, chips, strict=True)
    ]


def _visible_sizes(boxes: Floats, width_px: int, height_px: int) -> Floats:
    """(N,4) px → (N,) px, the shorter side of each box inside the photo."""
    inside = np.clip(boxes, 0, np.array([width_px, height_px, width_px, height_px], np.float32))
    shorter: Floats = (inside[:, 2:] - inside[:, :2]).min(axis=1)
    return shorter


def _inner_measures(chip: Image) -> dict[str, float]:
    """(S,S,3) uint8 RGB → its sharpness and mean luminance."""
    luminance = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)
    rim_px = int(_RIM * len(chip))
    inner = np.s_[rim_px : len(chip) - rim_px, rim_px : len(chip) - rim_px]
    sharpness = cv2.Laplacian(luminance, cv2.CV_64F)[inner].var()
    return {
        "sharpness": round(float(sharpness), _DIGITS),
        "luminance_mean": round(float(luminance[inner].mean()), _DIGITS),
    }
