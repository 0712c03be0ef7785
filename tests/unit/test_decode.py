import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil

from app.core.errors import BadPhoto
from app.core.pictures import PhotoLimits
from app.vision.decode import decode, read_header
from tests import photos

LIMITS = PhotoLimits(max_bytes=50_000_000, max_pixels=150_000_000)
GRADIENT = photos.gradient()


def assert_close(pixels: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= tolerance


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        pytest.param(photos.jpeg(), 4, id="jpeg"),
        pytest.param(photos.jpeg(progressive=True), 4, id="progressive jpeg"),
        pytest.param(photos.jpeg("CMYK"), 4, id="cmyk jpeg, inverted by Adobe"),
        pytest.param(photos.ycck_jpeg(), 8, id="ycck jpeg"),
        pytest.param(photos.png(), 0, id="png"),
        pytest.param(photos.png("RGBA"), 0, id="opaque png with alpha"),
        pytest.param(photos.webp(), 8, id="lossy webp"),
        pytest.param(photos.webp(lossless=True), 0, id="lossless webp"),
        pytest.param(photos.webp("RGBA", lossless=True), 0, id="webp with alpha"),
        pytest.param(photos.avif(), 8, id="avif"),
        pytest.param(photos.heic(), 12, id="heic"),
        pytest.param(photos.tiff(), 0, id="tiff"),
        pytest.param(photos.tiff(compression="tiff_lzw"), 0, id="lzw tiff"),
        pytest.param(photos.tiff("CMYK"), 1, id="cmyk tiff"),
        pytest.param(photos.bmp(), 0, id="bmp"),
        pytest.param(photos.gif(), 20, id="gif"),
        pytest.param(photos.animated("GIF"), 20, id="first frame of a gif"),
        pytest.param(photos.animated("WEBP"), 16, id="first frame of a webp"),
        pytest.param(photos.animated("TIFF"), 0, id="first page of a tiff"),
    ],
)
def test_every_format_gives_the_picture_that_went_in(data: bytes, tolerance: int) -> None:
    assert_close(decode(data, LIMITS), GRADIENT, tolerance)


@pytest.mark.parametrize("data", [photos.jpeg("L"), photos.png("L"), photos.tiff("L"), photos.png("LA")])
def test_a_grey_picture_has_three_equal_channels(data: bytes) -> None:
    grey = np.asarray(Pil.fromarray(GRADIENT).convert("L"))
    assert_close(decode(data, LIMITS), np.repeat(grey[..., None], 3, axis=2), 3)


def test_a_one_bit_picture_becomes_black_and_white() -> None:
    dithered = np.asarray(Pil.fromarray(GRADIENT).convert("1"))
    assert_close(decode(photos.png("1"), LIMITS), np.repeat(dithered[..., None], 3, axis=2) * np.uint8(255), 0)


def test_what_is_transparent_lies_on_white() -> None:
    picture = Pil.new("RGBA", (2, 1), (200, 0, 0, 0))
    picture.putpixel((1, 0), (200, 0, 0, 255))
    for file_format, options in [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})]:
        data = photos.saved(picture, file_format, **options)
        assert decode(data, LIMITS).tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_the_transparent_entry_of_a_palette_lies_on_white() -> None:
    picture = Pil.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    data = photos.saved(picture, "PNG", transparency=0)
    assert decode(data, LIMITS).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_the_transparent_colour_of_an_rgb_png_lies_on_white() -> None:
    picture = Pil.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    data = photos.saved(picture, "PNG", transparency=(1, 2, 3))
    assert decode(data, LIMITS).tolist() == [[[255, 255, 255], [4, 5, 6]]]


# Every high byte beside one and the same low byte, so that taking the wrong one shows.
RAMP_16 = (np.arange(256) * 256 + 77).astype(np.uint16)[None]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_scaled_and_not_clipped(channels: int) -> None:
    samples = np.repeat(RAMP_16[..., None], channels, axis=2)
    if channels in (2, 4):
        samples[..., -1] = 65_535
    expected = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert_close(decode(photos.png16(samples), LIMITS), expected, 1)


