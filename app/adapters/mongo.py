"""Photos, faces, people and galleries in MongoDB. The one place that knows how documents look."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
from bson.binary import VECTOR_SUBTYPE, Binary, BinaryVectorDtype
from numpy.typing import NDArray
from pymongo import ASCENDING, MongoClient, ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConfigurationError, DuplicateKeyError, InvalidURI, PyMongoError

from app.errors import BadConfiguration, RetryLater
from app.ports import GalleryLease
from app.records import FaceBatch, FaceRecord, ImageRecord, ImageStatus, PersonRecord, PhotoRef

Document = dict[str, Any]
READ_BATCH = 10_000
WRITE_BATCH = 1_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FLOAT32_HEADER = bytes([BinaryVectorDtype.FLOAT32.value[0], 0])
"""A BSON vector is a type byte, a padding byte, then little-endian numbers:
https://github.com/mongodb/specifications/blob/master/source/bson-binary-vector/bson-binary-vector.md"""


@contextmanager
def mongo_errors(action: str) -> Iterator[None]:
    """Turns pymongo's errors into this system's, with a sentence that begins with what was tried."""
    try:
        yield
    except PyMongoError as error:
        raise RetryLater(f"{action} in MongoDB failed: {error}") from error


def open_database(uri: str, default_name: str, setting: str) -> Database[Document]:
    """The database an URI names, or `default_name`. Connects lazily. Raises BadConfiguration for a wrong URI."""
    bounds = {"serverSelectionTimeoutMS": 5_000, "socketTimeoutMS": 30_000}
    missing: dict[str, Any] = {name: value for name, value in bounds.items() if name.lower() not in uri.lower()}
    try:
        client: MongoClient[Document] = MongoClient(uri, tz_aware=True, appname="face-worker", **missing)
        return client.get_default_database(default_name)
    except (ConfigurationError, InvalidURI, ValueError) as error:
        # The URI holds a password, so the message must not repeat it.
        raise BadConfiguration(f"{setting} is not a usable MongoDB URI: {type(error).__name__}.") from None


def ensure_indexes(database: Database[Document]) -> None:
    """Make the indexes that the queries below use; nothing happens where they exist."""
    with mongo_errors("Making indexes"):
        faces = database["faces"]
        faces.create_index([("gallery_id", ASCENDING), ("model", ASCENDING), ("_id", ASCENDING)])
        faces.create_index([("gallery_id", ASCENDING), ("image_id", ASCENDING)])
        faces.create_index([("gallery_id", ASCENDING), ("person_id", ASCENDING)])
        database["images"].create_index([("gallery_id", ASCENDING), ("image_id", ASCENDING)])
        database["people"].create_index([("gallery_id", ASCENDING), ("status", ASCENDING)])


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
            for documents in _batches(cursor, READ_BATCH):
                yield _face_batch(documents)

    def read_images(self, gallery_id: str) -> Iterator[ImageRecord]:
        with mongo_errors("Reading photos' records"):
            cursor = self._images.find({"gallery_id": gallery_id}).sort("image_id", ASCENDING).batch_size(READ_BATCH)
            yield from map(_image_record, cursor)


class MongoGalleryStore:
    """`galleries`."""

    def __init__(self, database: Database[Document]) -> None:
        self._galleries: Collection[Document] = database["galleries"]

    def mark_dirty(self, gallery_id: str, delay_s: int) -> bool:
        revision = {"$add": [{"$ifNull": ["$revision", 0]}, 1]}
        due = _is_past("$grouping_due_at")
        gallery = self._change(
            gallery_id,
            {
                "revision": revision,
                "grouping_due_at": {"$cond": [due, {"$add": ["$$NOW", delay_s * 1000]}, "$grouping_due_at"]},
                "message_revision": {"$cond": [due, revision, "$message_revision"]},
            },
        )
        # The change that opened the window carries its own revision; the others in it find an older one.
        return bool(gallery["message_revision"] == gallery["revision"])

    def take_lease(self, gallery_id: str, owner: str, ttl_s: float) -> GalleryLease | None:
        own = {"$eq": ["$lease.owner", owner]}
        free = {"$or": [own, _is_past("$lease.until")]}
        lease = {"owner": owner, "until": {"$add": ["$$NOW", round(ttl_s * 1000)]}}
        next_fence = {"$add": [{"$ifNull": ["$fence", 0]}, 1]}
        gallery = self._change(
            gallery_id,
            {
                "revision": {"$ifNull": ["$revision", 0]},
                "fence": {"$cond": [{"$and": [free, {"$not": [own]}]}, next_fence, "$fence"]},
                "lease": {"$cond": [free, lease, "$lease"]},
            },
        )
        if gallery["lease"]["owner"] != owner:
            return None
        run = gallery.get("last_run")
        grouped = (run["revision"], run["model"]) if run else None
        return GalleryLease(gallery_id, owner, gallery["fence"], gallery["revision"], grouped)

    def release(self, lease: GalleryLease) -> None:
        with mongo_errors("Giving back a gallery's lease"):
            self._galleries.update_one(_held(lease), {"$unset": {"lease": ""}})

    def record_run(self, lease: GalleryLease, model_id: str, summary: Mapping[str, object]) -> None:
        run = {**summary, "revision": lease.revision, "model": model_id, "at": datetime.now(UTC)}
        with mongo_errors("Recording a grouping run"):
            self._galleries.update_one(_held(lease), {"$set": {"last_run": run}})

    def _change(self, gallery_id: str, fields: Document) -> Document:
        with mongo_errors("Updating a gallery"):
            gallery = self._update(gallery_id, fields)
            if gallery is None:
                # Made apart from the update: of several upserts at once, all but one may fail or see no document.
                with suppress(DuplicateKeyError):
                    self._galleries.insert_one({"_id": gallery_id})
                gallery = self._update(gallery_id, fields)
        if gallery is None:
            raise RetryLater(f"The gallery {gallery_id} was removed while it was updated.")
        return gallery

    def _update(self, gallery_id: str, fields: Document) -> Document | None:
        return self._galleries.find_one_and_update(
            {"_id": gallery_id}, [{"$set": fields}], return_document=ReturnDocument.AFTER
        )


