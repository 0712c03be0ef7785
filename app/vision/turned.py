"""Faces upside down or on their side, in photos whose metadata don't say how they were held.

A turned face leaves signs in the upright look: a weak score, landmarks on their side, or nothing at all. Only then is
a little of the photo shown to the detector in the three other positions, and the whole photo in the one that this
speaks for. Coordinates count from the centre of the top-left pixel, as in `app.vision.align`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from app.core.arrays import Floats, Image
from app.vision.nms import nms
from app.vision.types import Detections, FaceDetector

QUARTERS = (1, 2, 3)
"""Quarter turns against the clock that may put a turned photo upright."""
SAME_FACE_IOU = 0.3
"""A face is boxed less exactly where it is seen upside down, so that looks in two positions overlap less than those of
an NMS within one."""


class TurnableDetector(FaceDetector, Protocol):
    def detect_with_candidates(self, images: Sequence[Image]) -> list[Detections]:
        """As `detect`, and with what scores too little for a face but may be the sign of one."""

    def make_probes(self, image: Image, seen: Detections) -> list[Image]:
        """(H,W,3) uint8 RGB and its candidates → small pictures of it in which a rotated face would show."""


class RotationInvariantDetector:
    """A detector that looks again, turned, where the upright look found no face of which it is sure.

    Sure is a face that scores `sure_score` and has its eyes above its mouth. A turn is believed where it shows a face,
    and a better one than any sign upright.
    """

    def __init__(self, detector: TurnableDetector, score_threshold: float, sure_score: float) -> None:
        self.upright = detector
        self._score_threshold = score_threshold
        self._sure_score = sure_score

    @property
    def view_px(self) -> int:
        return self.upright.view_px

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """N times (H,W,3) uint8 RGB → the faces of each in pixels of its image as it was given, best first."""
        seen = self.upright.detect_with_candidates(images)
        faces = [found.take(found.scores >= self._score_threshold) for found in seen]
        turns = self._find_turns(images, seen)
        again = self.upright.detect([turn_image(images[row], quarters) for row, quarters in turns.items()])
        for (row, quarters), found in zip(turns.items(), again, strict=True):
            faces[row] = _merge_looks(faces[row], turn_faces_back(found, quarters, images[row].shape))
        return faces

    def _find_turns(self, images: Sequence[Image], seen: Sequence[Detections]) -> Mapping[int, int]:
        """Row → quarter turns that put the photo upright, for those that seem to be turned."""
        unsure = [row for row, found in enumerate(seen) if not self._is_sure(found)]
        parts = [(row, part) for row in unsure for part in self.upright.make_probes(images[row], seen[row])]
        shown = [(row, part, turn) for row, part in parts for turn in QUARTERS]
        found = self.upright.detect([turn_image(part, turn) for _, part, turn in shown])
        best = {row: (float(seen[row].scores.max(initial=0)), 0) for row in unsure}
        for (row, _, turn), faces in zip(shown, found, strict=True):
            score = float(faces.scores.max(initial=0))
            if score > best[row][0]:
                best[row] = score, turn
        return {row: turn for row, (_, turn) in best.items() if turn}

    def _is_sure(self, found: Detections) -> bool:
        return bool(((found.scores >= self._sure_score) & _are_upright(found.landmarks)).any())


def turn_image(image: Image, quarters: int) -> Image:
    """(H,W,3) → the picture turned by so many quarters against the clock, in memory of its own."""
    return np.ascontiguousarray(np.rot90(image, quarters))


def turn_faces_back(found: Detections, quarters: int, shape: tuple[int, ...]) -> Detections:
    """Faces in pixels of `turned(image, quarters)` → the same in pixels of the image of this shape (H,W,3)."""
    corners = _turn_points_back(found.boxes.reshape(-1, 2, 2), quarters, shape)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return Detections(boxes, _turn_points_back(found.landmarks, quarters, shape), found.scores)


def _turn_points_back(points: Floats, quarters: int, shape: tuple[int, ...]) -> Floats:
    """(...,2) x y → the same points before the turn."""
    x, y = points[..., 0], points[..., 1]
    right, bottom = shape[1] - 1, shape[0] - 1
    back = {0: (x, y), 1: (right - y, x), 2: (right - x, bottom - y), 3: (y, bottom - x)}
    return np.stack(back[quarters % 4], axis=-1).astype(np.float32)


def _are_upright(landmarks: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(N,5,2) px → (N,) whether the way from the eyes to the mouth goes down rather than to a side."""
    way = landmarks[:, 3:].mean(axis=1) - landmarks[:, :2].mean(axis=1)
    return np.asarray(way[:, 1] > np.abs(way[:, 0]))


def _merge_looks(upright: Detections, again: Detections) -> Detections:
    """Both looks' faces, best first; of a face that both found, the look that is surer of it."""
    both = Detections.concatenate([upright, again])
    return both.take(nms(both.boxes, both.scores, SAME_FACE_IOU))
