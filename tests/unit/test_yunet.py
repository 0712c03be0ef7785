import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from app.core.errors import BadModelPack
from app.packs.manifest import YunetConfig
from app.packs.store import InstalledPack
from app.vision.face_pack import load_pack
from app.vision.turned import RotationInvariantDetector
from app.vision.yunet import OUTPUTS, STRIDES, YunetDetector, open_yunet
from tests import photos
from tests.toy_networks import DIMENSION, SIDE_PX, toy_detector, toy_embedder, toy_yunet
from tests.toy_pack import toy_manifest

CONFIG = YunetConfig(kind="yunet", file="toy.onnx", input_sizes_px=(64,), closer_look_px=0)


@dataclass(frozen=True)
class Hit:
    """What the network says at one cell: both scores, the offset of the middle and the logarithms of the sides."""

    stride: int
    row: int
    column: int
    scores: tuple[float, float] = (0.9, 0.9)
    box: tuple[float, float, float, float] = (0.5, 0.25, math.log(2), math.log(4))


class FakeNetwork:
    """Gives the hits in YuNet's outputs, in another order than OpenCV's export, and notes what it was shown."""

    input_names = ("input",)
    output_names = tuple(reversed([name for name, _ in OUTPUTS]))

    def __init__(self, *hits: Hit) -> None:
        self._hits = hits
        self.shown: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        blob = inputs["input"]
        self.shown.append(blob)
        _, _, height, width = blob.shape
        outputs = {
            name: np.zeros((1, (height // int(name.split("_")[1])) * (width // int(name.split("_")[1])), values))
            for name, values in OUTPUTS
        }
        for hit in self._hits:
            at = hit.row * (width // hit.stride) + hit.column
            outputs[f"cls_{hit.stride}"][0, at], outputs[f"obj_{hit.stride}"][0, at] = hit.scores
            outputs[f"bbox_{hit.stride}"][0, at] = hit.box
            outputs[f"kps_{hit.stride}"][0, at] = np.arange(10) / 10
        return [outputs[name].astype(np.float32) for name in self.output_names]


def make_detector(*hits: Hit) -> YunetDetector:
    return YunetDetector(FakeNetwork(*hits), CONFIG)  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    path.write_bytes(toy_yunet().SerializeToString())
    return path


def make_photo(height: int = 96, width: int = 160) -> np.ndarray:
    """(H,W,3) uint8: coloured rectangles, which the toy network takes for faces of all three strides."""
    photo = np.random.default_rng(3).integers(0, 30, (height, width, 3)).astype(np.uint8)
    photo[8:40, 16:48] = 250, 180, 220
    photo[64:80, 96:112] = 200, 250, 180
    photo[72:80, 8:16] = 240
    photo[32:64, 128:160] = 255, 140, 200
    return photo


@pytest.mark.parametrize("stride", STRIDES)
def test_a_cell_gives_the_middle_the_sides_and_the_landmarks_in_strides(stride: int) -> None:
    (found,) = make_detector(Hit(stride, row=1, column=0)).detect([photos.noise(64, 64)])
    middle, reach = np.array([0.5, 1.25]), np.array([1.0, 2.0])
    assert np.allclose(found.boxes, [np.concatenate([middle - reach, middle + reach]) * stride])
    assert np.allclose(found.landmarks[0], (np.array([0, 1]) + np.arange(10).reshape(5, 2) / 10) * stride)


def test_the_score_is_the_geometric_mean_of_both_and_of_scores_beyond_one_is_one() -> None:
    hits = [Hit(8, 0, 0, (0.9, 0.64)), Hit(8, 7, 7, (1.2, 1.0)), Hit(8, 0, 7, (0.6, 0.6)), Hit(8, 7, 0, (1.0, -1.0))]
    (found,) = make_detector(*hits).detect([photos.noise(64, 64)])
    assert found.scores.tolist() == pytest.approx([1.0, math.sqrt(0.9 * 0.64)])


def test_the_network_sees_blue_green_red_from_0_to_255() -> None:
    detector = make_detector()
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    detector.detect([red])
    (shown,) = detector._session.shown  # type: ignore[attr-defined]
    assert shown[0, :, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (70, 150)])
def test_it_finds_what_opencv_finds_with_the_same_network(model: Path, height: int, width: int) -> None:
    """At shapes other than the graph's own. Only OpenCV's decoding is compared: no weights of YuNet are at hand."""
    photo = make_photo(160, 160)[:height, :width]
    config = CONFIG.model_copy(update={"input_sizes_px": (max(height, width),)})
    theirs = cv2.FaceDetectorYN.create(str(model), "", (width, height), config.score_threshold, config.nms_iou)
    _, rows = theirs.detect(np.ascontiguousarray(photo[..., ::-1]))
    (ours,) = open_yunet(model, config, "cpu", 1).detect([photo])
    assert len(ours) == len(rows) > 5
    assert len(set(np.round(ours.scores, 4))) >= 2
    assert np.abs(ours.boxes[:, :2] - rows[:, :2]).max() < 0.01
    assert np.abs(ours.boxes[:, 2:] - ours.boxes[:, :2] - rows[:, 2:4]).max() < 0.01
    assert np.abs(ours.landmarks.reshape(-1, 10) - rows[:, 4:14]).max() < 0.01
    assert np.abs(ours.scores - rows[:, 14]).max() < 1e-5


def test_a_batch_gives_what_single_photos_give(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = open_yunet(model, CONFIG.model_copy(update={"input_sizes_px": (64, 160)}), "cpu", 1)
    batch = [make_photo(), make_photo()[::-1], photos.noise(160, 96), make_photo(64, 160)]
    for together, photo in zip(detector.detect(batch), batch, strict=True):
        (alone,) = detector.detect([photo])
        assert np.array_equal(together.boxes, alone.boxes)
        assert np.array_equal(together.landmarks, alone.landmarks)
    assert "can't be run in batches" not in caplog.text


def test_a_graph_that_mixes_photos_runs_one_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = toy_yunet()
    mixing = onnx.helper.make_node("ReduceMean", ["image"], ["mixed"], axes=[0], keepdims=1)
    for node in graph.graph.node:
        node.input[:] = ["mixed" if name == "image" else name for name in node.input]
    graph.graph.node.insert(0, mixing)
    (tmp_path / "mixing.onnx").write_bytes(graph.SerializeToString())
    detector = open_yunet(tmp_path / "mixing.onnx", CONFIG, "cpu", 1)
    assert "mixing.onnx can't be run in batches; it runs one photo at a time" in caplog.text
    first, second = detector.detect([make_photo(), make_photo()])
    assert len(first) == len(second) >= 1


def test_a_graph_that_is_bound_to_its_own_size_is_refused(tmp_path: Path) -> None:
    graph = toy_yunet()
    for constant in graph.graph.initializer:
        if constant.name == "rows_4":
            constant.raw_data = np.array([1, 96, 4], np.int64).tobytes()
    (tmp_path / "bound.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(BadModelPack, match=r"bound\.onnx can't be run at other sizes than its own; use face_detection"):
        open_yunet(tmp_path / "bound.onnx", CONFIG, "cpu", 1)


def test_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scrfd.onnx").write_bytes(toy_detector().SerializeToString())
    with pytest.raises(BadModelPack, match=r"scrfd\.onnx is no YuNet detector: it lacks the outputs cls_8, cls_16"):
        open_yunet(tmp_path / "scrfd.onnx", CONFIG, "cpu", 1)


def test_a_pack_with_yunet_detects_upright_faces_and_searches_rotated_ones(model: Path, tmp_path: Path) -> None:
    (tmp_path / "embedder.onnx").write_bytes(toy_embedder().SerializeToString())
    manifest = toy_manifest(
        files={"toy.onnx": "0" * 64, "embedder.onnx": "1" * 64},
        detector={"kind": "yunet", "file": "toy.onnx"},
        embedder={"file": "embedder.onnx", "dimension": DIMENSION, "input_size_px": SIDE_PX},
    )
    pack = load_pack(InstalledPack(manifest, tmp_path), "cpu", 1)
    assert isinstance(pack._detector, RotationInvariantDetector)
    assert isinstance(pack._detector.upright, YunetDetector)
    (found,) = pack.detect([make_photo()])
    (upright,) = pack._detector.upright.detect([make_photo()])
    assert len(found) >= len(upright) >= 1
    assert pack.embed([pack.cut_chips(make_photo(), found.landmarks)])[0].shape == (len(found), DIMENSION)
