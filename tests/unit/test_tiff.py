"""TIFF: what is in the table of known good kinds comes out right, all else is refused by its name."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pil

from app.core.errors import BadPhoto
from app.core.pictures import PhotoLimits
from app.vision.decode import decode, read_header
from tests import photos

LIMITS = PhotoLimits(50_000_000, 150_000_000)
GRADIENT = photos.gradient(160, 120)
GREY = np.ascontiguousarray(GRADIENT[..., 0])
THREE_GREYS = np.repeat(GREY[..., None], 3, axis=2)


def written(pixels: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def assert_shows(data: bytes, expected: NDArray[Any], tolerance: int = 0) -> None:
    header, pixels = read_header(data, LIMITS), decode(data, LIMITS)
    assert (header.height_px, header.width_px) == pixels.shape[:2] == expected.shape[:2]
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= tolerance


LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (32, 48)},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">", "tile": (64, 64)},
    "LZW": {"compression": "lzw", "rowsperstrip": 10},
    "LZW with differences": {"compression": "lzw", "predictor": True, "byteorder": ">"},
    "deflate": {"compression": "zlib", "tile": (16, 16)},
    "deflate with differences": {"compression": "zlib", "predictor": True, "tile": (64, 64)},
    "PackBits": {"compression": "packbits", "rowsperstrip": 11},
    "Zstandard": {"compression": "zstd"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_comes_out_right_in_every_layout(layout: dict[str, Any], planar: str, bits: int) -> None:
    pixels = GRADIENT if bits == 8 else GRADIENT.astype(np.uint16) * 257
    stored = pixels if planar == "contig" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    assert_shows(written(stored, photometric="rgb", planarconfig=planar, **layout), GRADIENT)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_grey_comes_out_right_whichever_end_is_white(layout: dict[str, Any], bits: int) -> None:
    pixels = GREY if bits == 8 else GREY.astype(np.uint16) * 257
    assert_shows(written(pixels, photometric="minisblack", **layout), THREE_GREYS)
    assert_shows(written(np.iinfo(pixels.dtype).max - pixels, photometric="miniswhite", **layout), THREE_GREYS)


@pytest.mark.parametrize(("photometric", "first"), [(0, 255), (1, 0)])
def test_greys_of_one_and_of_four_bits_are_spread_over_all_light(photometric: int, first: int) -> None:
    four = np.arange(16, dtype=np.uint8).reshape(2, 8)
    tags = {256: (4, [8]), 257: (4, [2]), 258: (3, [4]), 262: (3, [photometric]), 278: (4, [2])}
    data = photos.written_tiff(tags, [bytes(four.reshape(-1, 2) @ np.array([16, 1], np.uint8))])
    assert_shows(data, np.abs(first - np.repeat(four[..., None], 3, axis=2).astype(int) * 17))
    data = photos.written_tiff({**tags, 258: (3, [1]), 257: (4, [1])}, [b"\x0f"])
    assert decode(data, LIMITS)[0, [0, 7], 0].tolist() == [first, 255 - first]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_palette_gives_its_colours(bits: int) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (1 << bits, 3))
    indexed = np.arange(16, dtype=np.uint8).reshape(2, 8)
    packed = bytes(indexed) if bits == 8 else bytes(indexed.reshape(-1, 2) @ np.array([16, 1], np.uint8))
    for factor in (256, 1):
        tags = {256: (4, [8]), 257: (4, [2]), 258: (3, [bits]), 262: (3, [3]), 278: (4, [2])}
        data = photos.written_tiff({**tags, 320: (3, [int(value) * factor for value in colours.T.ravel()])}, [packed])
        assert_shows(data, colours[indexed])


@pytest.mark.parametrize("bits", [8, 16])
def test_inks_become_light(bits: int) -> None:
    inks = np.asarray(Pil.fromarray(GRADIENT).convert("CMYK"))
    stored = inks if bits == 8 else inks.astype(np.uint16) * 257
    assert_shows(written(stored, photometric="separated", extrasamples=()), GRADIENT, 1)


@pytest.mark.parametrize("alpha_kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_transparent_lies_on_white(alpha_kind: str, bits: int) -> None:
    colour, alpha = np.array([[[200, 100, 0]] * 3], np.uint8), np.array([[[0], [51], [255]]], np.uint8)
    stored = colour if alpha_kind == "unassalpha" else (colour.astype(int) * alpha // 255).astype(np.uint8)
    samples = np.concatenate([stored, alpha], axis=2)
    samples = samples if bits == 8 else samples.astype(np.uint16) * 257
    data = written(samples, photometric="rgb", extrasamples=[alpha_kind])
    assert_shows(data, np.array([[[255, 255, 255], [244, 224, 204], [200, 100, 0]]]), 1)


def test_a_further_channel_of_unknown_meaning_changes_nothing() -> None:
    samples = np.concatenate([GRADIENT, np.zeros_like(GRADIENT[..., :1])], axis=2)
    assert_shows(written(samples, photometric="rgb", extrasamples=["unspecified"]), GRADIENT)


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_strips_and_tiles_of_jpeg_come_out_right(layout: dict[str, Any], subsampling: tuple[int, int]) -> None:
    # tifffile turns RGB into YCbCr for it.
    data = written(GRADIENT, photometric="rgb", compression="jpeg", subsampling=subsampling, **layout)
    # Half the chroma bleeds over the edges of the picture, into what fills the last tiles.
    assert_shows(data, GRADIENT, 12 if subsampling == (1, 1) or "tile" not in layout else 80)
    with Pil.open(BytesIO(data)) as picture:
        assert_shows(data, np.asarray(picture.convert("RGB")), 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_chosen_page_counts(orientation: int) -> None:
    upright = {1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1]}
    upright |= {5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, -1)}
    upright |= {7: lambda p: p[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90}
    data = written(GRADIENT, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    assert_shows(data, upright[orientation](GRADIENT))


@pytest.mark.parametrize("marked_by", [254, 255])
@pytest.mark.parametrize("below", [False, True])
def test_the_large_picture_is_taken_and_not_the_thumbnail_before_it(marked_by: int, below: bool) -> None:
    file = BytesIO()
    mark: dict[str, Any] = {"subfiletype": 1} if marked_by == 254 else {"extratags": [(255, 3, 1, 2, True)]}
    with tifffile.TiffWriter(file) as writer:
        writer.write(photos.gradient(40, 30), photometric="rgb", subifds=1 if below else 0, **mark)
        writer.write(GRADIENT, photometric="rgb")
    assert_shows(file.getvalue(), GRADIENT)


def test_a_reduced_copy_is_not_taken_even_where_it_says_that_it_is_large() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(photos.noise(320, 240), photometric="rgb", subfiletype=1)
        writer.write(GRADIENT, photometric="rgb")
    assert_shows(file.getvalue(), GRADIENT)


def test_directories_in_a_circle_end() -> None:
    data = bytearray(written(GRADIENT, photometric="rgb"))
    at = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    struct.pack_into("<I", data, at + 2 + 12 * count, at)
    assert_shows(bytes(data), GRADIENT)


def test_a_large_tag_beside_the_pixels_changes_nothing() -> None:
    tags = [(700, 1, 2_000_000, b"<" * 2_000_000, True), (50000, 4, 400_000, [7] * 400_000, True)]
    assert_shows(written(GRADIENT, photometric="rgb", extratags=tags), GRADIENT)


RGB_TAGS: dict[int, tuple[int, list[int]]] = {
    256: (4, [8]),
    257: (4, [2]),
    258: (3, [8, 8, 8]),
    262: (3, [2]),
    277: (3, [3]),
    278: (4, [2]),
}
REFUSED: dict[str, tuple[dict[int, tuple[int, list[int]]], str]] = {
    "group 4": ({259: (3, [4]), 258: (3, [1]), 262: (3, [0]), 277: (3, [1])}, "CCITT group 4"),
    "old JPEG": ({259: (3, [6])}, "old-style JPEG"),
    "JPEG 2000": ({259: (3, [34712])}, "JPEG 2000"),
    "unknown compression": ({259: (3, [4711])}, "compressed by 4711"),
    "CIELab": ({262: (3, [8])}, "CIELab"),
    "LogLuv": ({262: (3, [32845])}, "LogLuv"),
    "YCbCr without JPEG": ({262: (3, [6])}, "YCbCr colours without JPEG"),
    "odd bits": ({258: (3, [5, 6, 5])}, "different numbers of bits"),
    "12 bits": ({258: (3, [12, 12, 12])}, "12 bits a sample"),
    "32 bits": ({258: (3, [32, 32, 32])}, "32-bit pixels"),
    "floating point": ({339: (3, [3, 3, 3]), 258: (3, [32] * 3)}, r"floating-point\), whose range of light"),
    "signed": ({339: (3, [2, 2, 2])}, "signed"),
    "two samples of RGB": ({277: (3, [2]), 258: (3, [8, 8])}, "2 samples a pixel"),
    "other inks": ({262: (3, [5]), 277: (3, [4]), 258: (3, [8] * 4), 332: (3, [2])}, "other inks"),
    "reverse bits": ({266: (3, [2])}, "reverse order"),
    "floating differences": ({317: (3, [3]), 259: (3, [8])}, "predictor 3"),
    "volume": ({32997: (4, [5])}, "order of planes"),
    "no palette": ({262: (3, [3]), 277: (3, [1]), 258: (3, [8])}, "palette is missing"),
    "no pixels": ({256: (4, [0])}, "no pixels"),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_in_the_table_is_refused_by_its_name(
    changes: dict[int, tuple[int, list[int]]], sentence: str
) -> None:
    with pytest.raises(BadPhoto, match=sentence):
        read_header(photos.written_tiff({**RGB_TAGS, **changes}, [bytes(48)]), LIMITS)


def test_a_jpeg_of_rgb_comes_out_right() -> None:
    data = written(GRADIENT, photometric="rgb", compression="jpeg", compressionargs={"outcolorspace": "rgb"})
    assert_shows(data, GRADIENT, 4)
    grey = written(GREY, photometric="minisblack", compression="jpeg")
    assert_shows(grey, THREE_GREYS, 4)


def test_a_tile_far_larger_than_the_picture_is_refused_before_anything_is_allocated() -> None:
    tags = {**RGB_TAGS, 322: (4, [20_000]), 323: (4, [20_000])}
    with pytest.raises(BadPhoto, match="tiles of 20000 by 20000 px") as refusal:
        read_header(photos.written_tiff(tags, [bytes(48)], tiled=True), LIMITS)
    assert refusal.value.kind == "too large"


def test_a_jpeg_in_a_tile_that_claims_to_be_larger_is_refused() -> None:
    tags = {**RGB_TAGS, 256: (4, [64]), 257: (4, [48]), 259: (3, [7]), 262: (3, [6]), 278: (4, [48])}
    assert_shows(photos.written_tiff(tags, [photos.jpeg()]), photos.gradient(), 4)
    with pytest.raises(BadPhoto, match="another size than its strip"):
        decode(photos.written_tiff(tags, [photos.jpeg_claiming(20_000, 10_000)]), LIMITS)


def test_a_jpeg_that_names_its_colours_differently_is_refused() -> None:
    tags = {**RGB_TAGS, 256: (4, [64]), 257: (4, [48]), 259: (3, [7]), 278: (4, [48])}
    with pytest.raises(BadPhoto, match="names its colours differently"):
        decode(photos.written_tiff(tags, [photos.jpeg()]), LIMITS)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "jpeg"])
@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
def test_strips_and_tiles_that_lack_pixels_are_refused(compression: str | None, layout: dict[str, Any]) -> None:
    noise = photos.noise(160, 120)
    whole = written(noise, photometric="rgb", compression=compression, **layout)
    with tifffile.TiffFile(BytesIO(whole)) as opened:
        page = opened.pages.first
        last, count_tag = page.dataoffsets[-1] + page.databytecounts[-1], page.tags[325 if layout else 279]
    for data in (whole[: last - 100], whole[:last] if last < len(whole) else whole[:-1]):
        if len(data) < len(whole):
            with pytest.raises(BadPhoto):
                decode(data, LIMITS)
    if compression is None or compression == "jpeg":
        return
    # The length of a strip is halved, so that its data end in the middle.
    shortened = bytearray(whole)
    at = count_tag.valueoffset
    size = struct.calcsize("<" + tifffile.TIFF.DATA_FORMATS[count_tag.dtype][-1])
    value = int.from_bytes(shortened[at : at + size], "little")
    shortened[at : at + size] = (value // 2).to_bytes(size, "little")
    with pytest.raises(BadPhoto):
        decode(bytes(shortened), LIMITS)
