"""Small pictures for people to look at: a crop of each face, and a preview of the whole photo."""

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image

_CROP_QUALITY = 85
_PREVIEW_QUALITY = 80


def encode_crops(image: Image, boxes: Floats, max_side_px: int = 256, margin: float = 0.3) -> list[bytes]:
    """(H,W,3) uint8 RGB, (N,4) x1 y1 x2 y2 px → N JPEG files.

    Each shows the square around a box's longer side with `margin` of that side all round, as far as the photo
    reaches, made smaller where it exceeds `max_side_px` and never larger. The same input gives the same bytes.
    """
    return [
        _encode_jpeg(_shrink(image[rows, columns], max_side_px), _CROP_QUALITY)
        for rows, columns in _find_windows(image, boxes, margin)
    ]


def encode_preview(image: Image, longer_side_px: int) -> bytes:
    """(H,W,3) uint8 RGB → JPEG whose longer side is at most `longer_side_px`: browsers show neither HEIC nor 16-bit
    TIFF, and originals are large."""
    return _encode_jpeg(_shrink(image, longer_side_px), _PREVIEW_QUALITY)


def _find_windows(image: Image, boxes: Floats, margin: float) -> list[tuple[slice, slice]]:
    """Rows and columns of each crop: at least one pixel, the nearest one for a box outside the photo."""
    corners = boxes.astype(np.float64).reshape(-1, 2, 2)
    centres = corners.mean(axis=1)
    half_sides = (corners[:, 1] - corners[:, 0]).max(axis=1, keepdims=True) * (0.5 + margin)
    size_px = np.array([image.shape[1], image.shape[0]])
    starts = np.clip(np.floor(centres - half_sides), 0, size_px - 1).astype(int)
    ends = np.clip(np.ceil(centres + half_sides), starts + 1, size_px).astype(int)
    return [(slice(y1, y2), slice(x1, x2)) for (x1, y1), (x2, y2) in zip(starts, ends, strict=True)]


def _shrink(crop: Image, max_side_px: int) -> NDArray[np.uint8]:
    height_px, width_px = crop.shape[:2]
    scale = max_side_px / max(height_px, width_px)
    if scale >= 1:
        return crop
    size_px = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    return cv2.resize(crop, size_px, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _encode_jpeg(image: Image, quality: int) -> bytes:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
