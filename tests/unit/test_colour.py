from io import BytesIO
from threading import Barrier, Thread

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageCms

from app.core.pictures import PhotoLimits
from app.vision.colour import convert_to_srgb
from app.vision.decode import decode
from tests import photos

LIMITS = PhotoLimits(10_000_000, 10_000_000)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_primaries() -> bytes:
    """sRGB's profile with the red and the green primary changed for each other, under another name."""
    profile = bytearray(SRGB.replace(b"s\x00R\x00G\x00B", b"s\x00G\x00R\x00B").replace(b"sRGB", b"sGRB"))
    count = int.from_bytes(profile[128:132], "big")
    for row in range(count):
        at = 132 + 12 * row
        name = bytes(profile[at : at + 4])
        if name in (b"rXYZ", b"gXYZ"):
            profile[at : at + 4] = b"gXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(profile)


def flat(colour: tuple[int, int, int], profile: bytes | None, file_format: str = "JPEG") -> bytes:
    options = {"icc_profile": profile} if profile else {}
    if file_format == "JPEG":
        options |= {"quality": 100, "subsampling": 0}
    return photos.saved(Pil.new("RGB", (32, 32), colour), file_format, **options)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_colours_of_another_profile_become_srgb(file_format: str) -> None:
    pixels = decode(flat((200, 40, 40), swapped_primaries(), file_format), LIMITS)
    assert np.abs(pixels.astype(int) - (40, 200, 40)).max() <= 6


@pytest.mark.parametrize("profile", [None, SRGB, b"no profile at all"])
def test_without_a_profile_that_says_otherwise_pixels_stay_as_they_are(profile: bytes | None) -> None:
    data = flat((200, 40, 40), profile)
    with Pil.open(BytesIO(data)) as picture:
        assert np.array_equal(decode(data, LIMITS), np.asarray(picture))


def test_a_profile_for_other_kinds_of_pixels_is_ignored() -> None:
    grey = Pil.new("L", (8, 8), 100)
    assert convert_to_srgb(grey, swapped_primaries()) is grey


def test_several_threads_share_a_transform() -> None:
    """Each colour comes out the same in a crowd as alone."""
    colours = [(20 * row, 255 - 20 * row, 90) for row in range(8)]
    pictures = [Pil.fromarray(np.full((300, 300, 3), colour, np.uint8)) for colour in colours]
    alone = [np.asarray(convert_to_srgb(picture, swapped_primaries())) for picture in pictures]
    together: dict[int, bool] = {}
    barrier = Barrier(len(pictures))

    def convert(row: int) -> None:
        barrier.wait()
        together[row] = all(
            np.array_equal(convert_to_srgb(pictures[row], swapped_primaries()), alone[row]) for _ in range(20)
        )

    threads = [Thread(target=convert, args=(row,)) for row in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == dict.fromkeys(range(len(pictures)), True)
