"""Galleries, people and the owner's metadata in MongoDB."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from pymongo import ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.adapters.mongo import Document, batches, mongo_errors
from app.errors import RetryLater
from app.ports import GalleryLease
from app.records import ImageRecord, PersonRecord

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
            for some in batches(_person_update(lease, person) for person in people):
                self._people.bulk_write(some, ordered=False)
            self._people.update_many(
                {"gallery_id": lease.gallery_id, "run": {"$ne": lease.fence}, "status": "active"},
                {"$set": {"status": "absent", "face_count": 0, "photo_count": 0}},
            )
            for some in batches(_assignment(face, person) for face, person in assigned.items()):
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
