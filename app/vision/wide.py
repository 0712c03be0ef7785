"""Detection in very wide and very tall photos, such as panoramas, which is the same for every kind of detector.

A detector reduces a photo by its longer side, so that in a photo of 12:1 an ordinary face is a few pixels high. Such a
photo is also searched in overlapping tiles along its longer side. A tile is a square of the shorter side, or longer
where that costs no pixels. Each tile answers for the faces whose centre is nearer to its own middle than to another
tile's, so that no face is taken from a tile that cuts it off.
"""

from collections.abc import Sequence

import numpy as np

from app.core.arrays import Image
from app.vision.nms import nms
from app.vision.types import Detections, FaceDetector

WIDE = 3.0
"""Photos whose longer side is more than so many times the shorter one are searched in tiles."""
OVERLAP = 0.5
"""Overlap of two tiles, in shorter sides. A face up to so wide is whole in the tile that answers for it."""
SAME_FACE_IOU = 0.3
"""As in `app.vision.turned`: the boxes of a face in the reduced photo and in a tile are less equal than within one."""
TILES_PER_CALL = 16
"""Bounds the memory of a call."""


def choose_view_px(view_px: int, width_px: int, height_px: int) -> int:
    """The longer side with which a photo of this size has enough pixels for a detector that wants `view_px`: so many
    that the shorter side has them, where the photo is searched in tiles."""
    longer, shorter = max(width_px, height_px), max(1, min(width_px, height_px))
    return round(view_px * longer / shorter) if longer > WIDE * shorter else view_px


def detect_everywhere(detector: FaceDetector, images: Sequence[Image]) -> list[Detections]:
    """N times (H,W,3) uint8 RGB → the faces of each in pixels of its image, best first."""
    faces = detector.detect(images)
    for row, image in enumerate(images):
        if max(image.shape[:2]) > WIDE * min(image.shape[:2]):
            both = Detections.concatenate([faces[row], *_detect_in_tiles(detector, image)])
            faces[row] = both.take(nms(both.boxes, both.scores, SAME_FACE_IOU))
    return faces


def _detect_in_tiles(detector: FaceDetector, image: Image) -> list[Detections]:
    """The faces that each tile answers for, in pixels of the image."""
    axis = int(image.shape[1] > image.shape[0])
    length, starts = _place_tiles(image.shape[axis], image.shape[1 - axis], detector.view_px)
    # Halfway between the middles of two tiles.
    ends = np.r_[-np.inf, (starts[1:] + starts[:-1] + length) / 2, np.inf]
    tiles = [np.ascontiguousarray(image[:, at : at + length] if axis else image[at : at + length]) for at in starts]
    parts = []
    for begin in range(0, len(tiles), TILES_PER_CALL):
        for number, faces in enumerate(detector.detect(tiles[begin : begin + TILES_PER_CALL]), begin):
            offset = np.zeros(2, np.float32)
            offset[1 - axis] = starts[number]
            moved = Detections(faces.boxes + np.tile(offset, 2), faces.landmarks + offset, faces.scores)
            centres = moved.boxes.reshape(-1, 2, 2).mean(axis=1)[:, 1 - axis]
            parts.append(moved.take((centres >= ends[number]) & (centres < ends[number + 1])))
    return parts


def _place_tiles(
    longer_px: int, shorter_px: int, view_px: int
) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """The length of the tiles, and where each begins on the longer side: evenly from one end to the other."""
    length = min(longer_px, max(shorter_px, view_px))
    count = 1 + -(-(longer_px - length) // max(1, round(length - OVERLAP * shorter_px)))
    return length, np.rint(np.linspace(0, longer_px - length, count)).astype(np.intp)
