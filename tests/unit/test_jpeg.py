from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Pil

from app.core.pictures import PhotoLimits
from app.vision.decode import decode
from app.vision.formats.jpeg import choose_reduction, decode_jpeg
from tests import photos

LIMITS = PhotoLimits(10_000_000, 10_000_000)


@pytest.mark.parametrize(
    ("longer", "enough", "factor"),
    [(1000, None, 1), (1000, 1000, 1), (1000, 501, 1), (1000, 500, 2), (4000, 640, 4), (6000, 640, 8), (90_000, 1, 8)],
)
def test_a_photo_is_reduced_as_far_as_leaves_enough(longer: int, enough: int | None, factor: int) -> None:
    assert choose_reduction(longer, enough) == factor


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}, {"keep_rgb": True}],
)
def test_the_pixels_are_pillows_to_the_bit(options: dict[str, object]) -> None:
    data = photos.saved(Pil.fromarray(photos.noise(203, 157)), "JPEG", **options)
    with Pil.open(BytesIO(data)) as picture:
        assert np.array_equal(decode(data, LIMITS), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_reduced_photo_is_the_whole_photo_smaller(factor: int) -> None:
    data = photos.saved(Pil.fromarray(photos.gradient(803, 601)), "JPEG", quality=95)
    small = decode(data, LIMITS, 803 // factor)
    assert small.shape == (-(-601 // factor), -(-803 // factor), 3)
    whole = decode(data, LIMITS)[factor // 2 :: factor, factor // 2 :: factor]
    height, width = min(small.shape[0], len(whole)), min(small.shape[1], whole.shape[1])
    difference = small[:height, :width].astype(int) - whole[:height, :width]
    assert np.abs(difference).mean() < 3


def test_a_grey_photo_comes_in_three_equal_channels() -> None:
    pixels = decode(photos.jpeg("L"), LIMITS)
    assert pixels.ndim == 3
    assert (pixels == pixels[..., :1]).all()


def test_what_is_cut_off_is_left_to_the_patient_reader() -> None:
    assert decode_jpeg(photos.truncated_jpeg(), 64, 48, None) is None
    assert decode_jpeg(b"\xff\xd8\xff nothing", 64, 48, None) is None
