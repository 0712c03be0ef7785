"""The builder of the pack open-1: the same bytes everywhere, and the same numbers as the networks it converts."""

import hashlib
import json
from pathlib import Path

import cv2
import dlib
import numpy as np
import onnx
import pytest
import skimage.data

from app.core.arrays import Image
from app.core.errors import BadModelPack
from app.packs.manifest import read_manifest
from app.packs.open_pack import build as builder
from app.packs.open_pack.build import build, find_dlib_file
from app.packs.open_pack.dlib_weights import read_dlib_weights
from app.packs.open_pack.onnx_graph import GraphWriter
from app.vision.mtcnn import PIXEL_MEAN, PIXEL_SCALE
from app.vision.sessions import make_blob, open_session

MANIFEST = read_manifest(Path(__file__).parents[2] / "models" / "open-1.toml")
# Made by the package `mtcnn` 1.0.0 under TensorFlow 2.21 from the crops in `astronaut_crops`, six decimals.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "mtcnn_keras.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("open-1")
    build(directory)
    return directory


def astronaut_crops() -> dict[str, Image]:
    """Parts of the photo by plain slicing, so that no resizing stands between them and the golden file."""
    photo = skimage.data.astronaut()
    return {
        "pnet": photo[60:179:7, 170:280:5],
        "rnet": photo[64:184:5, 170:290:5],
        "onet": photo[76:172:2, 176:272:2],
    }


def chips() -> list[Image]:
    """Natural and random (150,150,3) images."""
    photo = skimage.data.astronaut()
    random = np.random.default_rng(0)
    return [
        np.ascontiguousarray(photo[45:195, 150:300]),
        cv2.resize(photo, (150, 150), interpolation=cv2.INTER_AREA),
        np.ascontiguousarray(skimage.data.coffee()[100:250, 200:350]),
        random.integers(0, 256, (150, 150, 3), np.uint8),
        random.integers(100, 140, (150, 150, 3), np.uint8),
    ]


def test_two_builds_are_equal_and_have_the_hashes_in_the_manifest(pack: Path, tmp_path: Path) -> None:
    build(tmp_path)

    def hashes(directory: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}

    assert hashes(pack) == hashes(tmp_path) == MANIFEST.files


def test_every_graph_is_valid_onnx_with_a_free_batch(pack: Path) -> None:
    for path in pack.iterdir():
        onnx.checker.check_model(str(path), full_check=True)
        assert onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize("network", ["pnet", "rnet", "onet"])
def test_mtcnn_gives_what_the_keras_networks_gave(pack: Path, network: str) -> None:
    session = open_session(pack / f"{network}.onnx", "cpu")
    outputs = session.run({"image": make_blob(astronaut_crops()[network][None], PIXEL_MEAN, PIXEL_SCALE)})

    for output, (name, expected) in zip(outputs, GOLDEN[network].items(), strict=True):
        np.testing.assert_allclose(output[0], np.array(expected, np.float32), atol=1e-5, err_msg=name)


def test_embeddings_are_those_of_dlib(pack: Path) -> None:
    reference = dlib.face_recognition_model_v1(str(find_dlib_file()))
    expected = np.array([reference.compute_face_descriptor(chip) for chip in chips()])

    session = open_session(pack / MANIFEST.embedder.file, "cpu")
    blob = make_blob(np.stack(chips()), MANIFEST.embedder.mean, MANIFEST.embedder.scale)

    assert np.abs(session.run({"image": blob})[0] - expected).max() <= 1e-6


def test_a_missing_package_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "find_spec", lambda _: None)

    with pytest.raises(BadModelPack, match=r"`mtcnn`, which is not installed: run `make setup`"):
        build(tmp_path)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"\x01\x05con_4\x01\x07", b"\x01\x04fc_2\x02\x80"])
def test_a_file_that_is_not_dlibs_network_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "other.dat"
    path.write_bytes(damage)

    with pytest.raises(BadModelPack, match="is not dlib's face recognition ResNet"):
        read_dlib_weights(path)


def test_a_truncated_dlib_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.dat"
    path.write_bytes(find_dlib_file().read_bytes()[:-1000])

    with pytest.raises(BadModelPack, match="is not dlib's face recognition ResNet"):
        read_dlib_weights(path)


def test_weights_of_another_network_are_refused() -> None:
    array = np.zeros(1, np.float32)

    with pytest.raises(ValueError, match="fewer arrays than layers"):
        builder.build_pnet([array] * 3)
    with pytest.raises(ValueError, match="1 arrays too many"):
        GraphWriter([array]).make_model("empty", ["N"], {})
