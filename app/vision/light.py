"""Brightens dark faces for the embedder, and dark parts of photos for a detector.

Embedders are trained on well-exposed faces. At a twentieth of that light, the embedding of a face is not similar to its
own person's, but to those of other dark faces. Brightening amplifies the noise too, so noisy chips are smoothed first.
"""

import cv2
import numpy as np

from app.core.arrays import Floats, Image

BRIGHT_SHARE = 0.95
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
PART_CELL_PX = 8
"""Side of the cells in which the luminance of a photo's parts is measured."""
PART_REACH = 2
"""Distance in cells within which the brightest cell decides whether a part is dark."""
PART_BLUR_CELLS = 1.5
"""Standard deviation of the Gaussian filter between parts of different light."""
DARK_PART_BELOW = 60.0
BRIGHTEN_PARTS_TO = 110.0
"""What the luminance of a dark part's brightest cell becomes, unless MOST_PART_GAIN is too little for that."""
MOST_PART_GAIN = 20.0
_STEP = 2
"""Luminance is measured in every second row and column."""


def brighten(chips: Image, gains: Floats | None = None) -> Image:
    """(N,S,S,3) uint8 RGB → the chips, the dark ones brightened; never changes its argument. `gains` (N,) are theirs,
    where they are known already."""
    if not len(chips):
        return chips
    gains = compute_gains(chips) if gains is None else gains
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
    bright = _find_percentile(np.asarray(luminance, np.uint8).reshape(count, -1), BRIGHT_SHARE)
    gains = np.clip(BRIGHTEN_TO / np.maximum(bright, 1), 1, MOST_GAIN)
    return np.where(bright < DARK_BELOW, gains, 1).astype(np.float32)


def brighten_parts(image: Image) -> Image:
    """(H,W,3) uint8 RGB → the photo with its dark parts brightened, for a detector; the photo itself where it has none.

    A part is dark where nothing within PART_REACH cells is as bright as DARK_PART_BELOW, so that dark clothes beside a
    lit face are none. Strongly brightened parts are smoothed.
    """
    height_px, width_px = image.shape[:2]
    luminance = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    size = max(1, width_px // PART_CELL_PX), max(1, height_px // PART_CELL_PX)
    cells = np.asarray(cv2.resize(luminance, size, interpolation=cv2.INTER_AREA))
    brightest = np.asarray(cv2.dilate(cells, np.ones((2 * PART_REACH + 1,) * 2, np.uint8)), np.float32)
    if brightest.min() >= DARK_PART_BELOW:
        return image
    brightest = np.asarray(cv2.GaussianBlur(brightest, (0, 0), PART_BLUR_CELLS), np.float32)
    gains = np.clip(BRIGHTEN_PARTS_TO / np.maximum(brightest, 1), 1, MOST_PART_GAIN)
    gains = np.where(brightest < DARK_PART_BELOW, gains, 1).astype(np.float32)
    gain = np.asarray(cv2.resize(gains, (width_px, height_px), interpolation=cv2.INTER_LINEAR))
    source = image
    if gains.max() > NOISY_GAIN:
        smoothed = cv2.GaussianBlur(image, (0, 0), SMOOTHED_PX)
        source = np.where((gain > NOISY_GAIN)[..., None], smoothed, image)
    return np.asarray(cv2.multiply(source, cv2.merge([gain] * 3), dtype=cv2.CV_8U), np.uint8)


def _find_percentile(values: Image, share: float) -> Floats:
    """(N,P) uint8 → (N,), as `np.percentile` interpolates, in a fifth of its time."""
    below, part = divmod(share * (values.shape[1] - 1), 1)
    row = int(below)
    above = min(row + 1, values.shape[1] - 1)
    ordered = np.partition(values, (row, above), axis=1)
    low, high = (ordered[:, one].astype(np.float64) for one in (row, above))
    return np.asarray(low + (high - low) * part)
