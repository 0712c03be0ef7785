"""Which faces of a photo's new content are those of its former one: a photo is often exported anew, in another size or
compression, under its old key.

A photo of strangers under the old key must give nobody a name. So a face must lie where the former one lay, and be like
it beyond doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.core.arrays import Floats
from app.core.boxes import match_boxes, relate_boxes

SAME_PLACE = 0.4
"""The least IoU of the two boxes, each relative to its photo's size. Real exports have 0.9 and more, and one that was
cut a little has less."""
DOUBTLESS_PART = 0.4
"""How far above the threshold of one person, as a part of what is above it, two faces are one without a doubt. Of 480
faces that were exported anew at half to twice their size, 99 % are; of pairs of strangers, none is."""


@dataclass(frozen=True)
class PlacedFaces:
    """The faces of a photo of this size: (N,4) boxes in pixels, and (N,D) vectors of unit length."""

    size_px: tuple[int, int]
    boxes: Sequence[Floats]
    vectors: Sequence[Floats]


def choose_doubtless(threshold: float) -> float:
    """The cosine from which two faces at one place are one person's, for a pack with this similarity threshold."""
    return threshold + DOUBTLESS_PART * (1 - threshold)


def find_same_faces(former: PlacedFaces, now: PlacedFaces, same_from: float) -> list[tuple[int, int]]:
    """Rows of the former faces and of the new ones that are the same, each once."""
    if not len(former.boxes) or not len(now.boxes) or not all((*former.size_px, *now.size_px)):
        return []
    alike = np.stack(former.vectors) @ np.stack(now.vectors).T >= same_from
    before, after = (relate_boxes(np.stack(faces.boxes), faces.size_px) for faces in (former, now))
    return match_boxes(before, after, SAME_PLACE, alike)
