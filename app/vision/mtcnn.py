"""MTCNN: three networks that propose faces, refine them and add landmarks.

Zhang, Zhang, Li, Qiao: "Joint Face Detection and Alignment Using Multi-task Cascaded Convolutional Networks", 2016.
P-Net slides a 12 px window over an image pyramid, R-Net judges the proposals at 24 px, O-Net at 48 px.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.packs.manifest import MtcnnConfig as MtcnnConfig
from app.vision.nms import nms
from app.vision.sessions import Session, make_blob
from app.vision.types import Detections

# Constants that the networks were trained with.
PNET_WINDOW_PX = 12
PNET_STRIDE_PX = 2
RNET_INPUT_PX = 24
ONET_INPUT_PX = 48
PIXEL_MEAN = (127.5, 127.5, 127.5)
PIXEL_SCALE = 128.0

# Pyramid step and overlaps of the authors' MATLAB release.
PYRAMID_STEP = 0.709
LEVEL_NMS_IOU = 0.5
NMS_IOU = 0.7

PROBE_SHARE = 0.4
"""Size of the probe, as a share of the photo's sides. A rotated face leaves no candidate here that would show where it
is, so the probe is the whole photo, shrunk. A larger one takes longer, and false detections in wrong rotations win more
often."""

SIGN_SCORE = 0.2
"""From this score on, what O-Net rejects is a sign of a rotated face. Half of the rotated faces score so much."""

# Bounds the memory of R- and O-Net in a crowd.
PATCHES_PER_RUN = 256


class MtcnnDetector:
    """Detects the faces of one photo after the other: the inputs of R- and O-Net depend on the photo, so photos share
    no run. As safe to call from several threads as its sessions are."""

    def __init__(self, pnet: Session, rnet: Session, onet: Session, config: MtcnnConfig) -> None:
        self._pnet, self._rnet, self._onet = pnet, rnet, onet
        self._config = config

    @property
    def view_px(self) -> int:
        return self._config.max_side_px

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """N times (H,W,3) uint8 RGB → the faces of each, in pixels of its image; they may lie beyond its edges."""
        return [self._detect(image, self._config.score_threshold) for image in images]

    def detect_with_candidates(self, images: Sequence[Image]) -> list[Detections]:
        """As `detect`, with candidates to which O-Net gives SIGN_SCORE or more."""
        return [self._detect(image, min(SIGN_SCORE, self._config.score_threshold)) for image in images]

    def make_probes(self, image: Image, candidates: Detections) -> list[Image]:
        """(H,W,3) → one probe: the whole photo, shrunk."""
        height_px, width_px = image.shape[:2]
        scale = PROBE_SHARE * min(1, self._config.max_side_px / max(height_px, width_px))
        return [_resize(image, max(1, round(width_px * scale)), max(1, round(height_px * scale)))]

    def _detect(self, image: Image, least_score: float) -> Detections:
        boxes = self._propose(image)
        boxes = self._refine(image, boxes)
        return self._finish(image, boxes, least_score)

    def _propose(self, image: Image) -> Floats:
        """P-Net on each pyramid level → (N,4) float32 boxes."""
        height_px, width_px = image.shape[:2]
        boxes, scores = [np.empty((0, 4), np.float32)], [np.empty(0, np.float32)]
        for level in _make_pyramid(image, self._config.min_face_px, self._config.max_side_px):
            level_boxes, level_scores = self._propose_in(level)
            scale = np.array([width_px / level.shape[1], height_px / level.shape[0]] * 2, np.float32)
            boxes.append(level_boxes * scale)
            scores.append(level_scores)
        all_boxes, all_scores = np.concatenate(boxes), np.concatenate(scores)
        return all_boxes[nms(all_boxes, all_scores, NMS_IOU)]

    def _propose_in(self, level: Image) -> tuple[Floats, Floats]:
        """(h,w,3) uint8 → (N,4) boxes in pixels of the level, (N,) scores."""
        offsets, face = _run(self._pnet, level[None])
        rows, columns = np.nonzero(face[0, 1] > self._config.pnet_threshold)
        corners = PNET_STRIDE_PX * np.stack([columns, rows], axis=1).astype(np.float32)
        windows = np.concatenate([corners, corners + PNET_WINDOW_PX], axis=1)
        boxes = _apply_offsets(windows, offsets[0][:, rows, columns].T)
        scores = face[0, 1, rows, columns]
        kept = nms(boxes, scores, LEVEL_NMS_IOU)
        return boxes[kept], scores[kept]

    def _refine(self, image: Image, proposals: Floats) -> Floats:
        """R-Net: (N,4) boxes → (M,4) float32, the boxes of what it takes for faces, their edges moved."""
        if not len(proposals):
            return proposals
        squares = _make_squares(proposals)
        offsets, face = _run_on_patches(self._rnet, image, squares, RNET_INPUT_PX)
        good = face[:, 1] > self._config.rnet_threshold
        boxes, scores = _apply_offsets(squares[good], offsets[good]), face[good, 1]
        return boxes[nms(boxes, scores, NMS_IOU)]

    def _finish(self, image: Image, candidates: Floats, least_score: float) -> Detections:
        """O-Net: (N,4) boxes → those that score enough, best first; equal scores in order of their boxes."""
        if not len(candidates):
            return Detections.make_empty()
        squares = _make_squares(candidates)
        offsets, landmarks, face = _run_on_patches(self._onet, image, squares, ONET_INPUT_PX)
        good = face[:, 1] >= least_score
        detections = Detections(
            _apply_offsets(squares, offsets), _place_landmarks(squares, landmarks), face[:, 1]
        ).take(good)
        detections = detections.take(np.lexsort((*detections.boxes.T, -detections.scores)))
        return detections.take(nms(detections.boxes, detections.scores, NMS_IOU, mode="min"))


def _make_pyramid(image: Image, min_face_px: int, max_side_px: int) -> Iterator[Image]:
    """(H,W,3) → ever smaller copies, from the one where `min_face_px` fills P-Net's window to the last that holds it.

    No copy is larger than `max_side_px`; each is made from the one before, which bounds the work on large photos.
    """
    height_px, width_px = image.shape[:2]
    scale = min(PNET_WINDOW_PX / min_face_px, max_side_px / max(height_px, width_px))
    while round(min(height_px, width_px) * scale) >= PNET_WINDOW_PX:
        image = _resize(image, round(width_px * scale), round(height_px * scale))
        yield image
        scale *= PYRAMID_STEP


def _resize(image: Image, width_px: int, height_px: int) -> Image:
    shrinks = width_px <= image.shape[1] and height_px <= image.shape[0]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=mode), np.uint8)


def _apply_offsets(boxes: Floats, offsets: Floats) -> Floats:
    """(N,4) boxes, (N,4) offsets of each edge in widths and heights → (N,4) float32 boxes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (boxes + offsets * np.tile(sides, 2)).astype(np.float32)


