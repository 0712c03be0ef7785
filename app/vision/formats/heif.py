"""HEIF and AVIF: the pixels of the primary picture and nothing else.

pi_heif's own PIL plugin reads every metadata item, thumbnail and depth map as it opens a file, and in 1.4.0 an
item type that is not UTF-8 ends the process there: `_CtxImage_metadata` doesn't check what PyUnicode_FromString
returns. One damaged byte would be enough. So this module calls pi_heif's C module itself, for pixels only. Opening
decodes nothing: 12 megapixels take 0.2 ms and 0.7 MB.

Both are turned by their irot and imir boxes alone. By HEIF (ISO/IEC 23008-12) the EXIF orientation is a note on it.
"""

import re
from io import BytesIO
from typing import Any

import _pi_heif  # type: ignore[import-not-found]  # a compiled module without stubs
import numpy as np
from PIL import Image as Pil
from PIL.AvifImagePlugin import AvifImageFile

from app.core.arrays import Image
from app.vision.colour import convert_pixels, convert_to_array
from app.vision.formats.exif import read_orientation
from app.vision.formats.outline import PILLOW_BYTES, Outline, estimate_bytes, make_damaged

_DECODE_THREADS = 4  # pi_heif's default
_ANY_DECODER = ""
_ICC_TYPES = ("rICC", "prof")
"""Colour boxes that hold an ICC profile (ISO/IEC 14496-12, colr)."""
_MODES = {"RGB": 3, "RGBA": 4, "RGBa": 4, "L": 1, "LA": 2, "La": 2}
_HEIF_BYTES, _DEEP_BYTES, _ALPHA_BYTES = 11.0, 16.0, 6.0
"""The most that decoding a pixel takes, measured with 4:4:4 chroma: of 8 bits, of 10 or 12, and more for alpha."""
_AVIF_PLANES = 9.0
"""Planes of luma and chroma beside the RGB pixels, bytes a pixel: measured with 4:4:4 chroma in 10 bits."""
# An item's entry: version and flags, its number, its protection, its type (infe, ISO/IEC 14496-12).
_DESCRIBING_ITEM = re.compile(rb"(infe[\x02\x03].{7,9})(?:Exif|mime|uri )", re.DOTALL)


def read_outline(data: bytes) -> Outline:
    image = _open_primary(data)
    (width_px, height_px), mode = image.size_mode
    pixel = (_DEEP_BYTES if image.bit_depth > 8 else _HEIF_BYTES) + (_ALPHA_BYTES if mode.endswith(("A", "a")) else 0)
    profile = image.color_profile or {}
    icc = bytes(profile["data"]) if profile.get("type") in _ICC_TYPES else None
    return Outline(width_px, height_px, estimate_bytes(width_px * height_px, pixel), profile=icc)


def decode(data: bytes, outline: Outline, _enough_px: int | None = None) -> Image:
    """Upright pixels: libheif applies the file's own irot and imir boxes."""
    image = _open_primary(data)
    stored = image.data
    # The decoded size may differ from the header's, and the stride is known only now.
    (width_px, height_px), mode = image.size_mode
    if (width_px, height_px) != (outline.width_px, outline.height_px):
        raise make_damaged("HEIF", "its picture has another size than its header says.")
    channels = _count_channels(mode)
    rows = np.frombuffer(stored, np.uint8).reshape(-1, image.stride)[:height_px, : channels * width_px]
    if mode == "RGB":
        pixels = np.array(rows).reshape(height_px, width_px, 3)
        convert_pixels(pixels, outline.profile)
        return pixels
    picture = Pil.frombytes(mode, (width_px, height_px), np.ascontiguousarray(rows).tobytes())
    return convert_to_array(picture.convert(mode.upper()) if mode in ("RGBa", "La") else picture, outline.profile)


def read_avif_outline(data: bytes) -> Outline:
    with _open_avif(data) as picture:
        # Pillow puts the turn of the boxes in place of what EXIF says.
        orientation = read_orientation(picture.info.get("exif", b""))
        channels = _count_channels(picture.mode)
        pixel = _AVIF_PLANES + channels + PILLOW_BYTES + (_ALPHA_BYTES if channels == 4 else 0)
        size = estimate_bytes(picture.width * picture.height, pixel)
        return Outline(*picture.size, size, orientation, picture.info.get("icc_profile"))


def decode_avif(data: bytes, outline: Outline, _enough_px: int | None = None) -> Image:
    with _open_avif(data) as picture:
        picture.load()
        return convert_to_array(picture, outline.profile)


def hide_descriptions(data: bytes) -> bytes:
    """The same file with its EXIF and XMP items under an unknown type, which readers pass over."""
    return _DESCRIBING_ITEM.sub(lambda found: found.group(1) + b"skip", data)


def _open_avif(data: bytes) -> AvifImageFile:
    try:
        return AvifImageFile(BytesIO(data))
    except Exception:
        plain = hide_descriptions(data)
        if plain == data:
            raise
        return AvifImageFile(BytesIO(plain))


def _open_primary(data: bytes) -> Any:  # noqa: ANN401 - a class of pi_heif's C module, which has no stubs
    try:
        return _load_primary(data)
    except Exception:
        plain = hide_descriptions(data)
        if plain == data:
            raise
        return _load_primary(plain)


def _load_primary(data: bytes) -> Any:  # noqa: ANN401 - as above
    to_8_bit, to_bgr, without_stride, to_16_bit, without_limits = True, False, False, True, False
    images = _pi_heif.load_file(
        data, _DECODE_THREADS, to_8_bit, to_bgr, without_stride, to_16_bit, _ANY_DECODER, without_limits
    )
    primary = [image for image in images if image is not None and image.primary]
    if not primary:
        raise make_damaged("HEIF", "it holds no primary picture.")
    return primary[0]


def _count_channels(mode: str) -> int:
    return _MODES.get(mode.partition(";")[0], 4)
