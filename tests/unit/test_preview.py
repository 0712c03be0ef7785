import cv2
import numpy as np
import pytest

from app.vision.crops import encode_preview
from tests import photos


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (200, 150)), ((480, 640), (150, 200)), ((200, 100), (200, 100)), ((64, 48), (64, 48))],
)
def test_the_longer_side_shrinks_to_the_limit_and_never_grows(size: tuple[int, int], expected: tuple[int, int]) -> None:
    preview = decoded(encode_preview(photos.gradient(*size), 200))
    assert preview.shape == (expected[1], expected[0], 3)


def test_a_strip_of_one_pixel_stays_a_picture() -> None:
    assert decoded(encode_preview(np.zeros((1, 5000, 3), np.uint8), 100)).shape == (1, 100, 3)


def test_it_is_a_jpeg_that_shows_the_photo_in_its_colours() -> None:
    data = encode_preview(photos.gradient(), 1024)
    assert data.startswith(b"\xff\xd8\xff")
    difference = np.abs(decoded(data).astype(int) - photos.gradient())
    assert difference.mean() < 4


def test_shrinking_takes_the_mean_and_skips_no_pixel() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    preview = decoded(encode_preview(stripes, 32))
    assert np.abs(preview.astype(int) - 100).max() < 10
