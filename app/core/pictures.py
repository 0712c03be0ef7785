"""Which files count as pictures, and how large a photo may be."""

from dataclasses import dataclass
from pathlib import Path

PICTURE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".gif", ".bmp"}
)
"""Endings of the files of a folder that are read. The first bytes of a file tell its format (app/vision/decode.py)."""


def is_picture(path: Path) -> bool:
    """Whether a file's name has a picture's ending, in upper or lower case."""
    return path.suffix.lower() in PICTURE_ENDINGS


@dataclass(frozen=True)
class PhotoLimits:
    """How large a photo may be: bytes of its file, and pixels by its header. The defaults are those of settings."""

    max_bytes: int = 100_000_000
    max_pixels: int = 150_000_000
