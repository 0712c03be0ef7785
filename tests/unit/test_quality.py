import cv2
import numpy as np
import pytest

from app.vision.quality import measure
from app.vision.types import Detections
from tests import photos

SIZE = (200, 100)


def faces_at(*boxes: tuple[float, float, float, float]) -> Detections:
    count = len(boxes)
    return Detections(np.array(boxes, np.float32), np.zeros((count, 5, 2), np.float32), np.ones(count, np.float32))


def measured(chip: np.ndarray) -> dict[str, float]:
    return measure(faces_at((0, 0, 50, 50)).boxes, SIZE, chip[None])[0]


def test_a_face_is_as_large_as_the_shorter_side_of_its_box() -> None:
    (face,) = measure(faces_at((10, 20, 40, 80)).boxes, SIZE, photos.noise(112, 112)[None])
    assert face["size_px"] == 30


def test_what_lies_beyond_the_photo_does_not_count_as_size() -> None:
    faces = faces_at((-20, 0, 20, 60), (150, 90, 250, 190), (300, 300, 400, 400))
    chips = np.stack([photos.noise(112, 112)] * 3)
    assert [face["size_px"] for face in measure(faces.boxes, SIZE, chips)] == [20, 10, 0]


def test_a_flat_chip_has_its_own_luminance_and_no_sharpness() -> None:
    assert measured(np.full((112, 112, 3), 97, np.uint8)) == {"size_px": 50, "sharpness": 0, "luminance_mean": 97}


def test_luminance_weighs_green_most_and_blue_least() -> None:
    chips = np.zeros((3, 112, 112, 3), np.uint8)
    for channel in range(3):
        chips[channel, ..., channel] = 200
    red, green, blue = (measured(chip)["luminance_mean"] for chip in chips)
    # ITU-R BT.601
    assert (red, green, blue) == pytest.approx((0.299 * 200, 0.587 * 200, 0.114 * 200), abs=0.5)


def test_the_more_a_chip_is_blurred_the_less_sharp_it_is() -> None:
    sharp = photos.noise(112, 112)
    blurred = [cv2.GaussianBlur(sharp, (0, 0), sigma) for sigma in (0.5, 1, 2, 4)]
    values = [measured(chip)["sharpness"] for chip in [sharp, *blurred]]
    assert values == sorted(values, reverse=True)
    assert values[0] > 100 * values[-1]


def test_the_rim_of_a_chip_says_nothing_about_the_face() -> None:
    chip = photos.noise(112, 112)
    rimmed = chip.copy()
    rimmed[:18], rimmed[-18:], rimmed[:, :18], rimmed[:, -18:] = 0, 0, 0, 0
    assert measured(rimmed) == measured(chip)


def test_measures_are_rounded_so_that_documents_stay_the_same() -> None:
    face = measure(faces_at((0, 0, 10.123456, 90)).boxes, SIZE, photos.noise(112, 112)[None])[0]
    assert all(value == round(value, 4) for value in face.values())
    assert face["size_px"] == 10.1235


def test_a_photo_without_faces_has_no_measures() -> None:
    assert measure(Detections.none().boxes, SIZE, np.empty((0, 112, 112, 3), np.uint8)) == []
