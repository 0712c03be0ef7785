"""Dark faces, lit before the embedder sees them.

Embedders are trained on faces in good light, so that one in a twentieth of it is like nobody, and most like other dark
faces. What noise there is grows with the light, so much of it is smoothed away first.
"""

import cv2
import numpy as np

from app.core.arrays import Floats, Image

DARK_BELOW = 90.0
"""A chip is dark where all but its brightest twentieth lies below. Skin of any tone has brighter spots in daylight: of
LFW's photos one in 300 is."""
LIT_TO = 200.0
MOST_GAIN = 40.0
NOISY_GAIN = 3.0
SMOOTHED_PX = 1.0
"""Standard deviation of the filter, where the gain is above NOISY_GAIN."""
_STEP = 2
"""Every so manyth pixel tells how bright a chip is."""


def brighten(chips: Image) -> Image:
    """(N,S,S,3) uint8 RGB → the same, those of dark faces as bright as others; never changes its argument."""
    if not len(chips):
        return chips
    gains = compute_gains(chips)
    dark = np.flatnonzero(gains > 1)
    if not len(dark):
        return chips
    bright = chips.copy()
    for row in dark:
        chip = chips[row].astype(np.float32)
        if gains[row] > NOISY_GAIN:
            chip = np.asarray(cv2.GaussianBlur(chip, (0, 0), SMOOTHED_PX), np.float32)
        bright[row] = np.clip(np.rint(chip * gains[row]), 0, 255)
    return bright


def compute_gains(chips: Image) -> Floats:
    """(N,) float32: how many times brighter each chip should be, 1 for those that are not dark."""
    some = np.ascontiguousarray(chips[:, ::_STEP, ::_STEP])
    count, height, width = some.shape[:3]
    luminance = cv2.cvtColor(some.reshape(count * height, width, 3), cv2.COLOR_RGB2GRAY)
    bright = np.percentile(np.asarray(luminance).reshape(count, -1), 95, axis=1)
    gains = np.clip(LIT_TO / np.maximum(bright, 1), 1, MOST_GAIN)
    return np.where(bright < DARK_BELOW, gains, 1).astype(np.float32)
