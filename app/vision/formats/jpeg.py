"""JPEG by libjpeg-turbo, at a reduced size where that is enough.

simplejpeg brings libjpeg-turbo along and gives the same pixels as Pillow and OpenCV to the bit, in a third of
Pillow's time. A scaled inverse DCT costs a fraction of a full one, and averages pixels that a resize would skip.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from app.core.arrays import Image
from app.core.errors import BadPhoto
from app.vision.colour import MOST_PROFILE_BYTES, convert_pixels, convert_to_array
from app.vision.formats.exif import EXIF_START, UPRIGHT, read_orientation
from app.vision.formats.outline import (
    OUT_BYTES,
    PILLOW_BYTES,
    CutOff,
    Outline,
    estimate_bytes,
    make_damaged,
    make_unsupported,
)

MOST_SCANS = 100
"""Each scan of a progressive JPEG walks through all of its blocks: 100 take 0.9 s for 16 megapixels of grey, 10 are
usual, and the strongest optimisers write less than 40."""

_FACTORS = (8, 4, 2, 1)
"""Reduction factors for which libjpeg-turbo has vectorised code."""
_START, _END = b"\xff\xd8", b"\xff\xd9"
_NOISE = bytes(range(1, 255))
_ICC_START, _ADOBE_START, _JFIF_START = b"ICC_PROFILE\0", b"Adobe", b"JFIF\0"
_LEAST_TELLING = 16
"""Bytes of a whole Adobe segment; JFIF's has 18."""
_SCAN = 0xDA
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_READ_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Baseline, extended and progressive, by Huffman's or arithmetic codes. The others are lossless or hierarchical."""
_PROGRESSIVE = frozenset({0xC2, 0xCA})
# Of the markers, these alone make pixels: frames, tables of codes (DHT, DAC) and quantisation (DQT), restarts (DRI).
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_NEEDED = _FRAMES | _TABLES | {_SCAN}
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_LANDMARK = re.compile(rb"\xff(?:\xd8\xff|[\xc0-\xc4\xc9\xca\xdb\xdd\xda])", re.DOTALL)


@dataclass(frozen=True)
class _Segment:
    """A marker with its length and body, `data[begin:end]`. `sound` is False where no marker follows it."""

    marker: int
    begin: int
    end: int
    sound: bool = True


