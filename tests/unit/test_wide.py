"""Very wide and very tall photos: where they are searched in tiles, and that each face is found once."""

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.core.arrays import Image
from app.core.pictures import PhotoLimits
from app.packs.store import PackStore
from app.vision.decode import decode
from app.vision.face_pack import FacePack, load_pack
from app.vision.types import Detections
from app.vision.wide import choose_view_px, detect_everywhere
from tests.toy_pack import ToyEmbedder, toy_manifest

ROOT = Path(__file__).parents[2]
LEAST_SHARE = 0.05
FACE_PX = 100


class FindsWhite:
    """Finds white rectangles, by their extent in what it is shown. One that is smaller than LEAST_SHARE of the longer
    side is too small for it, and one that an edge cuts off scores most, so that nobody may rely on scores."""

    view_px = 200

    def __init__(self) -> None:
        self.shown: list[tuple[int, ...]] = []

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        self.shown += [image.shape[:2] for image in images]
        return [self._find(image) for image in images]

    def _find(self, image: Image) -> Detections:
        height_px, width_px = image.shape[:2]
        _, _, stats, _ = cv2.connectedComponentsWithStats(image[..., 0])
        x, y, width, height = (stats[1:, column] for column in range(4))
        boxes = np.stack([x, y, x + width, y + height], axis=1).astype(np.float32)
        is_cut = (boxes.min(axis=1) <= 0) | (boxes[:, 2] >= width_px) | (boxes[:, 3] >= height_px)
        scores = np.where(is_cut, 0.99, 0.9).astype(np.float32)
        landmarks = np.repeat(boxes.reshape(-1, 2, 2).mean(axis=1)[:, None], 5, axis=1)
        is_seen = np.maximum(width, height) >= LEAST_SHARE * max(height_px, width_px)
        return Detections(boxes, landmarks, scores).take(is_seen)


def strip(lefts: Sequence[int], longer_px: int = 4000, shorter_px: int = 300, face_px: int = FACE_PX) -> Image:
    """A black photo with a white square at each of these places along its longer side."""
    image = np.zeros((shorter_px, longer_px, 3), np.uint8)
    for left in lefts:
        image[80 : 80 + face_px, left : left + face_px] = 255
    return image


@pytest.mark.parametrize("upright", [False, True], ids=["wide", "tall"])
def test_each_face_of_a_strip_is_found_once_wherever_it_is(upright: bool) -> None:
    for first in range(1, 300, 23):
        lefts = [first + 450 * step for step in range(8)]
        image = strip(lefts)
        (faces,) = detect_everywhere(
            FindsWhite(), [np.ascontiguousarray(image.transpose(1, 0, 2)) if upright else image]
        )
        along, across = (1, 0) if upright else (0, 1)
        boxes = faces.boxes[np.argsort(faces.boxes[:, along])]
        assert boxes[:, along].tolist() == lefts
        assert boxes[:, along + 2].tolist() == [left + FACE_PX for left in lefts]
        assert set(boxes[:, across].tolist()) == {80.0}
        assert np.allclose(faces.landmarks[:, 0], faces.boxes.reshape(-1, 2, 2).mean(axis=1))


def test_a_face_that_both_the_whole_photo_and_a_tile_show_is_found_once() -> None:
    image = strip([700], longer_px=1000, face_px=150)
    detector = FindsWhite()
    assert len(detector.detect([image])[0]) == 1
    assert len(detect_everywhere(detector, [image])[0]) == 1


@pytest.mark.parametrize(("longer_px", "runs"), [(300, 1), (900, 1), (901, 7)])
def test_only_a_photo_of_more_than_three_to_one_is_searched_in_tiles(longer_px: int, runs: int) -> None:
    detector = FindsWhite()
    detect_everywhere(detector, [strip([10], longer_px=longer_px)])
    assert len(detector.shown) == runs
    assert detector.shown[0] == (300, longer_px)
    assert set(detector.shown[1:]) <= {(300, 300)}


