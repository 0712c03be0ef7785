"""Good pictures whose structure alone is changed: what lies beside the pixels, and what says how they are stored."""

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pil

from tests import photos

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_KINDS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"acTL", b"fcTL")
JPEG_STARTS = (
    b"",
    b"Exif\0\0",
    b"ICC_PROFILE\0\1\1",
    b"http://ns.adobe.com/xap/1.0/\0",
    b"MPF\0",
    b"JFXX\0\x10",
    b"Photoshop 3.0\0",
)
# Tags of a TIFF that say how pixels are stored, and some that say nothing of them.
TIFF_TAGS = (254, 255, 258, 259, 262, 266, 277, 278, 284, 317, 320, 322, 323, 330, 332, 338, 339, 530, 700, 34665)
TIFF_VALUES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 120, 65_535, 32_773, 32_946, 4_294_967_295)
Chance = random.Random


def make_structure_case(seed: int, number: int) -> tuple[bytes, bytes]:
    """A good picture, and the same with a changed structure."""
    chance = random.Random(f"structure/{seed}/{number}")  # noqa: S311 - reproducible, not a secret
    change, samples = _CHANGES[number % len(_CHANGES)]
    sound = chance.choice(samples())
    changed = sound
    for _ in range(chance.randint(1, 3)):
        changed = change(chance, changed)
    return sound, changed


def read_otherwise(data: bytes) -> list[NDArray[np.uint8]]:
    """What Pillow and tifffile see in a file, (H,W,3) each, as far as they see anything in colours that are plain."""
    return [seen for seen in (_read_by_pillow(data), _read_by_tifffile(data)) if seen is not None]


def _read_by_pillow(data: bytes) -> NDArray[np.uint8] | None:
    try:
        with Pil.open(BytesIO(data)) as picture:
            picture.load()
            is_plain = picture.mode in ("RGB", "L", "P", "CMYK", "1")
            return np.asarray(picture.convert("RGB")) if is_plain else None
    except Exception:  # noqa: BLE001 - it is only asked for its view
        return None


def _read_by_tifffile(data: bytes) -> NDArray[np.uint8] | None:
    try:
        with tifffile.TiffFile(BytesIO(data)) as opened:
            page = opened.pages.first
            samples, photometric, bits = page.asarray(), int(page.photometric), int(page.bitspersample)
    except Exception:  # noqa: BLE001 - as above
        return None
    eight = (samples >> 8 if samples.dtype == np.uint16 else samples).astype(np.uint8)
    if bits < 8:
        eight = eight * np.uint8(255 // ((1 << bits) - 1))
    if eight.ndim == 2 and photometric in (0, 1):
        return np.repeat((eight if photometric else 255 - eight)[..., None], 3, axis=2)
    return eight[..., :3] if eight.ndim == 3 and photometric == 2 else None


def _change_png(chance: Chance, data: bytes) -> bytes:
    if chance.random() < 0.3:
        # The checksums of PNG tell that a byte is wrong.
        return _flip(chance, data, len(PNG_START), len(data))
    kind = chance.choice((*PNG_KINDS, bytes((97 + chance.randrange(26), *b"aAz"))))
    body = chance.choice((b"", b"name\0\0", b"XML:com.adobe.xmp\0\0\0\0\0")) + _make_body(chance)
    crc = None if chance.random() < 0.5 else chance.randrange(1 << 32)
    at = chance.choice(_list_png_ends(data))
    return data[:at] + photos.png_chunk(kind, body, crc) + data[at:]


def _list_png_ends(data: bytes) -> list[int]:
    """Where chunks end, up to the last but one."""
    ends, at = [], len(PNG_START)
    while at + 12 <= len(data):
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        ends.append(at)
    return [end for end in ends[:-1] if end < len(data)] or [33]


def _change_jpeg(chance: Chance, data: bytes) -> bytes:
    at = chance.choice(_list_jpeg_begins(data))
    marker = chance.choice((*range(0xE1, 0xEE), 0xEF, 0xFE, 0x02, 0xF3, 0xC8))
    body = chance.choice(JPEG_STARTS) + _make_body(chance).replace(b"\xff", b"\xfe")
    if chance.random() < 0.2:
        body += photos.jpeg(pixels=photos.noise(24, 16))
    length = None if chance.random() < 0.7 else chance.choice((0, 1, 2, len(body) + 50, 40_000, 65_535))
    return data[:at] + photos.jpeg_segment(marker, body, length) + data[at:]


def _list_jpeg_begins(data: bytes) -> list[int]:
    """Where the segments of the header begin that has not been changed yet; the first of all is never moved."""
    begins, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if at < len(data) and data[at] == 0xFF:
            begins.append(at)
    return begins or [2]


def _change_webp(chance: Chance, data: bytes) -> bytes:
    body = _make_body(chance)
    kind = chance.choice((b"EXIF", b"XMP ", b"ICCP", b"abcd"))
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    at = len(data) if chance.random() < 0.5 or data[12:16] != b"VP8X" else 30
    return data[:at] + chunk + data[at:]


def _change_heif(chance: Chance, data: bytes) -> bytes:
    """Boxes behind the last one, other bytes in the EXIF item, another type of it."""
    how = chance.randrange(3)
    at = data.find(b"Exif")
    if how == 0 or at < 0:
        body = _make_body(chance)
        return data + struct.pack(">I", 8 + len(body)) + chance.choice((b"free", b"skip", b"uuid", b"abcd")) + body
    if how == 1:
        return data[:at] + bytes(chance.choice(b"ExifmaU\xb8\0") for _ in range(4)) + data[at + 4 :]
    last = data.rfind(b"MM\0*")
    return data if last < 0 else _flip(chance, data, last, last + 8)


def _change_tiff(chance: Chance, data: bytes) -> bytes:
    """Another value of a tag, or a further tag, in a little-endian TIFF of one directory at its end."""
    at = int.from_bytes(data[4:8], "little")
    (count,) = struct.unpack_from("<H", data, at)
    entries = [data[at + 2 + 12 * row : at + 14 + 12 * row] for row in range(count)]
    tag, value = chance.choice(TIFF_TAGS), chance.choice(TIFF_VALUES)
    kind = chance.choice((3, 4)) if value < 65_536 else 4
    entries = [entry for entry in entries if int.from_bytes(entry[:2], "little") != tag]
    entries.append(struct.pack("<HHII", tag, kind, 1, value))
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    # The new directory stands behind all else.
    moved = bytearray(data + b"\0" * (len(data) % 2))
    struct.pack_into("<I", moved, 4, len(moved))
    return bytes(moved) + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"


def _make_body(chance: Chance) -> bytes:
    body = chance.randbytes(chance.choice((0, 1, 10, 100, 1_000)))
    return zlib.compress(body * chance.choice((1, 1_000))) if chance.random() < 0.3 else body


def _flip(chance: Chance, data: bytes, begin: int, end: int) -> bytes:
    at = chance.randrange(begin, end)
    return data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]


