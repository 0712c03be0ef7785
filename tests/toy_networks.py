"""A pack of real graphs with small weights: bright squares are faces, and colours are people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from app.packs.manifest import PackManifest
from app.packs.store import compute_sha256
from tests.toy_pack import toy_manifest

CHANNELS = 12
DIMENSION = 8
SIDE_PX = 16
FACE_PX = 16
COLOURS = ((250, 40, 40), (40, 250, 40), (40, 40, 250), (200, 200, 10))


def toy_detector() -> onnx.ModelProto:
    """SCRFD's nine outputs and its fixed batch. At each stride a mean, two convolutions, and three heads: a bright
    cell of 16 px is a face of 32 px about it."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for stride in (8, 16, 32):
        p = f"s{stride}_"
        kernel = [stride, stride]
        nodes.append(helper.make_node("AveragePool", ["image"], [p + "mean"], kernel_shape=kernel, strides=kernel))
        constants[p + "w1"] = np.full((CHANNELS, 3, 1, 1), 1 / 3) + random.normal(0, 0.01, (CHANNELS, 3, 1, 1))
        constants[p + "w2"] = np.full((CHANNELS, CHANNELS, 1, 1), 1 / CHANNELS)
        nodes += _conv_relu(p + "mean", p + "w1", p + "bias1", p + "a", pad=0)
        nodes += _conv_relu(p + "a", p + "w2", p + "bias2", p + "b", pad=0)
        constants |= {p + "bias1": np.full(CHANNELS, 1.0), p + "bias2": np.zeros(CHANNELS)}
        # Only one of two anchors and one of three strides ever finds a face, or NMS would choose among equals.
        slope = 20.0 / CHANNELS if stride == 16 else 0.0
        heads = {
            "score": (np.array([slope, 0.0]), np.array([-10.0, -10.0])),
            "box": (np.zeros(8), np.tile([0.5, 0.5, 1.5, 1.5], 2)),
            "points": (np.zeros(20), 0.5 + np.tile([-0.4, -0.4, 0.4, -0.4, 0, 0, -0.3, 0.4, 0.3, 0.4], 2)),
        }
        for name, (weight, bias) in heads.items():
            constants[f"{p}{name}_w"] = np.repeat(weight[:, None], CHANNELS, 1)[..., None, None]
            constants[f"{p}{name}_b"] = bias
            nodes += _head(p, name, len(bias) // 2)
    constants |= {f"rows_{width}": np.array([-1, width], np.int64) for width in (1, 4, 10)}
    outputs = [f"s{stride}_{name}" for name in ("score", "box", "points") for stride in (8, 16, 32)]
    return _model(nodes, constants, [1, 3, "H", "W"], outputs)


def toy_yunet(input_hw: tuple[int, int] = (64, 96)) -> onnx.ModelProto:
    """YuNet's twelve outputs, for one input shape as OpenCV's export has. At each stride a mean and a head for each
    output, so that boxes and landmarks depend on the colour; a cell that is bright is a face."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for stride in (8, 16, 32):
        mean, kernel = f"mean_{stride}", [stride, stride]
        nodes.append(helper.make_node("AveragePool", ["image"], [mean], kernel_shape=kernel, strides=kernel))
        heads = {
            "cls": (np.full((1, 3), 0.02), [-8.0]),
            "obj": (np.full((1, 3), 0.015), [-6.0]),
            "bbox": (random.normal(0, 0.001, (4, 3)), [0.5, 0.5, 1.0, 1.2]),
            "kps": (random.normal(0, 0.002, (10, 3)), random.uniform(-1, 2, 10)),
        }
        for head, (weight, bias) in heads.items():
            name, width = f"{head}_{stride}", len(bias)
            constants |= {f"{name}_w": weight[..., None, None], f"{name}_b": np.array(bias)}
            constants[f"rows_{width}"] = np.array([1, -1, width], np.int64)
            ends = [f"{name}_rows", name] if head in ("cls", "obj") else [name]
            nodes += [
                helper.make_node("Conv", [mean, f"{name}_w", f"{name}_b"], [f"{name}_map"]),
                helper.make_node("Transpose", [f"{name}_map"], [f"{name}_turned"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}_turned", f"rows_{width}"], ends[:1]),
            ]
            if len(ends) > 1:
                nodes.append(helper.make_node("Sigmoid", ends[:1], ends[1:]))
    outputs = [f"{head}_{stride}" for head in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
    # OpenCV demands the shapes of outputs.
    return onnx.shape_inference.infer_shapes(_model(nodes, constants, [1, 3, *input_hw], outputs))


def toy_embedder() -> onnx.ModelProto:
    """Two convolutions and a dense layer on the mean: a vector that the colour decides."""
    random = np.random.default_rng(1)
    weights = random.normal(0, 0.5, (CHANNELS, 3, 3, 3))
    constants = {
        # Grey gives nothing, so that the dark around a face does not make all faces alike.
        "w1": weights - weights.mean(axis=1, keepdims=True),
        "bias1": np.zeros(CHANNELS),
        "w2": random.normal(0, 0.4, (CHANNELS, CHANNELS, 3, 3)),
        "bias2": np.zeros(CHANNELS),
        "dense": random.normal(0, 1, (CHANNELS, DIMENSION)),
    }
    nodes = [
        *_conv_relu("image", "w1", "bias1", "a", pad=1),
        *_conv_relu("a", "w2", "bias2", "b", pad=1),
        helper.make_node("GlobalAveragePool", ["b"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["embedding"]),
    ]
    return _model(nodes, constants, [1, 3, SIDE_PX, SIDE_PX], ["embedding"])


def write_toy_pack(folder: Path) -> tuple[PackManifest, Path]:
    """The manifest, and its file beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "detector.onnx").write_bytes(toy_detector().SerializeToString())
    (folder / "embedder.onnx").write_bytes(toy_embedder().SerializeToString())
    hashes = {name: compute_sha256(folder / name) for name in ("detector.onnx", "embedder.onnx")}
    manifest = toy_manifest(
        files=hashes,
        detector={"kind": "scrfd", "file": "detector.onnx", "input_sizes_px": (64, 128)},
        embedder={"file": "embedder.onnx", "dimension": DIMENSION, "input_size_px": SIDE_PX},
    )
    files = "\n".join(f'"{name}" = "{digest}"' for name, digest in hashes.items())
    path = folder / "toy.toml"
    path.write_text(
        'name = "toy"\nlicence = "for tests"\ncommercial_use = true\nsimilarity_threshold = 0.5\n'
        f"[files]\n{files}\n"
        '[detector]\nkind = "scrfd"\nfile = "detector.onnx"\ninput_sizes_px = [64, 128]\n'
        f'[embedder]\nfile = "embedder.onnx"\ndimension = {DIMENSION}\ninput_size_px = {SIDE_PX}\n'
        '[source]\nkind = "directory"\npath = "."\n',
        "utf-8",
    )
    return manifest, path