def test_tiles_of_a_low_strip_are_no_smaller_than_the_detector_takes_without_loss() -> None:
    detector = FindsWhite()
    detect_everywhere(detector, [np.zeros((20, 4000, 3), np.uint8)])
    assert set(detector.shown[1:]) == {(20, 200)}
    assert len(detector.shown) < 25


def test_a_wide_photo_leaves_the_others_of_its_batch_unchanged() -> None:
    square, wide = strip([100], longer_px=400), strip([100, 3000])
    together = detect_everywhere(FindsWhite(), [square, wide, square])
    assert [len(faces) for faces in together] == [1, 2, 1]
    assert detect_everywhere(FindsWhite(), [wide])[0].boxes.tolist() == together[1].boxes.tolist()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 100)])
def test_a_photo_of_a_few_pixels_is_searched_too(shape: tuple[int, int]) -> None:
    (faces,) = detect_everywhere(FindsWhite(), [np.zeros((*shape, 3), np.uint8)])
    assert len(faces) == 0


def test_a_wide_photo_is_decoded_so_that_its_shorter_side_has_enough_pixels() -> None:
    assert choose_view_px(1000, 4000, 3000) == 1000
    assert choose_view_px(1000, 3000, 1000) == 1000
    assert choose_view_px(1000, 12_000, 1100) == choose_view_px(1000, 1100, 12_000) == 10_909


def test_a_pack_searches_tiles_whatever_its_detector() -> None:
    pack = FacePack(toy_manifest(), FindsWhite(), ToyEmbedder())
    assert len(pack.detect([strip([10, 2000, 3890])])[0]) == 3
    assert pack.choose_view_px(4000, 400) == 2000


@pytest.fixture(scope="module", params=["open", str(ROOT / "tests" / "packs" / "shared-insightface.toml")])
def pack(request: pytest.FixtureRequest) -> FacePack:
    if request.param != "open":
        request.getfixturevalue("shared_dir")
    installed = PackStore(ROOT / "models", accept_research_licence=True).install(request.param)
    return load_pack(installed, "cpu", 1)


def cut_faces(album: Path, side_px: int) -> list[Image]:
    """Squares of four people of the album, so large that the face is a third of the side."""
    with (album / "labels.csv").open() as file:
        places = {
            row["photo"]: (int(row["face_center_x_px"]), int(row["face_center_y_px"])) for row in csv.DictReader(file)
        }
    squares = []
    for name in ("photo_06.jpg", "photo_12.jpg", "photo_15.jpg", "photo_24.jpg"):
        photo, (x, y) = cv2.cvtColor(cv2.imread(str(album / name)), cv2.COLOR_BGR2RGB), places[name]
        reach = min(x, y, photo.shape[1] - x, photo.shape[0] - y)
        square = photo[y - reach : y + reach, x - reach : x + reach]
        squares.append(np.asarray(cv2.resize(square, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8))
    return squares


@pytest.mark.parametrize("longer_px", [6000, 12_000])
@pytest.mark.parametrize("upright", [False, True], ids=["wide", "tall"])
def test_ordinary_faces_in_a_panorama_are_found(
    pack: FacePack, shared_dir: Path, longer_px: int, upright: bool
) -> None:
    image = np.full((longer_px, 1100, 3) if upright else (1100, longer_px, 3), 128, np.uint8)
    middles = []
    for number, square in enumerate(cut_faces(shared_dir / "album", 160)):
        at = 437 + number * longer_px // 4
        row, column = (at, 470) if upright else (470, at)
        image[row : row + 160, column : column + 160] = square
        middles.append((column + 80, row + 80))
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    view_px = pack.choose_view_px(image.shape[1], image.shape[0])
    (faces,) = pack.detect([decode(data, PhotoLimits(), view_px)])
    centres = faces.boxes.reshape(-1, 2, 2).mean(axis=1)
    assert len(faces) == 4
    assert np.allclose(centres[np.argsort(centres.sum(axis=1))], middles, atol=20)
