"""Detection of rotated faces (upside down or sideways), in photos whose metadata lack the camera's orientation.

Where the upright pass has no confident detection, a small part of the photo (a probe) is searched in the three other
rotations. Then the whole photo is searched in the rotation in which its probe scored best, if that score is higher than
that of every upright candidate. Beside confident detections only weak candidates that overlap none of them are probed:
they may be somebody who lies, or hangs upside down, beside others. Coordinates count from the centre of the top-left
pixel, as in `app.vision.align`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.core.boxes import compute_intersections
from app.vision.nms import nms
from app.vision.types import Detections, FaceDetector

QUARTERS = (1, 2, 3)
"""Rotations that may make a photo upright, in counterclockwise quarter turns."""
SAME_FACE_IOU = 0.3
"""Above this IoU, detections in two rotations are one face. It is lower than for an NMS within one rotation, since
boxes of faces upside down are less exact."""

PROBE_PX = 128
"""Most pixels of the longer side of a probe around a candidate; it is InsightFace's smallest input size."""
PROBE_REACH = 1.0
"""Distance from the centre of a candidate's box to the edges of its probe, in lengths of the box's longer side. With 1,
the probe shows the face and as much again around it."""
MOST_WEAK = 1
"""So many weak candidates are probed beside confident detections, the best of them."""
WEAK_PART = 0.75
"""A candidate that looks upright is not weak above this part of the way from the threshold to the sure score."""


class TurnableDetector(FaceDetector, Protocol):
    def detect_with_candidates(self, images: Sequence[Image]) -> list[Detections]:
        """As `detect`, with candidates that score too little for a face."""

    def make_probes(self, image: Image, candidates: Detections) -> list[Image]:
        """(H,W,3) uint8 RGB, its candidates → probes: small pictures of it in which a rotated face may be."""


class RotationInvariantDetector:
    """A detector that runs again on the rotated photo, where the upright pass has no confident detection.

    A detection is confident where it scores `sure_score` or more and its eyes are above its mouth. A rotation is chosen
    where a face in a probe scores more than every upright candidate, or than the weak candidate that is probed beside
    confident ones.
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
        """Row → quarter turns that make the photo upright, or a face in it, for photos that seem to need one."""
        probes = [
            probe
            for row, (image, some) in enumerate(zip(images, candidates, strict=True))
            for probe in self._make_probes(row, image, some)
        ]
        tried = [(probe, quarters) for probe in probes for quarters in QUARTERS]
        detected = self.upright.detect([turn_image(probe.image, quarters) for probe, quarters in tried])
        best: dict[int, tuple[float, int]] = {}
        for (probe, quarters), faces in zip(tried, detected, strict=True):
            score = probe.measure_score(turn_faces_back(faces, quarters, probe.image.shape))
            if score > max(probe.upright_score, best.get(probe.row, (0.0, 0))[0]):
                best[probe.row] = score, quarters
        return {row: quarters for row, (_, quarters) in best.items()}

    def _make_probes(self, row: int, image: Image, candidates: Detections) -> list["_Probe"]:
        if not self._is_confident(candidates):
            score = float(candidates.scores.max(initial=0))
            return [_Probe(row, part, score) for part in self.upright.make_probes(image, candidates)]
        weak = self._find_weak(candidates)
        return [
            _Probe(row, part, float(score), (box[:2] + box[2:] - 2 * corner) / 2 * scale)
            for box, score in zip(weak.boxes, weak.scores, strict=True)
            for part, corner, scale in [cut_surroundings(image, box)]
            if part.size
        ]

    def _find_weak(self, candidates: Detections) -> Detections:
        """The best candidates that are not nearly confident and overlap no confident one."""
        sure = self._are_confident(candidates)
        bar = self._score_threshold + WEAK_PART * (self._sure_score - self._score_threshold)
        weak = (candidates.scores < bar) | ~_are_upright(candidates.landmarks)
        shared = compute_intersections(candidates.boxes[:, None], candidates.boxes[sure][None]).sum(axis=1)
        return candidates.take(np.flatnonzero(weak & (shared == 0))[:MOST_WEAK])

    def _is_confident(self, candidates: Detections) -> bool:
        return bool(self._are_confident(candidates).any())

    def _are_confident(self, candidates: Detections) -> NDArray[np.bool_]:
        return np.asarray((candidates.scores >= self._sure_score) & _are_upright(candidates.landmarks))


class _Probe(NamedTuple):
    """A part of the photo `row`, and the score that a rotated face in it must exceed. `spot` (2,) px of the part must
    lie in that face, if it is given."""

    row: int
    image: Image
    upright_score: float
    spot: Floats | None = None

    def measure_score(self, faces: Detections) -> float:
        """The score of the best of these faces, in pixels of the part, that may count; 0 without one."""
        if self.spot is None:
            return float(faces.scores.max(initial=0))
        covers = ((faces.boxes[:, :2] <= self.spot) & (self.spot <= faces.boxes[:, 2:])).all(axis=1)
        return float(faces.scores[covers].max(initial=0))


def cut_surroundings(image: Image, box: Floats) -> tuple[Image, Floats, float]:
    """(H,W,3), box (4,) px → (h,w,3), the part of the photo around it, reduced to PROBE_PX where it is larger; where
    its top left corner (2,) is in the photo; and its scale, at most 1."""
    reach_px = PROBE_REACH * float((box[2:] - box[:2]).max())
    middle = (box[:2] + box[2:]) / 2
    edges = np.stack([middle - reach_px, middle + reach_px]).round().clip(0, image.shape[1::-1])
    (left, top), (right, bottom) = edges.astype(int)
    part = image[top:bottom, left:right]
    height, width = part.shape[:2]
    scale = min(1.0, PROBE_PX / max(height, width, 1))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    return part, edges[0].astype(np.float32), scale


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


def _are_upright(landmarks: Floats) -> NDArray[np.bool_]:
    """(N,5,2) px → (N,) whether the vector from the eyes to the mouth points down rather than to a side."""
    down = landmarks[:, 3:].mean(axis=1) - landmarks[:, :2].mean(axis=1)
    return np.asarray(down[:, 1] > np.abs(down[:, 0]))


def _merge_passes(upright: Detections, rotated: Detections) -> Detections:
    """The faces of both passes, best first; of a face that both detected, the detection with the higher score."""
    both = Detections.concatenate([upright, rotated])
    return both.take(nms(both.boxes, both.scores, SAME_FACE_IOU))
