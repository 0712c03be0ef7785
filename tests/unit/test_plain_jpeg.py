"""Which JPEGs may be decoded in the service's own process."""

import struct

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageCms

from app.vision.plain_jpeg import MOST_PIXELS, is_plain_jpeg
from tests import photos

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def make(mode: str = "RGB", **options: object) -> bytes:
    return photos.saved(Pil.fromarray(photos.gradient(64, 48)).convert(mode), "JPEG", **options)


def with_table(profile: bytes) -> bytes:
    """A profile whose first tag is renamed to that of a chain of tables."""
    return profile[:132] + b"A2B0" + profile[136:]


def resized(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def exif() -> bytes:
    block = Pil.Exif()
    block[0x0112] = 6
    return block.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        make(),
        make("L"),
        make(exif=exif()),
        make(icc_profile=SRGB),
        make(optimize=True, subsampling=2),
        make(restart_marker_rows=1),
        make() + b"what a camera writes behind it\xff\xd9",
    ],
    ids=["colour", "grey", "exif", "sRGB", "optimised", "restarts", "trailer"],
)
def test_what_cameras_write_is_plain(data: bytes) -> None:
    assert is_plain_jpeg(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        make(progressive=True),
        make("CMYK"),
        make(icc_profile=with_table(SRGB)),
        make(icc_profile=SRGB[:130]),
        make(icc_profile=SRGB + bytes(70_000)),
        make()[:-2],
        make()[:300],
        resized(make(), 60_000, 60_000),
        resized(make(), 0, 48),
        b"\xff\xd8" + b"\xff\xfe\x00\x04xx" * 300 + make()[2:],
        make().replace(b"\xff\xc0", b"\xff\xc9", 1),
        make().replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01", 1),
        photos.saved(Pil.fromarray(photos.gradient(64, 48)), "PNG"),
    ],
    ids=[
        "empty",
        "start",
        "progressive",
        "CMYK",
        "table profile",
        "short profile",
        "profile in two chunks",
        "no end",
        "cut off",
        "huge",
        "no width",
        "many segments",
        "arithmetic",
        "several scans",
        "PNG",
    ],
)
def test_what_may_cost_more_than_its_size_says_is_not_plain(data: bytes) -> None:
    assert not is_plain_jpeg(data)


def test_the_bound_on_pixels_is_of_plain_files_and_not_of_all() -> None:
    side = int(MOST_PIXELS**0.5)
    assert is_plain_jpeg(resized(make(), side, side))
    assert not is_plain_jpeg(resized(make(), side + 1, side + 1))


def test_no_damage_of_a_header_raises() -> None:
    good, random = make(exif=exif(), icc_profile=SRGB), np.random.default_rng(0)
    end = good.index(b"\xff\xda") + 20
    for _ in range(2000):
        data = bytearray(good)
        data[random.integers(2, end)] = random.integers(256)
        assert is_plain_jpeg(bytes(data)) in (True, False)
    for length in range(end):
        assert not is_plain_jpeg(good[:length])