def test_sixteen_bit_tiffs_are_scaled_too() -> None:
    expected = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert_close(decode(photos.tiff16(RAMP_16), LIMITS), expected, 1)


def test_floating_point_pixels_are_refused_because_their_range_is_unknown() -> None:
    with pytest.raises(BadPhoto, match="32-bit pixels"):
        decode(photos.tiff("F"), LIMITS)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_ends_upright(file_format: str, orientation: int) -> None:
    data = photos.all_orientations(file_format)[orientation]
    header = read_header(data, LIMITS)
    assert (header.width_px, header.height_px) == (64, 48)
    assert_close(decode(data, LIMITS), GRADIENT, 12)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("exif_orientation", [1, 3, 6])
def test_a_heic_is_rotated_once_by_its_container_and_never_by_its_exif(quarters: int, exif_orientation: int) -> None:
    data = photos.heic(quarters, exif_orientation)
    expected = np.rot90(GRADIENT, -quarters)
    assert_close(decode(data, LIMITS), expected, 12)
    header = read_header(data, LIMITS)
    assert (header.format, header.height_px, header.width_px) == ("HEIF", *expected.shape[:2])


def test_a_metadata_item_of_an_unreadable_type_does_not_end_the_process() -> None:
    """The plugin that pi_heif 1.4.0 brings dies of a segmentation fault here."""
    data = photos.heic().replace(b"infe\2\0\0\1\0\2\0\0Exif", b"infe\2\0\0\1\0\2\0\0\xb8xif")
    assert data != photos.heic()
    assert_close(decode(data, LIMITS), GRADIENT, 12)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("block", [b"no TIFF header in here", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40])
def test_a_broken_exif_block_costs_the_orientation_and_not_the_photo(block: bytes) -> None:
    assert_close(decode(photos.jpeg(exif=b"Exif\0\0" + block), LIMITS), GRADIENT, 4)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_nobody_defined_changes_nothing(orientation: int) -> None:
    exif = Pil.Exif()
    exif[photos.ORIENTATION_TAG] = orientation
    assert_close(decode(photos.jpeg(exif=exif.tobytes()), LIMITS), GRADIENT, 4)


@pytest.mark.parametrize("read", [read_header, decode])
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "The file is empty."),
        (photos.text_named_jpg(), "not a picture that can be read (it is text)."),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture that can be read (it is a PostScript document (EPS))."),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not a picture that can be read (it is a video (MP4))."),
        (photos.jpeg_claiming_200_megapixels(), "claims 200.0 megapixels; at most 150.0 are accepted."),
        (photos.webp_claiming_268_megapixels(), "claims 268.4 megapixels; at most 150.0 are accepted."),
    ],
)
def test_what_cannot_be_accepted_is_refused_in_one_sentence(
    read: Callable[[bytes, PhotoLimits], object], data: bytes, sentence: str
) -> None:
    with pytest.raises(BadPhoto) as refusal:
        read(data, LIMITS)
    assert sentence in str(refusal.value)


def test_a_file_one_byte_over_the_limit_is_refused_and_at_the_limit_is_not() -> None:
    data = photos.jpeg()
    read_header(data, PhotoLimits(max_bytes=len(data), max_pixels=64 * 48))
    with pytest.raises(BadPhoto, match=rf"{len(data):,} bytes; at most {len(data) - 1:,}"):
        read_header(data, PhotoLimits(max_bytes=len(data) - 1, max_pixels=64 * 48))


def test_a_picture_one_pixel_over_the_limit_is_refused() -> None:
    with pytest.raises(BadPhoto, match="megapixels"):
        decode(photos.png(), PhotoLimits(max_bytes=10_000, max_pixels=64 * 48 - 1))


def test_photos_between_pils_own_limit_and_ours_are_accepted_without_a_warning() -> None:
    assert Pil.MAX_IMAGE_PIXELS is not None
    assert Pil.MAX_IMAGE_PIXELS < 144_000_000
    header = read_header(photos.png_bomb(12_000, 12_000), LIMITS)
    assert (header.format, header.width_px, header.height_px) == ("PNG", 12_000, 12_000)


