"""Which files may be decoded in the service's own process: JPEGs whose cost follows from their size alone.

A JPEG with one sequential scan is decoded row by row (Independent JPEG Group, libjpeg.txt): its time is linear in its
pixels and its bytes, and it holds no coefficients. Nearly every camera writes such files. Progressive files repeat
their pixels in each scan.
"""

import struct

MOST_PIXELS = 64_000_000
_MOST_SEGMENTS = 256
_MOST_PROFILE_TAGS = 64
_SOS, _APP2 = 0xDA, 0xE2
_SEQUENTIAL = (0xC0, 0xC1)
"""Frames that are sequential and Huffman-coded (ITU-T T.81, table B.1)."""
_HARMLESS = frozenset({0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE})
"""Huffman tables, quantisation tables, restart interval, application data and comments."""
_ICC = b"ICC_PROFILE\x00"
_TABLES = (b"A2B", b"B2A", b"D2B", b"B2D")
"""Tags of an ICC profile with chains of tables. Without them, a conversion is three curves and a matrix."""


def is_plain_jpeg(data: bytes) -> bool:
    """Whether the file is a whole JPEG of one sequential scan, in 8 bits of colour or grey, of at most MOST_PIXELS, and
    with no colour profile that takes more than curves and a matrix."""
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", -1024) < 0:
        return False
    at, components = 2, 0
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return False
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : at + 2 + length]
        if marker == _SOS:
            return bool(components) and content[:1] == bytes([components])
        if marker in _SEQUENTIAL and not components:
            components = _count_components(content)
        elif marker not in _HARMLESS or (marker == _APP2 and not _is_plain_profile(content)):
            return False
        at += 2 + length
    return False


def _count_components(frame: bytes) -> int:
    """The components of a frame that is decoded here, else 0."""
    if len(frame) < 6:
        return 0
    bits, height, width, components = struct.unpack(">BHHB", frame[:6])
    samplings = frame[7 : 6 + 3 * components : 3]
    is_known = bits == 8 and components in (1, 3) and len(frame) == 6 + 3 * components
    if not is_known or not 0 < width * height <= MOST_PIXELS:
        return 0
    return components if all(1 <= each >> 4 <= 2 and 1 <= each & 15 <= 2 for each in samplings) else 0


def _is_plain_profile(chunk: bytes) -> bool:
    """Whether application data is no colour profile, or a whole one of RGB or grey without tables (ICC.1:2010, B.4)."""
    if not chunk.startswith(_ICC):
        return True
    # The chunk's number and their count, then the profile.
    order, profile = chunk[len(_ICC) : len(_ICC) + 2], chunk[len(_ICC) + 2 :]
    if order != b"\x01\x01" or len(profile) < 132 or profile[16:20] not in (b"RGB ", b"GRAY"):
        return False
    count = int.from_bytes(profile[128:132], "big")
    if count > _MOST_PROFILE_TAGS:
        return False
    return not any(profile[at : at + 3] in _TABLES for at in range(132, 132 + 12 * count, 12))
