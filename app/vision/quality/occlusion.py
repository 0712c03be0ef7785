"""What the eyes' and the mouth's part of a chip look like, coarsely: what a fitted classifier tells covers by.

Cells of colour beside the skin's own, and of how strong edges are in four directions, as in histograms of oriented
gradients (Dalal and Triggs, 2005).
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
In a batch the last row's edges are the next chip's too."""
_SKIN = np.s_[11:24, 7:21]
"""From the eyes to the upper lip: whatever is covered, half of it is skin."""
_WORK_PX = CHIP_PX // 2
"""Half of the chip's size is fine enough for cells of four of its pixels, and costs a quarter."""
_EDGES = 3
"""From this channel on cells hold edges: they follow the three of colour."""
_LEAST = 4.0


def make_occlusion_features(chips: NDArray[np.uint8]) -> dict[str, Floats]:
    """(N,112,112,3) uint8 RGB → for each of PARTS (N,F) float32."""
    count = len(chips)
    tall = cv2.resize(
        chips.reshape(count * CHIP_PX, CHIP_PX, 3), (_WORK_PX, count * _WORK_PX), interpolation=cv2.INTER_AREA
    )
    colours = np.asarray(cv2.cvtColor(tall, cv2.COLOR_RGB2YCrCb), np.uint8)
    edges = np.dstack(_find_edges(np.ascontiguousarray(colours[..., 0]))).astype(np.float32, copy=False)
    both = np.concatenate([_average_cells(colours, count), _average_cells(edges, count)], axis=-1)
    return {name: _compare_to_skin(both, part) for name, part in PARTS.items()}


def _average_cells(tall: NDArray[np.float32] | NDArray[np.uint8], count: int) -> Floats:
    """(N·56,56,C) → (N,28,28,C), each cell the mean of its pixels."""
    small = cv2.resize(tall, (_CELLS, count * _CELLS), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).reshape(count, _CELLS, _CELLS, -1)


def _compare_to_skin(cells: Floats, part: tuple[slice, slice]) -> Floats:
    """(N,28,28,C) → (N,F): colours as they differ from the skin's, edges as they are, both by how the skin varies."""
    skin = cells[:, *_SKIN, :].reshape(len(cells), -1, cells.shape[-1])
    middle = skin.mean(axis=1)
    spread = np.sqrt(np.einsum("npc,npc->nc", skin, skin) / skin.shape[1] - middle**2 + _LEAST**2)
    middle[:, _EDGES:] = 0
    relative = (cells[:, *part, :] - middle[:, None, None]) / spread[:, None, None]
    return np.ascontiguousarray(relative.reshape(len(cells), -1), np.float32)


def _find_edges(luminance: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """(H,W) → four times (H,W): the slope's strength along the axes and the diagonals."""
    dx, dy = (cv2.Sobel(luminance, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    along = (dx, dy, (dx + dy) * np.float32(0.5**0.5), (dx - dy) * np.float32(0.5**0.5))
    return [np.abs(slope) for slope in along]
