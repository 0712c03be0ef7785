"""Areas, intersections and IoU of boxes."""

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats


def relate_boxes(boxes: Floats, size_px: tuple[int, int]) -> Floats:
    """(...,4) boxes in pixels of a photo of this width and height → the same as parts of its sides (0 to 1)."""
    return np.asarray(boxes / np.tile(np.maximum(size_px, 1), 2), np.float32)


def compute_areas(boxes: Floats) -> Floats:
    """(...,4) x1 y1 x2 y2 → (...); 0 for a box whose right or lower edge lies before its left or upper edge."""
    sides: Floats = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def compute_intersections(some: Floats, others: Floats) -> Floats:
    """(...,4), (...,4) of shapes that broadcast → (...) area that the two boxes of each pair share."""
    top_left = np.maximum(some[..., :2], others[..., :2])
    bottom_right = np.minimum(some[..., 2:], others[..., 2:])
    return compute_areas(np.concatenate([top_left, bottom_right], axis=-1))


def compute_ious(some: Floats, others: Floats) -> NDArray[np.float64]:
    """(N,4), (M,4) → (N,M), the IoU (intersection over union) of every pair; 0 where neither box has an area."""
    shared = compute_intersections(some[:, None], others[None]).astype(np.float64)
    union = compute_areas(some)[:, None] + compute_areas(others)[None] - shared
    ious: NDArray[np.float64] = shared / np.maximum(union, np.finfo(np.float32).tiny)
    return ious


def match_boxes(
    some: Floats, others: Floats, least_iou: float, allowed: NDArray[np.bool_] | None = None
) -> list[tuple[int, int]]:
    """(N,4), (M,4) → rows of boxes that lie at one place, each row once: those that share most come first.

    Pairs share at least `least_iou`, and are `allowed` by an (N,M) array where there is one.
    """
    if not len(some) or not len(others):
        return []
    ious = compute_ious(some, others)
    if allowed is not None:
        ious = np.where(allowed, ious, 0)
    rows, columns = np.nonzero(ious >= least_iou)
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for pair in np.lexsort((columns, rows, -ious[rows, columns])):
        row, column = int(rows[pair]), int(columns[pair])
        if row not in matched and column not in taken:
            matched[row] = column
            taken.add(column)
    return sorted(matched.items())
