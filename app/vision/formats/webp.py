"""WebP: the first frame, as a file of its own, goes straight to libwebp.

Pillow opens every WebP as an animation, with three pictures of the whole canvas in memory before the first pixel.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
from PIL import Image as Pil

from app.core.arrays import Image
from app.vision.colour import convert_pixels, convert_to_array
from app.vision.formats.exif import UPRIGHT, read_orientation
from app.vision.formats.outline import OUT_BYTES, CutOff, Outline, estimate_bytes, make_damaged

_ALPHA_FLAG = 0x10
_ANIMATION_FLAG = 0x02
_LOSSY_BYTES, _LOSSLESS_BYTES = 1.5, 6.5
"""What libwebp takes beside its result, bytes a pixel: measured on 12 megapixels."""


@dataclass(frozen=True)
class _Frame:
    """The first frame: where its chunks lie in the file, and where it lies on the canvas."""

    width_px: int
    height_px: int
    canvas: tuple[int, int]
    left: int
    top: int
    has_alpha: bool
    lossless: bool
    pixels: bytes
    """The chunk VP8 or VP8L, with ALPH before it."""


def read_outline(data: bytes) -> Outline:
    frame = _find_frame(data)
    width_px, height_px = frame.canvas
    orientation, profile = UPRIGHT, None
    for kind, body in _read_chunks(data, 12, len(data)):
        if kind == b"EXIF" and orientation == UPRIGHT:
            orientation = read_orientation(body)
        elif kind == b"ICCP":
            profile = profile or body
    channels = 4 if frame.has_alpha else OUT_BYTES
    own = _LOSSLESS_BYTES if frame.lossless else _LOSSY_BYTES
    needed = frame.width_px * frame.height_px * (channels + own)
    # Unless it is the result itself, the frame is put on a canvas.
    result = 0 if channels == OUT_BYTES and frame.canvas == (frame.width_px, frame.height_px) else OUT_BYTES
    size = estimate_bytes(width_px * height_px, result, round(needed) + 2 * len(data))
    return Outline(width_px, height_px, size, orientation, profile)


def decode(data: bytes, outline: Outline, _enough_px: int | None = None) -> Image:
    frame = _find_frame(data)
    stored = imagecodecs.webp_decode(_make_still(frame), hasalpha=frame.has_alpha)
    if stored.shape[:2] != (frame.height_px, frame.width_px):
        raise make_damaged("WebP", "its frame has another size than it says.")
    if frame.has_alpha:
        pixels = convert_to_array(Pil.fromarray(stored), outline.profile)
    else:
        pixels = np.ascontiguousarray(stored)
        convert_pixels(pixels, outline.profile)
    if frame.canvas == (frame.width_px, frame.height_px):
        return pixels
    canvas = np.full((frame.canvas[1], frame.canvas[0], OUT_BYTES), 255, np.uint8)
    canvas[frame.top : frame.top + frame.height_px, frame.left : frame.left + frame.width_px] = pixels
    return canvas


def _read_chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk. The last one may be cut off: its body is then shorter than it says."""
    while at + 8 <= end:
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        yield kind, data[at + 8 : min(at + 8 + length, end)]
        if at + 8 + length > end:
            return
        at += 8 + length + length % 2


def _find_frame(data: bytes) -> _Frame:
    """The picture, or the first of an animation. Raises BadPhoto where its canvas is not that of its pixels."""
    canvas: tuple[int, int] | None = None
    animated = False
    at, alpha = 12, b""
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        body_at, end = at + 8, at + 8 + length
        if kind == b"VP8X" and canvas is None and length >= 10:
            canvas = _read_24(data, body_at + 4) + 1, _read_24(data, body_at + 7) + 1
            animated = bool(data[body_at] & _ANIMATION_FLAG)
        elif kind == b"ANMF" and canvas is not None and animated:
            return _read_animation_frame(data, body_at, min(end, len(data)), canvas)
        elif kind == b"ALPH":
            alpha = data[at:end]
        elif kind in (b"VP8 ", b"VP8L") and not animated:
            if end > len(data):
                raise CutOff("WebP")
            frame = _make_frame(kind, data[at:end], alpha, canvas, (0, 0))
            if frame.canvas != (frame.width_px, frame.height_px):
                raise make_damaged("WebP", "its canvas has another size than its picture.")
            return frame
        at = end + length % 2
    raise CutOff("WebP")


def _read_animation_frame(data: bytes, at: int, end: int, canvas: tuple[int, int]) -> _Frame:
    place = 2 * _read_24(data, at), 2 * _read_24(data, at + 3)
    alpha, inner = b"", at + 16
    while inner + 8 <= end:
        kind, (length,) = data[inner : inner + 4], struct.unpack_from("<I", data, inner + 4)
        if kind == b"ALPH":
            alpha = data[inner : inner + 8 + length]
        elif kind in (b"VP8 ", b"VP8L"):
            if inner + 8 + length > end:
                raise CutOff("WebP")
            frame = _make_frame(kind, data[inner : inner + 8 + length], alpha, canvas, place)
            if place[0] + frame.width_px > canvas[0] or place[1] + frame.height_px > canvas[1]:
                raise make_damaged("WebP", "its first frame doesn't lie within its canvas.")
            return frame
        inner += 8 + length + length % 2
    raise CutOff("WebP")


def _make_frame(
    kind: bytes, chunk: bytes, alpha: bytes, canvas: tuple[int, int] | None, place: tuple[int, int]
) -> _Frame:
    body = chunk[8:18]
    if (len(body) < 10 and kind == b"VP8 ") or len(body) < 5:
        raise CutOff("WebP")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width_px, height_px, has_alpha, alpha = (
            (bits & 0x3FFF) + 1,
            (bits >> 14 & 0x3FFF) + 1,
            bool(bits >> 28 & 1),
            b"",
        )
    else:
        width, height = struct.unpack_from("<HH", body, 6)
        width_px, height_px, has_alpha = width & 0x3FFF, height & 0x3FFF, bool(alpha)
    if not width_px or not height_px:
        raise make_damaged("WebP", "it has no pixels.")
    whole = alpha + b"\0" * (len(alpha) % 2) + chunk
    size = canvas or (width_px, height_px)
    return _Frame(width_px, height_px, size, *place, has_alpha, kind == b"VP8L", whole)


def _make_still(frame: _Frame) -> bytes:
    """A file of one picture without anything beside it (RFC 9649)."""
    chunks = frame.pixels + b"\0" * (len(frame.pixels) % 2)
    if frame.has_alpha and not frame.lossless:
        size = (frame.width_px - 1).to_bytes(3, "little") + (frame.height_px - 1).to_bytes(3, "little")
        chunks = b"VP8X" + struct.pack("<II", 10, _ALPHA_FLAG) + size + chunks
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _read_24(data: bytes, at: int) -> int:
    if at + 3 > len(data):
        raise CutOff("WebP")
    return int.from_bytes(data[at : at + 3], "little")