@cache
def _make_pngs() -> tuple[bytes, ...]:
    grey16 = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    deep = (photos.png16(np.dstack([grey16] * channels)) for channels in (1, 3))
    return (*(photos.png(mode) for mode in ("RGB", "L", "P", "1", "RGBA", "LA")), *deep)


@cache
def _make_jpegs() -> tuple[bytes, ...]:
    modes = (
        photos.jpeg(mode, progressive=progressive) for mode in ("RGB", "L", "CMYK") for progressive in (False, True)
    )
    return (*modes, photos.ycck_jpeg(), photos.jpeg(subsampling=2, restart_marker_rows=1))


@cache
def _make_webps() -> tuple[bytes, ...]:
    exif = Pil.Exif()
    exif[271] = "Maker"
    return (photos.webp(), photos.webp(lossless=True), photos.webp(exif=exif.tobytes()), photos.animated("WEBP"))


@cache
def _make_heifs() -> tuple[bytes, ...]:
    exif = Pil.Exif()
    exif[271] = "Maker"
    return (photos.heic(), photos.heic(1, 6), photos.avif(), photos.avif(exif=exif.tobytes()))


@cache
def _make_tiffs() -> tuple[bytes, ...]:
    rgb, grey = photos.gradient(), photos.gradient()[..., 0].copy()
    layouts: tuple[dict[str, object], ...] = (
        {},
        {"rowsperstrip": 7},
        {"tile": (16, 32)},
        {"compression": "lzw"},
        {"compression": "zlib"},
    )
    files = []
    for pixels, photometric in ((rgb, "rgb"), (rgb.astype(np.uint16) * 257, "rgb"), (grey, "minisblack")):
        for layout in layouts:
            file = BytesIO()
            tifffile.imwrite(file, pixels, photometric=photometric, **layout)  # type: ignore[arg-type]
            files.append(file.getvalue())
    return (*files, photos.tiff("CMYK"), photos.tiff(compression="jpeg"))


_CHANGES: tuple[tuple[Callable[[Chance, bytes], bytes], Callable[[], tuple[bytes, ...]]], ...] = (
    (_change_png, _make_pngs),
    (_change_jpeg, _make_jpegs),
    (_change_webp, _make_webps),
    (_change_heif, _make_heifs),
    (_change_tiff, _make_tiffs),
)
