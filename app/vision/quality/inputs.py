"""The input of the quality measures: faces as columns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats
from app.vision.light import brighten, compute_gains

CHIP_PX = 112
"""Side of the chips that are measured: ArcFace's template at its own size, whatever the embedder takes."""


@dataclass(frozen=True)
class FaceColumns:
    """N faces. `chips` (N,112,112,3) uint8 RGB, aligned by ArcFace's template; `boxes` (N,4), `landmarks` (N,5,2) and
    `photo_px` (N,2), width and height, in pixels of the upright photo; `det_scores` (N,)."""

    chips: NDArray[np.uint8]
    boxes: Floats
    landmarks: Floats
    det_scores: Floats
    photo_px: Floats

    def __len__(self) -> int:
        return len(self.chips)

    @cached_property
    def luminance(self) -> NDArray[np.uint8]:
        """(N,112,112), by ITU-R BT.601."""
        return _compute_luminance(self.chips)

    @cached_property
    def gains(self) -> Floats:
        """(N,) float32, by how much dark chips are brightened."""
        return compute_gains(self.chips)

    @cached_property
    def brightened(self) -> NDArray[np.uint8]:
        """(N,112,112,3), brightened as for the embedder: they show what can still be recognised of a dark face."""
        return brighten(self.chips, self.gains)

    @cached_property
    def brightened_luminance(self) -> NDArray[np.uint8]:
        """(N,112,112), the luminance of `brightened`."""
        return self.luminance if self.brightened is self.chips else _compute_luminance(self.brightened)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "FaceColumns":
        """The chosen rows."""
        return FaceColumns(*(getattr(self, field.name)[which] for field in fields(self)))

    @staticmethod
    def concatenate(parts: "Sequence[FaceColumns]") -> "FaceColumns":
        """All rows, in order. At least one part."""
        return FaceColumns(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(FaceColumns))
        )


def _compute_luminance(chips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    tall = chips.reshape(len(chips) * CHIP_PX, CHIP_PX, 3)
    return np.asarray(cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY), np.uint8).reshape(len(chips), CHIP_PX, CHIP_PX)
