"""The conversion of FaceRes from TensorFlow.js: a small graph of its form, and the network in the repository."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from app.core.errors import BadModelPack
from app.packs.open_pack.build_open import FACERES_FILE
from app.vision.sessions import open_session
from workshop.__main__ import main
from workshop.faceres import convert_faceres

GOLDEN = Path(__file__).parent / "golden" / "faceres_tfjs.json"
"""What @tensorflow/tfjs-converter 4 on the CPU backend made of `pictures()` with the package's graph, five decimals."""
SAME = base64.b64encode(b"SAME").decode()


def pictures() -> np.ndarray:
    """(2,224,224,3) float32 by a formula, as golden/faceres_tfjs.json was made with."""
    y, x, channel = np.mgrid[:224, :224, :3]
    return np.stack([(7 * y + 13 * x + 29 * channel + 3 * number * x * y) % 256 - 110 for number in range(2)]).astype(
        np.float32
    )


def convolution(op: str, name: str, source: str, stride: int) -> dict[str, Any]:
    strides = {"list": {"i": [str(step) for step in (1, stride, stride, 1)]}}
    return {
        "op": op,
        "name": name,
        "input": [source, f"{name}/kernel"],
        "attr": {"strides": strides, "padding": {"s": SAME}},
    }


def operation(op: str, name: str, source: str, *constants: str) -> dict[str, Any]:
    return {"op": op, "name": name, "input": [source, *constants], "attr": {}}


def layer(conv: dict[str, Any], *, scaled: bool = False) -> list[dict[str, Any]]:
    name = conv["name"]
    nodes, x = [conv], name
    if scaled:
        nodes.append(operation("Mul", f"{name}/mul", x, f"{name}/factor"))
        x = nodes[-1]["name"]
    for op, constants in (
        ("Add", [f"{name}/bias"]),
        ("Relu", []),
        ("Minimum", [f"{name}/most"]),
        ("Maximum", [f"{name}/least"]),
    ):
        nodes.append(operation(op, f"{name}/{op.lower()}", x, *constants))
        x = nodes[-1]["name"]
    return nodes


def toy_constants() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    constants = {
        "one/kernel": random.normal(size=(3, 3, 3, 4)) / 200,
        "one/bias": random.normal(size=4),
        "two/kernel": random.normal(size=(3, 3, 4, 1)),
        "two/factor": random.normal(size=4),
        "two/bias": random.normal(size=4),
    }
    for name in ("one", "two"):
        constants |= {f"{name}/most": np.array(6), f"{name}/least": np.array(0)}
    return {name: np.asarray(array, np.float16) for name, array in constants.items()}


def toy_nodes() -> list[dict[str, Any]]:
    return [
        {"op": "Placeholder", "name": "input", "attr": {}},
        *layer(convolution("Conv2D", "one", "input", 2)),
        *layer(convolution("DepthwiseConv2dNative", "two", "one/maximum", 1), scaled=True),
        operation("Mean", "global_pooling/Mean", "two/maximum", "axes"),
    ]


def write_package(folder: Path, nodes: list[dict[str, Any]], *, extra: bytes = b"") -> Path:
    models = folder / "models"
    models.mkdir()
    stored = {**toy_constants(), "axes": np.array([1, 2], np.int32)}
    weights = [
        {"name": name, "shape": list(array.shape), "dtype": "int32"}
        if array.dtype == np.int32
        else {"name": name, "shape": list(array.shape), "dtype": "float32", "quantization": {"dtype": "float16"}}
        for name, array in stored.items()
    ]
    description = {"modelTopology": {"node": nodes}, "weightsManifest": [{"weights": weights}]}
    (models / "faceres.json").write_text(json.dumps(description), "utf-8")
    (models / "faceres.bin").write_bytes(b"".join(array.tobytes() for array in stored.values()) + extra)
    return folder


