"""A model pack of random weights in the architecture and size of InsightFace's buffalo_l, to measure speed alone.

Its boxes and embeddings mean nothing. What takes time is as in the original: the layers and their arithmetic, and a few
boxes in most photos (with sizes and landmarks that a face may have), for which chips are cut and embedded. No box is
small enough for the detector's closer look.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.core.arrays import Floats
from app.core.errors import BadModelPack
from app.packs.open_pack.onnx_graph import IR_VERSION, OPSET, Shape
from app.packs.store import compute_sha256
from app.vision.align import TEMPLATES

IMAGE = "input.1"
"""The input of both networks, as InsightFace names it."""

# SCRFD-10G with landmarks (Guo et al., 2021, arXiv:2105.04714; insightface, scrfd_10g_bnkps.py): (channels, blocks).
SCRFD_STAGES = ((56, 3), (88, 4), (88, 2), (224, 3))
SCRFD_STEM, SCRFD_NECK, SCRFD_HEAD, SCRFD_HEAD_DEPTH = 28, 56, 80, 3
# IResNet-50 (insightface, recognition/arcface_torch/backbones/iresnet.py).
IRESNET_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
CHIP_PX, DIMENSION = 112, 512

FACE_STRIDES = (2.2, 3.4)
"""The distance from the centre of an anchor's face to its sides, in strides: one for each of the two anchors."""
WOBBLE = 0.005
"""How strongly sides and landmarks depend on the picture: they differ, but keep the shape of a face."""
SCORE_GAIN = 4.0
"""How steeply scores rise: other things than faces must have far lower scores, as with trained networks."""
DETECTOR_SEED, SCORE_BIAS = 12, (-9.2, -7.0, -6.8)
"""The seed of the random network, and its bias at each stride: of twelve seeds the one with the most even results on 27
photos of people. Each has 2 to 12 boxes with a score of at least 0.5: 5.5 on average, and 4.1 at 640 px alone. Pictures
of one colour have none."""

RELU, LINEAR, BRANCH = 2.0, 1.0, 0.2
"""Variance of a convolution's outputs for inputs of variance 1 (2 compensates for the half that ReLU cuts off: He et
al., 2015). It is small in a residual branch, because all branches are added up from block to block."""
SLOPE = 0.25
"""The slope of PReLU below zero, PyTorch's initial value."""
EDGE_GAIN = 30.0
"""All edges of more than about a thirtieth of the contrast between mid-grey and white give the full output."""

MANIFEST = """\
# Random weights in the shape of InsightFace's buffalo_l, made by benchmarks/speed/synthetic.py to measure speed alone.
name = "synthetic-{name}"
licence = "random numbers: free for any use, and of none but measuring speed"
commercial_use = true
similarity_threshold = 0.45

[files]
"detector.onnx" = "{detector}"
"embedder.onnx" = "{embedder}"

[detector]
kind = "scrfd"
file = "detector.onnx"

[embedder]
file = "embedder.onnx"
dimension = {dimension}

[source]
kind = "directory"
path = "."
"""


def build_pack(name: Literal["buffalo_l"], folder: Path) -> Path:
    """Write detector.onnx, embedder.onnx (191 MB together) and their manifest into `folder` → the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for part, model in (("detector", build_scrfd_10g()), ("embedder", build_iresnet_50())):
        path = folder / f"{part}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        hashes[part] = compute_sha256(path)
    manifest = folder / "pack.toml"
    manifest.write_text(MANIFEST.format(name=name, dimension=DIMENSION, **hashes), "utf-8")
    return manifest


def count_macs(model: onnx.ModelProto, height: int, width: int) -> int:
    """Multiply-accumulates of one inference on an image of this size (pixels), by the Conv and Gemm nodes.

    Raises BadModelPack where the shape of one can't be inferred.
    """
    shapes = _infer_shapes(model, height, width)
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weights, output = shapes.get(node.input[1], []), shapes.get(node.output[0], [])
            if not weights or len(output) < 2 or 0 in (*weights, *output):
                raise BadModelPack(f"The shapes of {node.op_type} {node.name or node.output[0]} can't be inferred.")
            # Every weight is used once at each place of the output.
            total += math.prod(output) // output[1] * math.prod(weights)
    return total


def _infer_shapes(model: onnx.ModelProto, height: int, width: int) -> dict[str, list[int]]:
    """Shapes of all values and weights for one image of this size; 0 for what is unknown."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    # The values of weights don't matter for shapes, and would be copied several times.
    for weights in sized.graph.initializer:
        if weights.data_type == TensorProto.FLOAT and len(weights.dims) > 1:
            weights.ClearField("raw_data")
    for dimension, value in zip(sized.graph.input[0].type.tensor_type.shape.dim, (1, 3, height, width), strict=True):
        dimension.dim_value = value
    # Exported graphs compute the sizes of their Resize nodes; onnx infers these in newer opsets only.
    if sized.opset_import[0].version < OPSET:
        sized = onnx.version_converter.convert_version(sized, OPSET)
    graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    values = [*graph.value_info, *graph.output]
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    return shapes | {weights.name: list(weights.dims) for weights in graph.initializer}


