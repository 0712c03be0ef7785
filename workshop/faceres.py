"""Converts FaceRes, a network of the npm package `@vladmandic/human`, from TensorFlow.js to ONNX.

FaceRes is the MobileNet of HSE_FaceRec_tf (Savchenko, "Efficient facial representations for age, gender and identity
recognition in organizing photo albums using multi-output ConvNet", 2019, arXiv:1807.07718), trained to identify the
people of VGGFace2. The package's `models/faceres.json` lists the nodes of a frozen TensorFlow graph, and
`models/faceres.bin` has their constants one after the other as float16. From the input to the pooled features the graph
is a chain: each operation has one input that is no constant, which is the output of the operation before.

The ONNX graph keeps the constants as float16, as they are in the package, and casts them to float32.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from app.core.errors import BadModelPack
from app.packs.open_pack.onnx_graph import INPUT, GraphWriter

INPUT_PX = 224
OUTPUT = "global_pooling/Mean"
"""The node with the features of a face; behind it are the layers that guess age and sex."""
FEATURES = "features"
RELU_BOUNDS = (0.0, 6.0)

Constants = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layer:
    """A convolution, and then the bounds of the activation behind it.

    `kernel` (out,in,k,k) float16; (C,1,k,k) where `depthwise`. `factor` (out,) float16 multiplies the kernel where it
    is not None. `bias` (out,) float16.
    """

    kernel: NDArray[np.float16]
    bias: NDArray[np.float16]
    stride: int
    depthwise: bool
    factor: NDArray[np.float16] | None = None


@dataclass
class _Draft:
    """A layer whose operations are being read."""

    kernel: NDArray[np.float16]
    stride: int
    depthwise: bool
    factor: NDArray[np.float16] | None = None
    bias: NDArray[np.float16] | None = None
    bounds: list[float] = field(default_factory=list)

    def finish(self) -> Layer:
        if self.bias is None or tuple(self.bounds) != RELU_BOUNDS:
            raise ValueError(f"a layer without a bias, or with an activation of the bounds {self.bounds}")
        return Layer(self.kernel, self.bias, self.stride, self.depthwise, self.factor)


def convert_faceres(package: Path) -> onnx.ModelProto:
    """The unpacked npm package → its FaceRes as (N,3,224,224) float32 BGR less its mean → `features` (N,1024).

    Raises BadModelPack where the package has no FaceRes, or another graph than this one.
    """
    models = package / "models"
    try:
        description = json.loads((models / "faceres.json").read_text("utf-8"))
        constants = _read_constants(description, (models / "faceres.bin").read_bytes())
        return write_faceres(list(read_layers(description["modelTopology"]["node"], constants)))
    except (OSError, ValueError, KeyError) as error:
        raise BadModelPack(
            f"{package} has no FaceRes that can be converted: {type(error).__name__}: {error}."
        ) from error


def read_layers(nodes: list[dict[str, Any]], constants: Constants) -> Iterator[Layer]:
    """A frozen graph's nodes and its constants by name → the layers up to OUTPUT. Raises ValueError."""
    by_name = {node["name"]: node for node in nodes}
    draft: _Draft | None = None
    for name in _list_chain(by_name, constants):
        node = by_name[name]
        operand = next((constants[source] for source in node["input"] if source in constants), None)
        if node["op"] in ("Conv2D", "DepthwiseConv2dNative"):
            if draft:
                yield draft.finish()
            draft = _start_layer(node, operand)
        elif draft is None:
            raise ValueError(f"{name} stands before the first convolution")
        else:
            _add_operation_inplace(draft, node["op"], operand)
    if draft is None:
        raise ValueError("no convolution")
    yield draft.finish()


