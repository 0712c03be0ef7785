"""Photos and their faces in MongoDB: `images` and `faces`."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
from bson.binary import VECTOR_SUBTYPE, Binary, BinaryVectorDtype
from numpy.typing import NDArray
from pymongo import ASCENDING, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, batches, mongo_errors
from app.records import FaceBatch, FaceRecord, ImageRecord, ImageStatus, PhotoRef

READ_BATCH = 10_000
FLOAT32_HEADER = bytes([BinaryVectorDtype.FLOAT32.value[0], 0])
"""A BSON vector is a type byte, a padding byte, then little-endian numbers:
https://github.com/mongodb/specifications/blob/master/source/bson-binary-vector/bson-binary-vector.md"""


class MongoFaceStore:
    """`images` and `faces`."""

    def __init__(self, database: Database[Document]) -> None:
        self._images: Collection[Document] = database["images"]
        self._faces: Collection[Document] = database["faces"]

    def find_image(self, photo: PhotoRef) -> ImageRecord | None:
        with mongo_errors("Reading a photo's record"):
            document = self._images.find_one({"_id": photo.document_id})
        return _image_record(document) if document else None

    def save_photo(self, image: ImageRecord, faces: Sequence[FaceRecord]) -> None:
        photo = image.photo
        of_this_photo = {"gallery_id": photo.gallery_id, "image_id": photo.image_id}
        with mongo_errors("Storing a photo"):
            # Other content under the same name: its old faces' people say nothing about the new faces.
            self._faces.update_many(
                {**of_this_photo, "etag": {"$ne": image.etag}}, {"$unset": {"person_id": "", "assigned_by": ""}}
            )
            upserts = [
                UpdateOne({"_id": face.face_id}, {"$set": _face_fields(face, image.etag)}, upsert=True)
                for face in faces
            ]
            if upserts:
                self._faces.bulk_write(upserts, ordered=False)
            kept = [face.face_id for face in faces]
            self._faces.delete_many({**of_this_photo, "model": image.model_id, "_id": {"$nin": kept}})
            # The photo's own record comes last: where it is, its faces are.
            self._images.update_one({"_id": photo.document_id}, {"$set": _image_fields(image)}, upsert=True)

    def read_faces(self, gallery_id: str, model_id: str) -> Iterator[FaceBatch]:
        query = {"gallery_id": gallery_id, "model": model_id}
        fields = ["image_id", "box", "det_score", "quality", "embedding", "crop_key", "person_id"]
        with mongo_errors("Reading faces"):
            cursor = self._faces.find(query, fields).sort("_id", ASCENDING).batch_size(READ_BATCH)
            for documents in batches(cursor, READ_BATCH):
                yield _face_batch(documents)

    def read_images(self, gallery_id: str) -> Iterator[ImageRecord]:
        with mongo_errors("Reading photos' records"):
            cursor = self._images.find({"gallery_id": gallery_id}).sort("image_id", ASCENDING).batch_size(READ_BATCH)
            yield from map(_image_record, cursor)


def encode_vector(vector: NDArray[np.float32]) -> Binary:
    """(D,) float32 → BSON vector."""
    return Binary(FLOAT32_HEADER + vector.astype("<f4").tobytes(), VECTOR_SUBTYPE)


def decode_vectors(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    """N BSON vectors of one length → (N,D) float32."""
    if not vectors:
        return np.empty((0, 0), np.float32)
    raw = np.frombuffer(b"".join(vectors), np.uint8).reshape(len(vectors), -1)
    return raw[:, len(FLOAT32_HEADER) :].copy().view("<f4").astype(np.float32, copy=False)


def _image_fields(image: ImageRecord) -> Document:
    photo = image.photo
    return {
        "gallery_id": photo.gallery_id,
        "image_id": photo.image_id,
        "s3": {"bucket": photo.bucket, "key": photo.key, "version_id": photo.version_id},
        "etag": image.etag,
        "last_modified": image.last_modified,
        "width": image.width_px,
        "height": image.height_px,
        "status": image.status.value,
        "reason": image.reason,
        "face_count": image.face_count,
        "model": image.model_id,
        "timings_s": dict(image.timings_s),
        "processed_at": datetime.now(UTC),
    }


def _image_record(document: Document) -> ImageRecord:
    s3 = document["s3"]
    return ImageRecord(
        photo=PhotoRef(document["gallery_id"], document["image_id"], s3["bucket"], s3["key"], s3["version_id"]),
        status=ImageStatus(document["status"]),
        reason=document["reason"],
        etag=document["etag"],
        last_modified=document["last_modified"],
        width_px=document["width"],
        height_px=document["height"],
        face_count=document["face_count"],
        model_id=document["model"],
        timings_s=document["timings_s"],
    )


def _face_fields(face: FaceRecord, etag: str | None) -> Document:
    return {
        "gallery_id": face.gallery_id,
        "image_id": face.image_id,
        "model": face.model_id,
        "box": face.box.tolist(),
        "landmarks": face.landmarks.tolist(),
        "det_score": face.det_score,
        "quality": dict(face.quality),
        "embedding": encode_vector(face.embedding),
        "crop_key": face.crop_key,
        "etag": etag,
    }


def _face_batch(documents: Sequence[Document]) -> FaceBatch:
    return FaceBatch(
        face_ids=[face["_id"] for face in documents],
        image_ids=[face["image_id"] for face in documents],
        boxes=np.array([face["box"] for face in documents], np.float32).reshape(-1, 4),
        det_scores=np.array([face["det_score"] for face in documents], np.float32),
        quality=[face["quality"] for face in documents],
        embeddings=decode_vectors([face["embedding"] for face in documents]),
        crop_keys=[face["crop_key"] for face in documents],
        person_ids=[face.get("person_id") for face in documents],
    )
