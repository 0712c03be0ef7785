"""Photos and their faces in MongoDB: `images` and `faces`."""

from collections.abc import Iterator, Sequence
from typing import Any

import bson
import numpy as np
from numpy.typing import NDArray
from pymongo import ASCENDING
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, split_into_batches, translate_mongo_errors
from app.adapters.mongo_photos import PhotoWriter
from app.adapters.mongo_records import (
    FLOAT32_HEADER,
    decode_vectors,
    read_crop_range,
    read_face_record,
    read_image_record,
)
from app.core.errors import RetryLater
from app.core.naming import find_main_picture
from app.core.records import (
    GROUPING_MEASURES,
    Changes,
    FaceBatch,
    ImageRecord,
    ImageStatus,
    PhotoRef,
    PhotoResult,
    make_quality_columns,
)

READ_BATCH = 10_000
READ_FIELDS = (
    "image_id",
    "box",
    "det_score",
    *(f"quality.{name}" for name in GROUPING_MEASURES),
    "crop_key",
    "crop_range",
    "person_id",
    "assigned_by",
    "rejected",
    "digest",
    "etag",
)


class MongoFaceStore:
    """`images` and `faces`."""

    def __init__(self, database: Database[Document]) -> None:
        self._images: Collection[Document] = database["images"]
        self._faces: Collection[Document] = database["faces"]
        self._writer = PhotoWriter(database)

    def find_image(self, photo: PhotoRef) -> tuple[ImageRecord | None, int]:
        return self._writer.find([photo])[0]

    def find_images(self, photos: Sequence[PhotoRef]) -> list[tuple[ImageRecord | None, int]]:
        return self._writer.find(photos)

    def find_by_id(self, gallery_id: str, image_id: str) -> ImageRecord | None:
        """The photo that has this id now."""
        with translate_mongo_errors("Reading a photo's record"):
            document = self._images.find_one({"_id": f"{gallery_id}/{image_id}"})
        return read_image_record(document) if document else None

    def find_companion(self, photo: PhotoRef) -> ImageRecord | None:
        return find_main_picture(self._writer.find_group(photo))

    def save_photos(self, results: Sequence[PhotoResult]) -> Changes:
        return self._writer.save(results)

    def remove_photo(self, photo: PhotoRef, edition: int) -> Changes | None:
        return self._writer.remove(photo, edition)

    def find_twins(self, contents: Sequence[str], model_id: str) -> dict[str, PhotoResult]:
        # One with forgotten faces lacks them.
        whole = {
            "status": {"$in": [ImageStatus.INDEXED.value, ImageStatus.NO_FACES.value]},
            "excluded": {"$in": [None, 0]},
        }
        twins: dict[str, PhotoResult] = {}
        with translate_mongo_errors("Looking for the same pictures"):
            # One read for all: nearly always there is none. A second one for a picture that there is, since a gallery
            # can have any number of copies.
            wanted = {"content": {"$in": list(contents)}, "model": model_id, **whole}
            for content in self._images.distinct("content", wanted):
                image = self._images.find_one({"content": content, "model": model_id, **whole})
                if image and (twin := self._read_twin(image)):
                    twins[content] = twin
        return twins

    def _read_twin(self, image: Document) -> PhotoResult | None:
        same_content = {"gallery_id": image["gallery_id"], "image_id": image["image_id"], "model": image["model"]}
        found = self._faces.find({**same_content, "etag": image["etag"]})
        # A face's id ends with its place among the photo's detections, best first.
        faces = sorted(map(read_face_record, found), key=lambda face: int(face.face_id.rpartition("/")[2]))
        record = read_image_record(image)
        return PhotoResult(record, faces) if len(faces) == record.face_count else None

    def read_faces(self, gallery_id: str, model_id: str, *, with_embeddings: bool = True) -> Iterator[FaceBatch]:
        with translate_mongo_errors("Reading faces"):
            yield from map(
                decode_face_batch, read_raw_faces(self._faces, gallery_id, model_id, with_embeddings=with_embeddings)
            )

    def find_other_model(self, gallery_id: str, model_id: str) -> str | None:
        with translate_mongo_errors("Looking for faces of another model"):
            face = self._faces.find_one({"gallery_id": gallery_id, "model": {"$ne": model_id}}, ["model"])
        return face["model"] if face else None

    def read_former_faces(self, gallery_id: str, model_id: str) -> Iterator[FaceBatch]:
        said = [{"person_id": {"$exists": True}}, {"rejected": {"$exists": True}}]
        query = {"gallery_id": gallery_id, "model": {"$ne": model_id}, "$or": said}
        with translate_mongo_errors("Reading faces of a former model"):
            yield from map(decode_face_batch, _read_raw(self._faces, query, READ_FIELDS))

    def count_unexamined(self, gallery_id: str, model_id: str) -> int:
        with translate_mongo_errors("Counting photos of another model"):
            return self._images.count_documents({"gallery_id": gallery_id, "model": {"$ne": model_id}})

    def read_embeddings(self, face_ids: Sequence[str]) -> NDArray[np.float32]:
        vectors: dict[str, bytes] = {}
        with translate_mongo_errors("Reading embeddings"):
            for some in split_into_batches(face_ids):
                found = self._faces.find({"_id": {"$in": some}}, ["embedding"], batch_size=READ_BATCH)
                vectors |= {face["_id"]: face["embedding"] for face in found}
        missing = [face_id for face_id in face_ids if face_id not in vectors]
        if missing:
            raise RetryLater(f"{len(missing)} faces are gone since they were read, such as {missing[0]}.")
        return decode_vectors([vectors[face_id] for face_id in face_ids])

    def read_images(self, gallery_id: str) -> Iterator[ImageRecord]:
        with translate_mongo_errors("Reading photos' records"):
            cursor = self._images.find({"gallery_id": gallery_id}).sort("image_id", ASCENDING).batch_size(READ_BATCH)
            yield from map(read_image_record, cursor)


