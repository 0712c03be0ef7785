"""Photos and faces as MongoDB's documents."""

from collections.abc import Sequence

import numpy as np
from bson.binary import VECTOR_SUBTYPE, Binary, BinaryVectorDtype
from numpy.typing import NDArray

from app.adapters.mongo import Document
from app.core.naming import guess_name
from app.core.records import FaceRecord, ImageRecord, ImageStatus, PhotoRef

FLOAT32_HEADER = bytes([BinaryVectorDtype.FLOAT32.value[0], 0])
"""A BSON vector is a type byte, a padding byte, then little-endian numbers:
https://github.com/mongodb/specifications/blob/master/source/bson-binary-vector/bson-binary-vector.md"""


def encode_vector(vector: NDArray[np.float32]) -> Binary:
    """(D,) float32 → BSON vector."""
    return Binary(FLOAT32_HEADER + vector.astype("<f4").tobytes(), VECTOR_SUBTYPE)


def decode_vectors(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    """N BSON vectors of one length → (N,D) float32."""
    if not vectors:
        return np.empty((0, 0), np.float32)
    raw = np.frombuffer(b"".join(vectors), np.uint8).reshape(len(vectors), -1)
    return raw[:, len(FLOAT32_HEADER) :].copy().view("<f4").astype(np.float32, copy=False)


def make_image_fields(image: ImageRecord) -> Document:
    """What is stored of a photo beside its id and the time."""
    photo = image.photo
    return {
        "gallery_id": photo.gallery_id,
        "image_id": photo.image_id,
        "name": photo.name,
        # The version is for workers of former versions, which read it.
        "s3": {"bucket": photo.bucket, "key": photo.key, "version_id": None},
        "etag": image.etag,
        "last_modified": image.last_modified,
        "width": image.width_px,
        "height": image.height_px,
        "status": image.status.value,
        "reason": image.reason,
        "face_count": image.face_count,
        "model": image.model_id,
        "content": image.content,
        "prefilter": {"score": image.prefilter_score, "reason": image.prefilter_reason},
        "left_out": list(image.left_out),
        "preview_key": image.preview_key,
        "sequencer": image.sequencer,
        "excluded": image.excluded,
        "timings_s": dict(image.timings_s),
    }


def read_image_record(document: Document) -> ImageRecord:
    s3, prefilter = document["s3"], document.get("prefilter", {})
    gallery_id, image_id = document["gallery_id"], document["image_id"]
    # Former versions stored neither.
    name = document["name"] if "name" in document else guess_name(image_id, s3["key"])
    former_preview = f"{gallery_id}/previews/{image_id}.jpg" if document["face_count"] else None
    return ImageRecord(
        photo=PhotoRef(gallery_id, image_id, s3["bucket"], s3["key"], name),
        status=ImageStatus(document["status"]),
        reason=document["reason"],
        etag=document["etag"],
        last_modified=document["last_modified"],
        width_px=document["width"],
        height_px=document["height"],
        face_count=document["face_count"],
        model_id=document["model"],
        content=document.get("content"),
        prefilter_score=prefilter.get("score"),
        prefilter_reason=prefilter.get("reason"),
        left_out=tuple(document.get("left_out", ())),
        preview_key=document.get("preview_key", former_preview),
        sequencer=document.get("sequencer"),
        excluded=document.get("excluded", 0),
        timings_s=document["timings_s"],
    )


def make_face_fields(face: FaceRecord, etag: str | None) -> Document:
    """What detection stores of a face beside its id; `etag` is that of the photo's content."""
    return {
        "gallery_id": face.gallery_id,
        "image_id": face.image_id,
        "model": face.model_id,
        "box": face.box.tolist(),
        "landmarks": face.landmarks.tolist(),
        "det_score": face.det_score,
        "quality": dict(face.quality),
        "embedding": encode_vector(face.embedding),
        "digest": face.digest,
        "crop_key": face.crop_key,
        "crop_range": list(face.crop_range) if face.crop_range else None,
        "etag": etag,
    }


def read_face_record(document: Document) -> FaceRecord:
    return FaceRecord(
        face_id=document["_id"],
        gallery_id=document["gallery_id"],
        image_id=document["image_id"],
        model_id=document["model"],
        box=np.array(document["box"], np.float32),
        landmarks=np.array(document["landmarks"], np.float32),
        det_score=document["det_score"],
        quality=document["quality"],
        embedding=decode_vectors([document["embedding"]])[0],
        crop_key=document["crop_key"],
        crop_range=read_crop_range(document),
    )


def read_crop_range(document: Document) -> tuple[int, int] | None:
    found = document.get("crop_range")
    return (found[0], found[1]) if found else None
