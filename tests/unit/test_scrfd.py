import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from app.packs.manifest import ScrfdConfig as Config
from app.vision.one_stage import GRID_PX, make_letterbox
from app.vision.scrfd import ANCHORS, STRIDES, ScrfdDetector, open_scrfd
from tests import photos

CONFIG = Config(kind="scrfd", file="toy.onnx", input_sizes_px=(64,), closer_look_px=0)


@dataclass(frozen=True)
class Hit:
    """What the network says at one anchor of the batch's `photo`: `reach` strides to all four sides, and its score."""

    stride: int
    row: int
    column: int
    score: float
    reach: float = 2.0
    anchor: int = 0
    photo: int = 0


class FakeNetwork:
    """Gives the hits of each input size in SCRFD's nine outputs, and notes what it was shown."""

    input_names = ("input.1",)

    def __init__(self, hits: Mapping[int, list[Hit]]) -> None:
        self._hits = hits
        self.shown: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        blob = inputs["input.1"]
        self.shown.append(blob)
        count, _, height, width = blob.shape
        cells = [(height // stride, width // stride) for stride in STRIDES]
        # Rows in order of cell, photo, anchor, as the exports' heads give them.
        scores, boxes, points = (
            [np.zeros((h, w, count, ANCHORS, values), np.float32) for h, w in cells] for values in (1, 4, 10)
        )
        for hit in self._hits.get(max(height, width), []):
            level, photo = STRIDES.index(hit.stride), min(hit.photo, count - 1)
            at = (hit.row, hit.column, photo, hit.anchor)
            scores[level][at] = hit.score
            boxes[level][at] = hit.reach
            points[level][at] = np.arange(10) / 10
        return [output.reshape(-1, output.shape[-1]) for output in (*scores, *boxes, *points)]


def detector(*hits: Hit, config: Config = CONFIG) -> ScrfdDetector:
    return ScrfdDetector(FakeNetwork({64: list(hits)}), config)


def test_distances_and_offsets_count_from_the_anchor_in_strides() -> None:
    found = detector(Hit(16, row=2, column=1, score=0.9)).detect([photos.noise(64, 64)])[0]
    assert found.boxes.tolist() == [[16 - 32, 32 - 32, 16 + 32, 32 + 32]]
    assert np.allclose(found.landmarks[0], np.array([16, 32]) + np.arange(10).reshape(5, 2) / 10 * 16)
    assert found.scores.tolist() == [np.float32(0.9)]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("anchor", [0, 1])
def test_every_stride_and_anchor_is_read_at_its_own_place(stride: int, anchor: int) -> None:
    found = detector(Hit(stride, row=1, column=0, score=0.9, reach=1, anchor=anchor)).detect([photos.noise(64, 64)])[0]
    assert found.boxes.tolist() == [[-stride, 0, stride, 2 * stride]]


def test_results_are_in_pixels_of_the_photo_whatever_its_size() -> None:
    found = detector(Hit(16, row=1, column=1, score=0.9, reach=1)).detect([photos.noise(640, 320)])[0]
    assert found.boxes.tolist() == [[0, 0, 320, 320]]


def test_what_scores_below_the_threshold_is_no_face() -> None:
    hits = [Hit(8, 0, 0, 0.49), Hit(8, 7, 7, 0.5)]
    assert len(detector(*hits).detect([photos.noise(64, 64)])[0]) == 1


def test_of_overlapping_hits_the_best_stays_and_faces_come_best_first() -> None:
    hits = [Hit(8, 1, 1, 0.7), Hit(8, 1, 2, 0.8, reach=2.2), Hit(16, 3, 3, 0.95, reach=1)]
    assert detector(*hits).detect([photos.noise(64, 64)])[0].scores.tolist() == pytest.approx([0.95, 0.8])


def test_a_photo_without_faces_gives_none() -> None:
    found = detector().detect([photos.noise(64, 64)])[0]
    assert (found.boxes.shape, found.landmarks.shape, found.scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_passes_at_several_sizes_are_merged_into_one_result() -> None:
    network = FakeNetwork(
        {
            64: [Hit(32, 1, 1, 0.9, reach=1), Hit(8, 1, 1, 0.6, reach=1)],
            128: [Hit(32, 2, 2, 0.8, reach=2), Hit(8, 14, 14, 0.7, reach=1)],
        }
    )
    found = ScrfdDetector(network, CONFIG.model_copy(update={"input_sizes_px": (64, 128)})).detect(
        [photos.noise(128, 128)]
    )[0]
    assert [blob.shape for blob in network.shown] == [(1, 3, 64, 64), (1, 3, 128, 128)]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found.boxes[0].tolist() == [0, 0, 128, 128]


def test_the_network_sees_rgb_normalised_as_insightface_does() -> None:
    network = FakeNetwork({})
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    ScrfdDetector(network, CONFIG).detect([red])[0]
    channels = network.shown[0][0, :, 0, 0]
    assert channels.tolist() == [127.5 / 128, -127.5 / 128, -127.5 / 128]


@pytest.mark.parametrize(
    ("width", "height", "shown", "canvas_size"),
    [
        (128, 128, (64, 64), (64, 64)),
        (128, 64, (64, 32), (64, 32)),
        (100, 60, (64, 38), (64, 64)),
        (60, 100, (38, 64), (64, 64)),
        (30, 10, (64, 21), (64, 32)),
        (5000, 1, (64, 1), (64, 32)),
    ],
)
def test_a_letterbox_shows_the_whole_photo_at_the_top_left_and_black_to_the_next_multiple_of_32(
    width: int, height: int, shown: tuple[int, int], canvas_size: tuple[int, int]
) -> None:
    canvas, scale = make_letterbox(np.full((height, width, 3), 200, np.uint8), 64)
    assert canvas.shape == (canvas_size[1], canvas_size[0], 3)
    assert (canvas[: shown[1], : shown[0]] == 200).all()
    assert not canvas[shown[1] :].any()
    assert not canvas[:, shown[0] :].any()
    assert scale == pytest.approx((shown[0] / width, shown[1] / height))


def test_no_pass_has_more_pixels_than_the_photo() -> None:
    network = FakeNetwork({})
    config = CONFIG.model_copy(update={"input_sizes_px": (64, 640)})
    ScrfdDetector(network, config).detect([photos.noise(100, 90), photos.noise(20, 30)])
    assert sorted(blob.shape for blob in network.shown) == [(1, 3, 32, 32), (1, 3, 64, 64), (1, 3, 128, 128)]


def test_photos_of_one_shape_share_a_run_and_each_gets_its_own_faces() -> None:
    network = FakeNetwork({64: [Hit(8, 1, 1, 0.9, photo=1), Hit(8, 5, 5, 0.8, photo=1), Hit(16, 1, 1, 0.7, photo=2)]})
    batch = [photos.noise(64, 64, seed) for seed in range(4)]
    found = ScrfdDetector(network, CONFIG).detect(batch)
    assert [blob.shape for blob in network.shown] == [(4, 3, 64, 64)]
    assert [faces.scores.tolist() for faces in found] == [[], pytest.approx([0.9, 0.8]), pytest.approx([0.7]), []]


def test_no_photos_give_no_results() -> None:
    assert detector().detect([]) == []


@pytest.mark.parametrize(
    ("score", "reach", "width", "looks", "faces"),
    [(0.9, 0.5, 128, 2, 2), (0.2, 0.5, 128, 2, 1), (0.1, 0.5, 128, 1, 0), (0.9, 2.0, 128, 1, 1), (0.9, 0.5, 64, 1, 1)],
    ids=["small face", "mere sign of one", "less than a sign", "large face", "nothing more to show"],
)
def test_a_closer_look_is_taken_at_small_candidates_where_the_photo_has_more_pixels(
    score: float, reach: float, width: int, looks: int, faces: int
) -> None:
    network = FakeNetwork({64: [Hit(8, 4, 4, score, reach=reach)], 128: [Hit(8, 1, 1, 0.8, reach=1)]})
    config = CONFIG.model_copy(update={"closer_look_px": 128, "closer_look_below_px": 10})
    (found,) = ScrfdDetector(network, config).detect([photos.noise(width, width)])
    assert (len(network.shown), len(found)) == (looks, faces)


def test_a_closer_look_at_one_photo_leaves_its_neighbours_as_they_are() -> None:
    hits = {64: [Hit(8, 4, 4, 0.9, reach=0.5), Hit(8, 4, 4, 0.9, photo=1)], 128: [Hit(8, 1, 1, 0.8, reach=1)]}
    config = CONFIG.model_copy(update={"closer_look_px": 128, "closer_look_below_px": 10})
    found = ScrfdDetector(FakeNetwork(hits), config).detect([photos.noise(128, 128, seed) for seed in range(2)])
    assert [faces.scores.tolist() for faces in found] == [pytest.approx([0.9, 0.8]), pytest.approx([0.9])]


def test_a_batch_gives_what_single_photos_give_to_the_bit(shared_dir: Path) -> None:
    model = shared_dir / "models" / "scrfd_2.5g_bnkps.onnx"
    batched = open_scrfd(model, Config(kind="scrfd", file=model.name), "cpu", 1)
    batch = [
        cv2.imread(str(shared_dir / "album" / f"photo_{number:02}.jpg"))[..., ::-1] for number in (1, 5, 8, 13, 20)
    ]
    for together, image in zip(batched.detect(batch), batch, strict=True):
        (alone,) = batched.detect([image])
        assert len(alone) >= 1
        assert np.array_equal(together.boxes, alone.boxes)
        assert np.array_equal(together.landmarks, alone.landmarks)
        assert np.array_equal(together.scores, alone.scores)


def test_a_graph_that_can_not_be_batched_runs_one_photo_at_a_time(
    shared_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A constant that adds the photos up: no row is its photo's own any more.
    graph = onnx.load(str(shared_dir / "models" / "scrfd_2.5g_bnkps.onnx"))
    mixing = onnx.helper.make_node("ReduceMean", ["input.1"], ["mixed"], axes=[0], keepdims=1)
    for node in graph.graph.node:
        node.input[:] = ["mixed" if name == "input.1" else name for name in node.input]
    graph.graph.node.insert(0, mixing)
    onnx.save(graph, str(tmp_path / "mixing.onnx"))
    single = open_scrfd(tmp_path / "mixing.onnx", Config(kind="scrfd", file="mixing.onnx"), "cpu", 1)
    assert "mixing.onnx can't be run in batches; it runs one photo at a time" in caplog.text
    image = cv2.imread(str(shared_dir / "album" / "photo_01.jpg"))[..., ::-1]
    first, second = single.detect([image, image])
    assert len(first) == len(second) >= 1


@pytest.mark.parametrize(
    ("name", "size_px"),
    [("photo_01.jpg", 128), ("photo_01.jpg", 640), ("photo_05.jpg", 128), ("photo_08.jpg", 640)],
)
def test_it_finds_what_insightface_finds_with_the_same_network(shared_dir: Path, name: str, size_px: int) -> None:
    from insightface.model_zoo.scrfd import SCRFD

    model = shared_dir / "models" / "scrfd_2.5g_bnkps.onnx"
    bgr = cv2.imread(str(shared_dir / "album" / name))
    theirs = SCRFD(str(model))
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    height, width = rgb.shape[:2]
    size_px = min(size_px, GRID_PX * math.ceil(max(height, width) / GRID_PX))
    canvas, our_scale = make_letterbox(rgb, size_px)
    input_height, input_width = canvas.shape[:2]
    theirs.prepare(-1, input_size=(input_width, input_height), det_thresh=0.5, nms_thresh=0.4)
    boxes, landmarks = theirs.detect(bgr)

    config = Config(kind="scrfd", file=model.name, input_sizes_px=(size_px,), closer_look_px=0)
    ours = open_scrfd(model, config, "cpu").detect([rgb])[0]
    # Compared in pixels of the network's input: on the way back insightface divides a landscape photo by the scale
    # of its shorter side, which is rounded down to whole pixels.
    their_scale = int(size_px * min(1, height / width)) / height
    assert len(ours) == len(boxes) >= 1
    assert np.abs(ours.boxes.reshape(-1, 2, 2) * our_scale - boxes[:, :4].reshape(-1, 2, 2) * their_scale).max() < 0.01
    assert np.abs(ours.landmarks * our_scale - landmarks * their_scale).max() < 0.01
    assert np.abs(ours.scores - boxes[:, 4]).max() < 1e-5
