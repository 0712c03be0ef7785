from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.packs.manifest import ScrfdDetector as Config
from app.vision.scrfd import ANCHORS, STRIDES, ScrfdDetector, letterbox
from app.vision.sessions import open_session
from tests import photos

CONFIG = Config(kind="scrfd", file="toy.onnx", input_sizes_px=(64,))


@dataclass(frozen=True)
class Hit:
    """What the network says at one anchor: `reach` strides to all four sides, and its score."""

    stride: int
    row: int
    column: int
    score: float
    reach: float = 2.0
    anchor: int = 0


class FakeNetwork:
    """Gives the hits of each input size in SCRFD's nine outputs, and notes what it was shown."""

    input_names = ("input.1",)

    def __init__(self, hits: Mapping[int, list[Hit]]) -> None:
        self._hits = hits
        self.shown: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        blob = inputs["input.1"]
        self.shown.append(blob)
        size_px = blob.shape[-1]
        rows = [(size_px // stride) ** 2 * ANCHORS for stride in STRIDES]
        scores, boxes, points = ([np.zeros((count, width), np.float32) for count in rows] for width in (1, 4, 10))
        for hit in self._hits.get(size_px, []):
            level = STRIDES.index(hit.stride)
            at = (hit.row * (size_px // hit.stride) + hit.column) * ANCHORS + hit.anchor
            scores[level][at] = hit.score
            boxes[level][at] = hit.reach
            points[level][at] = np.arange(10) / 10
        return [*scores, *boxes, *points]


def detector(*hits: Hit, config: Config = CONFIG) -> ScrfdDetector:
    return ScrfdDetector(FakeNetwork({64: list(hits)}), config)


def test_distances_and_offsets_count_from_the_anchor_in_strides() -> None:
    found = detector(Hit(16, row=2, column=1, score=0.9)).detect(photos.noise(64, 64))
    assert found.boxes.tolist() == [[16 - 32, 32 - 32, 16 + 32, 32 + 32]]
    assert np.allclose(found.landmarks[0], np.array([16, 32]) + np.arange(10).reshape(5, 2) / 10 * 16)
    assert found.scores.tolist() == [np.float32(0.9)]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("anchor", [0, 1])
def test_every_stride_and_anchor_is_read_at_its_own_place(stride: int, anchor: int) -> None:
    found = detector(Hit(stride, row=1, column=0, score=0.9, reach=1, anchor=anchor)).detect(photos.noise(64, 64))
    assert found.boxes.tolist() == [[-stride, 0, stride, 2 * stride]]


def test_results_are_in_pixels_of_the_photo_whatever_its_size() -> None:
    found = detector(Hit(16, row=1, column=1, score=0.9, reach=1)).detect(photos.noise(640, 320))
    assert found.boxes.tolist() == [[0, 0, 320, 320]]


def test_what_scores_below_the_threshold_is_no_face() -> None:
    hits = [Hit(8, 0, 0, 0.49), Hit(8, 7, 7, 0.5)]
    assert len(detector(*hits).detect(photos.noise(64, 64))) == 1


def test_of_overlapping_hits_the_best_stays_and_faces_come_best_first() -> None:
    hits = [Hit(8, 1, 1, 0.7), Hit(8, 1, 2, 0.8, reach=2.2), Hit(16, 3, 3, 0.95, reach=1)]
    assert detector(*hits).detect(photos.noise(64, 64)).scores.tolist() == pytest.approx([0.95, 0.8])


def test_a_photo_without_faces_gives_none() -> None:
    found = detector().detect(photos.noise(64, 64))
    assert (found.boxes.shape, found.landmarks.shape, found.scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_looks_at_several_sizes_are_merged_into_one_result() -> None:
    network = FakeNetwork(
        {
            64: [Hit(32, 1, 1, 0.9, reach=1), Hit(8, 1, 1, 0.6, reach=1)],
            128: [Hit(32, 2, 2, 0.8, reach=2), Hit(8, 14, 14, 0.7, reach=1)],
        }
    )
    found = ScrfdDetector(network, CONFIG.model_copy(update={"input_sizes_px": (64, 128)})).detect(
        photos.noise(128, 128)
    )
    assert [blob.shape for blob in network.shown] == [(1, 3, 64, 64), (1, 3, 128, 128)]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found.boxes[0].tolist() == [0, 0, 128, 128]


def test_the_network_sees_rgb_normalised_as_insightface_does() -> None:
    network = FakeNetwork({})
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    ScrfdDetector(network, CONFIG).detect(red)
    channels = network.shown[0][0, :, 0, 0]
    assert channels.tolist() == [127.5 / 128, -127.5 / 128, -127.5 / 128]


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [(64, 64, (32, 32)), (64, 32, (32, 16)), (32, 64, (16, 32)), (16, 16, (32, 32)), (5000, 1, (32, 1))],
)
def test_a_letterbox_shows_the_whole_photo_at_the_top_left_and_black_beyond(
    width: int, height: int, shown: tuple[int, int]
) -> None:
    canvas, scale = letterbox(np.full((height, width, 3), 200, np.uint8), 32)
    assert canvas.shape == (32, 32, 3)
    assert (canvas[: shown[1], : shown[0]] == 200).all()
    assert not canvas[shown[1] :].any()
    assert not canvas[:, shown[0] :].any()
    assert scale == pytest.approx((shown[0] / width, shown[1] / height))


@pytest.mark.parametrize(
    ("name", "size_px"),
    [("photo_01.jpg", 128), ("photo_01.jpg", 640), ("photo_05.jpg", 128), ("photo_08.jpg", 640)],
)
def test_it_finds_what_insightface_finds_with_the_same_network(shared_dir: Path, name: str, size_px: int) -> None:
    from insightface.model_zoo.scrfd import SCRFD

    model = shared_dir / "models" / "scrfd_2.5g_bnkps.onnx"
    bgr = cv2.imread(str(shared_dir / "album" / name))
    theirs = SCRFD(str(model))
    theirs.prepare(-1, input_size=(size_px, size_px), det_thresh=0.5, nms_thresh=0.4)
    boxes, landmarks = theirs.detect(bgr)

    config = Config(kind="scrfd", file=model.name, input_sizes_px=(size_px,))
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    ours = ScrfdDetector(open_session(model, "cpu"), config).detect(rgb)
    # Compared in pixels of the network's input: on the way back insightface divides a landscape photo by the scale
    # of its shorter side, which is rounded down to whole pixels.
    _, our_scale = letterbox(rgb, size_px)
    height, width = rgb.shape[:2]
    their_scale = int(size_px * min(1, height / width)) / height
    assert len(ours) == len(boxes) >= 1
    assert np.abs(ours.boxes.reshape(-1, 2, 2) * our_scale - boxes[:, :4].reshape(-1, 2, 2) * their_scale).max() < 0.01
    assert np.abs(ours.landmarks * our_scale - landmarks * their_scale).max() < 0.01
    assert np.abs(ours.scores - boxes[:, 4]).max() < 1e-5
