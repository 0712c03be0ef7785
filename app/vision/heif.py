"""HEIF for PIL: the pixels of the primary picture and nothing else.

pi_heif's own PIL plugin reads every metadata item, thumbnail and depth map as it opens a file, and in 1.4.0 an
item type that is not UTF-8 ends the process there: `_CtxImage_metadata` doesn't check what PyUnicode_FromString
returns. One damaged byte would be enough. So this module calls pi_heif's C
module itself, for pixels only.
"""

from typing import Any

import _pi_heif  # type: ignore[import-not-found]  # a compiled module without stubs
from PIL.ImageFile import ImageFile

_DECODE_THREADS = 4  # pi_heif's default
_ANY_DECODER = ""
ICC_TYPES = ("rICC", "prof")
"""Colour boxes that hold an ICC profile (ISO/IEC 14496-12, colr)."""


class HeifImageFile(ImageFile):
    """The primary picture of a HEIF file, made upright by its irot and imir boxes, in 8 bits where it has colour."""

    format = "HEIF"
    format_description = "HEIF container"

    def _open(self) -> None:
        assert self.fp is not None  # noqa: S101 - PIL's own promise to a plugin, for the type checker
        to_8_bit, to_bgr, without_stride, to_16_bit, without_limits = True, False, False, True, False
        images = _pi_heif.load_file(
            self.fp.read(), _DECODE_THREADS, to_8_bit, to_bgr, without_stride, to_16_bit, _ANY_DECODER, without_limits
        )
        primary = [image for image in images if image is not None and image.primary]
        if not primary:
            raise SyntaxError("it holds no primary picture")  # what PIL expects of a plugin that can't read a file
        self._undecoded: Any = primary[0]
        self._size, self._mode = self._undecoded.size_mode
        profile = self._undecoded.color_profile or {}
        if profile.get("type") in ICC_TYPES:
            self.info["icc_profile"] = profile["data"]

    def load(self) -> Any:  # noqa: ANN401 - PIL names its own type only to type checkers
        if self._undecoded is not None:
            image, self._undecoded = self._undecoded, None
            data, stride = image.data, image.stride
            # The decoded size may differ from the header's.
            self._size, self._mode = image.size_mode
            self.load_prepare()
            self.frombytes(data, "raw", (self._mode, stride))
        return super().load()
