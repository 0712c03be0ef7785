"""Types that the modules of app.vision exchange."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image


@dataclass(frozen=True)
class Detections:
    """Faces detected in one image, best score first.

    `boxes` (N,4) float32 x1 y1 x2 y2, `landmarks` (N,5,2) float32 x y (left eye, right eye, nose, left mouth
    corner, right mouth corner as the viewer sees them), both in pixels of the image that was given; `scores` (N,)
    float32 in 0..1.
    """

    boxes: Floats
    landmarks: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Detections":
        """The chosen rows, as a new value."""
        return Detections(self.boxes[index], self.landmarks[index], self.scores[index])

    def scale_to(self, factor: "Floats") -> "Detections":
        """The same faces in another frame: `factor` (2,) float32 for x and y."""
        return Detections(self.boxes * np.tile(factor, 2), self.landmarks * factor, self.scores)

    @staticmethod
    def concatenate(parts: "Sequence[Detections]") -> "Detections":
        """All rows, in order. At least one part."""
        return Detections(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    @staticmethod
    def make_empty() -> "Detections":
        return Detections(np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32), np.empty(0, np.float32))


class FaceDetector(Protocol):
    @property
    def view_px(self) -> int:
        """Longer side of a photo beyond which the detector needs no more pixels."""

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """N times (H,W,3) uint8 RGB → the faces of each in pixels of its image, best first."""


class FaceEmbedder(Protocol):
    def compute_vectors(self, chips: Image) -> Floats:
        """(N,S,S,3) uint8 RGB aligned faces → (N,D) float32, as the network gives them, of any length."""
