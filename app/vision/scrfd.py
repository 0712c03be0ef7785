"""SCRFD (Guo et al., 2021, arXiv:2105.04714) as InsightFace exports it: three strides, two anchors per cell."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from app.core.arrays import Floats, Image
from app.packs.manifest import ScrfdConfig as ScrfdConfig
from app.vision.one_stage import Candidates, OneStageDetector, concatenate, open_one_stage
from app.vision.sessions import PixelInput, Provider, run_pixels
from app.vision.types import Detections

STRIDES = (8, 16, 32)
ANCHORS = 2
MEAN, SCALE = (127.5, 127.5, 127.5), 128.0
"""InsightFace's normalisation for SCRFD."""
PIXELS = PixelInput(MEAN, SCALE)


class ScrfdDetector(OneStageDetector):
    """Detects faces by the anchors of three strides."""

    def _run(self, canvases: Image) -> list[Floats]:
        """(N,h,w,3) → nine outputs: scores, distances and offsets of each stride, (N,K,c) float32 each."""
        outputs = run_pixels(self._session, canvases, PIXELS)
        return [_split_by_photo(output, len(canvases)) for output in outputs]

    def _decode(self, outputs: Sequence[Floats], input_hw: tuple[int, int], least_score: float) -> Candidates:
        return concatenate(list(_decode_outputs(outputs, input_hw, least_score)))


def open_scrfd(model: Path, config: ScrfdConfig, provider: Provider = "auto", threads: int = 0) -> ScrfdDetector:
    """Load a detector. Its batch dimension is freed where a run of two photos gives the same as two runs."""
    return open_one_stage(model, lambda session, most: ScrfdDetector(session, config, most), PIXELS, provider, threads)


def _split_by_photo(output: Floats, count: int) -> Floats:
    """One output of a run on `count` photos → (count,K,c).

    InsightFace's graph flattens its outputs with the batch dimension behind the cells, so rows are in order of cell,
    photo, anchor. Some exports keep the batch dimension in front, and their outputs have three dimensions.
    """
    if output.ndim == 3:
        return output
    cells = output.reshape(-1, count, ANCHORS, output.shape[-1])
    return cells.transpose(1, 0, 2, 3).reshape(count, -1, output.shape[-1])


def _decode_outputs(outputs: Sequence[Floats], input_hw: tuple[int, ...], threshold: float) -> Iterator[Candidates]:
    """Outputs (N,K,c) → candidates of each stride in pixels of the input. Only anchors from `threshold` on are
    decoded."""
    for level, stride in enumerate(STRIDES):
        scores = outputs[level][..., 0]
        photo, at = np.nonzero(scores >= threshold)
        centres = _make_anchor_centres(input_hw, stride)[at]
        distances = outputs[level + 3][photo, at] * stride
        boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
        landmarks = centres[:, np.newaxis] + outputs[level + 6][photo, at].reshape(-1, 5, 2) * stride
        yield Candidates(photo, Detections(boxes, landmarks, scores[photo, at]))


def _make_anchor_centres(input_hw: tuple[int, ...], stride: int) -> Floats:
    """Anchor centres of one stride → (cells*ANCHORS, 2) float32 x y, row by row."""
    rows, columns = np.mgrid[: input_hw[0] // stride, : input_hw[1] // stride]
    centres = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float32) * stride
    return np.repeat(centres, ANCHORS, axis=0)
