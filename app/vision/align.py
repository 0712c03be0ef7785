"""Face alignment: the similarity transform that maps five landmarks to a template, and the warp that cuts the chip.

Chip coordinates count from the centre of the top-left pixel, as `cv2.warpAffine` does.
"""

from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image

Alignment = Literal["arcface", "dlib", "dlib-wide"]
Points = NDArray[np.float64]

# InsightFace, recognition/arcface_torch: the template that ArcFace models are trained on, in a 112 px chip.
_ARCFACE_112 = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
# dlib, image_transforms/interpolation.h, get_face_chip_details: the mean face in its unit square, reduced to
# five points, and the padding that dlib's face recognition model is trained with.
_DLIB_UNIT = np.array([(0.2255, 0.2160), (0.7548, 0.2160), (0.4901, 0.5156), (0.2541, 0.7802), (0.7261, 0.7802)])
_DLIB_PADDING = 0.25
# The chip of the `open` pack shows more of the head: one of its networks was trained on whole heads, and dlib's own
# chip is cut out of it by the network (app/packs/open_pack/build_open.py).
_DLIB_WIDE_PADDING = 0.45


def _pad_dlib_template(padding: float) -> Points:
    return (padding + _DLIB_UNIT) / (2 * padding + 1)


TEMPLATES: Mapping[Alignment, Points] = {
    "arcface": _ARCFACE_112 / 112,
    "dlib": _pad_dlib_template(_DLIB_PADDING),
    "dlib-wide": _pad_dlib_template(_DLIB_WIDE_PADDING),
}
"""(5,2) float64 in parts of the chip's side: where the landmarks go."""

# Below this scale, a face would be a hundred million pixels wide: the landmarks are not those of a face.
_LEAST_SCALE = 1e-6
# Bilinear sampling reads one pixel beyond the outermost point; one more for its rounding.
_BORDER_PX = 2


def fit_similarity_transforms(landmarks: Floats, template: Points) -> Points:
    """(N,5,2) image px, (5,2) chip px → (N,2,3) float64, the least-squares similarities image → chip.

    Umeyama (1991) without reflection. In the plane a similarity is z → a·z + b on complex numbers, so `a` is one
    division and no SVD is needed. Landmarks without a scale (all in one point, for example) give scale 1.
    """
    source = landmarks[..., 0].astype(np.float64) + 1j * landmarks[..., 1]
    target = template[:, 0] + 1j * template[:, 1]
    source_mean, target_mean = source.mean(axis=1), target.mean()
    centred = source - source_mean[:, None]
    spread = (np.abs(centred) ** 2).sum(axis=1)
    a = (centred.conj() @ (target - target_mean)) / np.where(spread > 0, spread, 1)
    a = np.where(np.abs(a) > _LEAST_SCALE, a, 1)
    b = target_mean - a * source_mean
    return np.stack([np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)], -2)


def compute_detail_needed(landmarks: Floats, alignment: Alignment, size_px: int) -> float:
    """(N,5,2) image px → the scale from image to chip pixels of the smallest face; above 1, its chip is upsampled.

    0 without faces.
    """
    matrices = fit_similarity_transforms(landmarks, TEMPLATES[alignment] * size_px)
    return float(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]).max(initial=0))


def align_faces(image: Image, landmarks: Floats, alignment: Alignment, size_px: int) -> NDArray[np.uint8]:
    """(H,W,3) uint8 RGB, (N,5,2) image px → (N,S,S,3) uint8 chips; black where they leave the photo.

    Bilinear interpolation. A face of at least twice the chip's size is first shrunk by averages, against aliasing.
    """
    chips = np.zeros((len(landmarks), size_px, size_px, 3), np.uint8)
    matrices = fit_similarity_transforms(landmarks, TEMPLATES[alignment] * size_px)
    footprints = _find_footprints(image, matrices, size_px)
    # What leaves the part that is cut out is moved by where that begins.
    matrices[:, :, 2] += np.einsum("nij,nj->ni", matrices[:, :, :2], footprints[:, :2])
    factors = (1 / np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])).astype(int)
    for chip, matrix, footprint, factor in zip(chips, matrices, footprints.tolist(), factors.tolist(), strict=True):
        left, top, right, bottom = footprint
        if left < right and top < bottom:
            _warp_inplace(image[top:bottom, left:right], matrix, factor, chip)
    return chips


def _warp_inplace(part: Image, matrix: Points, factor: int, chip: Image) -> None:
    """Fill the (S,S,3) `chip` from the part of a photo that the (2,3) `matrix` maps onto it, shrunk by `factor`."""
    if factor >= 2:
        part = _shrink_by(part, factor)
        # Coordinates count from pixel centres, and the centre of a shrunk pixel lies (factor - 1) / 2 further on.
        matrix[:, 2] += matrix[:, :2].sum(axis=1) * (factor - 1) / 2
        matrix[:, :2] *= factor
    chip[:] = cv2.warpAffine(part, matrix, (len(chip),) * 2, flags=cv2.INTER_LINEAR)


def _shrink_by(part: Image, factor: int) -> Image:
    """(h,w,3) → (h/factor,w/factor,3): each pixel is the mean of a block, of which a warp would sample a few pixels."""
    height, width = (max(1, side // factor) for side in part.shape[:2])
    # Only whole blocks: they take OpenCV a third of the time. What is cut off is less than one pixel of the chip.
    whole = part[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _find_footprints(image: Image, matrices: Points, size_px: int) -> NDArray[np.int64]:
    """(N,2,3) → (N,4): left, top, right, bottom (exclusive) of the photo's pixels that each (S,S) chip is made of.

    OpenCV 4 refuses to warp from a photo with a side of 32,767 px and more, which a panorama may have.
    """
    height_px, width_px = image.shape[:2]
    corners = np.array([(-1, -1), (size_px, -1), (-1, size_px), (size_px, size_px)])
    offsets = np.swapaxes(corners - matrices[:, None, :, 2], 1, 2)
    in_image = np.linalg.solve(matrices[:, :, :2], offsets)
    ends = np.hstack([np.floor(in_image.min(axis=2)) - _BORDER_PX, np.ceil(in_image.max(axis=2)) + _BORDER_PX + 1])
    return np.asarray(np.clip(ends, 0, (width_px, height_px, width_px, height_px)).astype(np.int64))
