"""Non-maximum suppression, shared by the detectors."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats
from app.core.boxes import compute_areas, compute_intersections

OverlapMode = Literal["union", "min"]


def nms(
    boxes: Floats, scores: Floats, iou: float, *, mode: OverlapMode = "union", groups: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """(N,4) float32 x1 y1 x2 y2, (N,) float32 → (K,) indices of the boxes to keep, by group and best first.

    Greedy: a box is kept unless it overlaps a better one of its group by more than `iou`. A group is a photo, for
    example; without `groups`, all boxes are one group. Of equal scores the earlier box is the better one. `union`
    divides the overlap by the area of both boxes together, `min` by that of the smaller, which also removes a box
    inside another.
    """
    group = np.zeros(len(scores), np.intp) if groups is None else groups
    # lexsort is stable: the earlier of equals comes first.
    order = np.lexsort((-scores, group))
    areas = compute_areas(boxes)
    kept: list[NDArray[np.intp]] = []
    while order.size:
        # All groups take their next best box at once.
        is_best = np.concatenate([[True], group[order[1:]] != group[order[:-1]]])
        best, rest = order[is_best], order[~is_best]
        kept.append(best)
        rival = best[np.cumsum(is_best)[~is_best] - 1]
        overlap = compute_intersections(boxes[rival], boxes[rest])
        smaller, both = np.minimum(areas[rival], areas[rest]), areas[rival] + areas[rest] - overlap
        # Multiplied, not divided: a box may have no area, and overlaps nothing then.
        order = rest[overlap <= iou * (both if mode == "union" else smaller)]
    chosen = np.concatenate(kept) if kept else np.empty(0, np.intp)
    # Each round took one box of each group; a stable sort keeps the order of the rounds within a group.
    return chosen[np.argsort(group[chosen], kind="stable")]
