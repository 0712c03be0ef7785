"""Features of the eyes' and the mouth's region of a chip, by which a fitted classifier detects that they are covered.

The regions are divided into cells. A cell has its colour relative to the skin's, and the strength of its edges in four
directions, as in histograms of oriented gradients (Dalal and Triggs, 2005).
"""

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats
from app.vision.quality.inputs import CHIP_PX

_CELLS = CHIP_PX // 4
PARTS: Mapping[str, tuple[slice, slice]] = {"eyes": np.s_[8:17, 5:23], "mouth": np.s_[18:27, 5:23]}
"""Rows and columns of cells: from the brows to below the lids, and from below the nose tip to the last row but one.
The last row is left out: the chips of a batch lie below one another, so the next chip changes its edges."""
_SKIN = np.s_[11:24, 7:21]
"""Rows and columns from the eyes to the upper lip: whatever is covered, half of these cells are skin."""
_WORK_PX = CHIP_PX // 2
"""Chips are measured at half their size: it is fine enough for cells of 4 px a side, and takes a quarter of the
time."""
_EDGES = 3
"""The first channel of edges, after the three of colour."""
_LEAST = 4.0
"""In grey levels: added in squares to the standard deviation of the skin, which may be 0."""


def make_occlusion_features(chips: NDArray[np.uint8]) -> dict[str, Floats]:
    """(N,112,112,3) uint8 RGB → for each of PARTS (N,F) float32."""
    count = len(chips)
    tall = cv2.resize(
        chips.reshape(count * CHIP_PX, CHIP_PX, 3), (_WORK_PX, count * _WORK_PX), interpolation=cv2.INTER_AREA
    )
    colours = np.asarray(cv2.cvtColor(tall, cv2.COLOR_RGB2YCrCb), np.uint8)
    edges = np.asarray(cv2.merge(_find_edges(np.ascontiguousarray(colours[..., 0]))), np.float32)
    both = np.concatenate([_average_cells(colours, count), _average_cells(edges, count)], axis=-1)
    return {name: _compare_to_skin(both, part) for name, part in PARTS.items()}


def _average_cells(tall: NDArray[np.float32] | NDArray[np.uint8], count: int) -> Floats:
    """(N·56,56,C) → (N,28,28,C), each cell the mean of its pixels."""
    small = cv2.resize(tall, (_CELLS, count * _CELLS), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).reshape(count, _CELLS, _CELLS, -1)


def _compare_to_skin(cells: Floats, part: tuple[slice, slice]) -> Floats:
    """(N,28,28,C) → (N,F): colours less the skin's mean, and edges, both divided by the skin's standard deviation."""
    skin = cells[:, *_SKIN, :].reshape(len(cells), -1, cells.shape[-1])
    middle = skin.mean(axis=1)
    spread = np.sqrt(np.einsum("npc,npc->nc", skin, skin) / skin.shape[1] - middle**2 + _LEAST**2)
    middle[:, _EDGES:] = 0
    relative = (cells[:, *part, :] - middle[:, None, None]) / spread[:, None, None]
    return np.ascontiguousarray(relative.reshape(len(cells), -1), np.float32)


def _find_edges(luminance: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """(H,W) → four times (H,W): the strength of the slope along the axes and the diagonals."""
    dx, dy = (cv2.Sobel(luminance, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    along = (dx, dy, (dx + dy) * np.float32(0.5**0.5), (dx - dy) * np.float32(0.5**0.5))
    return [np.abs(slope) for slope in along]