def _place_landmarks(boxes: Floats, landmarks: Floats) -> Floats:
    """(N,4) boxes, (N,10) five x then five y as shares of the box → (N,5,2) float32 in the frame of the boxes."""
    shares = landmarks.reshape(-1, 2, 5).transpose(0, 2, 1)
    sides = boxes[:, None, 2:] - boxes[:, None, :2]
    return (boxes[:, None, :2] + shares * sides).astype(np.float32)


def _make_squares(boxes: Floats) -> Floats:
    """(N,4) → (N,4) squares on whole pixels about the same centres, so that a patch and its box are the same area."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = np.maximum(np.rint((boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)), 1)
    corners = np.rint(centres - sides / 2)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def _run_on_patches(session: Session, image: Image, squares: Floats, side_px: int) -> list[Floats]:
    """(H,W,3) image, (N,4) whole-pixel squares, N > 0 → the outputs for all N."""
    chunks = []
    for start in range(0, len(squares), PATCHES_PER_RUN):
        some = squares[start : start + PATCHES_PER_RUN].astype(np.intp)
        patches = np.stack([_cut_patch(image, square, side_px) for square in some])
        chunks.append(_run(session, patches))
    return [np.concatenate(outputs) for outputs in zip(*chunks, strict=True)]


def _run(session: Session, images: Image) -> list[Floats]:
    """(N,h,w,3) uint8 RGB → the outputs."""
    return session.run({session.input_names[0]: make_blob(images, PIXEL_MEAN, PIXEL_SCALE)})


def _cut_patch(image: Image, square: NDArray[np.intp], side_px: int) -> Image:
    """(H,W,3), (4,) → (side_px,side_px,3); black beyond the edges of the image."""
    height_px, width_px = image.shape[:2]
    x1, y1, x2, y2 = square
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width_px), min(y2, height_px)
    crop = np.zeros((y2 - y1, x2 - x1, 3), np.uint8)
    if left < right and top < bottom:
        crop[top - y1 : bottom - y1, left - x1 : right - x1] = image[top:bottom, left:right]
    return _resize(crop, side_px, side_px)