class _RandomGraph:
    """A network that begins with `IMAGE` and is built node by node, with random weights."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._channels = {IMAGE: 3}

    def add(self, op: str, *inputs: str, **attributes: int | str | Sequence[int]) -> str:
        """Append a node; returns its output, which has the channels of the first input."""
        name = f"{op.lower()}_{len(self._nodes)}"
        node = helper.make_node(op, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
        self._channels[name] = self._channels[inputs[0]]
        return name

    def constant(self, array: Floats | NDArray[np.int64]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def normal(self, variance: float, *shape: int) -> Floats:
        return self._random.standard_normal(shape, np.float32) * np.float32(math.sqrt(variance))

    def conv(
        self, x: str, channels: int, gain: float = RELU, *, size: int = 3, stride: int = 1, bias: Floats | None = None
    ) -> str:
        """A convolution with He's scaling and with padding: the output has the input's size, divided by the stride."""
        inputs = self._channels[x]
        kernels = self.normal(gain / (inputs * size * size), channels, inputs, size, size)
        return self.conv_of(x, kernels, np.zeros(channels, np.float32) if bias is None else bias, stride)

    def conv_of(self, x: str, kernels: Floats, bias: Floats, stride: int = 1) -> str:
        """A convolution with the kernels (out,in,k,k) and biases (out,)."""
        pads = [kernels.shape[-1] // 2] * 4
        name = self.add("Conv", x, self.constant(kernels), self.constant(bias), strides=[stride] * 2, pads=pads)
        self._channels[name] = len(kernels)
        return name

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def prelu(self, x: str) -> str:
        return self.add("PRelu", x, self.constant(np.full((self._channels[x], 1, 1), SLOPE, np.float32)))

    def halved(self, op: Literal["AveragePool", "MaxPool"], x: str) -> str:
        return self.add(op, x, kernel_shape=[2, 2], strides=[2, 2])

    def batch_norm(self, x: str) -> str:
        """A batch normalisation that changes little, because its input is scaled already."""
        channels = self._channels[x]
        scale, shift, mean = 1 + self.normal(0.01, channels), self.normal(0.01, channels), self.normal(0.01, channels)
        parameters = (scale, shift, mean, np.ones(channels, np.float32))
        return self.add("BatchNormalization", x, *map(self.constant, parameters))

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        weights, bias = self.normal(1 / inputs, outputs, inputs), np.zeros(outputs, np.float32)
        return self.add("Gemm", x, self.constant(weights), self.constant(bias), transB=1)

    def model(self, name: str, image: Shape, outputs: Mapping[str, Sequence[int | None]]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def build_scrfd_10g(seed: int = DETECTOR_SEED) -> onnx.ModelProto:
    """(1,3,H,W), sides multiples of 32 → scores (K,1), distances (K,4) and landmarks (K,10) of each stride.

    The export's Resize computes its size from shapes; here it is a factor of 2, which is the same for such sides.
    """
    graph = _RandomGraph(seed)
    x = graph.halved("MaxPool", graph.relu(graph.conv(_add_edges(graph), 2 * SCRFD_STEM)))
    maps: list[str] = []
    for channels, blocks in SCRFD_STAGES:
        for block in range(blocks):
            x = _add_basic_block(graph, x, channels, halves=bool(maps) and block == 0)
        maps.append(x)
    heads = [_add_head(graph, x, bias) for x, bias in zip(_add_pafpn(graph, maps[1:]), SCORE_BIAS, strict=True)]
    outputs = {head[kind]: (None, width) for kind, width in enumerate((1, 4, 10)) for head in heads}
    return graph.model("scrfd_10g", [1, 3, "?", "?"], outputs)


def _add_edges(graph: _RandomGraph) -> str:
    """The stem's first two convolutions. Their output depends on where edges are and on their direction, but hardly on
    their contrast.

    A random network's scores grow with contrast: one photo would be full of faces, and the next have none. Here pairs
    of channels have the same kernel, whose sum is 0, and opposite weights afterwards: max(0, x + ½) - max(0, x - ½)
    rises from 0 to 1 and no further.
    """
    kernels = graph.normal(EDGE_GAIN**2 / 27, SCRFD_STEM // 2, 3, 3, 3)
    kernels = np.repeat(kernels - kernels.mean(axis=(2, 3), keepdims=True), 2, axis=0)
    x = graph.conv_of(IMAGE, kernels, np.tile(np.array([0.5, -0.5], np.float32), SCRFD_STEM // 2), stride=2)
    weights = graph.normal(4 * RELU / (9 * SCRFD_STEM // 2), SCRFD_STEM, SCRFD_STEM // 2, 3, 3)
    pairs = np.stack([weights, -weights], axis=2).reshape(SCRFD_STEM, SCRFD_STEM, 3, 3)
    return graph.relu(graph.conv_of(graph.relu(x), pairs, -weights.sum(axis=(1, 2, 3)) / 2))


def _add_basic_block(graph: _RandomGraph, x: str, channels: int, *, halves: bool) -> str:
    y = graph.conv(graph.relu(graph.conv(x, channels, stride=1 + halves)), channels, BRANCH)
    if halves:
        x = graph.conv(graph.halved("AveragePool", x), channels, LINEAR, size=1)
    return graph.relu(graph.add("Add", y, x))


def _add_pafpn(graph: _RandomGraph, maps: Sequence[str]) -> list[str]:
    """Backbone maps of the three strides → three maps with the information of all: from coarse to fine, then back."""
    fine, middle, coarse = (graph.conv(x, SCRFD_NECK, LINEAR, size=1) for x in maps)
    middle = graph.add("Add", middle, _add_doubling(graph, coarse))
    fine = graph.add("Add", fine, _add_doubling(graph, middle))
    fine, middle, coarse = (graph.conv(x, SCRFD_NECK, LINEAR) for x in (fine, middle, coarse))
    middle = graph.add("Add", middle, graph.conv(fine, SCRFD_NECK, LINEAR, stride=2))
    coarse = graph.add("Add", coarse, graph.conv(middle, SCRFD_NECK, LINEAR, stride=2))
    return [fine, graph.conv(middle, SCRFD_NECK, LINEAR), graph.conv(coarse, SCRFD_NECK, LINEAR)]


def _add_doubling(graph: _RandomGraph, x: str) -> str:
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", x, "", scales, **how)


def _add_head(graph: _RandomGraph, x: str, score_bias: float) -> tuple[str, str, str]:
    """The three outputs of one stride."""
    for _ in range(SCRFD_HEAD_DEPTH):
        x = graph.relu(graph.conv(x, SCRFD_HEAD))
    reach = np.array(FACE_STRIDES, np.float32)
    landmarks = np.multiply.outer(2 * reach, TEMPLATES["arcface"] - 0.5).astype(np.float32)
    scores = graph.conv(x, len(reach), SCORE_GAIN**2, bias=np.full(len(reach), score_bias, np.float32))
    sides = graph.conv(x, 4 * len(reach), WOBBLE, bias=np.repeat(reach, 4))
    points = graph.conv(x, 10 * len(reach), WOBBLE, bias=landmarks.ravel())
    scaled = graph.add("Mul", sides, graph.constant(np.ones((), np.float32)))
    return graph.add("Sigmoid", _add_rows(graph, scores, 1)), _add_rows(graph, scaled, 4), _add_rows(graph, points, 10)


def _add_rows(graph: _RandomGraph, x: str, width: int) -> str:
    cells_first = graph.add("Transpose", x, perm=[2, 3, 0, 1])
    return graph.add("Reshape", cells_first, graph.constant(np.array([-1, width], np.int64)))


def build_iresnet_50(seed: int = 1) -> onnx.ModelProto:
    """(1,3,112,112) → (1,512).

    A BatchNorm after a convolution is folded into it. One before a convolution stays, as in exported networks, because
    the convolution's padding is not normalised.
    """
    graph = _RandomGraph(seed)
    x = graph.prelu(graph.conv(IMAGE, IRESNET_STAGES[0][0]))
    for channels, blocks in IRESNET_STAGES:
        for block in range(blocks):
            x = _add_improved_block(graph, x, channels, halves=block == 0)
    side_px = CHIP_PX >> len(IRESNET_STAGES)
    flat = graph.add("Flatten", graph.batch_norm(x))
    embedding = graph.dense(flat, IRESNET_STAGES[-1][0] * side_px**2, DIMENSION)
    return graph.model("iresnet_50", [1, 3, CHIP_PX, CHIP_PX], {embedding: (1, DIMENSION)})


def _add_improved_block(graph: _RandomGraph, x: str, channels: int, *, halves: bool) -> str:
    y = graph.prelu(graph.conv(graph.batch_norm(x), channels))
    y = graph.conv(y, channels, BRANCH, stride=1 + halves)
    if halves:
        x = graph.conv(x, channels, LINEAR, size=1, stride=2)
    return graph.add("Add", y, x)
