"""SCRFD (Guo et al., 2021, arXiv:2105.04714) as InsightFace exports it: three strides, two anchors per cell."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.packs.manifest import MultiSizeConfig
from app.packs.manifest import ScrfdConfig as ScrfdConfig
from app.vision.batching import RunLimit, run_within
from app.vision.nms import nms
from app.vision.sessions import Provider, Session, free_batch_dimension, make_blob, open_session
from app.vision.types import Detections

log = logging.getLogger(__name__)

STRIDES = (8, 16, 32)
ANCHORS = 2
GRID_PX = max(STRIDES)
"""Sides of the input are multiples of this."""
MEAN, SCALE = (127.5, 127.5, 127.5), 128.0
"""InsightFace's normalisation for SCRFD."""
VIEW_SIZES = 1.6
"""Size to which photos are decoded, in multiples of the largest of `input_sizes_px` (a JPEG may come up to twice as
large). So the closer look has more pixels than that size, and most faces have enough for their chips."""
PROBE_PX = 128
"""Most pixels of a probe's longer side; it is InsightFace's smallest input size. A probe is the part of a photo in
which rotated faces are searched: see `app.vision.turned`."""
PROBE_REACH = 1.0
"""Distance from the centre of a candidate's box to the edges of its probe, in lengths of the box's longer side. With 1,
the probe shows the face and as much again around it."""
MOST_PROBES = 1
"""Probes of a photo: around its best candidates."""
MAX_BATCH = 32
BATCH_TOLERANCE = 1e-4


class Candidates(NamedTuple):
    """Detections in several photos, each in pixels of its photo. `photo` (N,) has the row of each one's photo."""

    photo: NDArray[np.intp]
    detections: Detections


class ScrfdDetector:
    """Detects faces at several input sizes, since each size misses some: at 640, a face that fills the frame is larger
    than any anchor; at 128, small faces vanish. One NMS merges the detections of all sizes.

    Where a candidate is small, a closer look follows: a pass at `closer_look_px`. No pass has a larger input than the
    photo. Photos of one input shape share a run, at most `max_batch` of the largest size; `max_batch` is 1 for a graph
    whose results depend on the other rows of the batch.
    """

    def __init__(self, session: Session, config: MultiSizeConfig, max_batch: int = MAX_BATCH) -> None:
        self._session = session
        self._input = session.input_names[0]
        self._config = config
        self._least_score = min(config.closer_look_hint, config.score_threshold)
        self._limit = RunLimit(max_batch * max(config.input_sizes_px) ** 2 if max_batch > 1 else 1)

    @property
    def view_px(self) -> int:
        """Longer side of a photo beyond which this detector needs no more pixels."""
        return round(VIEW_SIZES * max(self._config.input_sizes_px))

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """N times (H,W,3) uint8 RGB → the faces of each in pixels of its image, best first."""
        return self._detect(images, self._config.score_threshold)

    def detect_with_candidates(self, images: Sequence[Image]) -> list[Detections]:
        """As `detect`, with candidates from a score of `closer_look_hint` on: a face upside down often has no more."""
        return self._detect(images, self._least_score)

    def make_probes(self, image: Image, candidates: Detections) -> list[Image]:
        """(H,W,3), its candidates → the surroundings of the best one, (h,w,3) of at most PROBE_PX."""
        parts = (_cut_surroundings(image, box) for box in candidates.boxes[:MOST_PROBES])
        return [part for part in parts if part.size]

    def _detect(self, images: Sequence[Image], least_score: float) -> list[Detections]:
        if not images:
            return []
        rows_by_size: dict[int, list[int]] = {}
        for row, image in enumerate(images):
            for size_px in self._choose_sizes(image):
                rows_by_size.setdefault(size_px, []).append(row)
        passes = [self._run_pass(images, rows, size_px) for size_px, rows in sorted(rows_by_size.items())]
        if closer := self._choose_closer_looks(images, passes):
            passes.append(self._run_pass(images, closer, self._config.closer_look_px))
        return self._merge(len(images), passes, least_score)

    def _choose_sizes(self, image: Image) -> set[int]:
        return {min(size_px, _round_to_grid(max(image.shape[:2]))) for size_px in self._config.input_sizes_px}

    def _choose_closer_looks(self, images: Sequence[Image], passes: Sequence[Candidates]) -> list[int]:
        """Rows of the photos that have small candidates, and more pixels than the largest input size."""
        config, largest_px = self._config, max(self._config.input_sizes_px)
        if config.closer_look_px <= largest_px:
            return []
        longer_px = np.array([max(image.shape[:2]) for image in images])
        photo, detections = _concatenate(passes)
        sides_px = (detections.boxes[:, 2:] - detections.boxes[:, :2]).min(axis=1) * largest_px / longer_px[photo]
        is_small = (sides_px < config.closer_look_below_px) & (longer_px[photo] > largest_px)
        return [int(row) for row in np.unique(photo[is_small])]

    def _merge(self, count: int, passes: Sequence[Candidates], least_score: float) -> list[Detections]:
        photo, detections = _concatenate(passes)
        is_enough = detections.scores >= least_score
        photo, detections = photo[is_enough], detections.take(is_enough)
        kept = nms(detections.boxes, detections.scores, self._config.nms_iou, groups=photo)
        ends = np.searchsorted(photo[kept], np.arange(count + 1))
        return [detections.take(kept[ends[row] : ends[row + 1]]) for row in range(count)]

    def _run_pass(self, images: Sequence[Image], photos: Sequence[int], size_px: int) -> Candidates:
        """One pass over these photos at one input size; photos of one shape share a run."""
        boxed = [(row, *make_letterbox(images[row], size_px)) for row in photos]
        parts = []
        for shape in sorted({canvas.shape for _, canvas, _ in boxed}):
            same = [(row, canvas, scale) for row, canvas, scale in boxed if canvas.shape == shape]
            rows, canvases, scales = zip(*same, strict=True)
            photo, detections = self._find_candidates(np.stack(canvases), np.stack(scales))
            parts.append(Candidates(np.asarray(rows, np.intp)[photo], detections))
        return _concatenate(parts)

    def _find_candidates(self, canvases: Image, scales: Floats) -> Candidates:
        """(N,h,w,3) uint8 and the scales (N,2) of x and y → candidates in pixels of the photos."""
        outputs = run_within(self._limit, canvases, self._run)
        photo, detections = _concatenate(list(self._decode(outputs, canvases.shape[1:3], self._least_score)))
        scale: Floats = scales[photo]
        boxes: Floats = np.divide(detections.boxes, np.tile(scale, 2))
        landmarks: Floats = np.divide(detections.landmarks, scale[:, np.newaxis])
        return Candidates(photo, Detections(boxes, landmarks, detections.scores))

    def _decode(self, outputs: Sequence[Floats], input_hw: tuple[int, ...], threshold: float) -> Iterator[Candidates]:
        return _decode_outputs(outputs, input_hw, threshold)

    def _run(self, canvases: Image) -> list[Floats]:
        """(N,h,w,3) → nine outputs: scores, distances and offsets of each stride, (N,K,c) float32 each."""
        outputs = self._session.run({self._input: make_blob(canvases, MEAN, SCALE)})
        return [_split_by_photo(output, len(canvases)) for output in outputs]


