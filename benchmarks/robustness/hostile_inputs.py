"""Ordinary photos and hostile files for the benchmark `hostile`, all made here.

A hostile file is small, and costs much time or memory where it is believed. Most are valid in their format.
"""

import struct
import zlib
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image

from tests import photos

WIDE, HIGH = 12_500, 12_000
"""150 megapixels: as many as are accepted by default."""
_ROWS = 500
_ORDINARY = (
    *(("jpg", "JPEG", side, {"quality": 88}) for side in (1000, 1600, 2000, 3000, 4000, 1200, 2400, 6000)),
    ("jpg", "JPEG", 3000, {"quality": 88, "progressive": True}),
    ("png", "PNG", 1500, {"compress_level": 1}),
    *(("jpg", "JPEG", side, {"quality": 80}) for side in (1024, 4032)),
    ("webp", "WEBP", 2000, {"quality": 80, "method": 0}),
    ("avif", "AVIF", 1200, {"speed": 10}),
    ("tif", "TIFF", 1500, {}),
    ("jpg", "JPEG", 8160, {"quality": 75}),  # 50 megapixels
)


def write_ordinary(folder: Path, count: int) -> None:
    """Photos with a face, of the sizes and formats that cameras and programs write; no two files are the same."""
    with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as file:
        portrait = np.asarray(file.convert("RGB"))
    made: dict[int, bytes] = {}
    for number, kind in zip(range(count), cycle(range(len(_ORDINARY))), strict=False):
        ending, file_format, side, options = _ORDINARY[kind]
        if kind not in made:
            picture = cv2.resize(portrait, (side, side * 3 // 4), interpolation=cv2.INTER_CUBIC)
            made[kind] = photos.saved(Image.fromarray(picture), file_format, **options)
        # What follows the end of a picture is not read, but makes the file another one.
        (folder / f"ordinary_{number:03d}.{ending}").write_bytes(made[kind] + number.to_bytes(4, "big"))


def write_hostile(folder: Path, count: int) -> None:
    """So many files at equal steps of the list."""
    kinds = list(HOSTILE.items())
    for number in range(count):
        name, make = kinds[round(number * (len(kinds) - 1) / max(1, count - 1))]
        path = folder / f"hostile_{name}"
        # The ending is part of the name, since an image id is a file's name without it.
        path.with_stem(f"{path.stem}_{path.suffix[1:]}").write_bytes(make())


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deflate_zeros(size: int) -> bytes:
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join((*parts, packer.compress(bytes(size & ((1 << 20) - 1))), packer.flush()))


def _png(
    colour: int, bits: int, channels: int, *, interlaced: bool = False, size: tuple[int, int] = (WIDE, HIGH)
) -> bytes:
    """A black PNG. An interlaced one has seven passes, each with its own rows (PNG specification, 8.2)."""
    width, height = size
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    each = bits * channels // 8
    if interlaced:
        passes = [(8, 8, 0, 0), (8, 8, 4, 0), (4, 8, 0, 4), (4, 4, 2, 0), (2, 4, 0, 2), (2, 2, 1, 0), (1, 2, 0, 1)]
        raw = sum(-(-(height - y) // dy) * (-(-(width - x) // dx) * each + 1) for dx, dy, x, y in passes)
    else:
        raw = height * (width * each + 1)
    palette = _chunk(b"PLTE", bytes(768)) + _chunk(b"tRNS", bytes(256)) if colour == 3 else b""
    body = _chunk(b"IHDR", header) + palette + _chunk(b"IDAT", _deflate_zeros(raw))
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")


def _small_png(extra: bytes) -> bytes:
    data = photos.png()
    return data[:33] + extra + data[33:]


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _progressive(scans: int, width: int, height: int) -> bytes:
    """A progressive JPEG in grey whose every scan goes through all blocks again (ITU-T T.81, G.1.2.2).

    One code word of 16 bits says that 32,767 blocks have nothing to add.
    """
    blocks = -(-width // 8) * -(-height // 8)
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    tables = _segment(0xDB, bytes([0]) + bytes([1] * 64))
    # One symbol of one bit in each table: no difference of DC, and an end of band of 2^14 blocks and more.
    tables += _segment(0xC4, bytes([0x00, 1, *[0] * 15, 0])) + _segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0]))
    first = _segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])) + bytes(-(-blocks // 8))
    runs = -(-blocks // 32_767)
    bits = "".join("0" + "1" * 14 for _ in range(runs))
    packed = int(bits + "1" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big").replace(b"\xff", b"\xff\x00")
    again = _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x00])) + packed
    return b"\xff\xd8" + tables + _segment(0xC2, frame) + first + again * scans + b"\xff\xd9"


def _flat_jpeg(width: int, height: int, components: int, frame: int = 0xC0) -> bytes:
    """A grey or CMYK JPEG of one tone: one bit for each coefficient that differs from nothing, so two a block."""
    blocks = -(-width // 8) * -(-height // 8) * components
    ids = range(1, components + 1)
    header = struct.pack(">BHHB", 8, height, width, components) + b"".join(bytes([each, 0x11, 0]) for each in ids)
    tables = _segment(0xDB, bytes([0]) + bytes([1] * 64))
    tables += _segment(0xC4, bytes([0x00, 1, *[0] * 15, 0])) + _segment(0xC4, bytes([0x10, 1, *[0] * 15, 0]))
    scan = bytes([components, *(value for each in ids for value in (each, 0x00)), 0, 63, 0])
    return b"\xff\xd8" + tables + _segment(frame, header) + _segment(0xDA, scan) + bytes(-(-blocks // 4)) + b"\xff\xd9"


def _webp_canvas(width: int, height: int) -> bytes:
    """An animation of one pixel on a huge canvas (WebP container specification, VP8X)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    def three(value: int) -> bytes:
        return value.to_bytes(3, "little")

    frame = bytes(6) + three(0) + three(0) + three(100) + bytes([0]) + chunk(b"VP8L", _vp8l(1, 1))
    body = chunk(b"VP8X", bytes([0x12, 0, 0, 0]) + three(width - 1) + three(height - 1))
    body += chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _vp8l(width: int, height: int) -> bytes:
    """A lossless WebP bit stream of one colour. Its codes have one symbol each, so that a pixel takes no bits."""
    file = photos.saved(Image.new("RGBA", (1, 1), (9, 9, 9, 255)), "WEBP", lossless=True)
    at = file.index(b"VP8L")
    (size,) = struct.unpack_from("<I", file, at + 4)
    stream = bytearray(file[at + 8 : at + 8 + size])
    bits = int.from_bytes(stream[1:5], "little") & ~((1 << 28) - 1)
    stream[1:5] = (bits | (width - 1) | (height - 1) << 14).to_bytes(4, "little")
    return bytes(stream)


def _flat_webp(width: int, height: int) -> bytes:
    stream = _vp8l(width, height)
    body = b"VP8L" + struct.pack("<I", len(stream)) + stream + bytes(len(stream) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


Tags = dict[int, tuple[int, tuple[int, ...]]]


def _tiff(tags: Tags, data: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF: tag → (type 3 or 4, values). A value of -1 is the offset of `data`."""
    sizes = {1: 1, 3: 2, 4: 4, 7: 1}
    begin = 8 + 2 + 12 * len(tags) + 4
    long = [(tag, kind, values) for tag, (kind, values) in tags.items() if sizes[kind] * len(values) > 4]
    offsets, at = {}, begin
    for tag, kind, values in long:
        offsets[tag] = at
        at += sizes[kind] * len(values) + sizes[kind] * len(values) % 2
    letters = {1: "B", 3: "H", 4: "I", 7: "B"}

    def pack(kind: int, values: tuple[int, ...]) -> bytes:
        return struct.pack(f"<{len(values)}{letters[kind]}", *(at if value == -1 else value for value in values))

    directory = b"".join(
        struct.pack("<HHI", tag, kind, len(values))
        + (struct.pack("<I", offsets[tag]) if tag in offsets else pack(kind, values).ljust(4, b"\0"))
        for tag, (kind, values) in sorted(tags.items())
    )
    aside = b"".join(pack(kind, values) + bytes(sizes[kind] * len(values) % 2) for _, kind, values in long)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", following) + aside + data


def _tiff_tags(width: int, height: int, channels: int, bits: int, compression: int, size: int) -> Tags:
    return {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (bits,) * channels),
        259: (3, (compression,)),
        262: (3, (2 if channels >= 3 else 1,)),
        273: (4, (-1,)),
        277: (3, (channels,)),
        278: (4, (height,)),
        279: (4, (size,)),
        284: (3, (1,)),
        **({338: (3, (2,))} if channels == 4 else {}),
    }


def _flat_tiff(width: int, height: int, channels: int, bits: int) -> bytes:
    data = _deflate_zeros(width * height * channels * bits // 8)
    return _tiff(_tiff_tags(width, height, channels, bits, 8, len(data)), data)


def _tile_tiff(side: int) -> bytes:
    """One pixel, stored in one giant tile."""
    data = _deflate_zeros(side * side * 3)
    tags = _tiff_tags(1, 1, 3, 8, 8, len(data))
    for strip in (273, 278, 279):
        del tags[strip]
    return _tiff({**tags, 322: (4, (side,)), 323: (4, (side,)), 324: (4, (-1,)), 325: (4, (len(data),))}, data)


def _profile_tiff(number: int) -> bytes:
    """A small picture with 8 MB of colour profile, of which each file has another."""
    profile = bytearray(np.random.default_rng(number).bytes(8_000_000))
    header = struct.pack(">I4sI4s4s4s", len(profile), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    profile[:128] = header.ljust(128, b"\0")
    profile[36:40] = b"acsp"
    return photos.saved(Image.fromarray(photos.gradient()), "TIFF", icc_profile=bytes(profile))


def _looping_tiff() -> bytes:
    return _tiff(_tiff_tags(64, 48, 3, 8, 1, 64 * 48 * 3), bytes(64 * 48 * 3), following=8)


def _many_tags_tiff() -> bytes:
    tags = _tiff_tags(64, 48, 3, 8, 1, 64 * 48 * 3)
    return _tiff({**tags, **{tag: (4, tuple(range(16))) for tag in range(40_000, 60_000)}}, bytes(64 * 48 * 3))


def _gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    data = bytearray(photos.saved(Image.new("P", (1, 1)), "GIF"))
    struct.pack_into("<HH", data, 6, *screen)
    struct.pack_into("<HH", data, data.index(b",", 13) + 5, *frame)
    return bytes(data)


def _patch_size(data: bytes, width: int, height: int) -> bytes:
    """The same HEIF or AVIF file, whose property `ispe` says another size."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def _nested(brand: bytes, depth: int) -> bytes:
    """Boxes in boxes, as containers of HEIF are built (ISO/IEC 14496-12)."""
    boxes = b""
    for level in range(depth):
        body = (bytes(4) if level == depth - 1 else b"") + boxes
        boxes = struct.pack(">I4s", len(body) + 8, b"meta" if level == depth - 1 else b"iprp") + body
    return struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, b"mif1") + boxes


def _avif() -> bytes:
    return photos.saved(Image.fromarray(photos.gradient()), "AVIF")


def _bmp(width: int, height: int) -> bytes:
    """A run-length coded BMP with the end of the picture and no pixel before it."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 2, 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", 1080 + 2, 0, 0, 1078) + header + bytes(1024) + b"\x00\x01"


def _exif_loop() -> bytes:
    """A JPEG whose EXIF directory names itself as the next one, and as its own part."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0xA005, 4, 1, 8)
    exif = b"II*\x00" + struct.pack("<IH", 8, 2) + entry + struct.pack("<I", 8)
    data = photos.jpeg()
    return data[:2] + _segment(0xE1, b"Exif\0\0" + exif) + data[2:]


def _many_segments() -> bytes:
    data = photos.jpeg()
    return data[:2] + _segment(0xFE, b"x") * 200_000 + data[2:]


def _chunked_profile() -> bytes:
    """A JPEG with a profile in 255 chunks of 64 KB: 16 MB."""
    data, filler = photos.jpeg(), bytes(65_000)
    chunks = b"".join(_segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 255]) + filler) for number in range(1, 256))
    return data[:2] + chunks + data[2:]


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def _texts(kind: bytes, size: int, count: int) -> bytes:
    packed = _deflate_zeros(size)
    middle = {b"zTXt": b"\0\0", b"iCCP": b"\0\0", b"iTXt": b"\0\1\0\0\0"}[kind]
    return b"".join(_chunk(kind, b"k%d" % number + middle + packed) for number in range(count))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "flat_rgba.png": lambda: _png(6, 8, 4),
    "flat_rgba_16.png": lambda: _png(6, 16, 4),
    "flat_rgb_16.png": lambda: _png(2, 16, 3),
    "flat_grey_16.png": lambda: _png(0, 16, 1),
    "flat_palette.png": lambda: _png(3, 8, 1),
    "flat_interlaced.png": lambda: _png(6, 8, 4, interlaced=True),
    "flat_rgba_60mp.png": lambda: _png(6, 8, 4, size=(8000, 7500)),
    "bomb.png": photos.png_bomb,
    "zip_bomb_text.png": lambda: _small_png(_texts(b"zTXt", 500_000_000, 1)),
    "zip_bomb_texts.png": lambda: _small_png(_texts(b"zTXt", 1_000_000, 2000)),
    "zip_bomb_itxt.png": lambda: _small_png(_texts(b"iTXt", 300_000_000, 1)),
    "zip_bomb_profile.png": lambda: _small_png(_texts(b"iCCP", 500_000_000, 1)),
    "cut_off.png": lambda: _cut(_png(2, 8, 3)),
    "scans_200.jpg": lambda: _progressive(200, 8000, 6000),
    "scans_4000.jpg": lambda: _progressive(4000, 8000, 6000),
    "scans_2000.jpg": lambda: _progressive(2000, 4000, 3000),
    "scans_2000_150mp.jpg": lambda: _progressive(2000, WIDE, HIGH),
    "flat_150mp.jpg": lambda: _flat_jpeg(WIDE, HIGH, 1),
    "flat_cmyk.jpg": lambda: _flat_jpeg(WIDE, HIGH, 4),
    "claims_200mp.jpg": photos.jpeg_claiming_200_megapixels,
    "exif_loop.jpg": _exif_loop,
    "many_segments.jpg": _many_segments,
    "chunked_profile.jpg": _chunked_profile,
    "cut_off.jpg": lambda: _cut(_flat_jpeg(8000, 7000, 1)),
    "huge_canvas.webp": lambda: _webp_canvas(12_250, 12_240),
    "flat_150mp.webp": lambda: _flat_webp(16_000, 9_370),
    "giant_tile.tif": lambda: _tile_tiff(20_000),
    "flat_rgba_16.tif": lambda: _flat_tiff(WIDE, HIGH, 4, 16),
    "flat_rgb.tif": lambda: _flat_tiff(WIDE, HIGH, 3, 8),
    "profile_1.tif": lambda: _profile_tiff(1),
    "profile_2.tif": lambda: _profile_tiff(2),
    "profile_3.tif": lambda: _profile_tiff(3),
    "loop.tif": _looping_tiff,
    "many_tags.tif": _many_tags_tiff,
    "huge_screen.gif": lambda: _gif((12_000, 12_000), (12_000, 12_000)),
    "claims.avif": lambda: _patch_size(_avif(), 12_000, 12_000),
    "claims.heic": lambda: _patch_size(photos.heic(), 12_000, 12_000),
    "nested.heic": lambda: _nested(b"heic", 20_000),
    "flat.bmp": lambda: _bmp(12_000, 12_000),
    "garbage.avif": lambda: _avif()[:40] + np.random.default_rng(5).bytes(200_000),
}
