"""MTCNN with the networks of the pack open-1, and the suppression it shares with SCRFD."""

import csv
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from app.core.arrays import Image
from app.packs.manifest import MtcnnConfig as MtcnnConfig
from app.packs.manifest import read_manifest
from app.packs.open_pack.build import build
from app.vision.mtcnn import MtcnnDetector
from app.vision.nms import OverlapMode, nms
from app.vision.sessions import open_session
from app.vision.types import Detections

ROOT = Path(__file__).parents[2]
ALBUM = ROOT.parent / "shared" / "album"
# Of the astronaut, read off her photo by eye: left eye, right eye, tip of the nose, left and right corner of the mouth.
LANDMARKS = np.array([(203, 101), (246, 102), (226, 126), (203, 140), (244, 141)])


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> MtcnnDetector:
    config = read_manifest(ROOT / "models" / "open-1.toml").detector
    assert isinstance(config, MtcnnConfig)
    weights = tmp_path_factory.mktemp("open-1")
    build(weights)
    networks = (open_session(weights / name, "cpu", 2) for name in (config.pnet, config.rnet, config.onet))
    return MtcnnDetector(*networks, config)


@pytest.fixture(scope="module")
def astronaut() -> Image:
    """A NASA portrait, in the public domain, with one face."""
    return np.ascontiguousarray(skimage.data.astronaut())


def assert_is_the_astronaut(found: Detections, scale: float = 1) -> None:
    """One face, its landmarks within 6 px of where the eye sees them and its box around forehead and chin."""
    assert len(found) == 1
    assert np.abs(found.landmarks[0] / scale - LANDMARKS).max() < 6
    low, high = (165, 45, 250, 155), (200, 85, 285, 195)
    assert ((low < found.boxes[0] / scale) & (found.boxes[0] / scale < high)).all()


def test_finds_the_face_of_the_astronaut(detector: MtcnnDetector, astronaut: Image) -> None:
    found = detector.detect([astronaut])[0]

    assert_is_the_astronaut(found)
    assert (found.boxes.dtype, found.landmarks.dtype, found.scores.dtype) == (np.float32,) * 3
    assert found.scores[0] > 0.99


@pytest.mark.parametrize("scale", [0.25, 0.5, 3])
def test_coordinates_are_pixels_of_the_photo_at_every_size(
    detector: MtcnnDetector, astronaut: Image, scale: float
) -> None:
    resized = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    assert_is_the_astronaut(detector.detect([resized])[0], scale)


def test_a_mirrored_photo_has_left_and_right_as_the_viewer_sees_them(detector: MtcnnDetector, astronaut: Image) -> None:
    left_eye, right_eye, nose, left_mouth, right_mouth = detector.detect([astronaut[:, ::-1]])[0].landmarks[0]

    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_a_face_that_fills_the_frame_is_detected(detector: MtcnnDetector, astronaut: Image) -> None:
    close_up = astronaut[62:176, 176:276]

    found = detector.detect([close_up])[0]

    assert len(found) == 1
    assert np.abs(found.landmarks[0] + (176, 62) - LANDMARKS).max() < 6


def test_faces_come_best_first_and_the_same_every_time(detector: MtcnnDetector, astronaut: Image) -> None:
    small = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    page = np.concatenate([cv2.resize(small, (512, 512)), astronaut], axis=1)

    first, second = detector.detect([page])[0], detector.detect([page])[0]

    assert len(first) == 2
    assert first.scores[0] >= first.scores[1]
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_a_crowd_larger_than_one_run_of_patches_is_detected_whole(detector: MtcnnDetector, astronaut: Image) -> None:
    face = cv2.resize(astronaut[30:230, 120:320], (48, 48), interpolation=cv2.INTER_AREA)
    crowd = np.tile(face, (20, 20, 1))

    assert len(detector.detect([crowd])[0]) == 400


@pytest.mark.parametrize("level", [0, 127, 255])
def test_an_empty_photo_has_no_faces(detector: MtcnnDetector, level: int) -> None:
    assert len(detector.detect([np.full((480, 640, 3), level, np.uint8)])[0]) == 0


@pytest.mark.parametrize("size", [(1, 1), (11, 11), (12, 12), (20, 20), (10, 5000), (5000, 10), (5000, 40)])
def test_a_tiny_or_thin_photo_has_no_faces(detector: MtcnnDetector, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    found = detector.detect([noise])[0]

    assert (found.boxes.shape, found.landmarks.shape, found.scores.shape) == ((0, 4), (0, 5, 2), (0,))


@pytest.mark.skipif(not ALBUM.is_dir(), reason=f"the labelled album is not at {ALBUM}")
def test_all_labelled_faces_of_the_album_are_detected_with_at_most_one_false_one(detector: MtcnnDetector) -> None:
    labels = defaultdict(list)
    with (ALBUM / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            labels[row["photo"]].append((float(row["face_center_x_px"]), float(row["face_center_y_px"])))
    missed, false_faces = [], []
    for photo, centres in labels.items():
        boxes = detector.detect([cv2.imread(str(ALBUM / photo))[..., ::-1]])[0].boxes.tolist()
        for x, y in centres:
            around = [box for box in boxes if box[0] <= x <= box[2] and box[1] <= y <= box[3]]
            if around:
                boxes.remove(around[0])
            else:
                missed.append((photo, x, y))
        false_faces += [(photo, box) for box in boxes]

    assert sum(map(len, labels.values())) == 36
    assert not missed
    assert len(false_faces) <= 1, false_faces


def kept(
    boxes: list[tuple[float, ...]], scores: list[float], iou: float = 0.5, mode: OverlapMode = "union"
) -> list[int]:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return nms(array, np.array(scores, np.float32), iou, mode=mode).tolist()


def test_suppression_keeps_the_best_of_boxes_that_overlap_best_first() -> None:
    assert kept([(0, 0, 10, 10), (50, 50, 60, 60), (1, 0, 11, 10)], [0.7, 0.8, 0.9]) == [2, 1]


def test_of_equal_scores_the_earlier_box_stays() -> None:
    assert kept([(0, 0, 10, 10), (1, 0, 11, 10), (0, 1, 10, 11)], [0.9, 0.9, 0.9]) == [0]


def test_an_overlap_of_exactly_the_limit_is_kept() -> None:
    assert kept([(0, 0, 10, 10), (0, 0, 10, 5)], [0.9, 0.8], iou=0.5) == [0, 1]
    assert kept([(0, 0, 10, 10), (0, 0, 10, 6)], [0.9, 0.8], iou=0.5) == [0]


def test_a_suppressed_box_suppresses_nothing() -> None:
    assert kept([(0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10)], [0.9, 0.8, 0.7], iou=0.3) == [0, 2]


def test_a_box_inside_another_goes_only_by_the_smaller_area() -> None:
    nested = [(0.0, 0.0, 100.0, 100.0), (40.0, 40.0, 60.0, 60.0)]

    assert kept(nested, [0.9, 0.8], mode="union") == [0, 1]
    assert kept(nested, [0.9, 0.8], mode="min") == [0]


def test_no_boxes_and_boxes_without_area_are_no_trouble() -> None:
    assert kept([], []) == []
    assert kept([(5, 5, 5, 5), (5, 5, 5, 5), (9, 9, 0, 0)], [0.9, 0.8, 0.7]) == [0, 1, 2]
