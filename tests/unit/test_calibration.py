"""Calibration: its rates against pairs counted by hand, its rule, the manifest it writes, and the command."""

import shutil
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.clustering.full import cluster
from app.core.arrays import Floats
from app.core.errors import BadConfiguration, BadModelPack
from app.core.likeness import FindBars
from app.core.thresholds import Threshold
from app.detection.device import Device
from app.packs.manifest import Calibration, read_manifest
from app.vision.face_pack import FacePack
from tests.toy_networks import write_toy_pack, write_toy_people
from tests.toy_pack import ToyDetector, ToyEmbedder, toy_manifest
from workshop import calibration as calibration_module
from workshop.__main__ import main
from workshop.calibration import (
    FEWEST_IMPOSTOR_PAIRS,
    ErrorRates,
    KnownFaces,
    choose_threshold,
    compute_error_rates,
    embed_known_faces,
    write_calibration,
)
from workshop.scores import score_bcubed

MANIFEST = """# What this pack is.
name = "toy"
licence = "for tests"
commercial_use = true
similarity_threshold = 0.5  # by eye

[files]
"d.onnx" = "{sha}"
"e.onnx" = "{sha}"

[detector]
kind = "scrfd"
file = "d.onnx"

[embedder]
file = "e.onnx"
dimension = 128

# Beside it.
[source]
kind = "directory"
path = "."
""".format(sha="0" * 64)


