"""CenterFace (Xu et al., 2019, arXiv:1911.03599): a face is the cell of a map in which its centre lies.

For each cell of 4 x 4 pixels the network gives the probability that a face's centre lies in it, the logarithm of the
face's height and width in cells, the centre's distance from the middle of the cell in cells, and five landmarks as
shares of the box. In all of these y comes before x.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.packs.manifest import CenterfaceConfig as CenterfaceConfig
from app.vision.light import brighten_parts
from app.vision.nms import nms
from app.vision.one_stage import Candidates, OneStageDetector, open_one_stage
from app.vision.sessions import PixelInput, Provider, run_pixels
from app.vision.types import Detections

STRIDE_PX = 4
PIXELS = PixelInput((0.0, 0.0, 0.0), 1.0)
"""The network takes pixels as they are."""


INSIDE_SHARE = 0.6
"""Where so much of a box lies in a better one, it is no face of its own: in a face that is larger than any that the
network was trained on, it sees smaller ones."""


class CenterfaceDetector(OneStageDetector):
    """Detects faces by the cells of one map, in photos whose dark parts are brightened."""

    @property
    def view_px(self) -> int:
        return max(self._config.closer_look_px, *self._config.input_sizes_px)

    def _suppress(self, detections: Detections, photo: NDArray[np.intp]) -> NDArray[np.intp]:
        kept = super()._suppress(detections, photo)
        some = detections.take(kept)
        return kept[nms(some.boxes, some.scores, INSIDE_SHARE, mode="min", groups=photo[kept])]

    def _run(self, canvases: Image) -> list[Floats]:
        """(N,h,w,3) → heatmap (N,1,h/4,w/4), scale (N,2,…), offset (N,2,…) and landmarks (N,10,…)."""
        brightened = np.stack([brighten_parts(canvas) for canvas in canvases])
        return run_pixels(self._session, brightened, PIXELS)

    def _decode(self, outputs: Sequence[Floats], input_hw: tuple[int, int], least_score: float) -> Candidates:
        heatmap, scale, offset, landmarks = outputs
        photo, row, column = np.nonzero(heatmap[:, 0] >= least_score)
        cells = np.stack([row, column], axis=1).astype(np.float32)
        # Cell by cell, y before x.
        sides = np.exp(scale[photo, :, row, column]) * STRIDE_PX
        centres = (cells + 0.5 + offset[photo, :, row, column]) * STRIDE_PX
        corners = centres - sides / 2
        points = corners[:, None] + landmarks[photo, :, row, column].reshape(-1, 5, 2) * sides[:, None]
        boxes = np.concatenate([corners[:, ::-1], (corners + sides)[:, ::-1]], axis=1)
        return Candidates(photo, Detections(boxes, points[..., ::-1], heatmap[photo, 0, row, column]))


def open_centerface(
    model: Path, config: CenterfaceConfig, provider: Provider = "auto", threads: int = 0
) -> CenterfaceDetector:
    """Load a detector. Its batch dimension is freed where a run of two photos gives the same as two runs."""
    return open_one_stage(
        model, lambda session, most: CenterfaceDetector(session, config, most), PIXELS, provider, threads
    )
