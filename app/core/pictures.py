"""Which files are taken for pictures, and what one of them may cost."""

from dataclasses import dataclass
from pathlib import Path

PICTURE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".gif", ".bmp"}
)
"""Endings of files in a folder that are worth reading; what a file is, its first bytes tell (app/vision/decode.py)."""


def is_picture(path: Path) -> bool:
    """Whether a file's name ends as a picture's does, in any case."""
    return path.suffix.lower() in PICTURE_ENDINGS


@dataclass(frozen=True)
class PhotoLimits:
    """What a photo may cost: the size of its file, and the pixels its header claims. By default what Settings say."""

    max_bytes: int = 100_000_000
    max_pixels: int = 150_000_000
