"""Decodes photos from untrusted bytes to upright RGB pixels.

The file's first bytes choose one of the eight readers in `_READERS`, which is called directly. `PIL.Image.open`
would try every plugin it has (EPS runs Ghostscript, ICNS opens files inside files), would need the HEIF plugin
registered process-wide, and would apply PIL's global `MAX_IMAGE_PIXELS`, half of what a large camera makes, by a
warning that can't be silenced safely between threads. Here the caller sets the limit, and it is checked from
the header before the first pixel is allocated. PIL's fixed ceiling of twice MAX_IMAGE_PIXELS (179 megapixels)
still holds inside its WebP, GIF and tiled TIFF readers, whatever `max_pixels` says.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from app.core.arrays import Image
from app.core.errors import BadPhoto, RetryLater
from app.core.pictures import PhotoLimits
from app.vision.colour import convert_to_srgb
from app.vision.heif import HeifImageFile
from app.vision.jpeg import decode_jpeg


@dataclass(frozen=True)
class PhotoHeader:
    """What the header of a photo states. The size is that of the upright picture."""

    format: str
    width_px: int
    height_px: int


_READERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "HEIF": HeifImageFile,
    "AVIF": AvifImageFile,
    "TIFF": TiffImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
}
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})

# EXIF 2.32, tag 0x0112: how the stored picture must be rotated or mirrored to be upright; 1 is upright already.
_MAKE_UPRIGHT: dict[int, Callable[[Image], NDArray[Any]]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# libheif applies the file's own irot and imir boxes, and by HEIF (ISO/IEC 23008-12) only these count, not the EXIF
# orientation. PIL's TIFF reader rotates the pixels itself. So the pixels of both formats are upright already.
_UPRIGHT_FROM_READER = frozenset({"HEIF", "TIFF"})

_JPEG_END = b"\xff\xd9"
_NOISE = bytes(range(1, 255))
_ROWS_AT_ONCE = 256


class _CutOff(BadPhoto):
    """The file ends before the last pixel of its picture."""


def read_header(data: bytes, limits: PhotoLimits) -> PhotoHeader:
    """Format and upright size of a photo, without decoding a pixel.

    Raises BadPhoto for an empty or over-long file, an unknown format and more pixels than allowed.
    """
    format_name = _find_format(data, limits)
    with _open_picture(data, format_name, limits) as picture:
        width_px, height_px = picture.size
        # The orientations 5 to 8 exchange width and height.
        if _read_orientation(picture, format_name) >= 5:
            width_px, height_px = height_px, width_px
        return PhotoHeader(format_name, width_px, height_px)


def decode(data: bytes, limits: PhotoLimits, enough_px: int | None = None) -> Image:
    """Photo bytes → (H,W,3) uint8 sRGB, upright, C-contiguous.

    Where a longer side of `enough_px` is enough, a JPEG may come at a half, a quarter or an eighth of its size.
    A transparent picture is put on white, 16 bits are scaled to 8, and of an animation the first frame is taken.
    Raises BadPhoto as `read_header` does, and for a file that is damaged or cut off.
    """
    format_name = _find_format(data, limits)
    try:
        return _decode(data, format_name, limits, enough_px)
    except _CutOff:
        if format_name != "JPEG":
            raise
        # Some writers leave out the end marker. But libjpeg also fills missing pixels with grey, without an error.
        # So the file is completed in two ways: where all pixels are there, both give the same picture.
        plain, noisy = (_decode(data + tail + _JPEG_END, format_name, limits, None) for tail in (b"", _NOISE))
        if not np.array_equal(plain, noisy):
            raise
        return plain


def _decode(data: bytes, format_name: str, limits: PhotoLimits, enough_px: int | None) -> Image:
    with _open_picture(data, format_name, limits) as picture:
        make_upright = _MAKE_UPRIGHT.get(_read_orientation(picture, format_name))
        pixels = _decode_fast(data, picture, enough_px) if format_name == "JPEG" else None
        if pixels is None:
            picture.load()
            pixels = _convert_to_array(_convert_to_srgb(picture))
        return pixels if make_upright is None else np.ascontiguousarray(make_upright(pixels))


def _decode_fast(data: bytes, picture: ImageFile, enough_px: int | None) -> Image | None:
    """A sound JPEG in colour or grey; None for all others, which Pillow decodes, or rejects with a reason."""
    if picture.mode not in ("RGB", "L"):
        return None
    pixels = decode_jpeg(data, *picture.size, enough_px)
    profile = picture.info.get("icc_profile")
    if pixels is None or profile is None:
        return pixels
    rgb = Pil.fromarray(pixels)
    converted = convert_to_srgb(rgb, profile)
    return pixels if converted is rgb else _convert_to_array(converted)


@contextmanager
def _open_picture(data: bytes, format_name: str, limits: PhotoLimits) -> Iterator[ImageFile]:
    """A PIL picture within the limits. Raises BadPhoto for whatever fails inside the `with`."""
    try:
        with _READERS[format_name](BytesIO(data)) as picture:
            _check_pixels(picture.size, limits)
            yield picture
    except BadPhoto:
        raise
    except Pil.DecompressionBombError as error:
        most = min(limits.max_pixels, 2 * (Pil.MAX_IMAGE_PIXELS or limits.max_pixels)) / 1e6
        raise BadPhoto(
            f"The picture claims too many megapixels; at most {most:.1f} are accepted.", "too large"
        ) from error
    except MemoryError as error:
        # More likely the machine's fault than the photo's. If it is the photo's, the queue's redrive policy ends it.
        raise RetryLater(f"There is not enough memory to decode this {format_name}.") from error
    except Exception as error:  # decoders of hostile bytes raise anything
        raise _make_bad_photo(format_name, error) from error


def _make_bad_photo(format_name: str, error: Exception) -> BadPhoto:
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "end of file" in message:
        return _CutOff(f"The {format_name} is cut off: the file ends before its last pixel.", "cut off")
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    return BadPhoto(f"The {format_name} is damaged and can't be decoded: {detail}")


def _find_format(data: bytes, limits: PhotoLimits) -> str:
    if not data:
        raise BadPhoto("The file is empty.", "empty")
    if len(data) > limits.max_bytes:
        raise BadPhoto(f"The file has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted.", "too large")
    format_name = _sniff_format(data)
    if format_name is None:
        start = ascii(data[:12].decode("latin-1"))
        raise BadPhoto(f"The file is not a picture that can be read (it begins with {start}).", "no picture")
    return format_name


def _sniff_format(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        # ISO base media file: the major brand, then a version, then the compatible brands (ISO/IEC 14496-12).
        end = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[8:12], *(data[i : i + 4] for i in range(16, end, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIF" if brands & _HEIF_BRANDS else None
    return next((name for signature, name in _SIGNATURES.items() if data.startswith(signature)), None)


def _check_pixels(size_px: tuple[int, int], limits: PhotoLimits) -> None:
    pixels = size_px[0] * size_px[1]
    if pixels > limits.max_pixels:
        raise BadPhoto(
            f"The picture claims {pixels / 1e6:.1f} megapixels; at most {limits.max_pixels / 1e6:.1f} are accepted.",
            "too large",
        )


def _read_orientation(picture: ImageFile, format_name: str) -> int:
    if format_name in _UPRIGHT_FROM_READER:
        return 1
    try:
        value = picture.getexif().get(ExifTag.Orientation, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block raises anything, and the pixels may be good
        return 1
    return value if value in _MAKE_UPRIGHT else 1


def _convert_to_srgb(picture: Pil.Image) -> Pil.Image:
    profile = picture.info.get("icc_profile")
    # A CMYK profile describes inks, so it is applied before the conversion to RGB; all other profiles, after it.
    return (
        convert_to_srgb(picture, profile).convert("RGB")
        if picture.mode == "CMYK"
        else convert_to_srgb(_convert_to_rgb(picture), profile)
    )


def _convert_to_rgb(picture: Pil.Image) -> Pil.Image:
    if picture.mode in ("I", "F"):
        raise BadPhoto(
            f"The picture has 32-bit pixels (mode {picture.mode}), whose range of light is unknown.", "not supported"
        )
    if picture.mode.startswith("I;16"):
        # PIL would clip these values at 255. Of 16-bit colour, it keeps the high byte too.
        return Pil.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        white = Pil.new("RGBA", picture.size, "white")
        return Pil.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _convert_to_array(picture: Pil.Image) -> Image:
    """An RGB picture → (H,W,3) uint8, in strips: a third of the time and memory of `np.asarray(picture)`."""
    width_px, height_px = picture.size
    pixels = np.empty((height_px, width_px, 3), np.uint8)
    for top in range(0, height_px, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, height_px)
        pixels[top:bottom] = np.asarray(picture.crop((0, top, width_px, bottom)))
    return pixels
