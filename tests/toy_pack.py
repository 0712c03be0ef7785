"""A model pack of no weights: a detector and an embedder that are arithmetic, and the manifest they go by."""

from collections.abc import Sequence

import numpy as np
import onnx

from app.core.arrays import Floats, Image
from app.packs.manifest import EmbedderConfig, PackManifest, ScrfdConfig, Source
from app.vision.types import Detections


class ToyDetector:
    """Finds `count` faces in every photo, side by side."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    view_px = 1024

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        return [self._faces() for _ in images]

    def _faces(self) -> Detections:
        left_px = np.arange(self.count, dtype=np.float32) * 12
        boxes = np.stack([left_px, np.zeros_like(left_px), left_px + 10, np.full_like(left_px, 12)], axis=-1)
        spots = np.array([(3, 4), (7, 4), (5, 6), (3.5, 9), (6.5, 9)], np.float32)
        landmarks = spots + np.stack([left_px, np.zeros_like(left_px)], axis=-1)[:, np.newaxis]
        return Detections(boxes, landmarks, np.linspace(0.99, 0.8, self.count, dtype=np.float32))


class ToyEmbedder:
    """Every chip gets a unit vector that its pixels decide."""

    def __init__(self, dimension: int = 8) -> None:
        self.dimension = dimension

    def compute_vectors(self, chips: Image) -> Floats:
        seeds = [int(chip.astype(np.int64).sum()) for chip in chips]
        vectors = np.array([np.random.default_rng(seed).normal(size=self.dimension) for seed in seeds], np.float32)
        vectors = vectors.reshape(-1, self.dimension)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def toy_manifest(**changes: object) -> PackManifest:
    """The manifest of a pack of two files that anybody may use."""
    fields = {
        "name": "toy",
        "licence": "public domain",
        "commercial_use": True,
        "files": {"detector.onnx": "0" * 64, "embedder.onnx": "1" * 64},
        "detector": ScrfdConfig(kind="scrfd", file="detector.onnx"),
        "embedder": EmbedderConfig(file="embedder.onnx", dimension=8),
        "similarity_threshold": 0.5,
        "source": Source(kind="directory", path="."),
    }
    return PackManifest.model_validate({**fields, **changes})


def onnx_graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], input_shape: list[int | str]) -> bytes:
    """A graph from `image` to `out`, for ONNX Runtime of any age."""
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(
        nodes,
        "toy",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, input_shape)],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        initializers,
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())