def _concatenate(parts: Sequence[Candidates]) -> Candidates:
    return Candidates(
        np.concatenate([part.photo for part in parts]), Detections.concatenate([part.detections for part in parts])
    )


def open_scrfd(model: Path, config: ScrfdConfig, provider: Provider = "auto", threads: int = 0) -> ScrfdDetector:
    """Load a detector. Its batch dimension is freed where a run of two photos gives the same as two runs."""
    detector = ScrfdDetector(open_session(free_batch_dimension(model), provider, threads), config)
    if is_batchable(detector):
        return detector
    log.warning("%s can't be run in batches; it runs one photo at a time", model.name)
    return ScrfdDetector(open_session(model, provider, threads), config, max_batch=1)


def is_batchable(detector: ScrfdDetector) -> bool:
    """Whether a run of two pictures gives the same as two runs."""
    probe = np.random.default_rng(0).integers(0, 256, (2, 2 * GRID_PX, 3 * GRID_PX, 3), np.uint8)
    try:
        both, single = detector._run(probe), [detector._run(probe[row : row + 1]) for row in range(2)]
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no public base class; any of them means "no"
        return False
    expected = [np.concatenate(outputs) for outputs in zip(*single, strict=True)]
    return all(
        a.shape == b.shape and np.allclose(a, b, atol=BATCH_TOLERANCE) for a, b in zip(both, expected, strict=True)
    )


def make_letterbox(image: Image, size_px: int) -> tuple[Image, Floats]:
    """(H,W,3) → (h,w,3) with the photo at the top left and black beyond it, and the scales (2,) of x and y.

    The photo's longer side becomes `size_px`; the canvas ends with the next multiple of the coarsest stride, since
    a square would be one third black for most cameras. Sides are rounded down as in insightface, so that the network
    sees the same pixels. insightface then divides both axes by the height's rounded scale, which moves boxes by up
    to 2 % of a panorama's width; here each has its own.
    """
    height, width = image.shape[:2]
    scale = size_px / max(height, width)
    new_width, new_height = max(1, int(width * scale)), max(1, int(height * scale))
    canvas = np.zeros((_round_to_grid(new_height), _round_to_grid(new_width), 3), np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height))
    return canvas, np.array([new_width / width, new_height / height], np.float32)


def _cut_surroundings(image: Image, box: Floats) -> Image:
    """(H,W,3), box (4,) px → (h,w,3), the part of the photo around it, reduced to PROBE_PX where it is larger."""
    reach_px = PROBE_REACH * float((box[2:] - box[:2]).max())
    middle = (box[:2] + box[2:]) / 2
    edges = np.stack([middle - reach_px, middle + reach_px]).round().clip(0, image.shape[1::-1])
    (left, top), (right, bottom) = edges.astype(int)
    part = image[top:bottom, left:right]
    height, width = part.shape[:2]
    if max(height, width) <= PROBE_PX:
        return part
    scale = PROBE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)


def _round_to_grid(side_px: int) -> int:
    return -(-side_px // GRID_PX) * GRID_PX


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
