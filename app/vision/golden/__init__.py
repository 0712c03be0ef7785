"""A self-test on one known photo when a service starts, since wrong results would fill galleries with nonsense.

Wrong weights are detected by their hash. This test detects the other faults: a driver that computes wrong numbers, a
broken variant, a manifest with the normalisation of another network.
"""

from pathlib import Path

import cv2
import numpy as np

from app.core.arrays import Floats, Image
from app.core.boxes import compute_ious
from app.core.errors import BadModelPack
from app.core.pictures import PhotoLimits
from app.vision.decode import decode
from app.vision.face_pack import FacePack
from app.vision.types import Detections

PHOTO = Path(__file__).with_name("astronaut.jpg")
FACE = np.array([110, 60, 199, 176], np.float32)
"""The box of the astronaut's face in the photo, x1 y1 x2 y2 px."""
LEAST_IOU = 0.5
SMALLER = 0.8
"""Scale of the smaller copy."""
_LIMITS = PhotoLimits(max_bytes=1_000_000, max_pixels=1_000_000)


def check_golden_photo(pack: FacePack) -> None:
    """Raises BadModelPack unless the pack detects the one face in both sizes of the photo, and recognises it."""
    photo = decode(PHOTO.read_bytes(), _LIMITS)
    smaller = np.asarray(cv2.resize(photo, None, fx=SMALLER, fy=SMALLER, interpolation=cv2.INTER_AREA), np.uint8)
    embeddings = [
        _embed_face(image, faces, pack) for image, faces in zip(*_find_face(photo, smaller, pack), strict=True)
    ]
    similarity = float(embeddings[0] @ embeddings[1])
    # Written so that a NaN fails too.
    if not similarity >= pack.manifest.similarity_threshold:
        raise BadModelPack(
            f"The pack {pack.manifest.name} does not recognise a face in a smaller copy of its photo on this device "
            f"(similarity {similarity:.2f}, threshold {pack.manifest.similarity_threshold}). "
            "Check the manifest's input values, then the GPU driver."
        )


def _find_face(photo: Image, smaller: Image, pack: FacePack) -> tuple[list[Image], list[Detections]]:
    images = [photo, smaller]
    detections = pack.detect(images)
    for image, faces, scale in zip(images, detections, (1.0, SMALLER), strict=True):
        if len(faces) != 1 or compute_ious(faces.boxes / scale, FACE[None])[0, 0] < LEAST_IOU:
            raise BadModelPack(
                f"The pack {pack.manifest.name} detects {len(faces)} faces at {faces.boxes.round().tolist()} in a "
                f"photo of {image.shape[1]} px that has one. Check the manifest's detector, then the GPU driver."
            )
    return images, detections


def _embed_face(image: Image, faces: Detections, pack: FacePack) -> Floats:
    (embeddings,) = pack.embed([pack.cut_chips(image, faces.landmarks)])
    first: Floats = embeddings[0]
    return first