def test_a_bomb_is_refused_from_its_header_in_no_time_and_no_memory() -> None:
    """In a process of its own: the peak memory of this one is that of all tests before."""
    script = """
        import resource, time
        from app.core.errors import BadPhoto
        from app.core.pictures import PhotoLimits
        from app.vision.decode import decode
        from tests import photos
        limits = PhotoLimits(max_bytes=50_000_000, max_pixels=150_000_000)
        decode(photos.png(), limits)
        bombs = [photos.png_bomb(), photos.jpeg_claiming_200_megapixels()]
        before, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        for bomb in bombs:
            try:
                decode(bomb, limits)
            except BadPhoto:
                print("refused")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.perf_counter() - start_s)
    """
    root = Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    assert output[:2] == ["refused", "refused"]
    grown_kib, elapsed_s = int(output[2]), float(output[3])
    assert grown_kib < 20_000
    assert elapsed_s < 1


@pytest.mark.parametrize(
    "data",
    [
        photos.truncated_jpeg(),
        photos.jpeg(pixels=photos.noise(64, 48))[:-8],
        photos.jpeg(pixels=photos.noise(64, 48), progressive=True)[:-40],
        photos.png()[:84],
        photos.bmp()[:-100],
        photos.gif()[:-100],
        photos.tiff()[:-100],
        photos.heic()[:-100],
        photos.avif()[:-100],
    ],
)
def test_a_file_that_is_cut_off_is_refused_and_never_filled_up_with_grey(data: bytes) -> None:
    with pytest.raises(BadPhoto, match="cut off"):
        decode(data, LIMITS)


def test_a_webp_that_is_cut_off_is_refused() -> None:
    with pytest.raises(BadPhoto, match="cut off"):
        decode(photos.webp()[:-100], LIMITS)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(progressive: bool) -> None:
    whole = photos.jpeg(pixels=photos.noise(64, 48), progressive=progressive)
    cut = photos.jpeg_without_end_marker(progressive=progressive)
    assert np.array_equal(decode(cut, LIMITS), decode(whole, LIMITS))


def test_what_follows_the_end_of_a_jpeg_is_ignored() -> None:
    assert np.array_equal(decode(photos.jpeg() + b"trailer" * 100, LIMITS), decode(photos.jpeg(), LIMITS))


def test_pils_process_wide_settings_stay_as_they_were() -> None:
    before = (Pil.MAX_IMAGE_PIXELS, "HEIF" in Pil.OPEN)
    decode(photos.heic(), LIMITS)
    assert (Pil.MAX_IMAGE_PIXELS, "HEIF" in Pil.OPEN) == before


SOUND = {
    "jpeg": photos.jpeg(),
    "progressive jpeg": photos.jpeg(progressive=True),
    "cmyk jpeg": photos.jpeg("CMYK"),
    "jpeg with exif": photos.all_orientations()[6],
    "png": photos.png("RGBA"),
    "palette png": photos.png("P", transparency=3),
    "webp": photos.webp(),
    "animated webp": photos.animated("WEBP"),
    "avif": photos.avif(),
    "heic": photos.heic(1, 6),
    "tiff": photos.tiff(),
    "lzw tiff": photos.tiff(compression="tiff_lzw"),
    "gif": photos.animated_gif(),
    "bmp": photos.bmp(),
}


@pytest.mark.parametrize("sound", SOUND.values(), ids=SOUND.keys())
# What PIL warns about in a damaged file is no error in production either.
@pytest.mark.filterwarnings("ignore")
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    early=st.booleans(),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(max_examples=200, deadline=None)
def test_hostile_bytes_give_a_picture_or_a_bad_photo_and_nothing_else(
    sound: bytes, edits: list[tuple[float, int]], early: bool, kept: float
) -> None:
    data = bytearray(sound)
    # Half of the files are hit in the headers, where most of the readers' branches are.
    reach = min(len(data), 300) if early else len(data)
    for place, value in edits:
        data[int(place * reach)] = value
    try:
        pixels = decode(bytes(data[: int(kept * len(data))]), PhotoLimits(max_bytes=50_000, max_pixels=1_000_000))
    except BadPhoto as refusal:
        assert "\n" not in str(refusal)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.flags.c_contiguous
