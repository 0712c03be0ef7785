"""Variants of networks: rewritten without a change, quantised within a budget, kept only where they pass their bars."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from app.errors import BadConfiguration, BadModelPack
from app.packs import optimise
from app.packs.__main__ import main
from app.packs.networks import WatchedPack, open_on_cpu
from app.packs.optimise import BARS, Optimiser
from app.packs.quantise import first_and_last_layers, float_layers, quantised, relative_error
from app.packs.rewrites import prepared
from app.packs.samples import choose_samples
from app.packs.store import InstalledPack, PackStore, sha256
from app.packs.tensorrt import profile_of
from app.packs.variants import PRECISIONS, DetectorParity, EmbedderParity, read_report, variant_of
from app.vision.align import align
from app.vision.scrfd import MEAN, SCALE, letterbox
from app.vision.sessions import float_blob, open_session
from tests.toy_networks import COLOURS, toy_photo, write_toy_pack, write_toy_people


BUDGET = 0.02


@pytest.fixture
def toy(tmp_path: Path) -> InstalledPack:
    manifest, _ = write_toy_pack(tmp_path / "pack")
    return InstalledPack(manifest, tmp_path / "pack")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_toy_people(tmp_path / "people")


@pytest.fixture(autouse=True)
def _any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy networks take no time that could be compared."""
    monkeypatch.setattr(optimise, "BARS", {name: replace(bars, speed=0) for name, bars in BARS.items()})


def watched(pack: InstalledPack) -> WatchedPack:
    return WatchedPack(pack.manifest, {name: open_on_cpu(pack.weights / name) for name in pack.manifest.files})


def run(model: onnx.ModelProto | Path, blob: np.ndarray) -> list[np.ndarray]:
    session = open_session(model if isinstance(model, Path) else model.SerializeToString(), "cpu", 1)
    return session.run({session.input_names[0]: blob})


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# --- rewriting ---


def test_what_is_prepared_gives_the_results_of_the_original(toy: InstalledPack) -> None:
    blob = float_blob(toy_photo(1)[None], MEAN, SCALE)
    expected, got = (
        run(model, blob) for model in (toy.weights / "detector.onnx", prepared(toy.weights / "detector.onnx"))
    )
    assert len(expected) == 9
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        assert np.abs(a).max() > 0
        assert np.abs(a - b).max() < 1e-5