@dataclass
class _Header:
    """What the segments before the first scan say. `blocks` counts the DCT blocks of all components."""

    frame: int = 0
    precision: int = 8
    width_px: int = 0
    height_px: int = 0
    sampling: list[tuple[int, int]] = field(default_factory=list)
    orientation: int = UPRIGHT
    profile: bytes | None = None
    scan_components: int = 0
    scan_at: int = 0

    @property
    def is_buffered(self) -> bool:
        """Whether the coefficients of the whole picture are kept until the last scan."""
        return self.frame in _PROGRESSIVE or self.scan_components < len(self.sampling)

    def count_coefficient_bytes(self) -> int:
        if not self.is_buffered:
            return 0
        most_h = max(h for h, _ in self.sampling)
        most_v = max(v for _, v in self.sampling)
        units = -(-self.width_px // (8 * most_h)) * -(-self.height_px // (8 * most_v))
        return 128 * units * sum(h * v for h, v in self.sampling)


def read_outline(data: bytes) -> Outline:
    """Raises BadPhoto for a kind of JPEG that is not read, and for more than `MOST_SCANS` scans."""
    header = _read_header(data)
    pixels = header.width_px * header.height_px
    # A file that is not sound is decoded once more, and by Pillow if it has four colours.
    native = PILLOW_BYTES if len(header.sampling) == 4 else OUT_BYTES
    size = estimate_bytes(pixels, native + OUT_BYTES, header.count_coefficient_bytes() + len(data))
    return Outline(header.width_px, header.height_px, size, header.orientation, header.profile)


def decode(data: bytes, outline: Outline, enough_px: int | None = None) -> Image:
    """(h,w,3) uint8 sRGB, not turned. A sound file in colour or grey takes one pass; all others take more patience."""
    if read_frame(data)[2] == 4:
        return _decode_inks(keep_pixels(data), outline)
    pixels = decode_jpeg(data, outline.width_px, outline.height_px, enough_px)
    if pixels is None:
        plain = keep_pixels(data)
        pixels = decode_jpeg(plain, outline.width_px, outline.height_px, enough_px)
        if pixels is None:
            return _decode_patiently(plain, outline)
    convert_pixels(pixels, outline.profile)
    return pixels


def decode_jpeg(data: bytes, width_px: int, height_px: int, enough_px: int | None) -> Image | None:
    """A complete, sound JPEG → (h,w,3) uint8 RGB, not rotated; None for a file that needs a more tolerant decoder.

    The smallest size is taken whose longer side is at least `enough_px`; without it, the full size.
    """
    factor = choose_reduction(max(width_px, height_px), enough_px)
    try:
        pixels: Image = simplejpeg.decode_jpeg(
            data,
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=-(-height_px // factor),
            min_width=-(-width_px // factor),
            min_factor=factor,
            strict=True,
        )
    except ValueError:
        return None
    return pixels


def choose_reduction(longer_px: int, enough_px: int | None) -> int:
    """The largest factor by which a photo may be reduced and still have `enough_px`."""
    if enough_px is None:
        return 1
    return next(factor for factor in _FACTORS if factor == 1 or longer_px // factor >= enough_px)


def keep_pixels(data: bytes) -> bytes:
    """The same JPEG with only what makes its pixels: tables, frame, scans, and the two markers that tell its colours.

    A damaged segment beside them, whose length leads nowhere, is passed over to the next one that makes pixels.
    """
    parts = [_START]
    for segment in _read_segments(data, 2):
        body = data[segment.begin + 4 : segment.begin + 16]
        tells_colours = (segment.marker == 0xEE and body.startswith(_ADOBE_START)) or (
            segment.marker == 0xE0 and body.startswith(_JFIF_START)
        )
        tells_colours = tells_colours and segment.end - segment.begin >= _LEAST_TELLING
        if segment.marker in _NEEDED or (tells_colours and segment.sound):
            parts.append(data[segment.begin : segment.end])
        if segment.marker == _SCAN:
            parts.extend(_keep_scans(data, segment.end))
            break
    return b"".join(parts)


def _keep_scans(data: bytes, at: int) -> Iterator[bytes]:
    """The coded pixels from `at` on, all further scans with their tables, and the end marker if there is one."""
    while True:
        found = _NEXT_MARKER.search(data, at)
        if found is None:
            yield data[at:]
            return
        yield data[at : found.start()]
        marker = data[found.end() - 1]
        if marker == 0xD9:
            yield _END
            return
        begin = found.end() - 2
        length = int.from_bytes(data[begin + 2 : begin + 4], "big")
        at = begin + 2 + length
        if marker in _NEEDED:
            yield data[begin:at]
        elif marker < 0xC0 or length < 2 or at > len(data):
            # No marker can stand here. What the decoder makes of it is what browsers make of it.
            at = begin + 2


def _decode_inks(data: bytes, outline: Outline) -> Image:
    """CMYK or YCCK, by Pillow: libjpeg-turbo's own way to RGB knows no profile."""
    try:
        return _decode_tolerantly(data, outline)
    except OSError:
        return _decode_patiently(data, outline)


def _decode_patiently(data: bytes, outline: Outline) -> Image:
    """A file with flaws. Some writers leave out the end marker; but libjpeg fills missing pixels with grey, without an
    error. So the file is completed in two ways: where all pixels are there, both give the same picture.
    """
    plain, noisy = (_decode_tolerantly(data + tail + _END, outline) for tail in (b"", _NOISE))
    # Row by row: a comparison of all at once would make a third picture.
    if plain.shape != noisy.shape or any(not np.array_equal(*rows) for rows in zip(plain, noisy, strict=True)):
        raise CutOff("JPEG")
    return plain


def _decode_tolerantly(data: bytes, outline: Outline) -> Image:
    if len(_read_header(data).sampling) == 4:
        with JpegImageFile(BytesIO(data)) as picture:
            picture.load()
            return convert_to_array(picture, outline.profile)
    pixels: Image = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=False)
    convert_pixels(pixels, outline.profile)
    return pixels


def read_frame(data: bytes) -> tuple[int, int, int]:
    """Width, height and number of components of a JPEG (or of a part of a TIFF that is one)."""
    header = _read_header(data)
    return header.width_px, header.height_px, len(header.sampling)


def _read_header(data: bytes) -> _Header:
    header = _Header()
    profile: dict[int, bytes] = {}
    for segment in _read_segments(data, 2):
        body = data[segment.begin + 4 : segment.end]
        if segment.marker in _FRAMES:
            _read_frame(header, segment.marker, body)
        elif segment.marker == _SCAN:
            header.scan_components = body[0] if body else 0
            header.scan_at = segment.end
        elif not segment.sound:
            continue
        elif segment.marker == 0xE1 and body.startswith(EXIF_START) and header.orientation == UPRIGHT:
            header.orientation = read_orientation(body)
        elif segment.marker == 0xE2 and body.startswith(_ICC_START) and len(body) > 14:
            profile.setdefault(body[12], body[14:])
    _check(header, data)
    header.profile = _join_profile(profile)
    return header


def _read_frame(header: _Header, marker: int, body: bytes) -> None:
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise make_damaged("JPEG", "its frame is cut short.")
    if header.frame:
        raise make_damaged("JPEG", "it has two frames.")
    header.precision, header.height_px, header.width_px = struct.unpack_from(">BHH", body)
    header.sampling = [(value >> 4, value & 15) for value in body[7 : 6 + 3 * body[5] : 3]]
    header.frame = marker


def _check(header: _Header, data: bytes) -> None:
    if not header.frame or not header.scan_at:
        raise CutOff("JPEG")
    if header.frame not in _READ_FRAMES:
        raise make_unsupported("a lossless or hierarchical JPEG")
    if header.precision != 8:
        raise make_unsupported(f"a JPEG of {header.precision} bits a colour")
    if len(header.sampling) not in (1, 3, 4):
        raise make_unsupported(f"a JPEG of {len(header.sampling)} colour components")
    if not header.width_px or not header.height_px:
        raise make_damaged("JPEG", "it has no pixels.")
    if any(not 1 <= value <= 4 for pair in header.sampling for value in pair):
        raise make_damaged("JPEG", "its frame names a sampling that can't be.")
    if header.is_buffered and _count_scans(data, header.scan_at) > MOST_SCANS:
        raise BadPhoto(
            f"The JPEG has more than {MOST_SCANS} scans, which no camera writes: decoding would take too long.",
            "too large",
        )


def _count_scans(data: bytes, at: int) -> int:
    # Two bytes that look like a scan may also stand in a table, so the exact count is taken only where it matters.
    if (most := 1 + data.count(b"\xff\xda", at)) <= MOST_SCANS:
        return most
    scans = 1
    while scans <= MOST_SCANS and (found := _NEXT_MARKER.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        scans += marker == _SCAN
        length = int.from_bytes(data[at : at + 2], "big")
        at += length if marker >= 0xC0 and length >= 2 else 0
    return scans


def _read_segments(data: bytes, at: int) -> Iterator[_Segment]:
    """The segments up to the first scan, with all that is known of its begin."""
    while (found := data.find(b"\xff", at)) >= 0:
        begin = found
        while data[begin + 1 : begin + 2] == b"\xff":
            begin += 1
        if begin + 4 > len(data) or data[begin + 1] == 0xD9:
            return
        marker = data[begin + 1]
        if marker == 0xD8:
            # A thumbnail, from a segment that says it were shorter.
            at = _skip_inner(data, begin)
            continue
        if marker in _WITHOUT_LENGTH:
            at = begin + 2
            continue
        end = begin + 2 + int.from_bytes(data[begin + 2 : begin + 4], "big")
        sound = end >= begin + 4 and (marker == _SCAN or data[end : end + 1] == b"\xff")
        if marker in _NEEDED:
            # Without these there is no picture, whatever follows them.
            if end > len(data):
                return
            yield _Segment(marker, begin, end)
            if marker == _SCAN:
                return
            at = max(end, begin + 2)
            continue
        if not sound:
            end = _find_landmark(data, begin + 2)
        yield _Segment(marker, begin, end, sound)
        at = end


def _find_landmark(data: bytes, at: int) -> int:
    """Where the next segment that makes pixels begins. A thumbnail, which is a JPEG of its own, is passed over."""
    while (found := _LANDMARK.search(data, at)) is not None:
        begin = found.start()
        if data[begin + 1] == 0xD8:
            at = _skip_inner(data, begin)
            continue
        length = int.from_bytes(data[begin + 2 : begin + 4], "big")
        if data[begin + 1] == _SCAN:
            # Coded pixels follow it, so only its own length tells it: two bytes a component, and six more.
            is_segment = length in (8, 10, 12, 14) and length == 6 + 2 * data[begin + 4]
        else:
            is_segment = length > 2 and data[begin + 2 + length : begin + 3 + length] == b"\xff"
        if is_segment:
            return begin
        at = begin + 2
    return len(data)


def _skip_inner(data: bytes, at: int) -> int:
    """Behind the end of the JPEG that begins at `at`."""
    end = data.find(_END, at)
    return end + 2 if end >= 0 else len(data)


def _join_profile(parts: dict[int, bytes]) -> bytes | None:
    """The profile of all APP2 segments in their order, which counts from 1; None where one is missing or too large."""
    if not parts or sorted(parts) != list(range(1, len(parts) + 1)):
        return None
    if sum(map(len, parts.values())) > MOST_PROFILE_BYTES:
        return None
    return b"".join(parts[number] for number in sorted(parts))
