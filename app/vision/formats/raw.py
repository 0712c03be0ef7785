"""A camera's raw file: the largest JPEG that the camera put into it, found by LibRaw. Nothing is developed."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import NoReturn

import rawpy

from app.core.arrays import Image
from app.core.errors import BadPhoto
from app.vision.formats import jpeg
from app.vision.formats.outline import Outline

_LEAST_PX = 1_000
"""A smaller picture in a raw file is a thumbnail, in which few faces can be recognised."""
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}
"""LibRaw's `flip` → the EXIF orientation that makes upright."""
_COPIES = 3
"""LibRaw, its Python module and this one hold the JPEG at the same time."""


def read_outline(data: bytes) -> Outline:
    """Raises BadPhoto where the file holds no JPEG that is large enough."""
    embedded, flip, sideways = _extract(data)
    outline = jpeg.read_outline(embedded)
    longer = max(outline.width_px, outline.height_px)
    if longer < _LEAST_PX:
        _refuse(f"the JPEG in it has {outline.width_px} by {outline.height_px} px; {_LEAST_PX:,} px are needed")
    orientation = _ORIENTATIONS.get(flip, 1)
    if orientation >= 5 and sideways(outline):
        orientation = 1
    return replace(
        outline, orientation=orientation, decode_bytes=outline.decode_bytes + len(data) + _COPIES * len(embedded)
    )


def decode(data: bytes, outline: Outline, enough_px: int | None = None) -> Image:
    return jpeg.decode(_extract(data)[0], outline, enough_px)


def _extract(data: bytes) -> tuple[bytes, int, Callable[[Outline], bool]]:
    """The largest JPEG, how the raw picture is turned, and whether a JPEG stands upright though the sensor does not."""
    try:
        raw = rawpy.RawPy()
        with raw:
            raw.open_buffer(BytesIO(data))
            flip, sizes = raw.sizes.flip, raw.sizes
            found = raw.extract_thumb()
    except rawpy.LibRawError as error:
        reason = "LibRaw finds no JPEG in it" if isinstance(error, rawpy.LibRawNoThumbnailError) else f"{error}"
        _refuse(reason.removeprefix("b'").removesuffix("'"))
    if found.format != rawpy.ThumbFormat.JPEG:
        _refuse("the picture in it is no JPEG")
    return bytes(found.data), flip, lambda jpeg: (jpeg.width_px < jpeg.height_px) != (sizes.width < sizes.height)


def _refuse(why: str) -> NoReturn:
    raise BadPhoto(
        f"A camera's raw file is not supported unless it holds a JPEG of at least {_LEAST_PX:,} px: {why}. "
        "Upload the JPEG that belongs to it.",
        "not supported",
    )
