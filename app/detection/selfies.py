"""Selfies: which face is the guest's, and its vector."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from app.core.arrays import Floats
from app.detection.analysis import PhotoAnalysis
from app.detection.device import Device
from app.detection.stage_times import StageTimes

CLEARLY_LARGER = 2.0
"""A face with so many times the area of every other one is the guest's; others are people in the background."""


class SelfieStatus(StrEnum):
    """How a selfie was used, or why it could not be."""

    USED = "used"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    LOW_QUALITY_FACE = "low_quality_face"


def choose_face(analysis: PhotoAnalysis, least_quality: float) -> tuple[SelfieStatus, int]:
    """The row of the guest's face: the only one, or the one that is clearly the largest. It must reach the quality."""
    boxes = analysis.detections.boxes
    if not len(boxes):
        return SelfieStatus.NO_FACE, -1
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-areas, kind="stable")
    if len(order) > 1 and areas[order[0]] < CLEARLY_LARGER * areas[order[1]]:
        return SelfieStatus.SEVERAL_FACES, -1
    row = int(order[0])
    if analysis.quality[row].get("unified", 100.0) < least_quality:
        return SelfieStatus.LOW_QUALITY_FACE, row
    return SelfieStatus.USED, row


def embed_mirrored(analysis: PhotoAnalysis, row: int, device: Device, times: StageTimes) -> Floats:
    """The (D,) float32 embedding of a face as a mirror shows it."""
    with device.cpu:
        chip = device.pack.cut_chips(analysis.image, analysis.in_image.landmarks[row : row + 1])
    vectors = device.embed(np.ascontiguousarray(chip[:, :, ::-1]), times)
    embedding: Floats = device.pack.make_embeddings(vectors)[0]
    return embedding


def combine(embeddings: Sequence[Floats]) -> Floats:
    """Embeddings (D,) of a guest's faces and of their mirrored pictures → their mean, of unit length.

    The mean of a face and its mirrored picture is nearer to other photos of the person than the face alone.
    """
    mean = np.mean(embeddings, axis=0)
    combined: Floats = (mean / max(float(np.linalg.norm(mean)), float(np.finfo(np.float32).tiny))).astype(np.float32)
    return combined