def at_angles(*degrees: float) -> Floats:
    """Unit vectors in the plane: the cosine of two is that of the angle between them."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def calibration(**changes: object) -> Calibration:
    fields = {
        "false_match_rate": 1.5e-05,
        "false_non_match_rate": 0.08,
        "genuine_pairs": 10,
        "impostor_pairs": 200_000,
        "faces": 640,
        "people": 600,
        "collection": "faces",
        "command": "python -m workshop calibrate toy --images faces",
        "date": date(2026, 1, 2),
    }
    return Calibration.model_validate({**fields, **changes})


def test_every_person_and_every_pair_of_people_weighs_the_same() -> None:
    # a: three photos at 0°, 10°, 60°; b: two at 100° and 104°; c: one at 20°.
    rates = compute_error_rates(KnownFaces(at_angles(0, 10, 60, 100, 104, 20), np.array([0, 0, 0, 1, 1, 2])))
    assert (rates.genuine_pairs, rates.impostor_pairs, rates.faces, rates.people) == (4, 11, 6, 3)
    # Above cos 30° are one of a's three pairs and b's only one: missed are (2/3 + 0) / 2.
    false_match, false_non_match = rates.get_rates_at(np.cos(np.radians(30)))
    assert false_non_match == pytest.approx(1 / 3)
    # Of a and c's three pairs two are above it, of a and b's six none, of b and c's two none.
    assert false_match == pytest.approx((2 / 3 + 0 + 0) / 3)


def test_the_rates_run_from_everybody_matches_to_nobody_does() -> None:
    rates = compute_error_rates(KnownFaces(at_angles(0, 50, 90, 180), np.array([0, 0, 1, 1])))
    assert (rates.false_match[0], rates.false_non_match[0]) == (1, 0)
    assert (rates.false_match[-1], rates.false_non_match[-1]) == (0, 1)
    assert (np.diff(rates.false_match) <= 0).all()
    assert (np.diff(rates.false_non_match) >= 0).all()


def test_blocks_of_rows_count_every_pair_once() -> None:
    people = np.arange(700) % 300
    embeddings = at_angles(*np.random.default_rng(0).uniform(0, 180, 700))
    rates = compute_error_rates(KnownFaces(embeddings, people))
    genuine = int((people[:, None] == people[None]).sum() - 700) // 2
    assert (rates.genuine_pairs, rates.impostor_pairs) == (genuine, 700 * 699 // 2 - genuine)


def scattered(spread: float, people: int = 60, photos: int = 4, dimension: int = 48) -> KnownFaces:
    """People at random directions, the faces of each about its own: the wider, the less alike."""
    random = np.random.default_rng(0)
    centres = np.repeat(random.normal(size=(people, dimension)), photos, axis=0)
    faces = centres + spread * random.normal(size=centres.shape)
    unit = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    return KnownFaces(unit, np.repeat(np.arange(people), photos))


@pytest.mark.parametrize("spread", [0.4, 0.7])
def test_grouping_at_the_threshold_finds_people_that_had_no_part_in_it(spread: float) -> None:
    fitted, others = scattered(spread), scattered(spread, people=90)
    faces, people = others.embeddings[240:], others.people[240:]
    threshold = choose_threshold(fitted, compute_error_rates(fitted))
    labels = cluster(faces, [str(face) for face in range(len(faces))], threshold)
    assert score_bcubed(people, labels).f > 0.97
    for far_off in (0.15, 0.97):
        labels = cluster(faces, [str(face) for face in range(len(faces))], far_off)
        assert score_bcubed(people, labels).f < 0.9


def test_of_thresholds_that_group_as_well_it_is_the_strictest_that_is_tried() -> None:
    faces = scattered(0.3)
    rates = compute_error_rates(faces)
    threshold = choose_threshold(faces, rates)
    assert rates.get_rates_at(threshold.at_reference)[0] == 0
    assert threshold.at_reference > rates.find_least(1e-3) + 0.01


def test_the_rise_is_three_tenths_of_the_tail_of_a_tenth_as_many_pairs() -> None:
    # From 0.4 to 0.6 false pairs become a hundred times rarer.
    rates = ErrorRates(np.array([0.2, 0.4, 0.6]), np.zeros(3), np.array([1e-2, 1e-3, 1e-5]), 1, 1, 2, 2)
    assert calibration_module._measure_rise(rates) == pytest.approx(0.2 / 2 * 0.3, abs=1e-3)


def test_events_have_people_of_several_photos_and_no_more_of_each_than_a_dozen() -> None:
    people = np.repeat(np.arange(70), [1] * 5 + [20] * 65)
    events = list(calibration_module._draw_events(people))
    assert [len(np.unique(people[event[0]])) for event in events] == [20, 60]
    assert all((np.unique(people[rows], return_counts=True)[1] == 12).all() for event in events for rows in event)
    assert not np.isin(people[events[1][0]], range(5)).any()


def test_a_rate_is_kept_by_the_least_threshold_that_keeps_it() -> None:
    rates = ErrorRates(np.array([0.2, 0.4, 0.6]), np.zeros(3), np.array([1e-2, 1e-3, 0.0]), 1, 1, 2, 2)
    assert [rates.find_least(rate) for rate in (1, 1e-2, 5e-3, 1e-3, 1e-9)] == [0.2, 0.2, 0.4, 0.4, 0.6]


def test_a_manifest_keeps_its_comments_and_gains_the_threshold_and_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(MANIFEST, "utf-8")
    write_calibration(path, Threshold(0.487, 0.02), FindBars(Threshold(0.3, 0.06), 0.2), calibration())
    text = path.read_text("utf-8")
    assert "# What this pack is." in text
    assert "similarity_threshold = 0.487  # by eye" in text
    assert "# Beside it.\n[source]" in text
    manifest = read_manifest(path)
    assert (manifest.threshold, manifest.find_bars, manifest.calibration) == (
        Threshold(0.487, 0.02),
        FindBars(Threshold(0.3, 0.06), 0.2),
        calibration(),
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy.toml"]


def test_calibrated_again_only_the_new_figures_differ(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(MANIFEST, "utf-8")
    write_calibration(path, Threshold(0.487, 0.02), FindBars(Threshold(0.3, 0.06), 0.2), calibration())
    before = path.read_text("utf-8").splitlines()
    write_calibration(
        path, Threshold(0.487, 0.02), FindBars(Threshold(0.3, 0.06), 0.2), calibration(faces=641, date=date(2026, 1, 3))
    )
    after = path.read_text("utf-8").splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [("faces = 640", "faces = 641"), ("date = 2026-01-02", "date = 2026-01-03")]


def test_what_would_not_be_a_manifest_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(MANIFEST, "utf-8")
    with pytest.raises(BadModelPack, match="similarity_threshold"):
        write_calibration(path, Threshold(1.0), FindBars(Threshold(0.3), 0.2), calibration())
    assert path.read_text("utf-8") == MANIFEST
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy.toml"]


@pytest.fixture
def toy_device() -> Iterator[Device]:
    """A pack that knows pictures again to the pixel, and finds a face in each."""
    manifest = toy_manifest(embedder={"file": "embedder.onnx", "dimension": 64})
    with Device(FacePack(manifest, ToyDetector(), ToyEmbedder(64)), 1, 1, 16) as device:
        yield device


def paint_people(folder: Path, photos: list[int]) -> None:
    """A folder a person with so many photos each, all of one picture."""
    for number, count in enumerate(photos):
        picture = np.random.default_rng(number).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        (folder / f"{number:03}").mkdir(parents=True)
        for photo in range(count):
            cv2.imwrite(str(folder / f"{number:03}" / f"{photo}.png"), picture)


def test_people_who_are_recognised_to_the_pixel_are_told_apart_by_a_threshold_in_between(
    tmp_path: Path, toy_device: Device
) -> None:
    paint_people(tmp_path, [2] * 20 + [1] * 420)
    (tmp_path / "000" / "torn.png").write_bytes(b"no picture")
    faces = embed_known_faces(tmp_path, toy_device)
    rates = compute_error_rates(faces)
    assert (rates.faces, rates.people, rates.genuine_pairs) == (460, 440, 20)
    assert rates.impostor_pairs > FEWEST_IMPOSTOR_PAIRS
    threshold = choose_threshold(faces, rates)
    assert 0.2 < threshold.at_reference < 1
    assert rates.get_rates_at(threshold.at_reference) == (0, 0)


def test_the_command_writes_what_it_measured_and_the_dry_run_only_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than PHOTOS_A_PERSON of each, and fewer pairs than calibration asks for outside of tests: those take minutes.
    monkeypatch.setattr(calibration_module, "FEWEST_IMPOSTOR_PAIRS", 10_000)
    _, manifest = write_toy_pack(tmp_path / "toy")
    faces = write_toy_people(tmp_path / "faces", photos_each=45)
    before = manifest.read_bytes()
    assert main(["calibrate", str(manifest), "--images", str(faces), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert manifest.read_bytes() == before
    assert main(["calibrate", str(manifest), "--images", str(faces)]) == 0
    assert capsys.readouterr().out == said
    written = read_manifest(manifest)
    assert written.calibration is not None
    assert f"toy: similarity_threshold {written.similarity_threshold} (was 0.5), and " in said
    assert written.similarity_threshold != 0.5
    assert (written.calibration.faces, written.calibration.people) == (180, 4)
    assert (written.calibration.false_match_rate, written.calibration.false_non_match_rate) == (0, 0)
    assert written.calibration.command == "python -m workshop calibrate toy.toml --images faces"


def test_too_few_people_are_an_error_before_any_photo_is_analysed(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint_people(tmp_path / "faces", [2, 2, 1])
    manifest = tmp_path / "pack.toml"
    shared = (Path(__file__).parents[1] / "packs" / "shared-insightface.toml").read_text("utf-8")
    manifest.write_text(shared.replace("../../../shared/models", str(shared_dir / "models")), "utf-8")
    shutil.copy(Path(__file__).parents[1] / "packs" / "shared-insightface.crowd.npz", tmp_path)
    before = manifest.read_bytes()
    assert main(["calibrate", str(manifest), "--images", str(tmp_path / "faces")]) == BadConfiguration.exit_code
    assert "5 faces or photos of 3 people, 2 of whom have two or more: 8 pairs" in capsys.readouterr().err
    assert manifest.read_bytes() == before


def test_a_directory_without_a_manifest_has_nowhere_to_write_to(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(shared_dir / "models"), "--images", str(tmp_path)]) == BadModelPack.exit_code
    assert "has no manifest. Write one" in capsys.readouterr().err


def test_the_manifests_that_are_calibrated_say_by_what() -> None:
    root = Path(__file__).parents[2]
    calibrated = [
        path for path in (root / "models").glob("*.toml") if "calibration" in tomllib.loads(path.read_text("utf-8"))
    ]
    assert "open-1.toml" in {path.name for path in calibrated}
    for path in calibrated:
        found = read_manifest(path).calibration
        assert found is not None
        assert found.impostor_pairs >= FEWEST_IMPOSTOR_PAIRS
        assert found.command.startswith("python -m workshop calibrate ")


def test_embeddings_of_known_people_are_written_for_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, manifest = write_toy_pack(tmp_path / "toy")
    people = write_toy_people(tmp_path / "faces", photos_each=2)
    output = tmp_path / "faces.npz"
    assert main(["embed", str(manifest), "--images", str(people), "--output", str(output)]) == 0
    assert "8 faces" in capsys.readouterr().out
    with np.load(output) as stored:
        embeddings, labels, images = stored["embedding"], stored["label"], stored["image"]
    assert [str(image).split("/")[0] for image in images] == labels.tolist()
    same = labels[:, None] == labels[None]
    assert (embeddings @ embeddings.T)[same].min() > (embeddings @ embeddings.T)[~same].max()
    (tmp_path / "empty").mkdir()
    assert main(["embed", str(manifest), "--images", str(tmp_path / "empty"), "--output", str(output)]) == 2
