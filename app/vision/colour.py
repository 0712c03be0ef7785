"""Conversion to sRGB of photos with another ICC profile, as phones and studios write them."""

import logging
from functools import lru_cache
from io import BytesIO

from PIL import Image as Pil
from PIL import ImageCms

log = logging.getLogger(__name__)

_KEPT_TRANSFORMS = 16


def convert_to_srgb(picture: Pil.Image, profile: bytes | None) -> Pil.Image:
    """A picture in RGB, grey or CMYK → in sRGB. Unchanged without a profile, or with one that can't be used."""
    transform = _find_transform(profile, picture.mode) if profile else None
    if transform is None:
        return picture
    converted = ImageCms.applyTransform(picture, transform)
    return picture if converted is None else converted


@lru_cache(_KEPT_TRANSFORMS)
def _find_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where no conversion is needed: most profiles are sRGB's own."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        # Several threads share a transform, and Little CMS caches the last pixel in it without this flag.
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        log.info("colour profile ignored: %s", error)
        return None
