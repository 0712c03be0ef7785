"""GIF and BMP, by Pillow. Of a GIF, only what its first picture needs reaches the decoder."""

from io import BytesIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile

from app.core.arrays import Image
from app.vision.colour import convert_to_array
from app.vision.formats.outline import OUT_BYTES, PILLOW_BYTES, CutOff, Outline, estimate_bytes

_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9
_CANVAS_BYTES = 2
"""A palette's pixel takes one byte in the frame and one on the canvas."""


def read_outline(data: bytes) -> Outline:
    with GifImageFile(BytesIO(_keep_first_picture(data))) as picture:
        size = estimate_bytes(picture.width * picture.height, _CANVAS_BYTES + OUT_BYTES, len(data))
        return Outline(*picture.size, size)


def decode(data: bytes, _outline: Outline, _enough_px: int | None = None) -> Image:
    with GifImageFile(BytesIO(_keep_first_picture(data))) as picture:
        picture.load()
        return convert_to_array(picture, None)


def read_bmp_outline(data: bytes) -> Outline:
    with BmpImageFile(BytesIO(data)) as picture:
        native = 1 if picture.mode in ("1", "L", "P") else PILLOW_BYTES
        # Pillow unpacks a run-length encoded BMP into a byte string first.
        packed = 3 if any(tile[0] == "bmp_rle" for tile in picture.tile) else 0
        return Outline(*picture.size, estimate_bytes(picture.width * picture.height, native + packed + OUT_BYTES))


def decode_bmp(data: bytes, _outline: Outline, _enough_px: int | None = None) -> Image:
    with BmpImageFile(BytesIO(data)) as picture:
        picture.load()
        return convert_to_array(picture, None)


def _keep_first_picture(data: bytes) -> bytes:
    """The file without comments and application data: Pillow joins a comment's blocks in quadratic time."""
    if len(data) < 13:
        raise CutOff("GIF")
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    screen, control = data[:at], b""
    while at + 2 <= len(data) and data[at] == _EXTENSION:
        end = _skip_blocks(data, at + 2)
        if data[at + 1] == _CONTROL:
            control = data[at:end]
        at = end
    if at >= len(data) or data[at] != _IMAGE:
        raise CutOff("GIF")
    return screen + control + data[at:]


def _skip_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1