def read_raw_faces(
    faces: Collection[Document], gallery_id: str, model_id: str, *, with_embeddings: bool = True
) -> Iterator[bytes]:
    """The server's answers as bytes, for `decode_face_batch`: some 6,000 faces of 512 dimensions each."""
    query = {"gallery_id": gallery_id, "model": model_id}
    return _read_raw(faces, query, [*READ_FIELDS, "embedding"] if with_embeddings else READ_FIELDS)


def _read_raw(faces: Collection[Document], query: Document, fields: Sequence[str]) -> Iterator[bytes]:
    # pymongo's annotation is wrong: it says that this yields documents.
    answers: Iterator[Any] = faces.find_raw_batches(query, list(fields), batch_size=READ_BATCH).sort("_id", ASCENDING)
    return answers


def decode_face_batch(raw: bytes) -> FaceBatch:
    """One answer of `read_raw_faces` as columns."""
    faces = bson.decode_all(raw)
    return FaceBatch(
        face_ids=[face["_id"] for face in faces],
        image_ids=[face["image_id"] for face in faces],
        boxes=np.array([face["box"] for face in faces], np.float32).reshape(-1, 4),
        det_scores=np.array([face["det_score"] for face in faces], np.float32),
        quality=make_quality_columns([face["quality"] for face in faces]),
        embeddings=decode_vectors([face.get("embedding", FLOAT32_HEADER) for face in faces]),
        crop_keys=[face["crop_key"] for face in faces],
        person_ids=[face.get("person_id") for face in faces],
        digests=[face.get("digest", "") for face in faces],
        etags=[face["etag"] for face in faces],
        crop_ranges=[read_crop_range(face) for face in faces],
        confirmed=frozenset(face["_id"] for face in faces if face.get("assigned_by") == "user"),
        rejected={face["_id"]: frozenset(face["rejected"]) for face in faces if face.get("rejected")},
    )
