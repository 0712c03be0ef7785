"""What detectors have in common that find all faces of a photo in one run of one network, such as SCRFD and CenterFace.

A photo is run at several input sizes, and photos of one input shape share a run.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.packs.manifest import OneStageConfig
from app.vision.batching import RunLimit, run_within
from app.vision.nms import nms
from app.vision.sessions import PixelInput, Provider, Session, free_batch_dimension, open_session
from app.vision.turned import cut_surroundings
from app.vision.types import Detections

log = logging.getLogger(__name__)

VIEW_SIZES = 1.6
"""Size to which photos are decoded, in multiples of the largest of `input_sizes_px` (a JPEG may come up to twice as
large). So the closer look has more pixels than that size, and most faces have enough for their chips."""
GRID_PX = 32
"""Sides of the input are multiples of this: the coarsest stride of the networks."""
MOST_PROBES = 1
"""Probes of a photo: around its best candidates."""
MAX_BATCH = 32
BATCH_TOLERANCE = 1e-4


class Candidates(NamedTuple):
    """Detections in several photos, each in pixels of its photo. `photo` (N,) has the row of each one's photo."""

    photo: NDArray[np.intp]
    detections: Detections


class OneStageDetector(ABC):
    """Detects faces at several input sizes, since each size misses some: at 640, a face that fills the frame is larger
    than any anchor of SCRFD; at 128, small faces vanish. One NMS merges the detections of all sizes.

    Where a candidate is small, a closer look follows: a pass at `closer_look_px`. No pass has a larger input than the
    photo. Photos of one input shape share a run, at most `max_batch` of the largest size; `max_batch` is 1 for a graph
    whose results depend on the other rows of the batch.
    """

    def __init__(self, session: Session, config: OneStageConfig, max_batch: int = MAX_BATCH) -> None:
        self._session = session
        self._config = config
        self._least_score = min(config.closer_look_hint, config.score_threshold)
        self._limit = RunLimit(max_batch * max(config.input_sizes_px) ** 2 if max_batch > 1 else 1)

    @property
    def view_px(self) -> int:
        """Longer side of a photo beyond which this detector needs no more pixels."""
        return round(VIEW_SIZES * max(self._config.input_sizes_px))

    @abstractmethod
    def _run(self, canvases: Image) -> list[Floats]:
        """(N,h,w,3) uint8 RGB, sides multiples of GRID_PX → the network's outputs, with N rows each."""

    @abstractmethod
    def _decode(self, outputs: Sequence[Floats], input_hw: tuple[int, int], least_score: float) -> Candidates:
        """Outputs of `_run` → the candidates that score so much or more, in pixels of the input."""

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """N times (H,W,3) uint8 RGB → the faces of each in pixels of its image, best first."""
        return self._detect(images, self._config.score_threshold)

    def detect_with_candidates(self, images: Sequence[Image]) -> list[Detections]:
        """As `detect`, with candidates from a score of `closer_look_hint` on: a face upside down often has no more."""
        return self._detect(images, self._least_score)

    def make_probes(self, image: Image, candidates: Detections) -> list[Image]:
        """(H,W,3), its candidates → the surroundings of the best one, (h,w,3) of at most PROBE_PX."""
        parts = (cut_surroundings(image, box) for box in candidates.boxes[:MOST_PROBES])
        return [part for part, _, _ in parts if part.size]

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
        photo, detections = concatenate(passes)
        sides_px = (detections.boxes[:, 2:] - detections.boxes[:, :2]).min(axis=1) * largest_px / longer_px[photo]
        is_small = (sides_px < config.closer_look_below_px) & (longer_px[photo] > largest_px)
        return [int(row) for row in np.unique(photo[is_small])]

    def _merge(self, count: int, passes: Sequence[Candidates], least_score: float) -> list[Detections]:
        photo, detections = concatenate(passes)
        is_enough = detections.scores >= least_score
        photo, detections = photo[is_enough], detections.take(is_enough)
        kept = self._suppress(detections, photo)
        ends = np.searchsorted(photo[kept], np.arange(count + 1))
        return [detections.take(kept[ends[row] : ends[row + 1]]) for row in range(count)]

    def _suppress(self, detections: Detections, photo: NDArray[np.intp]) -> NDArray[np.intp]:
        """Detections and the row of each one's photo → (K,) indices of those to keep, by photo and best first."""
        return nms(detections.boxes, detections.scores, self._config.nms_iou, groups=photo)

    def _run_pass(self, images: Sequence[Image], photos: Sequence[int], size_px: int) -> Candidates:
        """One pass over these photos at one input size; photos of one shape share a run."""
        boxed = [(row, *make_letterbox(images[row], size_px)) for row in photos]
        parts = []
        for shape in sorted({canvas.shape for _, canvas, _ in boxed}):
            same = [(row, canvas, scale) for row, canvas, scale in boxed if canvas.shape == shape]
            rows, canvases, scales = zip(*same, strict=True)
            photo, detections = self._find_candidates(np.stack(canvases), np.stack(scales))
            parts.append(Candidates(np.asarray(rows, np.intp)[photo], detections))
        return concatenate(parts)

    def _find_candidates(self, canvases: Image, scales: Floats) -> Candidates:
        """(N,h,w,3) uint8 and the scales (N,2) of x and y → candidates in pixels of the photos."""
        outputs = run_within(self._limit, canvases, self._run)
        photo, detections = self._decode(outputs, (canvases.shape[1], canvases.shape[2]), self._least_score)
        scale: Floats = scales[photo]
        boxes: Floats = np.divide(detections.boxes, np.tile(scale, 2))
        landmarks: Floats = np.divide(detections.landmarks, scale[:, np.newaxis])
        return Candidates(photo, Detections(boxes, landmarks, detections.scores))


Detector = TypeVar("Detector", bound=OneStageDetector)


def open_one_stage(
    model: Path,
    make: Callable[[Session, int], Detector],
    pixels: PixelInput,
    provider: Provider = "auto",
    threads: int = 0,
) -> Detector:
    """Load a detector, which `make` makes of a session and the largest batch.

    Its batch dimension is freed where a run of two photos gives the same as two runs.
    """
    detector = make(open_session(free_batch_dimension(model), provider, threads, pixels=pixels), MAX_BATCH)
    if is_batchable(detector):
        return detector
    log.warning("%s can't be run in batches; it runs one photo at a time", model.name)
    return make(open_session(model, provider, threads, pixels=pixels), 1)


def is_batchable(detector: OneStageDetector) -> bool:
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


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    return Candidates(
        np.concatenate([part.photo for part in parts]), Detections.concatenate([part.detections for part in parts])
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


def _round_to_grid(side_px: int) -> int:
    return -(-side_px // GRID_PX) * GRID_PX
