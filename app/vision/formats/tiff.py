"""TIFF, by a table of what is known to come out right; tifffile and imagecodecs decode the strips and tiles.

The directories are walked here and not by tifffile, which reads every value of every tag into Python objects before it
says a size: a file of 100 MB can make gigabytes of them. tifffile gets a directory of its own with nothing but the tags
that make pixels, so whatever else a file holds can't matter.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from app.core.arrays import Image
from app.core.errors import BadPhoto
from app.vision.colour import MOST_PROFILE_BYTES, convert_pixels, convert_to_array, split_into_blocks
from app.vision.formats.jpeg import read_frame
from app.vision.formats.outline import OUT_BYTES, CutOff, Outline, estimate_bytes, make_damaged, make_unsupported

# Tags of TIFF 6.0 and its supplements.
_SUBFILE, _OLD_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 266, 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _COLOUR_MAP, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES = (
    284,
    317,
    320,
    322,
    323,
    324,
    325,
)
_SUB_IFDS, _INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES, _SUBSAMPLING = 330, 332, 338, 339, 347, 530
_DEPTH, _PROFILE, _DNG_VERSION, _TIFF_EP = 32997, 34675, 50706, 37398
_RAW_TAGS = frozenset({_DNG_VERSION, _TIFF_EP, 33422})
"""DNG's version, the identity of TIFF/EP, and the pattern of a colour filter: a camera's raw file."""
_CFA, _LINEAR_RAW = 32803, 34892
_RAW_COMPRESSIONS = frozenset({32767, 32769, 32770, 34713, 65535})
"""Of Sony, Samsung, Nikon and Pentax."""
_TYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_LIBRARY_BYTES = 45_000_000
"""What tifffile and imagecodecs take once they are imported, which the first TIFF does."""
_MOST_DIRECTORIES, _MOST_TAGS, _MOST_SEGMENTS = 1_000, 4_096, 100_000

_GREY_INVERTED, _GREY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_BASE_CHANNELS = {_GREY_INVERTED: 1, _GREY: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_PHOTOMETRIC_NAMES = {
    4: "a TIFF that is a mask",
    8: "a TIFF in CIELab colours",
    9: "a TIFF in ICCLab colours",
    10: "a TIFF in ITULab colours",
    32844: "a TIFF in LogL light",
    32845: "a TIFF in LogLuv colours",
}
_COMPRESSION_NAMES = {
    2: "CCITT RLE (fax)",
    3: "CCITT group 3 (fax)",
    4: "CCITT group 4 (fax)",
    6: "old-style JPEG",
    9: "JBIG",
    10: "JBIG",
    34661: "JBIG",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34925: "LZMA",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _ZSTD = 1, 5, 7, 8, 32946, 32773, 50000
_PLAIN_COMPRESSIONS = frozenset({_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _ZSTD})
_PREDICTED = frozenset({_LZW, _DEFLATE, _OLD_DEFLATE, _ZSTD})
# What is known good: photometric interpretation → bits of a sample. Each has a test with pixels that are known.
_GOOD_BITS = {
    _GREY_INVERTED: (1, 4, 8, 16),
    _GREY: (1, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (4, 8),
    _CMYK: (8, 16),
    _YCBCR: (8,),
}
_GOOD_JPEG = frozenset({_GREY, _RGB, _YCBCR})
_ASSOCIATED, _UNASSOCIATED = 1, 2


class RawFile(Exception):
    """The TIFF is a camera's raw file."""


