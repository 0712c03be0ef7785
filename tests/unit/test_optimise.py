"""Variants of networks: made from what photos feed them, measured, and kept only where they pass their bars."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from app.core.errors import BadConfiguration, BadModelPack
from app.packs.__main__ import main as packs
from app.packs.store import InstalledPack, PackStore, compute_sha256
from app.packs.variants import FOLDER, VARIANT_PRECISIONS, DetectorParity, EmbedderParity, find_variant, read_report
from app.vision.align import align_faces
from app.vision.face_pack import load_pack
from app.vision.light import brighten
from app.vision.one_stage import make_letterbox
from app.vision.scrfd import MEAN, SCALE
from app.vision.sessions import GpuOptions, make_blob
from app.vision.tensorrt import choose_profile
from tests.toy_networks import COLOURS, toy_photo, write_toy_pack, write_toy_people
from workshop import optimise
from workshop.__main__ import main
from workshop.networks import WatchedPack, open_on_cpu
from workshop.optimise import BARS, Optimiser
from workshop.samples import choose_samples, read_images


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
    return WatchedPack(pack, {name: open_on_cpu(pack.weights / name) for name in pack.manifest.files})


# --- what calibration is fed with ---


def test_calibration_feeds_the_detector_with_letterboxed_photos_at_every_size(toy: InstalledPack) -> None:
    photo = toy_photo(3)
    fed = list(watched(toy).record_inputs("detector.onnx", iter([lambda pack: pack.detect([photo])])))
    expected = [make_blob(make_letterbox(photo, size_px)[0][None], MEAN, SCALE) for size_px in (64, 128)]
    assert len(fed) == 2
    for inputs, blob in zip(fed, expected, strict=True):
        assert np.array_equal(inputs["image"], blob)


def test_calibration_feeds_the_embedder_with_aligned_chips(toy: InstalledPack, people: Path) -> None:
    samples = choose_samples([people])
    fed = [inputs["image"] for inputs in Optimiser(toy, samples, people / "out")._record_inputs("embedder.onnx")]
    assert len(fed) == len(samples.calibration) == 12
    pack, config = watched(toy).pack, toy.manifest.embedder
    photo = next(iter(read_images(samples.calibration, pack.view_px)))[1]
    chips = brighten(align_faces(photo, pack.detect([photo])[0].landmarks, config.alignment, config.input_size_px))
    assert np.array_equal(fed[0], make_blob(chips, config.mean, config.scale))


# --- the command ---


def test_every_variant_is_made_measured_and_used(
    toy: InstalledPack, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimise", str(toy.weights / "toy.toml"), "--images", str(people)]) == 0
    folder = toy.weights / "optimised"
    report = read_report(folder)
    assert {(variant.network, variant.precision) for variant in report.variants} == {
        (name, precision) for name in toy.manifest.files for precision in VARIANT_PRECISIONS
    }
    for variant in report.variants:
        path = find_variant(folder, variant.network, toy.manifest.files[variant.network], variant.precision)
        assert path == folder / variant.file
        assert (path.stat().st_size, compute_sha256(path)) == (variant.size_bytes, variant.sha256)
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


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_pack_of_variants_takes_several_photos_at_once(
    precision: Any, toy: InstalledPack, people: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Optimiser(toy, choose_samples([people]), toy.weights / FOLDER).make(precision)
    photos = [toy_photo(seed, COLOURS[seed % 4]) for seed in range(3)]
    original, pack = (load_pack(toy, "cpu", 1, kind) for kind in ("fp32", precision))
    found = pack.detect(photos)
    for photo, together, theirs in zip(photos, found, original.detect(photos), strict=True):
        assert np.array_equal(pack.detect([photo])[0].boxes, together.boxes)
        assert np.abs(together.boxes - theirs.boxes).max() < 1
    # Other tests of this process may have left the level at INFO.
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not warnings, "a variant was not used, or can't be run in batches"
    assert pack.model_id == original.model_id


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
    assert find_variant(folder, "embedder.onnx", toy.manifest.files["embedder.onnx"], "int8") is None
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
    half = optimise.convert_to_half(toy.weights / "embedder.onnx")
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
    toy: InstalledPack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    command = ["engines", str(toy.weights / "toy.toml")]
    assert packs(command) == 1
    assert "toy tensorrt: refused, because this build of ONNX Runtime has no TensorRT" in capsys.readouterr().out


def test_each_network_runs_at_its_least_and_usual_shape_with_the_cache_that_workers_read(
    toy: InstalledPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, GpuOptions]] = []
    shapes: list[tuple[int, ...]] = []

    def open_session(_: bytes, provider: str, *, gpu: GpuOptions) -> Any:
        opened.append((provider, gpu))
        return SimpleNamespace(run=lambda inputs: shapes.extend(blob.shape for blob in inputs.values()))

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr("app.vision.tensorrt.open_session", open_session)
    command = ["engines", str(toy.weights / "toy.toml")]
    assert packs(command) == 0
    cache = toy.weights / FOLDER / "tensorrt"
    assert cache.is_dir()
    profiles = [choose_profile(toy.manifest, name) for name in ("detector.onnx", "embedder.onnx")]
    assert opened == [("tensorrt", GpuOptions(engine_cache=cache, profiles={"image": each})) for each in profiles]
    assert shapes == [shape for each in profiles for shape in (each.least, each.usual)]


def test_an_engine_is_built_for_every_shape_that_detector_and_embedder_give_it(toy: InstalledPack) -> None:
    detector, embedder = (choose_profile(toy.manifest, name) for name in ("detector.onnx", "embedder.onnx"))
    assert (detector.least, detector.most) == ((1, 3, 32, 32), (32, 3, 1280, 1280))
    assert detector.usual == (4, 3, 96, 128)
    assert (embedder.least, embedder.most) == ((1, 3, 16, 16), (32, 3, 16, 16))


# --- real networks ---


@pytest.mark.slow
def test_int8_variants_of_scrfd_and_mobilefacenet_see_and_embed_as_the_originals_do(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workshop.samples.CALIBRATION_PHOTOS", 6)
    monkeypatch.setattr("workshop.samples.PARITY_PHOTOS", 6)
    monkeypatch.setattr("workshop.quantise.PROBES", 4)
    packs = Path(__file__).parents[1] / "packs"
    installed = PackStore(packs).install(str(packs / "shared-insightface.toml"))
    made = Optimiser(installed, choose_samples([shared_dir / "album"]), tmp_path).make("int8")
    by_network = {variant.network: variant for variant in made}
    detector, embedder = by_network["scrfd_2.5g_bnkps.onnx"].parity, by_network["mobilefacenet_128.onnx"].parity
    assert isinstance(detector, DetectorParity)
    assert isinstance(embedder, EmbedderParity)
    assert detector.faces >= 6
    assert detector.median_iou > 0.95
    assert embedder.median_cosine > 0.98
    assert all(variant.size_bytes < 0.6 * variant.source_size_bytes for variant in made)
