"""Networks rewritten without a change to their results, and quantised within a budget."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from app.core.errors import BadModelPack
from app.packs.store import InstalledPack
from app.vision.scrfd import MEAN, SCALE
from app.vision.sessions import make_blob, open_session
from tests.toy_networks import COLOURS, toy_photo, write_toy_pack
from workshop.quantise import choose_float_layers, compute_relative_error, find_first_and_last_layers, quantise
from workshop.rewrites import prepare

BUDGET = 0.02


@pytest.fixture
def toy(tmp_path: Path) -> InstalledPack:
    manifest, _ = write_toy_pack(tmp_path / "pack")
    return InstalledPack(manifest, tmp_path / "pack")


def run(model: onnx.ModelProto | Path, blob: np.ndarray) -> list[np.ndarray]:
    session = open_session(model if isinstance(model, Path) else model.SerializeToString(), "cpu", 1)
    return session.run({session.input_names[0]: blob})


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# --- rewriting ---


def test_what_is_prepared_gives_the_results_of_the_original(toy: InstalledPack) -> None:
    blob = make_blob(toy_photo(1)[None], MEAN, SCALE)
    expected, got = (
        run(model, blob) for model in (toy.weights / "detector.onnx", prepare(toy.weights / "detector.onnx"))
    )
    assert len(expected) == 9
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        assert np.abs(a).max() > 0
        assert np.abs(a - b).max() < 1e-5


def test_convolutions_of_one_input_become_one_of_aligned_width(toy: InstalledPack) -> None:
    model = prepare(toy.weights / "detector.onnx")
    assert operators(model).count("Conv") == 9, "each of 3 strides has 2 layers and 3 heads in 1"
    assert operators(model).count("Split") == 3
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    widths = [len(constants[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"]
    assert all(width >= 16 and width % 8 == 0 for width in widths), widths


def test_the_first_layer_keeps_its_channels_since_it_runs_on_floats_anyway(tmp_path: Path, toy: InstalledPack) -> None:
    model = prepare(toy.weights / "embedder.onnx")
    constants = {constant.name: constant.dims[0] for constant in model.graph.initializer}
    assert [constants[node.input[1]] for node in model.graph.node if node.op_type == "Conv"] == [12, 12]


@pytest.mark.parametrize("photos", [1, 3])
def test_a_prepared_graph_takes_any_batch_and_photos_do_not_mix(toy: InstalledPack, photos: int) -> None:
    model = prepare(toy.weights / "embedder.onnx")
    chips = make_blob(np.stack([toy_photo(seed)[:16, :16] for seed in range(photos)]), MEAN, SCALE)
    together = run(model, chips)[0]
    assert together.shape == (photos, 8)
    for row in range(photos):
        assert np.abs(run(model, chips[row : row + 1])[0][0] - together[row]).max() < 1e-5


def test_what_is_no_graph_is_a_bad_pack(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(BadModelPack, match=r"broken\.onnx is not an ONNX graph"):
        prepare(tmp_path / "broken.onnx")


# --- quantisation ---


def test_the_worst_layers_stay_in_float_until_the_rest_is_within_the_budget() -> None:
    errors = {"first": 0.03, "middle": 0.001, "depthwise": 0.5, "last": 0.004}
    assert choose_float_layers(errors, budget=1) == []
    assert choose_float_layers(errors, budget=0.1) == ["depthwise"]
    assert choose_float_layers(errors, budget=0.005) == ["depthwise", "first"]
    assert choose_float_layers(errors, budget=0.0) == ["depthwise", "first", "last", "middle"]


def test_the_first_layer_and_every_last_one_stay_in_float(toy: InstalledPack) -> None:
    detector, embedder = (prepare(toy.weights / name) for name in ("detector.onnx", "embedder.onnx"))
    ends = find_first_and_last_layers(detector)
    merged = [node.name for node in detector.graph.node if node.op_type == "Conv" and node.name.endswith("_merged")]
    assert sorted(ends) == sorted(merged), "its first layers read a mean, not the picture"
    types = {node.name: node.op_type for node in embedder.graph.node}
    assert [types[name] for name in find_first_and_last_layers(embedder)] == ["Conv", "MatMul"]
    model = quantise(embedder, chip_inputs, BUDGET)
    in_bytes = {producer(model, node.input[1]) for node in model.graph.node if node.op_type in ("Conv", "MatMul")}
    assert in_bytes == {None, "DequantizeLinear"}, "one layer of three is between"


def test_an_error_is_relative_and_that_of_the_worst_output() -> None:
    large, small = np.array([100, 0], np.float32), np.array([0.1, 0.1], np.float32)
    assert compute_relative_error([large, small], [large, small]) == 0
    assert compute_relative_error([large, small], [large + 1, small]) == pytest.approx(2 / 10_000)
    assert compute_relative_error([large, small], [large, small * 1.1]) == pytest.approx(0.01, rel=1e-3)


def producer(model: onnx.ModelProto, tensor: str) -> str | None:
    return next((node.op_type for node in model.graph.node if tensor in node.output), None)


def chip_inputs() -> Iterator[dict[str, np.ndarray]]:
    for seed in range(12):
        chip = toy_photo(seed, COLOURS[seed % 4])[8:72, 8:72][::4, ::4]
        yield {"image": make_blob(chip[None], (127.5,) * 3, 127.5)}


def test_weights_have_seven_bits_and_a_scale_for_each_channel_and_activations_are_unsigned(toy: InstalledPack) -> None:
    model = quantise(prepare(toy.weights / "embedder.onnx"), chip_inputs, BUDGET)
    weights = [
        numpy_helper.to_array(constant)
        for constant in model.graph.initializer
        if constant.data_type == onnx.TensorProto.INT8 and len(constant.dims) == 4
    ]
    assert weights, "no convolution is quantised"
    # Two products with bytes of up to 255 must fit into 16 bits: the kernels of CPUs without VNNI saturate there.
    assert all(np.abs(array.astype(int)).max() <= 64 for array in weights)
    scales = {constant.name: list(constant.dims) for constant in model.graph.initializer}
    assert [dims for name, dims in scales.items() if name.startswith("w2") and name.endswith("_scale")] == [[12]]
    zero_points = {
        constant.data_type
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
        for constant in model.graph.initializer
        if constant.name == node.input[2]
    }
    assert zero_points == {onnx.TensorProto.UINT8}


def test_a_quantised_network_stays_near_its_original_and_takes_any_batch(toy: InstalledPack) -> None:
    model = quantise(prepare(toy.weights / "embedder.onnx"), chip_inputs, BUDGET)
    chips = np.concatenate([inputs["image"] for inputs in chip_inputs()])
    expected = np.concatenate([run(toy.weights / "embedder.onnx", chip[None])[0] for chip in chips])
    got = run(model, chips)[0]
    assert 0 < compute_relative_error([expected], [got]) < 0.02
