"""The faces that two pipelines both detect, and how much their results differ."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.core.arrays import Floats
from app.core.boxes import compute_ious

SAME_FACE_IOU = 0.5


@dataclass(frozen=True)
class Found:
    """Faces of one photo: boxes (N,4) float32 px of the photo, embeddings (N,D) float32 of unit length."""

    boxes: Floats
    embeddings: Floats


def compare_faces(ours: dict[Path, Found], theirs: dict[Path, Found]) -> dict[str, Any]:
    """How many faces both detected (IoU of at least 0.5), and how much they differ. Boxes in px of the photo."""
    differences, cosines = [], []
    for photo, found in ours.items():
        for row, other in match_faces(found.boxes, theirs[photo].boxes):
            differences.append(float(np.abs(found.boxes[row] - theirs[photo].boxes[other]).max()))
            cosines.append(float(found.embeddings[row] @ theirs[photo].embeddings[other]))
    if not cosines:
        return {"faces_of_both": 0}
    return {
        "faces_of_both": len(cosines),
        "largest_box_difference_px": round(max(differences), 3),
        "median_box_difference_px": round(statistics.median(differences), 3),
        "smallest_cosine": round(min(cosines), 4),
        "median_cosine": round(statistics.median(cosines), 5),
    }


def match_faces(boxes: Floats, others: Floats) -> Iterator[tuple[int, int]]:
    """(N,4), (M,4) → pairs of rows: each box with the other box of the highest IoU, if that is enough."""
    if not len(others):
        return
    for row, ious in enumerate(compute_ious(boxes, others)):
        if ious.max() >= SAME_FACE_IOU:
            yield row, int(ious.argmax())