def test_convolutions_of_one_input_become_one_of_aligned_width(toy: InstalledPack) -> None:
    model = prepared(toy.weights / "detector.onnx")
    assert operators(model).count("Conv") == 9, "each of 3 strides has 2 layers and 3 heads in 1"
    assert operators(model).count("Split") == 3
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    widths = [len(constants[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"]
    assert all(width >= 16 and width % 8 == 0 for width in widths), widths


def test_the_first_layer_keeps_its_channels_since_it_runs_on_floats_anyway(tmp_path: Path, toy: InstalledPack) -> None:
    model = prepared(toy.weights / "embedder.onnx")
    constants = {constant.name: constant.dims[0] for constant in model.graph.initializer}
    assert [constants[node.input[1]] for node in model.graph.node if node.op_type == "Conv"] == [12, 12]


@pytest.mark.parametrize("photos", [1, 3])
def test_a_prepared_graph_takes_any_batch_and_photos_do_not_mix(toy: InstalledPack, photos: int) -> None:
    model = prepared(toy.weights / "embedder.onnx")
    chips = float_blob(np.stack([toy_photo(seed)[:16, :16] for seed in range(photos)]), MEAN, SCALE)
    together = run(model, chips)[0]
    assert together.shape == (photos, 8)
    for row in range(photos):
        assert np.abs(run(model, chips[row : row + 1])[0][0] - together[row]).max() < 1e-5


def test_what_is_no_graph_is_a_bad_pack(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(BadModelPack, match=r"broken\.onnx is not an ONNX graph"):
        prepared(tmp_path / "broken.onnx")


# --- quantisation ---


def test_the_worst_layers_stay_in_float_until_the_rest_is_within_the_budget() -> None:
    errors = {"first": 0.03, "middle": 0.001, "depthwise": 0.5, "last": 0.004}
    assert float_layers(errors, budget=1) == []
    assert float_layers(errors, budget=0.1) == ["depthwise"]
    assert float_layers(errors, budget=0.005) == ["depthwise", "first"]
    assert float_layers(errors, budget=0.0) == ["depthwise", "first", "last", "middle"]


def test_the_first_layer_and_every_last_one_stay_in_float(toy: InstalledPack) -> None:
    detector, embedder = (prepared(toy.weights / name) for name in ("detector.onnx", "embedder.onnx"))
    ends = first_and_last_layers(detector)
    merged = [node.name for node in detector.graph.node if node.op_type == "Conv" and node.name.endswith("_merged")]
    assert sorted(ends) == sorted(merged), "its first layers read a mean, not the picture"
    types = {node.name: node.op_type for node in embedder.graph.node}
    assert [types[name] for name in first_and_last_layers(embedder)] == ["Conv", "MatMul"]
    model = quantised(embedder, chip_inputs, BUDGET)
    in_bytes = {producer(model, node.input[1]) for node in model.graph.node if node.op_type in ("Conv", "MatMul")}
    assert in_bytes == {None, "DequantizeLinear"}, "one layer of three is between"


def test_an_error_is_relative_and_that_of_the_worst_output() -> None:
    large, small = np.array([100, 0], np.float32), np.array([0.1, 0.1], np.float32)
    assert relative_error([large, small], [large, small]) == 0
    assert relative_error([large, small], [large + 1, small]) == pytest.approx(2 / 10_000)
    assert relative_error([large, small], [large, small * 1.1]) == pytest.approx(0.01, rel=1e-3)


def producer(model: onnx.ModelProto, tensor: str) -> str | None:
    return next((node.op_type for node in model.graph.node if tensor in node.output), None)


def chip_inputs() -> Iterator[dict[str, np.ndarray]]:
    for seed in range(12):
        chip = toy_photo(seed, COLOURS[seed % 4])[8:72, 8:72][::4, ::4]
        yield {"image": float_blob(chip[None], (127.5,) * 3, 127.5)}


def test_weights_have_seven_bits_and_a_scale_for_each_channel_and_activations_are_unsigned(toy: InstalledPack) -> None:
    model = quantised(prepared(toy.weights / "embedder.onnx"), chip_inputs, BUDGET)
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
    model = quantised(prepared(toy.weights / "embedder.onnx"), chip_inputs, BUDGET)
    chips = np.concatenate([inputs["image"] for inputs in chip_inputs()])
    expected = np.concatenate([run(toy.weights / "embedder.onnx", chip[None])[0] for chip in chips])
    got = run(model, chips)[0]
    assert 0 < relative_error([expected], [got]) < 0.02


# --- what calibration is fed with ---


def test_calibration_feeds_the_detector_with_letterboxed_photos_at_every_size(toy: InstalledPack) -> None:
    photo = toy_photo(3)
    fed = list(watched(toy).fed_to("detector.onnx", iter([lambda pack: pack.detect([photo])])))
    expected = [float_blob(letterbox(photo, size_px)[0][None], MEAN, SCALE) for size_px in (64, 128)]
    assert len(fed) == 2
    for inputs, blob in zip(fed, expected, strict=True):
        assert np.array_equal(inputs["image"], blob)


def test_calibration_feeds_the_embedder_with_aligned_chips(toy: InstalledPack, people: Path) -> None:
    samples = choose_samples([people])
    fed = [inputs["image"] for inputs in Optimiser(toy, samples, people / "out")._fed_to("embedder.onnx")]
    assert len(fed) == len(samples.calibration) == 12
    pack, config = watched(toy).pack, toy.manifest.embedder
    photo = next(iter(optimise.images(samples.calibration, pack.view_px)))[1]
    chips = align(photo, pack.detect([photo])[0].landmarks, config.alignment, config.input_size_px)
    assert np.array_equal(fed[0], float_blob(chips, config.mean, config.scale))


# --- the command ---


def test_every_variant_is_made_measured_and_used(
    toy: InstalledPack, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimise", str(toy.weights / "toy.toml"), "--images", str(people)]) == 0
    folder = toy.weights / "optimised"
    report = read_report(folder)
    assert {(variant.network, variant.precision) for variant in report.variants} == {
        (name, precision) for name in toy.manifest.files for precision in PRECISIONS
    }
    for variant in report.variants:
        path = variant_of(folder, variant.network, toy.manifest.files[variant.network], variant.precision)
        assert path == folder / variant.file
        assert (path.stat().st_size, sha256(path)) == (variant.size_bytes, variant.sha256)
        assert (variant.runtime, variant.refused) == (ort.__version__, "")
        assert variant.verification is not None
        assert (variant.verification.genuine_pairs, variant.verification.impostor_pairs) == (24, 24)
        assert variant.verification.variant >= variant.verification.original > 0.9
        if variant.network == "detector.onnx":
            assert isinstance(variant.parity, DetectorParity)
            assert (variant.parity.faces, variant.parity.matched_share) == (12, 1)
        else:
            assert isinstance(variant.parity, EmbedderParity)
            assert 0.99 < variant.parity.median_cosine <= 1.000001
    assert "embedder.onnx int8:" in capsys.readouterr().out


def test_a_variant_under_its_bar_is_refused_deleted_and_never_used(
    toy: InstalledPack, people: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["optimise", str(toy.weights / "toy.toml"), "--images", str(people), "--variant", "int8"]
    assert main(command) == 0
    folder = toy.weights / "optimised"
    before = {path.name for path in folder.glob("*.onnx")}
    monkeypatch.setitem(optimise.BARS, "int8", replace(optimise.BARS["int8"], median_cosine=1.1))
    assert main(command) == 1
    (kept,) = folder.glob("*.onnx")
    assert kept.name in before
    assert kept.name.startswith("detector-"), "the detector passed and stays"
    assert variant_of(folder, "embedder.onnx", toy.manifest.files["embedder.onnx"], "int8") is None
    assert "embedder.onnx int8: refused, because the median cosine is" in capsys.readouterr().out
    (refused,) = [variant for variant in read_report(folder).variants if variant.refused]
    assert (refused.file, refused.network) == ("", "embedder.onnx")
    assert "less than 1.1" in refused.refused


def test_variants_that_take_people_for_others_are_refused_together(
    toy: InstalledPack, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossless = replace(optimise.BARS["int8"], accuracy_loss=-0.01)
    monkeypatch.setitem(optimise.BARS, "int8", lossless)
    made = Optimiser(toy, choose_samples([people]), toy.weights / "optimised").make("int8")
    assert [variant.file for variant in made] == ["", ""]
    assert all("verification accuracy is" in variant.refused for variant in made)
    assert not list((toy.weights / "optimised").glob("*.onnx"))


def test_a_slower_int8_variant_is_refused(toy: InstalledPack, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optimise.BARS, "int8", replace(optimise.BARS["int8"], speed=1000))
    made = Optimiser(toy, choose_samples([people]), toy.weights / "optimised").make("int8")
    assert all("its speed over the original's is" in variant.refused for variant in made)


def test_without_a_folder_a_person_there_is_no_verification(toy: InstalledPack, people: Path) -> None:
    made = Optimiser(toy, choose_samples([people / "person_0"]), toy.weights / "optimised").make("optimised")
    assert [(variant.verification, variant.refused) for variant in made] == [(None, "")] * 2


def test_making_one_precision_again_leaves_the_others_in_place(toy: InstalledPack, people: Path) -> None:
    folder = toy.weights / "optimised"
    optimiser = Optimiser(toy, choose_samples([people]), folder)
    optimiser.make("fp16")
    optimiser.make("optimised")
    optimiser.make("optimised")
    assert len(read_report(folder).variants) == 4
    assert len(list(folder.glob("*.onnx"))) == 4
    assert json.loads((folder / "report.json").read_text("utf-8"))["version"] == 1


def test_half_precision_keeps_float32_at_both_ends_and_halves_the_weights(toy: InstalledPack) -> None:
    half = optimise.half_precision(toy.weights / "embedder.onnx")
    ends = [*half.graph.input, *half.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}
    assert {constant.data_type for constant in half.graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_made(
    toy: InstalledPack, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (people / "file").write_text("where a folder should be", "utf-8")
    command = ["optimise", str(toy.weights / "toy.toml"), "--images", str(people), "--output", str(people / "file")]
    assert main(command) == BadModelPack.exit_code
    streams = capsys.readouterr()
    assert "Name a writable folder with --output" in streams.err
    assert "making" not in streams.out


def test_too_few_photos_are_a_wrong_setting(toy: InstalledPack, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = ["optimise", str(toy.weights / "toy.toml"), "--images", str(tmp_path / "empty")]
    assert main(command) == BadConfiguration.exit_code


def test_engines_are_refused_in_a_sentence_where_there_is_no_tensorrt(
    toy: InstalledPack, people: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    command = ["optimise", str(toy.weights / "toy.toml"), "--images", str(people), "--variant", "tensorrt"]
    assert main(command) == 1
    assert "toy tensorrt: refused, because this build of ONNX Runtime has no TensorRT" in capsys.readouterr().out


def test_an_engine_is_built_for_every_shape_that_detector_and_embedder_give_it(toy: InstalledPack) -> None:
    detector, embedder = (profile_of(toy.manifest, name) for name in ("detector.onnx", "embedder.onnx"))
    assert (detector.least, detector.most) == ((1, 3, 32, 32), (32, 3, 1280, 1280))
    assert detector.usual == (4, 3, 96, 128)
    assert (embedder.least, embedder.most) == ((1, 3, 16, 16), (32, 3, 16, 16))


# --- real networks ---


def test_int8_variants_of_scrfd_and_mobilefacenet_see_and_embed_as_the_originals_do(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.packs.samples.CALIBRATION_PHOTOS", 6)
    monkeypatch.setattr("app.packs.samples.PARITY_PHOTOS", 6)
    monkeypatch.setattr("app.packs.quantise.PROBES", 4)
    installed = PackStore(Path("models")).install("tests/packs/shared-insightface.toml")
    made = Optimiser(installed, choose_samples([shared_dir / "album"]), tmp_path).make("int8")
    by_network = {variant.network: variant for variant in made}
    detector, embedder = by_network["scrfd_2.5g_bnkps.onnx"].parity, by_network["mobilefacenet_128.onnx"].parity
    assert isinstance(detector, DetectorParity)
    assert isinstance(embedder, EmbedderParity)
    assert detector.faces >= 6
    assert detector.median_iou > 0.95
    assert embedder.median_cosine > 0.98
    assert all(variant.size_bytes < 0.6 * variant.source_size_bytes for variant in made)
