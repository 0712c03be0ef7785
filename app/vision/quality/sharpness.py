"""Statistics that together tell sharp faces from blurred, upsampled, noisy and compressed ones; no single one suffices.

They are taken at several scales, since noise is in the finest scale and blur leaves the coarse ones unchanged. A fitted
function (`fitted.py`) combines them into one measure.
"""

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats

OCTAVES = 3
"""Full, half and quarter size."""
NAMES = (*(f"{kind}_{octave}" for octave in range(OCTAVES) for kind in ("curve", "slope")), "variance", "flat")
_LEAST = 1e-2


def measure_sharpness(luminance: NDArray[np.uint8], inner: tuple[slice, slice]) -> Floats:
    """(N,112,112) → (N, len(NAMES)) float32, of the inner face.

    `curve` and `slope`: logarithms of the mean squares of second and first differences. `variance`: logarithm of
    the variance of the whole. `flat`: logarithm of the mean variance in the flatter half of the tiles of 4 x 4 px, less
    `variance`; a JPEG of low quality has flat tiles.
    """
    face = luminance[:, *inner].astype(np.float32)
    statistics = []
    octave = face
    for _ in range(OCTAVES):
        statistics += [_compute_energy(_compute_laplacian(octave)), _compute_energy(*_compute_slopes(octave))]
        octave = _halve(octave)
    means, squares = (_halve(_halve(each)) for each in (face, face * face))
    variances = (squares - means * means).reshape(len(face), -1)
    whole = np.log(face.var(axis=(1, 2)) + _LEAST)
    flatter = np.partition(variances, variances.shape[1] // 2, axis=1)[:, : variances.shape[1] // 2]
    return np.stack([*statistics, whole, np.log(flatter.mean(axis=1) + _LEAST) - whole], axis=1).astype(np.float32)


def estimate_noise(luminance: NDArray[np.uint8], inner: tuple[slice, slice]) -> Floats:
    """(N,112,112) → (N,) float32, the noise's standard deviation in the inner face, in grey levels.

    By the face's response to the difference of two Laplacians, in which little but noise is left: Immerkær, "Fast noise
    variance estimation" (Computer Vision and Image Understanding 64, 1996).
    """
    face = luminance[:, *inner].astype(np.float32)
    across = face[:, :, :-2] - 2 * face[:, :, 1:-1] + face[:, :, 2:]
    left = across[:, :-2] - 2 * across[:, 1:-1] + across[:, 2:]
    return np.asarray(np.sqrt(np.pi / 2) / 6 * np.abs(left).mean(axis=(1, 2)), np.float32)


def _compute_laplacian(face: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,h,w) → (N,h-2,w-2), the Laplacian of each pixel."""
    neighbours = face[:, 1:-1, :-2] + face[:, 1:-1, 2:] + face[:, :-2, 1:-1] + face[:, 2:, 1:-1]
    return neighbours - 4 * face[:, 1:-1, 1:-1]


def _compute_slopes(face: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return face[:, :, 1:] - face[:, :, :-1], face[:, 1:] - face[:, :-1]


def _compute_energy(*differences: NDArray[np.float32]) -> Floats:
    """Several times (N,h,w) → (N,), the logarithm of their mean squares' sum."""
    squares = sum(np.einsum("nhw,nhw->n", each, each) / (each.shape[1] * each.shape[2]) for each in differences)
    return np.asarray(np.log(squares + _LEAST), np.float32)


def _halve(face: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,h,w), even sides → (N,h/2,w/2), means of four pixels."""
    rows = face[:, ::2] + face[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4, np.float32)
