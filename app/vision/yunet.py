"""YuNet (Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", 2023) as OpenCV's model zoo exports it.

At each cell of three strides the network gives two scores, a box and five landmarks; there are no anchors. Input sizes,
closer looks and the merging of passes are those of `app.vision.one_stage`.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from app.core.arrays import Floats, Image
from app.core.errors import BadModelPack
from app.packs.manifest import YunetConfig as YunetConfig
from app.vision.one_stage import GRID_PX, MAX_BATCH, Candidates, OneStageDetector, concatenate, is_batchable
from app.vision.sessions import OnnxSession, Provider, free_dimensions, make_blob, open_session
from app.vision.types import Detections

log = logging.getLogger(__name__)

STRIDES = (8, 16, 32)
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""The outputs of each stride, such as `cls_8`, and the numbers that each gives for a cell."""
OUTPUTS = [(f"{head}_{stride}", width) for head, width in HEADS.items() for stride in STRIDES]


class YunetDetector(OneStageDetector):
    """Detects faces by the cells of three strides."""

    def __init__(self, session: OnnxSession, config: YunetConfig, max_batch: int = MAX_BATCH) -> None:
        super().__init__(session, config, max_batch)
        self._order = [session.output_names.index(name) for name, _ in OUTPUTS]

    def _run(self, canvases: Image) -> list[Floats]:
        """(N,h,w,3) → the outputs in the order of OUTPUTS, (N,cells,width) float32 each."""
        # BGR from 0 to 255, as OpenCV reads pictures.
        outputs = self._session.run({self._session.input_names[0]: make_blob(canvases[..., ::-1], (0, 0, 0), 1)})
        # The exports reshape to a first dimension of 1, also where there are several photos.
        return [
            outputs[at].reshape(len(canvases), -1, width) for at, (_, width) in zip(self._order, OUTPUTS, strict=True)
        ]

    def _decode(self, outputs: Sequence[Floats], input_hw: tuple[int, int], least_score: float) -> Candidates:
        return concatenate(list(_decode_levels(outputs, input_hw, least_score)))


def _decode_levels(outputs: Sequence[Floats], input_hw: tuple[int, int], least_score: float) -> Iterator[Candidates]:
    """As OpenCV's FaceDetectorYN does: sides are exponents of the stride, all else is in strides from the cell."""
    for level, stride in enumerate(STRIDES):
        classes, objects, boxes, points = outputs[level :: len(STRIDES)]
        scores = np.sqrt(np.clip(classes[..., 0], 0, 1) * np.clip(objects[..., 0], 0, 1))
        photo, at = np.nonzero(scores >= least_score)
        rows, columns = np.divmod(at, input_hw[1] // stride)
        cells = np.stack([columns, rows], axis=1).astype(np.float32)
        middles = (cells + boxes[photo, at, :2]) * stride
        reaches = np.exp(boxes[photo, at, 2:]) * (stride / 2)
        landmarks = (cells[:, np.newaxis] + points[photo, at].reshape(-1, 5, 2)) * stride
        found = Detections(
            np.concatenate([middles - reaches, middles + reaches], axis=1).astype(np.float32),
            landmarks.astype(np.float32),
            scores[photo, at],
        )
        yield Candidates(photo, found)


def open_yunet(model: Path, config: YunetConfig, provider: Provider = "auto", threads: int = 0) -> YunetDetector:
    """Load a detector. Its input shape is freed: an export for one shape, such as OpenCV's of 2023, runs at others.

    Raises BadModelPack where it lacks YuNet's outputs, or can't be run at other shapes.
    """

    def open_with(freed: dict[int, str], max_batch: int) -> YunetDetector:
        session = open_session(free_dimensions(model, freed), provider, threads)
        if missing := [name for name, _ in OUTPUTS if name not in session.output_names]:
            raise BadModelPack(f"{model} is no YuNet detector: it lacks the outputs {', '.join(missing)}.")
        return YunetDetector(session, config, max_batch)

    detector = open_with({0: "N", 2: "H", 3: "W"}, MAX_BATCH)
    if is_batchable(detector):
        return detector
    log.warning("%s can't be run in batches; it runs one photo at a time", model.name)
    single = open_with({2: "H", 3: "W"}, 1)
    try:
        single.detect([np.zeros((GRID_PX, 2 * GRID_PX, 3), np.uint8)])
    except Exception as error:
        raise BadModelPack(
            f"{model} can't be run at other sizes than its own; use face_detection_yunet_2023mar.onnx of OpenCV's "
            f"model zoo, or a later one: {error}"
        ) from error
    return single
