"""Conversion to sRGB of photos with another ICC profile, as phones and studios write them, and to plain RGB pixels."""

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image as Pil
from PIL import ImageCms

from app.core.arrays import Image
from app.core.errors import BadPhoto

log = logging.getLogger(__name__)

MOST_PROFILE_BYTES = 4_000_000
"""A larger profile is skipped. Those of phones have 500 bytes, those of presses up to 3 MB."""
_KEPT_TRANSFORMS = 16
_BLOCK_PX = 1 << 18

Transform = ImageCms.ImageCmsTransform | None


class _Transforms:
    """The transforms that were used last, by the profile's hash: the profiles themselves would be megabytes each."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, str], Transform] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, profile: bytes, mode: str) -> Transform:
        key = hashlib.sha256(profile).digest(), mode
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        transform = _build_transform(profile, mode)
        with self._lock:
            self._kept[key] = transform
            while len(self._kept) > _KEPT_TRANSFORMS:
                self._kept.popitem(last=False)
        return transform


_transforms = _Transforms()


def convert_to_srgb(picture: Pil.Image, profile: bytes | None) -> Pil.Image:
    """A picture in RGB, grey or CMYK → in sRGB. Unchanged without a profile, or with one that can't be used."""
    transform = find_transform(profile, picture.mode)
    if transform is None:
        return picture
    converted = ImageCms.applyTransform(picture, transform)
    return picture if converted is None else converted


def find_transform(profile: bytes | None, mode: str) -> Transform:
    """None where no conversion is needed or possible: most profiles are sRGB's own."""
    if not profile:
        return None
    if len(profile) > MOST_PROFILE_BYTES:
        log.info("colour profile ignored: it has %d bytes; at most %d are read", len(profile), MOST_PROFILE_BYTES)
        return None
    return _transforms.find(profile, mode)


def convert_pixels(pixels: Image, profile: bytes | None) -> None:
    """Convert (H,W,3) uint8 pixels with a profile to sRGB, in place and in blocks: a copy would double the memory."""
    if find_transform(profile, "RGB") is None:
        return
    for top, bottom, left, right in split_into_blocks(pixels.shape[1], pixels.shape[0]):
        block = pixels[top:bottom, left:right]
        block[...] = np.asarray(convert_to_srgb(Pil.fromarray(np.ascontiguousarray(block)), profile))


def convert_to_array(picture: Pil.Image, profile: bytes | None) -> Image:
    """A loaded picture of any mode → (H,W,3) uint8 sRGB, on white where it is transparent.

    Block by block, so that beside Pillow's pixels and the result nothing is as large as the picture.
    Raises BadPhoto for 32-bit pixels.
    """
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    for top, bottom, left, right in split_into_blocks(picture.width, picture.height):
        block = _convert_block(picture.crop((left, top, right, bottom)), profile)
        pixels[top:bottom, left:right] = np.asarray(block)
    return pixels


def split_into_blocks(width_px: int, height_px: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, bottom, left and right of blocks of at most `_BLOCK_PX`, which together are the picture."""
    across = min(width_px, _BLOCK_PX)
    down = max(1, _BLOCK_PX // max(across, 1))
    for top in range(0, height_px, down):
        for left in range(0, width_px, across):
            yield top, min(top + down, height_px), left, min(left + across, width_px)


def _convert_block(block: Pil.Image, profile: bytes | None) -> Pil.Image:
    # A CMYK profile describes inks, so it is applied before the conversion to RGB; all other profiles, after it.
    if block.mode == "CMYK":
        return convert_to_srgb(block, profile).convert("RGB")
    return convert_to_srgb(_convert_to_rgb(block), profile)


def _convert_to_rgb(block: Pil.Image) -> Pil.Image:
    if block.mode in ("I", "F"):
        raise BadPhoto(
            f"The picture has 32-bit pixels (mode {block.mode}), whose range of light is unknown.", "not supported"
        )
    if block.mode.startswith("I;16"):
        # PIL would clip these values at 255. Of 16-bit colour, it keeps the high byte too.
        return Pil.fromarray((np.asarray(block) >> 8).astype(np.uint8)).convert("RGB")
    if block.has_transparency_data:
        white = Pil.new("RGBA", block.size, "white")
        return Pil.alpha_composite(white, block.convert("RGBA")).convert("RGB")
    return block if block.mode == "RGB" else block.convert("RGB")


def _build_transform(profile: bytes, mode: str) -> Transform:
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
