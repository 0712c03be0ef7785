"""Rewrites of a float graph that change none of its results and let more of it run as fast integer kernels.

ONNX Runtime convolves bytes directly where a convolution has at least 16 outputs, a multiple of 8, and a multiple of
4 inputs (MlasConvSymPackWSize in mlas/lib/convsym.cpp); all others copy every window of the picture first, which for
few channels takes longer than the arithmetic. So convolutions that read the same tensor become one, and odd numbers
of channels are padded with zeros.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter
from onnxruntime.quantization import quant_pre_process

from app.core.arrays import Floats
from app.core.errors import BadModelPack
from app.vision.sessions import free_batch_dimension

OPSET = 17
"""Per-channel weights need 13; 17 is what the packs built here are written in."""
LEAST_CHANNELS, CHANNEL_STEP = 16, 8
ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Activations that a quantised convolution does at no cost, by the range of its output."""


def prepare(model: Path) -> onnx.ModelProto:
    """The float graph as it goes into quantisation: free batch, constants folded, shapes known, rewritten.

    Raises BadModelPack for what is no graph or can't be brought to the opset.
    """
    graph = onnx.load_from_string(free_batch_dimension(model))
    try:
        if _read_opset(graph) < OPSET:
            graph = version_converter.convert_version(graph, OPSET)
        name_nodes_inplace(graph)
        graph = _fold_constants(graph)
        merge_siblings_inplace(graph)
        pad_channels_inplace(graph)
        drop_unused_inplace(graph)
        return _fold_constants(graph)
    except Exception as error:
        raise BadModelPack(f"{model.name} can't be prepared for quantisation: {error}") from error


def name_nodes_inplace(model: onnx.ModelProto) -> None:
    """Name every node: quantisation chooses nodes by name, and exporters may leave them out."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def merge_siblings_inplace(model: onnx.ModelProto) -> None:
    """Convolutions with one input and the same attributes become one, and a Split behind it."""
    constants = _read_constants(model)
    siblings: dict[bytes, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if _is_plain_conv(node, constants):
            siblings.setdefault(_make_merge_key(node), []).append(node)
    for nodes in siblings.values():
        if len(nodes) > 1:
            _merge_inplace(model, nodes, constants)


def pad_channels_inplace(model: onnx.ModelProto) -> None:
    """Pad the channels between two convolutions that no other node reads."""
    constants, readers = _read_constants(model), find_readers(model)
    for node in list(model.graph.node):
        following = _find_only_conv_behind(node, constants, readers) if _is_plain_conv(node, constants) else None
        if following is None:
            continue
        channels = constants[node.input[1]].dims[0]
        missing = _align(channels) - channels
        # The first layer stays in float, where more channels cost time and alignment saves none.
        if missing and node.input[0] != model.graph.input[0].name:
            _pad_inplace(constants[node.input[1]], missing, axis=0)
            _pad_inplace(constants[node.input[2]], missing, axis=0)
            _pad_inplace(constants[following.input[1]], missing, axis=1)
    model.graph.ClearField("value_info")


def drop_unused_inplace(model: onnx.ModelProto) -> None:
    """Leave out constants that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [constant for constant in model.graph.initializer if constant.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def find_readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Name of a tensor → the nodes that read it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def find_activations_behind(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> Iterator[onnx.NodeProto]:
    """The activations that a layer's output alone goes through."""
    behind = readers.get(node.output[0], [])
    while len(behind) == 1 and behind[0].op_type in ACTIVATIONS:
        yield behind[0]
        behind = readers.get(behind[0].output[0], [])


def _fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's own preparation: constants and batch norms folded in, shapes inferred."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        drop_unused_inplace(model)
        onnx.save(model, str(source))
        # Symbolic inference needs sympy, and infers no more shapes in convolutional networks.
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        return onnx.load(str(target))


def _read_opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _read_constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {constant.name: constant for constant in model.graph.initializer}


def _is_plain_conv(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Ungrouped, with weights and a bias that are constants."""
    grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    return node.op_type == "Conv" and not grouped and [name in constants for name in node.input[1:]] == [True, True]


def _make_merge_key(node: onnx.NodeProto) -> bytes:
    """What two convolutions must share to become one: the input, kernel size, strides, padding, dilation."""
    attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    return b"|".join([node.input[0].encode(), *attributes])


def _merge_inplace(model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> None:
    name = f"{nodes[0].name}_merged"
    weights, biases = (_stack(constants[node.input[at]] for node in nodes) for at in (1, 2))
    sizes = [constants[node.input[1]].dims[0] for node in nodes]
    outputs = [node.output[0] for node in nodes]
    if missing := _align(len(weights)) - len(weights):
        weights, biases = _pad_with_zeros(weights, missing, axis=0), _pad_with_zeros(biases, missing, axis=0)
        sizes, outputs = [*sizes, missing], [*outputs, f"{name}_unused"]
    inputs: dict[str, NDArray[Any]] = {
        f"{name}_weights": weights,
        f"{name}_biases": biases,
        f"{name}_sizes": np.array(sizes, np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in inputs.items())
    conv = helper.make_node("Conv", [nodes[0].input[0], f"{name}_weights", f"{name}_biases"], [f"{name}_out"], name)
    conv.attribute.extend(nodes[0].attribute)
    split = helper.make_node("Split", [f"{name}_out", f"{name}_sizes"], outputs, f"{name}_split", axis=1)
    at = list(model.graph.node).index(nodes[0])
    for node in nodes:
        model.graph.node.remove(node)
    model.graph.node.insert(at, conv)
    model.graph.node.insert(at + 1, split)


def _find_only_conv_behind(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], readers: dict[str, list[onnx.NodeProto]]
) -> onnx.NodeProto | None:
    last = [node, *find_activations_behind(node, readers)][-1]
    behind = readers.get(last.output[0], [])
    return behind[0] if len(behind) == 1 and _is_plain_conv(behind[0], constants) else None


def _align(channels: int) -> int:
    return max(LEAST_CHANNELS, -(-channels // CHANNEL_STEP) * CHANNEL_STEP)


def _stack(tensors: Iterable[onnx.TensorProto]) -> Floats:
    return np.concatenate([numpy_helper.to_array(tensor) for tensor in tensors])


def _pad_with_zeros(array: Floats, missing: int, axis: int) -> Floats:
    return np.pad(array, [(0, missing if at == axis else 0) for at in range(array.ndim)])


def _pad_inplace(tensor: onnx.TensorProto, missing: int, axis: int) -> None:
    padded = _pad_with_zeros(numpy_helper.to_array(tensor), missing, axis)
    tensor.CopyFrom(numpy_helper.from_array(padded, tensor.name))
