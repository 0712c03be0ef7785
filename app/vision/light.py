"""Brightens dark faces for the embedder.

Embedders are trained on well-exposed faces. At a twentieth of that light, the embedding of a face is not similar to its
own person's, but to those of other dark faces. Brightening amplifies the noise too, so noisy chips are smoothed first.
"""

import cv2
import numpy as np

from app.core.arrays import Floats, Image

DARK_BELOW = 90.0
"""A chip is dark where the 95th percentile of its luminance (0 to 255) is below this. In daylight, skin of any tone has
brighter spots: only one in 300 of LFW's photos is dark."""
BRIGHTEN_TO = 200.0
"""The 95th percentile of a brightened chip, unless MOST_GAIN is too little for that."""
MOST_GAIN = 40.0
NOISY_GAIN = 3.0
"""Above this gain, a chip is smoothed before it is brightened."""
SMOOTHED_PX = 1.0
"""Standard deviation of the Gaussian filter that smooths."""
_STEP = 2
"""Luminance is measured in every second row and column."""


def brighten(chips: Image) -> Image:
    """(N,S,S,3) uint8 RGB → the chips, the dark ones brightened; never changes its argument."""
    if not len(chips):
        return chips
    gains = compute_gains(chips)
    dark = np.flatnonzero(gains > 1)
    if not len(dark):
        return chips
    brightened = chips.copy()
    for row in dark:
        chip = chips[row].astype(np.float32)
        if gains[row] > NOISY_GAIN:
            chip = np.asarray(cv2.GaussianBlur(chip, (0, 0), SMOOTHED_PX), np.float32)
        brightened[row] = np.clip(np.rint(chip * gains[row]), 0, 255)
    return brightened


def compute_gains(chips: Image) -> Floats:
    """(N,S,S,3) uint8 RGB → (N,) float32, the factor for the pixels of each chip; 1 for a chip that is not dark."""
    some = np.ascontiguousarray(chips[:, ::_STEP, ::_STEP])
    count, height, width = some.shape[:3]
    luminance = cv2.cvtColor(some.reshape(count * height, width, 3), cv2.COLOR_RGB2GRAY)
    bright = np.percentile(np.asarray(luminance).reshape(count, -1), 95, axis=1)
    gains = np.clip(BRIGHTEN_TO / np.maximum(bright, 1), 1, MOST_GAIN)
    return np.where(bright < DARK_BELOW, gains, 1).astype(np.float32)
