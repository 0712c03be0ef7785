"""Colours to sRGB where a photo says that it has others, as phones and studios write them."""

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
    """None where there is nothing to do: most profiles are sRGB's own."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        # Several threads share a transform, and Little CMS keeps the last pixel in it unless told not to.
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        log.info("colour profile ignored: %s", error)
        return None
