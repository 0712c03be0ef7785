"""Any ONNX face embedder: aligned chips in, unit vectors out."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.core.arrays import Floats, Image
from app.core.errors import BadModelPack
from app.packs.manifest import EmbedderConfig as EmbedderConfig
from app.vision.batching import RunLimit, run_within
from app.vision.sessions import (
    PixelInput,
    Provider,
    Session,
    free_batch_dimension,
    open_session,
    run_pixels,
)

log = logging.getLogger(__name__)

MAX_BATCH = 32
BATCH_TOLERANCE = 1e-4


class Embedder:
    """Runs chips through the network in batches; `max_batch` is 1 for a graph whose results depend on the
    other rows of the batch."""

    def __init__(self, session: Session, config: EmbedderConfig, max_batch: int = MAX_BATCH) -> None:
        self._session = session
        self._config = config
        self._limit = RunLimit(max_batch * config.input_size_px**2 if max_batch > 1 else 1)

    def embed(self, chips: Image) -> Floats:
        """(N,S,S,3) uint8 RGB → (N,D) float32, unit length."""
        return normalise(self.compute_vectors(chips))

    def compute_vectors(self, chips: Image) -> Floats:
        """(N,S,S,3) uint8 RGB → (N,D) float32, as the network gives them."""
        if not len(chips):
            return np.empty((0, self._config.dimension), np.float32)
        (vectors,) = run_within(self._limit, chips, self._run)
        return np.asarray(vectors, np.float32)

    def _run(self, chips: Image) -> list[Floats]:
        ordered = chips if self._config.channel_order == "rgb" else chips[..., ::-1]
        vectors = run_pixels(self._session, ordered, make_pixel_input(self._config))[0]
        return [vectors.reshape(len(chips), self._config.dimension)]


def make_pixel_input(config: EmbedderConfig) -> PixelInput:
    return PixelInput(config.mean, config.scale)


def normalise(vectors: Floats) -> Floats:
    """(N,D) → (N,D) float32 of unit length; a vector of zeros stays one."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors / lengths, np.float32)


def split_parts(vectors: Floats, parts: Sequence[int]) -> list[Floats]:
    """(N,D) vectors, the dimensions of their parts → each part, (N,d)."""
    return np.split(vectors, np.cumsum(parts)[:-1], axis=1)


def open_embedder(model: Path, config: EmbedderConfig, provider: Provider = "auto", threads: int = 0) -> Embedder:
    """Load an embedder with its batch dimension freed, and check that its batches give the right results.

    Many exports fix the batch at 1 though the network takes any. Rows are compared against single runs; a graph
    that mixes rows is run one chip at a time. Raises BadModelPack where the output has another dimension.
    """
    pixels = make_pixel_input(config)
    session = open_session(free_batch_dimension(model), provider, threads, pixels=pixels)
    single = Embedder(session, config, max_batch=1)
    side = config.input_size_px
    probe = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    try:
        expected = single.embed(probe)
    except ValueError as error:
        raise BadModelPack(f"{model.name} doesn't give {config.dimension} numbers a face: {error}") from error
    if _check_batching(Embedder(session, config), probe, expected):
        return Embedder(session, config)
    log.warning("%s can't be run in batches; it runs one face at a time", model.name)
    return Embedder(open_session(model, provider, threads, pixels=pixels), config, max_batch=1)


def _check_batching(batched: Embedder, probe: Image, expected: Floats) -> bool:
    try:
        return bool(np.abs(batched.embed(probe) - expected).max() < BATCH_TOLERANCE)
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no public base class; any of them means "no"
        return False
