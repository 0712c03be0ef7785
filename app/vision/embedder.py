"""Any ONNX face embedder: aligned chips in, unit vectors out."""

import logging
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from app.errors import BadModelPack, DeviceOutOfMemory
from app.packs.manifest import OnnxEmbedder as EmbedderConfig
from app.vision.sessions import Provider, Session, float_blob, open_session
from app.vision.types import Floats, Image

log = logging.getLogger(__name__)

MAX_BATCH = 32
BATCH_TOLERANCE = 1e-4


class Embedder:
    """Runs chips through the network in batches; `max_batch` is 1 for a graph that mixes its rows."""

    def __init__(self, session: Session, config: EmbedderConfig, max_batch: int = MAX_BATCH) -> None:
        self._session = session
        self._input = session.input_names[0]
        self._config = config
        self._max_batch = max_batch

    def embed(self, chips: Image) -> Floats:
        """(N,S,S,3) uint8 RGB → (N,D) float32, unit length."""
        if not len(chips):
            return np.empty((0, self._config.dimension), np.float32)
        step = self._max_batch
        vectors = np.concatenate([self._within_memory(chips[at : at + step]) for at in range(0, len(chips), step)])
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        unit: Floats = np.divide(vectors, lengths, dtype=np.float32)
        return unit

    def _within_memory(self, chips: Image) -> Floats:
        """Halves the batch where the device's memory is not enough for it; one face is the least."""
        try:
            return self._raw(chips)
        except DeviceOutOfMemory:
            if len(chips) == 1:
                raise
            log.warning("out of memory with %d faces at once: trying half", len(chips))
            half = len(chips) // 2
            return np.concatenate([self._within_memory(chips[:half]), self._within_memory(chips[half:])])

    def _raw(self, chips: Image) -> Floats:
        ordered = chips if self._config.channel_order == "rgb" else chips[..., ::-1]
        blob = float_blob(ordered, self._config.mean, self._config.scale)
        return self._session.run({self._input: blob})[0].reshape(len(chips), self._config.dimension)


def open_embedder(model: Path, config: EmbedderConfig, provider: Provider = "auto", threads: int = 0) -> Embedder:
    """Load an embedder with its batch dimension freed, and check that it may be used so.

    Many exports fix the batch at 1 though the network takes any. Rows are compared against single runs; a graph
    that mixes rows is run one chip at a time. Raises BadModelPack where the output has another dimension.
    """
    session = open_session(_with_free_batch(model), provider, threads)
    single = Embedder(session, config, max_batch=1)
    side = config.input_size_px
    probe = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    try:
        expected = single.embed(probe)
    except ValueError as error:
        raise BadModelPack(f"{model.name} doesn't give {config.dimension} numbers a face: {error}") from error
    if _agrees(Embedder(session, config), probe, expected):
        return Embedder(session, config)
    log.warning("%s can't be run in batches; it runs one face at a time", model.name)
    return Embedder(open_session(model, provider, threads), config, max_batch=1)


def _agrees(batched: Embedder, probe: Image, expected: Floats) -> bool:
    try:
        return bool(np.abs(batched.embed(probe) - expected).max() < BATCH_TOLERANCE)
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no public base class; any of them means "no"
        return False


def _with_free_batch(model: Path) -> bytes:
    """The graph with a symbolic first input dimension, and without the shapes derived from the fixed one."""
    try:
        graph = onnx.load(str(model))
    except (DecodeError, OSError) as error:
        raise BadModelPack(f"{model} is not an ONNX graph: {error}") from error
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph.graph.ClearField("value_info")
    return bytes(graph.SerializeToString())