def toy_photo(seed: int, colour: Sequence[int] = COLOURS[0]) -> np.ndarray:
    """(96,128,3) uint8: dark noise and one bright square that is a cell of the detector's."""
    random = np.random.default_rng(seed)
    photo = random.integers(0, 30, (96, 128, 3))
    left, top = FACE_PX * random.integers(1, 7), FACE_PX * random.integers(1, 5)
    shade = random.integers(-5, 6, (FACE_PX, FACE_PX, 3))
    photo[top : top + FACE_PX, left : left + FACE_PX] = np.array(colour) + shade
    return np.clip(photo, 0, 255).astype(np.uint8)


def write_toy_people(folder: Path, photos_each: int = 6) -> Path:
    """A folder a person, each of another colour."""
    for person, colour in enumerate(COLOURS):
        home = folder / f"person_{person}"
        home.mkdir(parents=True)
        for number in range(photos_each):
            Image.fromarray(toy_photo(100 * person + number, colour)).save(home / f"{number}.png")
    return folder


def _conv_relu(x: str, weight: str, bias: str, out: str, pad: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", [x, weight, bias], [out + "_sum"], pads=[pad] * 4),
        helper.make_node("Relu", [out + "_sum"], [out]),
    ]


def _head(p: str, name: str, width: int) -> list[onnx.NodeProto]:
    """One of a stride's heads; as in SCRFD's exports the batch goes behind the cells before they are flattened."""
    raw = f"{p}{name}_rows" if name == "score" else f"{p}{name}"
    nodes = [
        helper.make_node("Conv", [p + "b", f"{p}{name}_w", f"{p}{name}_b"], [f"{p}{name}_map"]),
        helper.make_node("Transpose", [f"{p}{name}_map"], [f"{p}{name}_turned"], perm=[2, 3, 0, 1]),
        helper.make_node("Reshape", [f"{p}{name}_turned", f"rows_{width}"], [raw]),
    ]
    return [*nodes, helper.make_node("Sigmoid", [raw], [f"{p}{name}"])] if name == "score" else nodes


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int | str], outputs: list[str]
) -> onnx.ModelProto:
    tensors = [
        numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name)
        for name, array in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    # What InsightFace's exports have, so that the opset must be raised first.
    return helper.make_model(graph, ir_version=6, opset_imports=[helper.make_opsetid("", 11)])
