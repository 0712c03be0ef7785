"""Detection of rotated faces (upside down or sideways), in photos whose metadata lack the camera's orientation.

Where the upright pass has no confident detection, a small part of the photo (a probe) is searched in the three other
rotations. Then the whole photo is searched in the rotation in which its probe scored best, if that score is higher than
that of every upright candidate. Coordinates count from the centre of the top-left pixel, as in `app.vision.align`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from app.core.arrays import Floats, Image
from app.vision.nms import nms
from app.vision.types import Detections, FaceDetector

QUARTERS = (1, 2, 3)
"""Rotations that may make a photo upright, in counterclockwise quarter turns."""
SAME_FACE_IOU = 0.3
"""Above this IoU, detections in two rotations are one face. It is lower than for an NMS within one rotation, since
boxes of faces upside down are less exact."""


class TurnableDetector(FaceDetector, Protocol):
    def detect_with_candidates(self, images: Sequence[Image]) -> list[Detections]:
        """As `detect`, with candidates that score too little for a face."""

    def make_probes(self, image: Image, candidates: Detections) -> list[Image]:
        """(H,W,3) uint8 RGB, its candidates → probes: small pictures of it in which a rotated face may be."""


class RotationInvariantDetector:
    """A detector that runs again on the rotated photo, where the upright pass has no confident detection.

    A detection is confident where it scores `sure_score` or more and its eyes are above its mouth. A rotation is chosen
    where a face in a probe scores more than every upright candidate.
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
        candidates = self.upright.detect_with_candidates(images)
        faces = [some.take(some.scores >= self._score_threshold) for some in candidates]
        rotations = self._find_rotations(images, candidates)
        rotated = self.upright.detect([turn_image(images[row], quarters) for row, quarters in rotations.items()])
        for (row, quarters), detected in zip(rotations.items(), rotated, strict=True):
            faces[row] = _merge_passes(faces[row], turn_faces_back(detected, quarters, images[row].shape))
        return faces

    def _find_rotations(self, images: Sequence[Image], candidates: Sequence[Detections]) -> Mapping[int, int]:
        """Row → quarter turns that make the photo upright, for photos that seem to be rotated."""
        uncertain = [row for row, some in enumerate(candidates) if not self._is_confident(some)]
        probes = [(row, probe) for row in uncertain for probe in self.upright.make_probes(images[row], candidates[row])]
        tried = [(row, probe, quarters) for row, probe in probes for quarters in QUARTERS]
        detected = self.upright.detect([turn_image(probe, quarters) for _, probe, quarters in tried])
        best = {row: (float(candidates[row].scores.max(initial=0)), 0) for row in uncertain}
        for (row, _, quarters), faces in zip(tried, detected, strict=True):
            score = float(faces.scores.max(initial=0))
            if score > best[row][0]:
                best[row] = score, quarters
        return {row: quarters for row, (_, quarters) in best.items() if quarters}

    def _is_confident(self, candidates: Detections) -> bool:
        return bool(((candidates.scores >= self._sure_score) & _are_upright(candidates.landmarks)).any())


def turn_image(image: Image, quarters: int) -> Image:
    """(H,W,3) → the picture, rotated by so many counterclockwise quarter turns, in memory of its own."""
    return np.ascontiguousarray(np.rot90(image, quarters))


def turn_faces_back(faces: Detections, quarters: int, shape: tuple[int, ...]) -> Detections:
    """Faces in pixels of `turn_image(image, quarters)` → the same in pixels of the image of this shape (H,W,3)."""
    corners = _turn_points_back(faces.boxes.reshape(-1, 2, 2), quarters, shape)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return Detections(boxes, _turn_points_back(faces.landmarks, quarters, shape), faces.scores)


def _turn_points_back(points: Floats, quarters: int, shape: tuple[int, ...]) -> Floats:
    """(...,2) x y → the same points before the rotation."""
    x, y = points[..., 0], points[..., 1]
    right, bottom = shape[1] - 1, shape[0] - 1
    back = {0: (x, y), 1: (right - y, x), 2: (right - x, bottom - y), 3: (y, bottom - x)}
    return np.stack(back[quarters % 4], axis=-1).astype(np.float32)


def _are_upright(landmarks: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(N,5,2) px → (N,) whether the vector from the eyes to the mouth points down rather than to a side."""
    down = landmarks[:, 3:].mean(axis=1) - landmarks[:, :2].mean(axis=1)
    return np.asarray(down[:, 1] > np.abs(down[:, 0]))


def _merge_passes(upright: Detections, rotated: Detections) -> Detections:
    """The faces of both passes, best first; of a face that both detected, the detection with the higher score."""
    both = Detections.concatenate([upright, rotated])
    return both.take(nms(both.boxes, both.scores, SAME_FACE_IOU))
