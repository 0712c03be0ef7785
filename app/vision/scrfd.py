"""SCRFD (Guo et al., 2021, arXiv:2105.04714) as InsightFace exports it: three strides, two anchors a cell."""

import cv2
import numpy as np

from app.packs.manifest import ScrfdDetector as ScrfdConfig
from app.vision.nms import nms
from app.vision.sessions import Session, float_blob
from app.vision.types import Detections, Floats, Image

STRIDES = (8, 16, 32)
ANCHORS = 2
MEAN, SCALE = (127.5, 127.5, 127.5), 128.0
"""InsightFace's normalisation for SCRFD."""


class ScrfdDetector:
    """Looks at a photo at several input sizes, since one size misses what another finds: at 640 faces that fill the
    frame are larger than any anchor, at 128 small ones vanish. All looks are merged by one NMS."""

    def __init__(self, session: Session, config: ScrfdConfig) -> None:
        self._session = session
        self._input = session.input_names[0]
        self._config = config

    def detect(self, image: Image) -> Detections:
        """(H,W,3) uint8 RGB → faces in pixels of the image, best first."""
        looks = [self._look(image, size) for size in self._config.input_sizes_px]
        found = Detections(
            np.concatenate([look.boxes for look in looks]),
            np.concatenate([look.landmarks for look in looks]),
            np.concatenate([look.scores for look in looks]),
        )
        return found.take(nms(found.boxes, found.scores, self._config.nms_iou))

    def _look(self, image: Image, size_px: int) -> Detections:
        canvas, scale = letterbox(image, size_px)
        outputs = self._session.run({self._input: float_blob(canvas[np.newaxis], MEAN, SCALE)})
        per_stride = [
            _decode(outputs[i], outputs[i + 3], outputs[i + 6], _centres(size_px, stride), stride)
            for i, stride in enumerate(STRIDES)
        ]
        scores = np.concatenate([part.scores for part in per_stride])
        boxes = np.concatenate([part.boxes for part in per_stride])
        landmarks = np.concatenate([part.landmarks for part in per_stride])
        good = scores >= self._config.score_threshold
        return Detections(np.divide(boxes[good], np.tile(scale, 2)), np.divide(landmarks[good], scale), scores[good])


def letterbox(image: Image, size_px: int) -> tuple[Image, Floats]:
    """(H,W,3) → (S,S,3) with the photo at the top left and black beyond it, and the scales (2,) of x and y.

    Sides are rounded down as in insightface, so that the network sees the same pixels. insightface then divides both
    axes by the height's rounded scale, which moves boxes by up to 2 % of a panorama's width; here each has its own.
    """
    height, width = image.shape[:2]
    scale = size_px / max(height, width)
    new_width, new_height = max(1, int(width * scale)), max(1, int(height * scale))
    canvas = np.zeros((size_px, size_px, 3), np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height))
    return canvas, np.array([new_width / width, new_height / height], np.float32)


def _centres(size_px: int, stride: int) -> Floats:
    """Anchor centres of one stride → (cells*ANCHORS, 2) float32 x y, row by row."""
    cells = size_px // stride
    rows, columns = np.mgrid[:cells, :cells]
    centres = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float32) * stride
    return np.repeat(centres, ANCHORS, axis=0)


def _decode(scores: Floats, distances: Floats, offsets: Floats, centres: Floats, stride: int) -> Detections:
    """Network outputs of one stride → candidates. Distances and offsets are in units of the stride."""
    distances = distances.reshape(-1, 4) * stride
    boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    landmarks = centres[:, np.newaxis] + offsets.reshape(-1, 5, 2) * stride
    return Detections(boxes, landmarks, scores.reshape(-1))
