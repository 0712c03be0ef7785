"""The one fact that is taken from EXIF: how the stored picture is made upright."""

from PIL import Image as Pil
from PIL.ExifTags import Base

EXIF_START = b"Exif\0\0"
UPRIGHT = 1


def read_orientation(block: bytes) -> int:
    """Orientation 1 to 8 of an EXIF block, with or without its "Exif" prefix; 1 where it is broken or says nothing."""
    try:
        exif = Pil.Exif()
        exif.load(block if block.startswith(EXIF_START) else EXIF_START + block)
        value = exif.get(Base.Orientation, UPRIGHT)
    except Exception:  # noqa: BLE001 - a broken EXIF block raises anything, and the pixels may be good
        return UPRIGHT
    return value if value in range(1, 9) else UPRIGHT