def _is_past(field: str) -> Document:
    # Compared as numbers, which every server that speaks this protocol agrees on.
    return {"$lte": [{"$toLong": {"$ifNull": [field, EPOCH]}}, {"$toLong": "$$NOW"}]}


def _held(lease: GalleryLease) -> Document:
    return {"_id": lease.gallery_id, "lease.owner": lease.owner}


class MongoPeopleStore:
    """`people`, and `person_id` of `faces`."""

    def __init__(self, database: Database[Document]) -> None:
        self._people: Collection[Document] = database["people"]
        self._faces: Collection[Document] = database["faces"]

    def read_names(self, gallery_id: str) -> dict[str, str]:
        with mongo_errors("Reading people's names"):
            named = self._people.find({"gallery_id": gallery_id, "name": {"$type": "string"}}, ["person_id", "name"])
            return {person["person_id"]: person["name"] for person in named}

    def save_people(
        self, lease: GalleryLease, people: Sequence[PersonRecord], assigned: Mapping[str, str | None]
    ) -> None:
        with mongo_errors("Storing people"):
            for some in _batches(_person_update(lease, person) for person in people):
                self._people.bulk_write(some, ordered=False)
            self._people.update_many(
                {"gallery_id": lease.gallery_id, "run": {"$ne": lease.fence}, "status": "active"},
                {"$set": {"status": "absent", "face_count": 0, "photo_count": 0}},
            )
            for some in _batches(_assignment(face, person) for face, person in assigned.items()):
                self._faces.bulk_write(some, ordered=False)


class MongoOwnerMetadata:
    """The owner's image documents. Never creates one: a photo the owner doesn't know stays unknown there."""

    def __init__(self, database: Database[Document], collection: str = "images") -> None:
        self._images: Collection[Document] = database[collection]

    def set_face_index(self, image: ImageRecord) -> None:
        face_index = {
            "status": image.status.value,
            "reason": image.reason,
            "face_count": image.face_count,
            "model": image.model_id,
            "etag": image.etag,
        }
        photo = image.photo
        with mongo_errors("Writing the owner's face_index"):
            self._images.update_one(
                {"gallery_id": photo.gallery_id, "image_id": photo.image_id}, {"$set": {"face_index": face_index}}
            )


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


def _person_update(lease: GalleryLease, person: PersonRecord) -> UpdateOne:
    fields = {
        "gallery_id": lease.gallery_id,
        "person_id": person.person_id,
        "cover_face_id": person.cover_face_id,
        "face_count": person.face_count,
        "photo_count": person.photo_count,
        "status": "active",
        "run": lease.fence,
    }
    change = {"$set": fields, "$setOnInsert": {"name": None, "merged_into": None}}
    return UpdateOne({"_id": f"{lease.gallery_id}/{person.person_id}"}, change, upsert=True)


def _assignment(face_id: str, person_id: str | None) -> UpdateOne:
    if person_id is None:
        return UpdateOne({"_id": face_id}, {"$unset": {"person_id": "", "assigned_by": ""}})
    return UpdateOne({"_id": face_id}, {"$set": {"person_id": person_id, "assigned_by": "auto"}})


def _batches(items: Iterator[Any], size: int = WRITE_BATCH) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
