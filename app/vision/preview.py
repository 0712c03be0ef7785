"""A small JPEG of a photo for the people page: browsers show neither HEIC nor 16-bit TIFF, and originals are large."""

import cv2

from app.vision.types import Image

JPEG_QUALITY = 80


def encode_preview(image: Image, longer_side_px: int) -> bytes:
    """(H,W,3) uint8 RGB → JPEG whose longer side is at most `longer_side_px`."""
    height, width = image.shape[:2]
    scale = min(1.0, longer_side_px / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    else:
        shown = image
    _, data = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