def write_faceres(layers: list[Layer]) -> onnx.ModelProto:
    """The layers as an ONNX graph whose constants are float16."""
    graph = GraphWriter([])
    low, high = (graph.add_constant(np.array(bound, np.float32)) for bound in RELU_BOUNDS)
    x, side_px = INPUT, INPUT_PX
    for layer in layers:
        size = layer.kernel.shape[2]
        side_px, begin, end = _pad_as_tensorflow(side_px, size, layer.stride)
        kernel = _add_cast(graph, layer.kernel)
        if layer.factor is not None:
            kernel = graph.add("Mul", [kernel, _add_cast(graph, layer.factor.reshape(-1, 1, 1, 1))])
        x = graph.add(
            "Conv",
            [x, kernel, _add_cast(graph, layer.bias)],
            strides=[layer.stride] * 2,
            pads=[begin, begin, end, end],
            group=len(layer.bias) if layer.depthwise else 1,
        )
        x = graph.add("Clip", [x, low, high])
    graph.add("Flatten", [graph.add("GlobalAveragePool", [x])], FEATURES)
    return graph.make_model("faceres", ["N", 3, INPUT_PX, INPUT_PX], {FEATURES: ["N", len(layers[-1].bias)]})


def _read_constants(description: Mapping[str, Any], data: bytes) -> Constants:
    """The constants of all `weightsManifest` groups, which lie in one file one after the other. Raises ValueError."""
    constants, at = {}, 0
    for weight in (weight for group in description["weightsManifest"] for weight in group["weights"]):
        dtype = np.dtype(weight.get("quantization", weight)["dtype"]).newbyteorder("<")
        count = int(np.prod(weight["shape"], dtype=np.int64))
        constants[weight["name"]] = np.frombuffer(data, dtype, count, at).reshape(weight["shape"])
        at += count * dtype.itemsize
    if at != len(data):
        raise ValueError(f"constants of {at:,} bytes, but a file of {len(data):,}")
    return constants


def _list_chain(by_name: Mapping[str, Mapping[str, Any]], constants: Constants) -> list[str]:
    """The names of the operations from the input (without it) to OUTPUT, which pools the last layer and is left out."""
    chain = [OUTPUT]
    while by_name[chain[-1]]["op"] != "Placeholder":
        (source,) = [name for name in by_name[chain[-1]]["input"] if name not in constants]
        chain.append(source)
    if by_name[OUTPUT]["op"] != "Mean":
        raise ValueError(f"{OUTPUT} is no mean")
    return chain[-2:0:-1]


def _start_layer(node: Mapping[str, Any], kernel: NDArray[Any] | None) -> _Draft:
    if kernel is None or base64.b64decode(node["attr"]["padding"]["s"]) != b"SAME":
        raise ValueError(f"{node['name']} has no constant kernel, or another padding than SAME")
    depthwise = node["op"] == "DepthwiseConv2dNative"
    strides = [int(stride) for stride in node["attr"]["strides"]["list"]["i"]]
    # TensorFlow's kernels are (k,k,in,out), those of a depthwise convolution (k,k,C,1).
    return _Draft(kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)), strides[1], depthwise)


def _add_operation_inplace(draft: _Draft, op: str, operand: NDArray[Any] | None) -> None:
    if op == "Relu" and operand is None:
        return  # The bound that `Maximum` sets is the same.
    if operand is None or op not in ("Mul", "Add", "Minimum", "Maximum"):
        raise ValueError(f"an operation {op} that isn't known")
    if op == "Mul":
        draft.factor = operand
    elif op == "Add":
        draft.bias = operand
    else:
        draft.bounds = sorted([*draft.bounds, float(operand)])


def _pad_as_tensorflow(side_px: int, size: int, stride: int) -> tuple[int, int, int]:
    """Side of the map, of the kernel, and the stride → the side of the output, the padding before and behind.

    TensorFlow's SAME puts the odd pixel behind.
    """
    out_px = -(-side_px // stride)
    padding = max((out_px - 1) * stride + size - side_px, 0)
    return out_px, padding // 2, padding - padding // 2


def _add_cast(graph: GraphWriter, array: NDArray[np.float16]) -> str:
    return graph.add("Cast", [graph.add_constant(array)], to=onnx.TensorProto.FLOAT)