def convolve_as_tensorflow(image: np.ndarray, kernel: np.ndarray, stride: int, *, depthwise: bool) -> np.ndarray:
    """(H,W,C), (k,k,C,out) → (h,w,out) with TensorFlow's SAME padding, window by window."""
    size = kernel.shape[0]
    out = [-(-side // stride) for side in image.shape[:2]]
    missing = [max((count - 1) * stride + size - side, 0) for count, side in zip(out, image.shape[:2], strict=True)]
    padded = np.pad(image, [(some // 2, some - some // 2) for some in missing] + [(0, 0)])
    result = np.zeros((*out, kernel.shape[2] if depthwise else kernel.shape[3]))
    for row in range(out[0]):
        for column in range(out[1]):
            window = padded[row * stride : row * stride + size, column * stride : column * stride + size]
            shared = window[..., None] * kernel
            result[row, column] = shared.sum(axis=(0, 1))[:, 0] if depthwise else shared.sum(axis=(0, 1, 2))
    return result


def test_a_graph_of_the_package_s_form_gives_what_its_operations_give(tmp_path: Path) -> None:
    model = convert_faceres(write_package(tmp_path, toy_nodes()))
    onnx.checker.check_model(model, full_check=True)
    constants = {name: array.astype(np.float64) for name, array in toy_constants().items()}
    image = pictures()[1].astype(np.float64)
    x = convolve_as_tensorflow(image, constants["one/kernel"], 2, depthwise=False) + constants["one/bias"]
    x = convolve_as_tensorflow(np.clip(x, 0, 6), constants["two/kernel"], 1, depthwise=True)
    x = np.clip(x * constants["two/factor"] + constants["two/bias"], 0, 6)

    session = open_session(model.SerializeToString(), "cpu", 1)
    (features,) = session.run({"image": image.transpose(2, 0, 1)[None].astype(np.float32)})

    assert features.shape == (1, 4)
    assert np.allclose(features[0], x.mean(axis=(0, 1)), atol=1e-4)
    assert features.max() > 0.1


def test_the_network_gives_what_tensorflow_js_gives() -> None:
    session = open_session(FACERES_FILE, "cpu", 2)
    (features,) = session.run({"image": pictures().transpose(0, 3, 1, 2)})
    expected = np.array(json.loads(GOLDEN.read_text("utf-8")))
    assert features.shape == expected.shape == (2, 1024)
    assert expected.max() > 1
    assert np.abs(features - expected).max() < 5e-5


def test_the_network_is_the_one_that_its_page_describes() -> None:
    digest = hashlib.sha256(FACERES_FILE.read_bytes()).hexdigest()
    page = (FACERES_FILE.parent / "README.md").read_text("utf-8")
    assert f"`{digest}`" in page
    assert (FACERES_FILE.parent / "LICENSE-faceres.txt").is_file()


def test_the_weights_are_stored_in_half_precision(tmp_path: Path) -> None:
    write_package(tmp_path, toy_nodes())
    output = tmp_path / "out.onnx"
    assert main(["faceres", "--package", str(tmp_path), "--output", str(output)]) == 0
    types = [tensor.data_type for tensor in onnx.load(str(output)).graph.initializer if tensor.dims]
    assert types == [onnx.TensorProto.FLOAT16] * 5


def renamed(node: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**node, **changes}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda nodes: [renamed(node, op="Elu") if node["op"] == "Relu" else node for node in nodes], "Elu"),
        (lambda nodes: [node for node in nodes if node["op"] != "Placeholder"], "input"),
        (lambda nodes: [renamed(node, op="Max") if node["op"] == "Mean" else node for node in nodes], "is no mean"),
        (
            lambda nodes: [
                renamed(node, input=[node["input"][0], "one/most"]) if node["op"] == "Maximum" else node
                for node in nodes
            ],
            "an activation of the bounds",
        ),
    ],
    ids=["another operation", "no input", "no mean at the end", "other bounds"],
)
def test_another_graph_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    with pytest.raises(BadModelPack, match=reason):
        convert_faceres(write_package(tmp_path, change(toy_nodes())))


def test_a_package_with_more_or_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModelPack, match=r"faceres\.json"):
        convert_faceres(tmp_path)
    with pytest.raises(BadModelPack, match="constants of"):
        convert_faceres(write_package(tmp_path, toy_nodes(), extra=b"more"))
