from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Pil

from app.vision.crops import encode_crops
from tests import photos


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def opened(crop: bytes) -> Pil.Image:
    picture = Pil.open(BytesIO(crop), formats=["JPEG"])
    picture.load()
    return picture


def sizes(photo: np.ndarray, found: np.ndarray, **options: float) -> list[tuple[int, int]]:
    return [opened(crop).size for crop in encode_crops(photo, found, **options)]


def test_a_crop_is_the_square_around_the_longer_side_with_a_margin() -> None:
    assert sizes(photos.gradient(640, 480), boxes((300, 200, 340, 300))) == [(160, 160)]


def test_a_crop_shows_the_face_it_was_asked_for() -> None:
    photo = np.zeros((480, 640, 3), np.uint8)
    photo[200:300, 300:400] = (250, 120, 30)
    (crop,) = encode_crops(photo, boxes((300, 200, 400, 300)), margin=0)
    assert np.abs(np.asarray(opened(crop)).astype(int) - (250, 120, 30)).max() < 12


def test_a_large_face_is_made_smaller_and_a_small_one_never_larger() -> None:
    photo = photos.gradient(2000, 2000)
    assert sizes(photo, boxes((500, 500, 1500, 1500), (10, 10, 12, 12)), margin=0) == [(256, 256), (2, 2)]


def test_making_smaller_averages_what_it_takes_away() -> None:
    checks = (np.indices((1024, 1024)).sum(axis=0) % 2 * 255).astype(np.uint8)
    (crop,) = encode_crops(np.repeat(checks[..., None], 3, axis=2), boxes((0, 0, 1024, 1024)), margin=0)
    shown = np.asarray(opened(crop))
    assert shown.std() < 2
    assert shown.mean() == pytest.approx(127.5, abs=2)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((-50, -50, 50, 50), (50, 50)),
        ((600, 440, 700, 540), (40, 40)),
        ((-500, -500, -400, -400), (1, 1)),
        ((9000, 200, 9100, 300), (1, 100)),
        ((100, 100, 100, 100), (1, 1)),
        ((200, 200, 100, 100), (1, 1)),
        ((0, 0, 640, 2), (256, 128)),
    ],
)
def test_a_crop_ends_where_the_photo_does_and_has_at_least_one_pixel(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    assert sizes(photos.gradient(640, 480), boxes(box), margin=0) == [size]


def test_the_same_face_gives_the_same_bytes() -> None:
    photo, found = photos.noise(640, 480), boxes((100, 100, 300, 300))
    assert encode_crops(photo, found) == encode_crops(photo.copy(), found)


def test_a_photo_without_faces_has_no_crops() -> None:
    assert encode_crops(photos.gradient(), boxes()) == []
