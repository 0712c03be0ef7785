from io import BytesIO
from threading import Barrier, Thread

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageCms

from app.core.pictures import PhotoLimits
from app.vision import colour
from app.vision.colour import convert_pixels, convert_to_array, convert_to_srgb
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


def test_profiles_are_not_kept_and_those_over_4_mb_are_not_read() -> None:
    grey = Pil.new("L", (8, 8), 100)
    transforms = colour._Transforms()
    for number in range(40):
        transforms.find(b"no profile" + bytes(1_000) + bytes([number]), "RGB")
    assert len(transforms._kept) == 16
    assert all(len(key[0]) == 32 for key in transforms._kept)
    padded = swapped_primaries() + bytes(4_000_000)
    assert convert_to_srgb(Pil.new("RGB", (8, 8), (200, 40, 40)), padded).getpixel((0, 0)) == (200, 40, 40)
    assert convert_to_srgb(grey, None) is grey


def test_blocks_give_what_the_whole_picture_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pil.fromarray(photos.noise(150, 70)).convert("RGBA")
    whole.putalpha(Pil.fromarray(photos.noise(150, 70, seed=1)).convert("L"))
    expected, plain = convert_to_array(whole, swapped_primaries()), photos.noise(150, 70)
    in_place = plain.copy()
    convert_pixels(in_place, swapped_primaries())
    for block_px in (10, 150, 999):
        monkeypatch.setattr(colour, "_BLOCK_PX", block_px)
        assert np.array_equal(convert_to_array(whole, swapped_primaries()), expected)
        again = plain.copy()
        convert_pixels(again, swapped_primaries())
        assert np.array_equal(again, in_place)
        assert not np.array_equal(again, plain)
