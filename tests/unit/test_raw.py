"""Raw files: the camera's own JPEG, upright, where it is large enough."""

import numpy as np
import pytest

from app.core.errors import BadPhoto
from app.core.pictures import PhotoLimits
from app.vision.decode import decode, read_header
from tests import photos

LIMITS = PhotoLimits(50_000_000, 150_000_000)
RGB_TAGS = {256: (4, [8]), 257: (4, [2]), 258: (3, [8, 8, 8]), 262: (3, [2]), 277: (3, [3]), 278: (4, [2])}
GRADIENT = photos.gradient(1_200, 900)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_the_largest_jpeg_of_a_raw_file_comes_upright(orientation: int, turns: int) -> None:
    data = photos.dng(1_200, 900, orientation)
    expected = np.rot90(GRADIENT, turns)
    header = read_header(data, LIMITS)
    assert (header.format, header.height_px, header.width_px) == ("camera raw", *expected.shape[:2])
    assert np.abs(decode(data, LIMITS).astype(int) - expected).max() <= 4


def test_a_raw_file_is_reduced_like_a_jpeg_where_fewer_pixels_are_enough() -> None:
    assert decode(photos.dng(1_200, 900), LIMITS, 600).shape == (450, 600, 3)


def test_a_raw_file_with_a_small_jpeg_is_refused_by_its_name() -> None:
    with pytest.raises(BadPhoto, match=r"camera's raw file is not supported.*600 by 400 px") as refusal:
        read_header(photos.dng(600, 400), LIMITS)
    assert refusal.value.kind == "not supported"


@pytest.mark.parametrize(
    "data",
    [
        b"FUJIFILMCCD-RAW 0201FF383501" + bytes(500),
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(500),
        b"IIRO\x08\0\0\0" + bytes(500),
        b"IIU\0\x08\0\0\0" + bytes(500),
        photos.written_tiff(RGB_TAGS, [b"CR\2\0" + bytes(44)]),
        photos.dng(1_200, 900)[:5_000],
    ],
)
def test_a_raw_file_that_holds_no_picture_is_refused_by_its_name(data: bytes) -> None:
    with pytest.raises(BadPhoto, match="camera's raw file is not supported"):
        read_header(data, LIMITS)


@pytest.mark.parametrize(
    ("tag", "kind", "value"), [(50706, 4, 1), (37398, 4, 1), (262, 3, 32803), (262, 3, 34892), (259, 3, 34713)]
)
def test_a_raw_file_that_looks_like_a_tiff_is_never_taken_for_its_thumbnail(tag: int, kind: int, value: int) -> None:
    decode(photos.written_tiff(RGB_TAGS, [bytes(48)]), LIMITS)
    with pytest.raises(BadPhoto, match="camera's raw file is not supported"):
        decode(photos.written_tiff({**RGB_TAGS, tag: (kind, [value])}, [bytes(48)]), LIMITS)
