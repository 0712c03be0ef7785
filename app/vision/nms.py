"""Non-maximum suppression, shared by the detectors."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.vision.types import Floats

Mode = Literal["union", "min"]


def nms(boxes: Floats, scores: Floats, iou: float, *, mode: Mode = "union") -> NDArray[np.intp]:
    """(N,4) float32 x1 y1 x2 y2, (N,) float32 → (K,) indices of the boxes to keep, best first.

    Greedy: a box is kept unless it overlaps a better one by more than `iou`. Of equal scores the earlier box is
    the better one. `union` divides the overlap by the area of both boxes together, `min` by that of the smaller,
    which also removes a box inside another.
    """
    order = np.argsort(-scores, kind="stable")
    areas = _areas(boxes)
    kept: list[np.intp] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        overlap = _overlaps(boxes[best], boxes[rest])
        smaller, both = np.minimum(areas[best], areas[rest]), areas[best] + areas[rest] - overlap
        # Multiplied, not divided: a box without area overlaps nothing and must not divide by zero.
        order = rest[overlap <= iou * (both if mode == "union" else smaller)]
    return np.array(kept, np.intp)


def _areas(boxes: Floats) -> Floats:
    sides: Floats = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def _overlaps(box: Floats, boxes: Floats) -> Floats:
    """(4,), (N,4) → (N,) area that each box shares with `box`."""
    top_left = np.maximum(box[:2], boxes[:, :2])
    bottom_right = np.minimum(box[2:], boxes[:, 2:])
    return _areas(np.concatenate([top_left, bottom_right], axis=1))
