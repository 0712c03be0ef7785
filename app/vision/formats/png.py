"""PNG: only the chunks that make pixels reach the decoder, so nothing that lies beside them can spoil a picture."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import imagecodecs
from PIL.PngImagePlugin import PngImageFile

from app.core.arrays import Image
from app.vision.colour import MOST_PROFILE_BYTES, convert_to_array
from app.vision.formats.exif import UPRIGHT, read_orientation
from app.vision.formats.outline import (
    OUT_BYTES,
    PILLOW_BYTES,
    CutOff,
    Outline,
    estimate_bytes,
    make_damaged,
)

_START = b"\x89PNG\r\n\x1a\n"
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
# Colour types of one channel, of which Pillow takes one byte a pixel, or two of 16 bits.
_GREY, _PALETTE = 0, 3


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    begin: int
    """Of the chunk, at its length; the body begins eight bytes later."""
    end: int
    """Behind the chunk's checksum."""


def read_outline(data: bytes) -> Outline:
    chunks = list(_read_chunks(data))
    if not chunks or chunks[0].kind != b"IHDR":
        raise make_damaged("PNG", "it doesn't begin with a header.")
    if not _is_sound(data, chunks[0]):
        raise make_damaged("PNG", "its header has a wrong checksum.")
    width_px, height_px, bits, colour = struct.unpack_from(">IIBB", _get_body(data, chunks[0]))
    if colour == _PALETTE and not any(chunk.kind == b"PLTE" for chunk in chunks):
        raise make_damaged("PNG", "its palette is missing.")
    if not width_px or not height_px:
        raise make_damaged("PNG", "it has no pixels.")
    orientation, profile = UPRIGHT, None
    for chunk in chunks:
        if chunk.kind == b"eXIf" and orientation == UPRIGHT:
            orientation = read_orientation(_get_body(data, chunk))
        elif chunk.kind == b"iCCP" and profile is None and _is_sound(data, chunk):
            profile = _read_profile(_get_body(data, chunk))
    native = PILLOW_BYTES if colour not in (_GREY, _PALETTE) else max(1, bits // 8)
    size = estimate_bytes(width_px * height_px, native + OUT_BYTES, len(data))
    return Outline(width_px, height_px, size, orientation, profile)


def decode(data: bytes, outline: Outline, _enough_px: int | None = None) -> Image:
    with PngImageFile(BytesIO(_keep_pixels(data))) as picture:
        picture.load()
        return convert_to_array(picture, outline.profile)


def _read_chunks(data: bytes) -> Iterator[_Chunk]:
    """All whole chunks up to the end of the picture."""
    at = len(_START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunk = _Chunk(data[at + 4 : at + 8], at, at + 12 + length)
        if chunk.end > len(data) or chunk.kind == b"IEND":
            return
        yield chunk
        at = chunk.end


def _get_body(data: bytes, chunk: _Chunk) -> bytes:
    return data[chunk.begin + 8 : chunk.end - 4]


def _is_sound(data: bytes, chunk: _Chunk) -> bool:
    # By libdeflate, in a quarter of zlib's time.
    body = memoryview(data)[chunk.begin + 4 : chunk.end - 4]
    checksum = imagecodecs.deflate_crc32(body)  # type: ignore[arg-type]  # any buffer will do
    return bool(checksum == int.from_bytes(data[chunk.end - 4 : chunk.end], "big"))


def _keep_pixels(data: bytes) -> bytes:
    """The same PNG with its header, palette, transparency and pixels alone.

    Pillow doesn't compare the checksums of pixels, and would show what a flipped bit makes of them.
    """
    view, parts = memoryview(data), [memoryview(_START)]
    for chunk in _read_chunks(data):
        if chunk.kind not in (b"IHDR", b"PLTE", b"IDAT", b"tRNS"):
            continue
        if _is_sound(data, chunk):
            parts.append(view[chunk.begin : chunk.end])
        elif chunk.kind != b"tRNS":
            raise make_damaged("PNG", f"its chunk {chunk.kind.decode()} has a wrong checksum.")
    if len(parts) < 3:
        raise CutOff("PNG")
    return b"".join([*parts, _END])


def _read_profile(body: bytes) -> bytes | None:
    """The profile of an iCCP chunk: a name, a zero, the method, packed bytes. None: broken, or too large to be used."""
    packed = body.partition(b"\0")[2][1:]
    try:
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(packed, MOST_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MOST_PROFILE_BYTES else None
