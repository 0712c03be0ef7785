"""Exposure of a face, by the measures of ISO/IEC 29794-5 as OFIQ (BSI) publishes them.

Shares are of the inner face, since hair, background and the black beyond the photo's edge say nothing about it.
"""

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats

DARK, BRIGHT = 25, 247
"""A pixel is under-exposed up to DARK and over-exposed from BRIGHT on, as in OFIQ, which implements the standard."""
_LEVELS = 256

# In ArcFace's template the eyes are 35 px apart on a chip of 112 px; OFIQ's squares have 0.3 of that as their side and
# lie below the eyes, beside the nose.
_CHEEK_PX = 11
_CHEEK_TOP = 66
_CHEEK_LEFTS = (33, 68)


def measure_exposure(luminance: NDArray[np.uint8], inner: tuple[slice, slice]) -> dict[str, Floats]:
    """(N,112,112) → raw measures (N,) float32 each.

    `luminance_mean` and `luminance_variance` (0 to 1, of the range), `under_exposure` and `over_exposure` (shares),
    `dynamic_range` (entropy in bits, 0 to 8), `illumination_uniformity` (0 to 1, the intersection of the
    cheeks' histograms).
    """
    face = luminance[:, *inner].reshape(len(luminance), -1)
    part = face / np.float32(_LEVELS - 1)
    return {
        "luminance_mean": part.mean(axis=1),
        "luminance_variance": part.var(axis=1),
        "under_exposure": (face <= DARK).mean(axis=1, dtype=np.float32),
        "over_exposure": (face >= BRIGHT).mean(axis=1, dtype=np.float32),
        "dynamic_range": _compute_entropy(_count_levels(face)),
        "illumination_uniformity": _measure_uniformity(luminance),
    }


def _measure_uniformity(luminance: NDArray[np.uint8]) -> Floats:
    rows = slice(_CHEEK_TOP, _CHEEK_TOP + _CHEEK_PX)
    cheeks = [luminance[:, rows, left : left + _CHEEK_PX].reshape(len(luminance), -1) for left in _CHEEK_LEFTS]
    left, right = (_count_levels(cheek) for cheek in cheeks)
    return np.asarray(np.minimum(left, right).sum(axis=1), np.float32)


def _count_levels(values: NDArray[np.uint8]) -> Floats:
    """(N,P) → (N,256) float32, shares of each level."""
    count, pixels = values.shape
    cells = np.arange(count)[:, np.newaxis] * _LEVELS + values
    histograms = np.bincount(cells.ravel(), minlength=count * _LEVELS).reshape(count, _LEVELS)
    return np.asarray(histograms / max(pixels, 1), np.float32)


def _compute_entropy(shares: Floats) -> Floats:
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=1), np.float32)
