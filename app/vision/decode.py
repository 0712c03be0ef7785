"""Decodes photos from untrusted bytes to upright RGB pixels.

The file's first bytes choose one of the readers in `_READERS` (app/vision/formats), which is called directly.
`PIL.Image.open` would try every plugin it has (EPS runs Ghostscript, ICNS opens files inside files), and would apply
PIL's global `MAX_IMAGE_PIXELS`, half of what a large camera makes, by a warning that can't be silenced safely between
threads. Here the caller sets the limit, and it is checked from the header before the first pixel is allocated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from app.core.arrays import Image
from app.core.errors import BadPhoto, RetryLater
from app.core.pictures import PhotoLimits
from app.vision.formats import gif, heif, jpeg, png, raw, tiff, webp
from app.vision.formats.names import FormatName, find_format, name_format
from app.vision.formats.outline import OUT_BYTES, CutOff, Outline, estimate_bytes, make_damaged


@dataclass(frozen=True)
class PhotoHeader:
    """What the header of a photo states. The size is that of the upright picture.

    `decode_bytes` is the most memory that decoding it takes, beside the bytes of the file.
    """

    format: str
    width_px: int
    height_px: int
    decode_bytes: int


class _Reader(NamedTuple):
    read_outline: Callable[[bytes], Outline]
    decode: Callable[[bytes, Outline, int | None], Image]


_READERS: dict[FormatName, _Reader] = {
    "JPEG": _Reader(jpeg.read_outline, jpeg.decode),
    "PNG": _Reader(png.read_outline, png.decode),
    "WebP": _Reader(webp.read_outline, webp.decode),
    "HEIF": _Reader(heif.read_outline, heif.decode),
    "AVIF": _Reader(heif.read_avif_outline, heif.decode_avif),
    "TIFF": _Reader(tiff.read_outline, tiff.decode),
    "GIF": _Reader(gif.read_outline, gif.decode),
    "BMP": _Reader(gif.read_bmp_outline, gif.decode_bmp),
    "camera raw": _Reader(raw.read_outline, raw.decode),
}
# EXIF 2.32, tag 0x0112: how the stored picture must be rotated or mirrored to be upright; 1 is upright already.
_MAKE_UPRIGHT: dict[int, Callable[[Image], NDArray[Any]]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def read_header(data: bytes, limits: PhotoLimits) -> PhotoHeader:
    """Format, upright size and memory of a photo, without decoding a pixel.

    Raises BadPhoto for an empty or over-long file, an unknown format and more pixels than allowed.
    """
    format_name, outline = _read_outline(data, limits)
    size = outline.decode_bytes
    width_px, height_px = outline.width_px, outline.height_px
    if outline.orientation > 1:
        # The result and its turned copy.
        size = max(size, estimate_bytes(width_px * height_px, 2 * OUT_BYTES))
    # The orientations 5 to 8 exchange width and height.
    if outline.orientation >= 5:
        width_px, height_px = height_px, width_px
    return PhotoHeader(format_name, width_px, height_px, size)


def decode(data: bytes, limits: PhotoLimits, enough_px: int | None = None) -> Image:
    """Photo bytes → (H,W,3) uint8 sRGB, upright, C-contiguous.

    Where a longer side of `enough_px` is enough, a JPEG may come at a half, a quarter or an eighth of its size.
    A transparent picture is put on white, 16 bits are scaled to 8, of an animation the first frame is taken, and of a
    TIFF the largest page. Raises BadPhoto as `read_header` does, and for a file that is damaged or cut off.
    """
    format_name, outline = _read_outline(data, limits)
    with _explain(format_name):
        pixels = _READERS[format_name].decode(data, outline, enough_px)
        make_upright = _MAKE_UPRIGHT.get(outline.orientation)
        return pixels if make_upright is None else np.ascontiguousarray(make_upright(pixels))


def _read_outline(data: bytes, limits: PhotoLimits) -> tuple[FormatName, Outline]:
    format_name = _find_format(data, limits)
    with _explain(format_name):
        try:
            outline = _READERS[format_name].read_outline(data)
        except tiff.RawFile:
            format_name = "camera raw"
            outline = _READERS[format_name].read_outline(data)
        pixels = outline.width_px * outline.height_px
        if pixels > limits.max_pixels:
            raise BadPhoto(
                f"The picture claims {pixels / 1e6:.1f} megapixels; "
                f"at most {limits.max_pixels / 1e6:.1f} are accepted.",
                "too large",
            )
    return format_name, outline


@contextmanager
def _explain(format_name: str) -> Iterator[None]:
    """Raises BadPhoto for whatever fails inside the `with`."""
    try:
        yield
    except BadPhoto:
        raise
    except Pil.DecompressionBombError as error:
        most = 2 * (Pil.MAX_IMAGE_PIXELS or 0) / 1e6
        raise BadPhoto(
            f"The {format_name} claims too many megapixels; at most {most:.1f} are accepted.", "too large"
        ) from error
    except MemoryError as error:
        # More likely the machine's fault than the photo's. If it is the photo's, the queue's redrive policy ends it.
        raise RetryLater(f"There is not enough memory to decode this {format_name}.") from error
    except Exception as error:  # decoders of hostile bytes raise anything
        raise _make_bad_photo(format_name, error) from error


def _make_bad_photo(format_name: str, error: Exception) -> BadPhoto:
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "end of file" in message:
        return CutOff(format_name)
    return make_damaged(format_name, " ".join(str(error).split())[:120] or type(error).__name__)


def _find_format(data: bytes, limits: PhotoLimits) -> FormatName:
    if not data:
        raise BadPhoto("The file is empty.", "empty")
    if len(data) > limits.max_bytes:
        raise BadPhoto(f"The file has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted.", "too large")
    format_name = find_format(data)
    if format_name is None:
        name = name_format(data)
        what = f"it is {name}" if name else f"it begins with {data[:12].decode('latin-1')!a}"
        raise BadPhoto(f"The file is not a picture that can be read ({what}).", "no picture")
    return format_name