@dataclass(frozen=True)
class _Page:
    """A directory: tag → type, number of values, and where they lie in the file."""

    data: bytes
    order: str
    tags: dict[int, tuple[int, int, int]]

    def get(self, tag: int, default: int) -> int:
        values = self.read(tag)
        return int(values[0]) if values is not None and len(values) else default

    def read(self, tag: int) -> NDArray[Any] | None:
        """All values of a tag of whole numbers; None where it is missing or of another type. Nothing is copied."""
        kind, count, at = self.tags.get(tag, (0, 0, 0))
        if kind not in _TYPES:
            return None
        dtype = np.dtype(self.order + _TYPES[kind])
        if at < 0 or at + count * dtype.itemsize > len(self.data):
            return None
        return np.frombuffer(self.data, dtype, count, at)

    @cached_property
    def width_px(self) -> int:
        return self.get(_WIDTH, 0)

    @cached_property
    def height_px(self) -> int:
        return self.get(_LENGTH, 0)

    @cached_property
    def samples(self) -> int:
        return self.get(_SAMPLES, 1)

    @cached_property
    def bits(self) -> int:
        return self.get(_BITS, 1)

    @cached_property
    def photometric(self) -> int:
        return self.get(_PHOTOMETRIC, -1)

    @cached_property
    def compression(self) -> int:
        return self.get(_COMPRESSION, _NONE)

    @cached_property
    def is_separate(self) -> bool:
        return self.get(_PLANAR, 1) == 2 and self.samples > 1

    @cached_property
    def is_tiled(self) -> bool:
        return _TILE_WIDTH in self.tags or _TILE_OFFSETS in self.tags

    @cached_property
    def is_reduced(self) -> bool:
        """A smaller copy of another page, or a mask."""
        return bool(self.get(_SUBFILE, 0) & 5) or (_SUBFILE not in self.tags and self.get(_OLD_SUBFILE, 1) == 2)

    @cached_property
    def is_raw(self) -> bool:
        return (
            bool(_RAW_TAGS & self.tags.keys())
            or self.photometric in (_CFA, _LINEAR_RAW)
            or self.compression in _RAW_COMPRESSIONS
        )

    @cached_property
    def segment_px(self) -> tuple[int, int]:
        """Width and height of a strip or tile."""
        if self.is_tiled:
            return self.get(_TILE_WIDTH, 0), self.get(_TILE_LENGTH, 0)
        return self.width_px, min(self.get(_ROWS_PER_STRIP, self.height_px), self.height_px)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Strips or tiles across and down."""
        width_px, height_px = self.segment_px
        return -(-self.width_px // width_px), -(-self.height_px // height_px)


def read_outline(data: bytes) -> Outline:
    """Raises RawFile for a camera's raw file, BadPhoto for what is not in the table of known good kinds."""
    page = _choose_page(data)
    pixels = page.width_px * page.height_px
    segment_px = page.segment_px[0] * page.segment_px[1]
    # A strip is unpacked, decoded and put in order; then it is turned into 8 bits block by block.
    segment_bytes = segment_px * page.samples * max(1, page.bits // 8)
    copies = 2 if page.compression == _NONE else 3
    size = estimate_bytes(pixels, OUT_BYTES, copies * segment_bytes + _LIBRARY_BYTES)
    orientation = page.get(_ORIENTATION, 1)
    profile = page.read(_PROFILE)
    return Outline(
        page.width_px,
        page.height_px,
        size,
        orientation if orientation in range(1, 9) else 1,
        profile.tobytes() if profile is not None and profile.nbytes <= MOST_PROFILE_BYTES else None,
    )


def decode(data: bytes, outline: Outline, _enough_px: int | None = None) -> Image:
    page = _choose_page(data)
    offsets, lengths = _read_segments(page)
    decode_segment = _make_decoder(page)
    tables = page.read(_JPEG_TABLES)
    jpeg_tables = tables.tobytes() if tables is not None else None
    pixels = np.empty((page.height_px, page.width_px, OUT_BYTES), np.uint8)
    convert = _make_converter(page, outline.profile)
    across, down = page.grid
    for at in range(across * down):
        planes = []
        for plane in range(page.samples if page.is_separate else 1):
            index = plane * across * down + at
            packed = data[int(offsets[index]) : int(offsets[index]) + int(lengths[index])]
            planes.append(_decode_segment(page, decode_segment, packed, index, jpeg_tables))
        samples = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        top, left = at // across * page.segment_px[1], at % across * page.segment_px[0]
        target = pixels[top : top + samples.shape[0], left : left + samples.shape[1]]
        _convert_into(target, samples[: target.shape[0], : target.shape[1]], convert)
    if page.photometric != _CMYK:
        convert_pixels(pixels, outline.profile)
    return pixels


def _choose_page(data: bytes) -> _Page:
    """The largest page that is no reduced copy; of several, the first."""
    pages = list(_read_pages(data))
    if not pages:
        raise make_damaged("TIFF", "it has no directory of tags.")
    if data[8:10] == b"CR" or any(page.is_raw for page in pages):
        raise RawFile
    whole = [page for page in pages if not page.is_reduced] or pages
    page = max(whole, key=lambda page: page.width_px * page.height_px)
    _check(page)
    return page


def _read_pages(data: bytes) -> Iterator[_Page]:
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    waiting = [_read_number(data, 8 if is_big else 4, order, "Q" if is_big else "I")]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop(0)
        if at in seen or not 8 <= at < len(data):
            continue
        seen.add(at)
        tags, following = _read_directory(data, at, order, is_big=is_big)
        page = _Page(data, order, tags)
        if tags:
            yield page
        below = page.read(_SUB_IFDS)
        waiting += [] if below is None else [int(offset) for offset in below[:_MOST_DIRECTORIES]]
        waiting.append(following)


def _read_directory(data: bytes, at: int, order: str, *, is_big: bool) -> tuple[dict[int, tuple[int, int, int]], int]:
    """The tags of a directory, and the offset of the next (0 for none). What is cut off or odd is left out."""
    number, entry, inline = ("Q", 20, 8) if is_big else ("I", 12, 4)
    count = _read_number(data, at, order, "Q" if is_big else "H")
    begin = at + (8 if is_big else 2)
    tags: dict[int, tuple[int, int, int]] = {}
    if count > _MOST_TAGS:
        return tags, 0
    for row in range(count):
        place = begin + row * entry
        if place + entry > len(data):
            return tags, 0
        tag, kind = struct.unpack_from(order + "HH", data, place)
        values = _read_number(data, place + 4, order, number)
        size = values * (np.dtype(_TYPES[kind]).itemsize if kind in _TYPES else 8)
        where = place + 4 + inline
        tags.setdefault(tag, (kind, values, where if size <= inline else _read_number(data, where, order, number)))
    return tags, _read_number(data, begin + count * entry, order, number)


def _read_number(data: bytes, at: int, order: str, kind: str) -> int:
    if at + struct.calcsize(kind) > len(data):
        return 0
    return int(struct.unpack_from(order + kind, data, at)[0])


def _check(page: _Page) -> None:
    """Raises BadPhoto, by its right name, for all that is not known to come out right."""
    if not page.width_px or not page.height_px:
        raise make_damaged("TIFF", "it has no pixels.")
    formats = page.read(_SAMPLE_FORMAT)
    if formats is not None and any(int(value) not in (1, 4) for value in formats[:8]):
        kind = "floating-point" if int(formats[0]) == 3 else "signed or complex"
        raise BadPhoto(
            f"The picture has {page.bits}-bit pixels ({kind}), whose range of light is unknown.", "not supported"
        )
    if page.photometric not in _BASE_CHANNELS:
        name = _PHOTOMETRIC_NAMES.get(page.photometric, f"a TIFF of the colour model {page.photometric}")
        raise make_unsupported(name)
    bits = page.read(_BITS)
    if bits is not None and any(int(value) != page.bits for value in bits[: page.samples]):
        raise make_unsupported("a TIFF whose colours have different numbers of bits")
    if page.bits == 32:
        raise BadPhoto("The picture has 32-bit pixels, whose range of light is unknown.", "not supported")
    if page.bits not in _GOOD_BITS[page.photometric]:
        raise make_unsupported(f"a TIFF of {page.bits} bits a sample in the colour model {page.photometric}")
    base = _BASE_CHANNELS[page.photometric]
    named = page.read(_EXTRA_SAMPLES)
    extra = page.samples - base
    # Some writers of RGBA don't say what their fourth channel is; it is left out.
    is_named = extra == (0 if named is None else len(named)) or (page.photometric == _RGB and extra == 1)
    has_known_extras = named is None or all(int(kind) <= _UNASSOCIATED for kind in named[:8])
    if not 0 <= extra <= 4 or (page.bits < 8 and extra) or not is_named or not has_known_extras:
        raise make_unsupported(f"a TIFF of {page.samples} samples a pixel in the colour model {page.photometric}")
    _check_order(page)
    _check_compression(page)
    _check_segments(page)


def _check_order(page: _Page) -> None:
    if page.get(_PLANAR, 1) not in (1, 2) or page.get(_DEPTH, 1) != 1:
        raise make_unsupported("a TIFF of another order of planes")
    if page.photometric == _CMYK and page.get(_INK_SET, 1) != 1:
        raise make_unsupported("a TIFF in other inks than CMYK")
    if page.get(_FILL_ORDER, 1) != 1:
        raise make_unsupported("a TIFF whose bits are in reverse order")


def _check_compression(page: _Page) -> None:
    is_jpeg = page.compression == _JPEG
    if not is_jpeg and page.compression not in _PLAIN_COMPRESSIONS:
        raise make_unsupported(f"a TIFF compressed by {_COMPRESSION_NAMES.get(page.compression, page.compression)}")
    if page.photometric == _YCBCR and (not is_jpeg or page.is_separate):
        raise make_unsupported("a TIFF in YCbCr colours without JPEG compression")
    if is_jpeg and (page.photometric not in _GOOD_JPEG or page.bits != 8 or _count_extra(page) or page.is_separate):
        raise make_unsupported("a TIFF compressed by JPEG in this colour model")
    predictor = page.get(_PREDICTOR, 1)
    if predictor != 1 and not is_jpeg and (predictor != 2 or page.bits < 8 or page.compression not in _PREDICTED):
        raise make_unsupported(f"a TIFF with the predictor {predictor}")
    colours = page.read(_COLOUR_MAP)
    if page.photometric == _PALETTE and (colours is None or len(colours) != 3 << page.bits):
        raise make_damaged("TIFF", "its palette is missing.")


def _check_segments(page: _Page) -> None:
    width_px, height_px = page.segment_px
    if not width_px or not height_px:
        raise make_damaged("TIFF", "its strips or tiles have no pixels.")
    # The smallest tile is 16 px wide by the standard; those of usual writers have 256 or 512 px.
    if page.is_tiled and (width_px > max(2 * page.width_px, 1_024) or height_px > max(2 * page.height_px, 1_024)):
        raise BadPhoto(
            f"The TIFF has tiles of {width_px} by {height_px} px for a picture of {page.width_px} by "
            f"{page.height_px} px.",
            "too large",
        )
    across, down = page.grid
    if across * down * (page.samples if page.is_separate else 1) > _MOST_SEGMENTS:
        raise make_unsupported(f"a TIFF of more than {_MOST_SEGMENTS:,} strips or tiles")


def _count_extra(page: _Page) -> int:
    return page.samples - _BASE_CHANNELS[page.photometric]


def _read_segments(page: _Page) -> tuple[NDArray[Any], NDArray[Any]]:
    """Offsets and bytes of all strips or tiles. Raises BadPhoto where one is missing or ends behind the file."""
    tags = (_TILE_OFFSETS, _TILE_BYTES) if page.is_tiled else (_STRIP_OFFSETS, _STRIP_BYTES)
    offsets, lengths = page.read(tags[0]), page.read(tags[1])
    across, down = page.grid
    needed = across * down * (page.samples if page.is_separate else 1)
    if offsets is None or (lengths is None and needed > 1):
        raise make_damaged("TIFF", "it doesn't say where its pixels lie.")
    if lengths is None:
        # Early writers left it out where one strip is all.
        lengths = np.array([len(page.data) - int(offsets[0])])
    if len(offsets) < needed or len(lengths) < needed:
        raise make_damaged("TIFF", "some of its strips or tiles are missing.")
    for at in range(needed):
        begin, length = int(offsets[at]), int(lengths[at])
        if begin + length > len(page.data):
            raise CutOff("TIFF")
        if begin < 8 or length <= 0:
            raise make_damaged("TIFF", "some of its strips or tiles are missing.")
    row_bytes = -(-page.segment_px[0] * page.bits * (1 if page.is_separate else page.samples) // 8)
    if page.compression == _NONE and needed == 1 and int(lengths[0]) >= 2 * row_bytes * page.segment_px[1]:
        raise make_damaged("TIFF", "it has twice the bytes that its pixels need.")
    return offsets, lengths


def _make_decoder(page: _Page) -> Callable[..., Any]:
    """tifffile's decoder of the strips or tiles of a page, from a directory with nothing but what makes pixels."""
    import tifffile  # 0.14 s and 30 MB, for the few who send TIFF

    width_px, height_px = page.segment_px
    count = page.grid[0] * page.grid[1] * (page.samples if page.is_separate else 1)
    entries: dict[int, list[int]] = {
        _WIDTH: [page.width_px],
        _LENGTH: [page.height_px],
        _BITS: [page.bits] * page.samples,
        _COMPRESSION: [page.compression],
        _PHOTOMETRIC: [page.photometric],
        _SAMPLES: [page.samples],
        _PLANAR: [2 if page.is_separate else 1],
        _PREDICTOR: [page.get(_PREDICTOR, 1) if page.compression != _JPEG else 1],
    }
    if extra := _count_extra(page):
        entries[_EXTRA_SAMPLES] = [0] * extra
    if page.photometric == _YCBCR:
        entries[_SUBSAMPLING] = [1, 1]
    if page.is_tiled:
        entries |= {
            _TILE_WIDTH: [width_px],
            _TILE_LENGTH: [height_px],
            _TILE_OFFSETS: [8] * count,
            _TILE_BYTES: [1] * count,
        }
    else:
        entries |= {_ROWS_PER_STRIP: [height_px], _STRIP_OFFSETS: [8] * count, _STRIP_BYTES: [1] * count}
    file = BytesIO(_write_directory(entries, page.order))
    with tifffile.TiffFile(file, name="photo.tif") as opened:
        decode_segment: Callable[..., Any] = opened.pages.first.decode
    return decode_segment


def _write_directory(entries: dict[int, list[int]], order: str) -> bytes:
    """A TIFF of one directory, whose values are all of 32 bits."""
    start, at = (b"II*\0" if order == "<" else b"MM\0*"), 8
    values_at = at + 2 + 12 * len(entries) + 4
    table, values = struct.pack(order + "H", len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        table += struct.pack(order + "HHI", tag, 4, len(numbers))
        if len(numbers) == 1:
            table += packed
        else:
            table += struct.pack(order + "I", values_at + len(values))
            values += packed
    return start + struct.pack(order + "I", at) + table + b"\0\0\0\0" + values


def _decode_segment(
    page: _Page, decode_segment: Callable[..., Any], packed: bytes, index: int, tables: bytes | None
) -> NDArray[Any]:
    """(h,w,samples) of one strip or tile. Raises BadPhoto where it has not all of its pixels."""
    width_px, height_px = page.segment_px
    if page.compression == _JPEG:
        found = read_frame(packed)
        if found[0] > width_px or found[1] > height_px or found[2] != page.samples:
            raise make_damaged("TIFF", "the JPEG in it has another size than its strip or tile.")
        # Such a JPEG says that it holds YCbCr, and the TIFF that it holds RGB: readers don't agree on what counts.
        adobe = packed.find(b"Adobe", 0, 256)
        if page.photometric == _RGB and (
            b"JFIF\0" in packed[:64] or (adobe >= 0 and packed[adobe + 11 : adobe + 12] != b"\0")
        ):
            raise make_unsupported("a TIFF of RGB whose JPEG names its colours differently")
    samples, place, _ = decode_segment(packed, index, jpegtables=tables)
    row, column = place[2], place[3]
    least = min(height_px, page.height_px - row), min(width_px, page.width_px - column)
    if samples is None or samples.ndim != 4 or samples.shape[1] < least[0] or samples.shape[2] < least[1]:
        raise CutOff("TIFF")
    decoded: NDArray[Any] = samples[0]
    return decoded


def _convert_into(target: Image, samples: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    for top, bottom, left, right in split_into_blocks(target.shape[1], target.shape[0]):
        target[top:bottom, left:right] = convert(samples[top:bottom, left:right])


def _make_converter(page: _Page, profile: bytes | None) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A function from samples as they are stored, (h,w,c), to (h,w,3) or (h,w,1) uint8."""
    base = _BASE_CHANNELS[page.photometric]
    colours = _read_palette(page) if page.photometric == _PALETTE else None
    extra = page.read(_EXTRA_SAMPLES)
    # A JPEG in a TIFF comes as RGB already.
    alpha = int(extra[0]) if extra is not None and len(extra) and _count_extra(page) else 0

    def convert(samples: NDArray[Any]) -> NDArray[Any]:
        if colours is not None:
            indexed: NDArray[Any] = colours[samples[..., 0]]
            return indexed
        eight = _scale_to_8_bit(samples, page.bits)
        pixels: NDArray[Any] = eight[..., :base]
        if page.photometric == _CMYK:
            return convert_to_array(Pil.fromarray(np.ascontiguousarray(pixels), "CMYK"), profile)
        if page.photometric == _GREY_INVERTED:
            pixels = 255 - pixels
        if alpha in (_ASSOCIATED, _UNASSOCIATED):
            return _put_on_white(pixels, eight[..., base : base + 1], is_multiplied=alpha == _ASSOCIATED)
        return pixels

    return convert


def _scale_to_8_bit(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    if bits == 16:
        return (samples >> 8).astype(np.uint8)
    if bits == 8:
        return samples
    return samples.astype(np.uint8) * np.uint8(255 // ((1 << bits) - 1))


def _put_on_white(colour: NDArray[Any], alpha: NDArray[Any], *, is_multiplied: bool) -> NDArray[Any]:
    """Where `is_multiplied`, the colours are darkened by their alpha already, and white is only added."""
    share = alpha.astype(np.uint16)
    light = colour.astype(np.uint16) * (255 if is_multiplied else share)
    mixed: NDArray[Any] = np.minimum((light + 255 * (255 - share) + 127) // 255, 255).astype(np.uint8)
    return mixed


def _read_palette(page: _Page) -> NDArray[Any]:
    """(colours,3) uint8. Some writers fill the 16 bits of an entry with 8."""
    stored = page.read(_COLOUR_MAP)
    assert stored is not None  # noqa: S101 - `_check` refuses a palette without colours
    colours = stored.reshape(3, -1).T
    palette: NDArray[Any] = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    return palette
