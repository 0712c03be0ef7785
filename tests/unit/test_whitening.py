"""Whitening: its formula, what it does to look-alikes, its file, and the command that learns it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.core.arrays import Floats
from app.core.errors import BadConfiguration, BadModelPack
from app.packs.manifest import read_manifest
from app.packs.store import InstalledPack, PackStore
from app.vision.face_pack import load_pack
from app.vision.whitening import WhitenedPart, Whitening, read_whitening
from tests.toy_networks import DIMENSION, SIDE_PX, write_toy_pack, write_toy_people
from workshop.__main__ import main
from workshop.crowd import fit_whitening, write_whitening

CROWD = "a crowd of numbers"


def strangers(count: int = 400, dimension: int = 16, seed: int = 0) -> Floats:
    """Vectors that all share one direction, and differ ten times more in the next one than in the others."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, dimension)) * np.r_[0.1, 10, np.ones(dimension - 2)]
    vectors[:, 0] += 30
    return vectors.astype(np.float32)


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def median_similarity(embeddings: Floats) -> float:
    return float(np.median((embeddings @ embeddings.T)[np.triu_indices(len(embeddings), 1)]))


def test_whitened_vectors_follow_the_formula() -> None:
    vectors = strangers()
    whitening = fit_whitening(vectors, (16,), CROWD, exponent=0.25, components=4)
    centred = unit(vectors) - unit(vectors).mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    eigenvalues = singular[:4] ** 2 / (len(vectors) - 1)
    expected = unit((centred @ directions[:4].T) * eigenvalues**-0.25)
    # A direction and its opposite are the same component: only similarities are compared.
    assert np.allclose(whitening.whiten(vectors) @ whitening.whiten(vectors).T, expected @ expected.T, atol=1e-3)


def test_strangers_who_look_alike_are_told_apart_though_the_crowd_did_not_have_them() -> None:
    whitening = fit_whitening(strangers(), (16,), CROWD, components=16)
    others = strangers(100, seed=1)
    assert median_similarity(unit(others)) > 0.8
    assert abs(median_similarity(whitening.whiten(others))) < 0.1


def test_the_length_of_a_vector_does_not_matter() -> None:
    whitening = fit_whitening(strangers(), (16,), CROWD, components=8)
    assert np.allclose(whitening.whiten(strangers()), whitening.whiten(7 * strangers()), atol=1e-5)
    assert np.allclose(np.linalg.norm(whitening.whiten(strangers()), axis=1), 1, atol=1e-5)
    assert whitening.whiten(np.empty((0, 16), np.float32)).shape == (0, 8)


def test_each_part_has_the_same_weight_whatever_its_scale() -> None:
    first, second = strangers(seed=1), 1000 * strangers(seed=2)
    both = fit_whitening(np.hstack([first, second]), (16, 16), CROWD, components=8)
    alone = [fit_whitening(part, (16,), CROWD, components=8).whiten(part) for part in (first, second)]
    expected = (alone[0] @ alone[0].T + alone[1] @ alone[1].T) / 2
    whitened = both.whiten(np.hstack([first, second]))
    assert (both.dimension, whitened.shape) == (16, (400, 16))
    assert np.allclose(whitened @ whitened.T, expected, atol=1e-3)


def test_too_small_a_crowd_is_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"has 79 faces; 8 components need 80"):
        fit_whitening(strangers(79), (16,), CROWD, components=8)


def test_a_file_is_read_as_it_was_written_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    whitening = fit_whitening(strangers(), (10, 6), CROWD, components=4)
    for name in ("one.npz", "two.npz"):
        write_whitening(whitening, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    read = read_whitening(tmp_path / "one.npz", 16)
    assert (read.crowd, read.dimension) == (CROWD, 8)
    assert np.array_equal(read.whiten(strangers()), whitening.whiten(strangers()))


def test_a_file_for_other_vectors_is_refused(tmp_path: Path) -> None:
    part = WhitenedPart(np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    write_whitening(Whitening([part], CROWD), tmp_path / "one.npz")
    with pytest.raises(BadModelPack, match=r"not for vectors of 4 numbers.*workshop crowd"):
        read_whitening(tmp_path / "one.npz", 4)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The manifest of a pack of real graphs."""
    return write_toy_pack(tmp_path / "toy")[1]


def learn(toy: Path, tmp_path: Path) -> int:
    people = tmp_path / "people"
    if not people.is_dir():
        write_toy_people(people, photos_each=8)
    return main(["crowd", str(toy), "--images", str(people), "--crowd", CROWD, "--components", "3"])


def test_the_command_writes_a_file_beside_the_manifest_and_its_hash_into_it(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_manifest(toy)
    assert learn(toy, tmp_path) == 0
    assert "3 numbers a face" in capsys.readouterr().out
    manifest = read_manifest(toy)
    assert manifest.embedder.whitening == "toy.crowd.npz"
    assert manifest.model_id != before.model_id
    pack = load_pack(PackStore(tmp_path).install(str(toy)), "cpu", 1)
    chips = np.random.default_rng(0).integers(0, 256, (5, SIDE_PX, SIDE_PX, 3), np.uint8)
    (vectors,), (embeddings,) = pack.compute_vectors([chips]), pack.embed([chips])
    whitening = read_whitening(toy.with_name("toy.crowd.npz"), DIMENSION)
    assert (pack.dimension, whitening.crowd) == (3, CROWD)
    assert np.allclose(embeddings, whitening.whiten(vectors), atol=1e-6)


def test_learned_again_from_the_same_pictures_it_is_the_same(toy: Path, tmp_path: Path) -> None:
    learn(toy, tmp_path)
    first = read_manifest(toy).model_id
    learn(toy, tmp_path)
    assert read_manifest(toy).model_id == first


def test_a_whitening_that_is_missing_or_damaged_stops_the_pack(toy: Path, tmp_path: Path) -> None:
    learn(toy, tmp_path)
    file = toy.with_name("toy.crowd.npz")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(BadModelPack, match=r"toy\.crowd\.npz of the pack has sha256"):
        PackStore(tmp_path).install(str(toy))
    file.unlink()
    with pytest.raises(BadModelPack, match=r"toy\.crowd\.npz of the pack is missing; copy it there"):
        PackStore(tmp_path).install(str(toy))
    assert learn(toy, tmp_path) == 0
    assert file.read_bytes() == content


def test_a_pack_without_a_whitening_says_so(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pack = load_pack(InstalledPack(read_manifest(toy), toy.parent), "cpu", 1)
    assert pack.dimension == DIMENSION
    assert "has no whitening" in caplog.text


def test_weights_are_fetched_without_the_whitening_which_lies_beside_the_manifest(toy: Path, tmp_path: Path) -> None:
    learn(toy, tmp_path)
    weights = {name: (toy.parent / name).read_bytes() for name in read_manifest(toy).weight_files}
    text = (
        toy.read_text("utf-8").replace('kind = "directory"', 'kind = "s3"').replace('path = "."', 'path = "s3://b/p"')
    )
    models = tmp_path / "models"
    models.mkdir()
    (models / "toy.toml").write_text(text, "utf-8")
    (models / "toy.crowd.npz").write_bytes(toy.with_name("toy.crowd.npz").read_bytes())
    asked: list[str] = []

    def download(url: str, path: Path) -> None:
        asked.append(url)
        path.write_bytes(weights[path.name])

    installed = replace(PackStore(models), download=download).install("toy")
    assert sorted(asked) == [f"s3://b/p/toy/{name}" for name in ("detector.onnx", "embedder.onnx")]
    assert installed.whitening == models / "toy.crowd.npz"
