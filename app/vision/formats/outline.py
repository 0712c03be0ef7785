"""What all formats have in common: the outline that a header gives, and the refusals."""

from dataclasses import dataclass

from app.core.errors import BadPhoto

OUT_BYTES = 3
"""Bytes of one pixel of the result: 8 bits each of red, green and blue."""
PILLOW_BYTES = 4
"""Bytes of one pixel in Pillow's memory, in every mode of more than one channel."""
LEAST_BYTES = 8_000_000
"""What a decoder needs whatever the size: tables, buffers, and one block of pixels in each step of a conversion."""


@dataclass(frozen=True)
class Outline:
    """What a header states of the stored picture, which `orientation` (EXIF 2.32, tag 0x0112) makes upright.

    `decode_bytes` is the most memory that decoding takes beside the bytes of the file. `profile` is the ICC profile.
    """

    width_px: int
    height_px: int
    decode_bytes: int
    orientation: int = 1
    profile: bytes | None = None


class CutOff(BadPhoto):
    """The file ends before the last pixel of its picture."""

    def __init__(self, format_name: str) -> None:
        super().__init__(f"The {format_name} is cut off: the file ends before its last pixel.", "cut off")


def make_damaged(format_name: str, detail: str) -> BadPhoto:
    return BadPhoto(f"The {format_name} is damaged and can't be decoded: {detail}")


def make_unsupported(what: str) -> BadPhoto:
    """`what` names the kind of file: "a TIFF with 32-bit pixels"."""
    return BadPhoto(f"The file can't be read: {what} is not supported.", "not supported")


def estimate_bytes(pixels: int, bytes_a_pixel: float, extra: int = 0) -> int:
    return LEAST_BYTES + extra + round(pixels * bytes_a_pixel)
