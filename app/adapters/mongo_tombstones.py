"""What was forgotten, in MongoDB: the collection `tombstones`, and the erasing of documents.

A document of a request has the id of what is forgotten, so that it is found by a photo, a person or a gallery. Beside
them are the places of forgotten faces, a document a photo.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import bson
from pymongo import DESCENDING, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import WRITE_BATCH, Document, run_in_transaction, split_into_batches, translate_mongo_errors
from app.adapters.mongo_forgotten import MongoForgottenPhotos
from app.adapters.mongo_galleries import GalleryLeases
from app.adapters.mongo_people import MongoPeopleStore
from app.adapters.mongo_people import make_person_key as make_person_id
from app.adapters.mongo_photos import PhotoWriter
from app.adapters.mongo_records import read_image_record
from app.core.errors import RejectMessage
from app.core.journal import EditState
from app.core.messages import Forget
from app.core.ports import GalleryLease
from app.core.records import ImageRecord, PhotoRef
from app.core.tombstones import (
    Forgotten,
    Tombstone,
    make_gallery_key,
    make_person_key,
    make_photo_key,
    make_place_key,
    make_relative,
)

KEPT = ("tombstones", "leases")
"""Collections of which a forgotten gallery keeps documents: that it is forgotten, and the number of its last lease, so
that a worker which was stopped for long can't write any more."""
OUTBOX, RECEIPT = "outbox", "forgotten"
"""The collection of events that wait to be sent, and the type of those that say what was forgotten."""
OF_PHOTOS = ("images", "faces", "photo_names")
ORPHANS_AT_ONCE = 50
FORGOTTEN = "It named a person who is forgotten."
REQUESTS = {"scope": {"$in": ["photo", "person", "gallery"]}}


class MongoTombstones(MongoForgottenPhotos):
    """The requests of `tombstones`, and what they erase."""

    def __init__(self, database: Database[Document]) -> None:
        super().__init__(database)
        self._database = database
        self._images: Collection[Document] = database["images"]
        self._faces: Collection[Document] = database["faces"]
        self._people: Collection[Document] = database["people"]
        self._leases = GalleryLeases(database)
        self._writer = PhotoWriter(database)
        self._store = MongoPeopleStore(database)

    def ask(self, order: Forget) -> Tombstone | None:
        with translate_mongo_errors("Noting what is to be forgotten"):
            known = self._tombstones.find_one(
                {"gallery_id": order.gallery_id, "requests": order.request_id, **REQUESTS}
            )
            if known is not None:
                return _go_on(known, order)
            fields = self._find_target(order)
            if fields is None:
                return None
            return self._bury(fields, order.request_id)

    def _find_target(self, order: Forget) -> Document | None:
        """What the tombstone says of what is forgotten; None where its whole gallery is forgotten already."""
        gallery_id = order.gallery_id
        if order.scope == "gallery":
            self._require_gallery(gallery_id)
            return {"_id": make_gallery_key(gallery_id), "scope": "gallery", "gallery_id": gallery_id}
        if order.scope == "photo":
            image = self._images.find_one({"_id": f"{gallery_id}/{order.image_id}"})
            if image is not None:
                return _describe_photo(read_image_record(image).photo)
            what = f"photo {order.image_id}"
        else:
            person = self._find_person(gallery_id, str(order.person_id))
            if person is not None:
                key = make_person_key(gallery_id, person["person_id"])
                mine = {"gallery_id": gallery_id, "person_id": person["person_id"]}
                return {"_id": key, "scope": "person", **mine}
            what = f"person {order.person_id}"
        if self.find_gallery(gallery_id):
            return None
        raise RejectMessage(f"The gallery {gallery_id} has no {what}; nothing is forgotten.", "nothing to forget")

    def _require_gallery(self, gallery_id: str) -> None:
        if any(self._database[name].find_one({"gallery_id": gallery_id}, ["_id"]) for name in ("images", "people")):
            return
        if self._galleries.find_one({"_id": gallery_id}, ["_id"]) is None:
            raise RejectMessage(f"MongoDB knows no gallery {gallery_id}; nothing is forgotten.", "nothing to forget")

    def _find_person(self, gallery_id: str, person_id: str) -> Document | None:
        """The person of this id, or the one that it was merged into."""
        seen: set[str] = set()
        while person_id not in seen:
            seen.add(person_id)
            person = self._people.find_one({"_id": make_person_id(gallery_id, person_id)})
            if person is None or not person.get("merged_into"):
                return person
            person_id = person["merged_into"]
        return person

    def _bury(self, fields: Document, request_id: str) -> Tombstone:
        literal = {name: {"$literal": value} for name, value in fields.items() if name != "_id"}
        requests = {"$setUnion": [{"$ifNull": ["$requests", []]}, [{"$literal": request_id}]]}
        anew = {**literal, "request_id": {"$literal": request_id}, "requests": requests, "at": "$$NOW"}
        gone = ["removed", "erased_at", "checked_at"]
        self._tombstones.update_one({"_id": fields["_id"]}, [{"$set": anew}, {"$unset": gone}], upsert=True)
        stored = self._tombstones.find_one({"_id": fields["_id"]})
        assert stored is not None  # noqa: S101 - nobody removes it
        return read_tombstone(stored)

    def bury(self, photo: PhotoRef, tombstone: Tombstone) -> None:
        with translate_mongo_errors("Forgetting another file of a photo"):
            done = {"erased_at": tombstone.at, "checked_at": tombstone.at, "at": tombstone.at}
            fields = {**_describe_photo(photo), **done, "request_id": tombstone.request_id, "requests": []}
            self._tombstones.update_one({"_id": fields.pop("_id")}, {"$set": fields}, upsert=True)

    def list_pending(self, gallery_id: str) -> list[Tombstone]:
        pending = {"gallery_id": gallery_id, "erased_at": None, **REQUESTS}
        with translate_mongo_errors("Looking for what is to be forgotten"):
            return sorted(map(read_tombstone, self._tombstones.find(pending)), key=lambda one: one.at)

    def list_all(self, gallery_id: str | None) -> list[Tombstone]:
        """Requests of a gallery, or of all of them, in their order."""
        wanted = {**REQUESTS, **({} if gallery_id is None else {"gallery_id": gallery_id})}
        with translate_mongo_errors("Reading requests to forget"):
            return sorted(map(read_tombstone, self._tombstones.find(wanted)), key=lambda one: one.at)

    def find_overdue(self, older_than_s: float) -> list[Tombstone]:
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        late = {"checked_at": None, "at": {"$lt": before}, **REQUESTS}
        with translate_mongo_errors("Looking for what should be forgotten"):
            return [read_tombstone(one) for one in self._tombstones.find(late)]

    def finish(self, tombstone: Tombstone) -> Tombstone:
        field = "checked_at" if tombstone.erased_at else "erased_at"
        return self._update(tombstone, [{"$set": {field: "$$NOW"}}])

    def count(self, tombstone: Tombstone) -> Tombstone:
        mine: Document = {"gallery_id": tombstone.gallery_id}
        with translate_mongo_errors("Counting what is to be forgotten"):
            if tombstone.scope == "gallery":
                found = {name: self._database[name].count_documents(mine) for name in ("images", "faces", "people")}
                found = {"photos": found.pop("images"), **found}
            elif tombstone.scope == "person":
                of_person = {**mine, "person_id": {"$in": list(tombstone.people)}}
                photos = len(self._faces.distinct("image_id", of_person))
                found = {"photos": photos, "faces": self._faces.count_documents(of_person)}
                found["people"] = self._people.count_documents(of_person)
            else:
                image = self._writer.find([tombstone.photo])[0][0] if tombstone.photo else None
                image_id = image.photo.image_id if image else ""
                found = {"photos": 1 if image else 0}
                found["faces"] = self._faces.count_documents({**mine, "image_id": image_id})
        return self._update(tombstone, [{"$set": {"removed": {"$ifNull": ["$removed", found]}}}])

    def read_gallery(self, gallery_id: str) -> Tombstone | None:
        with translate_mongo_errors("Looking whether a gallery is forgotten"):
            found = self._tombstones.find_one({"_id": make_gallery_key(gallery_id)})
        return read_tombstone(found) if found else None

    def has_photos(self, gallery_id: str, forgotten: Forgotten) -> tuple[bool, bool]:
        with translate_mongo_errors("Looking for a gallery's photos"):
            old = self._images.find_one(_list_old(gallery_id, forgotten.until), ["_id"])
            new = self._images.find_one({"gallery_id": gallery_id, "last_modified": {"$gt": forgotten.until}}, ["_id"])
        return old is not None, new is not None

    def _update(self, tombstone: Tombstone, change: list[Document]) -> Tombstone:
        mine = {"_id": tombstone.key, "request_id": tombstone.request_id}
        with translate_mongo_errors("Noting what is forgotten"):
            self._tombstones.update_one(mine, change)
            stored = self._tombstones.find_one(mine)
        return read_tombstone(stored) if stored else tombstone

    # Copies in S3

    def make_copy(self, tombstone: Tombstone) -> bytes:
        with translate_mongo_errors("Reading a tombstone"):
            stored = self._tombstones.find_one({"_id": tombstone.key})
            places = {"gallery_id": tombstone.gallery_id, "scope": "places", "places.request": tombstone.request_id}
            of_photos = list(self._tombstones.find(places)) if tombstone.scope == "person" else []
        return json.dumps({"version": 1, "tombstone": stored, "places": of_photos}, default=_write_time).encode()

    def read_copy(self, data: bytes) -> bool:
        copy = json.loads(data)
        lost: Document = {name: _read_time(name, value) for name, value in copy["tombstone"].items()}
        with translate_mongo_errors("Bringing tombstones back"):
            for one in copy["places"]:
                places = {"$addToSet": {"places": {"$each": one["places"]}}}
                rest = {name: value for name, value in one.items() if name not in ("_id", "places")}
                self._tombstones.update_one({"_id": one["_id"]}, {"$set": rest, **places}, upsert=True)
            stored = self._tombstones.find_one({"_id": lost["_id"]})
            if stored and lost["request_id"] in stored["requests"]:
                return False
            former = stored["requests"] if stored else []
            lost["requests"] = sorted({*former, *lost["requests"]})
            if stored and stored["at"] >= lost["at"]:
                self._tombstones.update_one({"_id": lost["_id"]}, {"$set": {"requests": lost["requests"]}})
                return False
            # Whatever was erased is there again.
            for field in ("erased_at", "checked_at"):
                lost.pop(field, None)
            self._tombstones.replace_one({"_id": lost["_id"]}, lost, upsert=True)
        return True

    def list_requests(self, gallery_id: str) -> set[tuple[str, str]]:
        mine = {"gallery_id": gallery_id, **REQUESTS}
        with translate_mongo_errors("Reading tombstones"):
            return {(one["_id"], id_) for one in self._tombstones.find(mine, ["requests"]) for id_ in one["requests"]}

    # A person

    def exclude_faces(self, lease: GalleryLease, tombstone: Tombstone) -> Tombstone:
        gallery_id = tombstone.gallery_id
        with translate_mongo_errors("Noting a person's places"):
            # First, so that the faces are read as they are published.
            self._store.discard_unpublished(lease)
            ids = self._list_ids(tombstone)
            faces: dict[str, list[Document]] = {}
            fields = ["image_id", "box"]
            for face in self._faces.find({"gallery_id": gallery_id, "person_id": {"$in": ids}}, fields):
                faces.setdefault(face["image_id"], []).append(face)
            for some in split_into_batches(faces):
                found = self._images.find({"_id": {"$in": [f"{gallery_id}/{image_id}" for image_id in some]}})
                images = [read_image_record(one) for one in found]
                updates = [_exclude(image, faces[image.photo.image_id], tombstone) for image in images]
                if updates:
                    self._leases.run_fenced(lease, partial(self._tombstones.bulk_write, updates, ordered=False))
        return self._update(tombstone, [{"$set": {"people": ids}}])

    def _list_ids(self, tombstone: Tombstone) -> list[str]:
        """All ids of the person: its own, those that were merged into it, and those that are known from before."""
        ids = set(tombstone.people)
        root = self._find_person(tombstone.gallery_id, str(tombstone.person_id))
        ids |= {str(tombstone.person_id), *([root["person_id"]] if root else [])}
        merged = {"gallery_id": tombstone.gallery_id, "merged_into": {"$in": sorted(ids)}}
        return sorted(ids | {one["person_id"] for one in self._people.find(merged, ["person_id"])})

    def list_places(self, tombstone: Tombstone) -> list[PhotoRef]:
        mine = {"gallery_id": tombstone.gallery_id, "scope": "places", "places.request": tombstone.request_id}
        with translate_mongo_errors("Reading a person's places"):
            return [_read_photo(one) for one in self._tombstones.find(mine).sort("_id")]

    def drop_faces(
        self,
        lease: GalleryLease,
        before: ImageRecord,
        edition: int,
        after: ImageRecord,
        gone: Sequence[str],
        moved: Mapping[str, tuple[str, tuple[int, int]]],
    ) -> bool:
        dropped = False

        def write(session: ClientSession) -> None:
            nonlocal dropped
            dropped = self._writer.drop_faces(before, edition, after, gone, moved, session)

        with translate_mongo_errors("Erasing faces"):
            self._leases.run_fenced(lease, write)
        return dropped

    def erase_people(self, lease: GalleryLease, tombstone: Tombstone) -> None:
        gallery_id, ids = tombstone.gallery_id, list(tombstone.people)
        mine: Document = {"gallery_id": gallery_id}

        def write(session: ClientSession) -> None:
            self._people.delete_many({**mine, "person_id": {"$in": ids}}, session=session)
            for field in ("rejected", "kept_apart"):
                for collection in (self._faces, self._people):
                    said = {**mine, field: {"$in": ids}}
                    collection.update_many(said, {"$pull": {field: {"$in": ids}}}, session=session)
            # The former value counts only until a version is published, which is long ago.
            self._faces.update_many({**mine, "was": {"$in": ids}}, {"$set": {"was": None}}, session=session)

        with translate_mongo_errors("Erasing a person"):
            self._leases.run_fenced(lease, write)
            self._redact_edits(gallery_id, ids)
        self.note_erasure(gallery_id)

    def _redact_edits(self, gallery_id: str, ids: Sequence[str]) -> None:
        """Of edits that name the person, what they say is removed. Their ids stay, so that none is done again."""
        edits, words = self._database["edits"], [one.encode() for one in ids]
        for edit in edits.find({"gallery_id": gallery_id}):
            if any(word in bson.encode(edit) for word in words):
                gone: Document = {"operations": [], "inverse": [], "notes": [], "reason": FORGOTTEN}
                if edit["state"] == EditState.QUEUED.value:
                    gone["state"] = EditState.REFUSED.value
                edits.update_one({"_id": edit["_id"]}, {"$set": gone})

    # A gallery

    def list_old_pictures(self, gallery_id: str) -> list[str]:
        with translate_mongo_errors("Reading which pictures a gallery names"):
            faces = self._faces.find({"gallery_id": gallery_id}, ["crop_key"])
            keys = {key for one in faces if (key := one["crop_key"])}
            images = map(read_image_record, self._images.find({"gallery_id": gallery_id}))
            return sorted(keys | {image.preview_key for image in images if image.preview_key})

    def erase_gallery(self, lease: GalleryLease, tombstone: Tombstone) -> list[ImageRecord]:
        gallery_id = tombstone.gallery_id
        old = _list_old(gallery_id, tombstone.at)
        with translate_mongo_errors("Erasing a gallery"):
            self._delete(lease, self._images, old)
            self._delete_orphans(gallery_id)
            newer = [read_image_record(one) for one in self._images.find({"gallery_id": gallery_id})]
            # A gallery that has got new photos since is another one, whose people are not touched.
            if not (tombstone.erased_at and newer):
                others = sorted(set(self._database.list_collection_names()) - {*KEPT, *OF_PHOTOS})
                for name in others:
                    # The receipt that waits to be sent stays.
                    rest = {"type": {"$ne": RECEIPT}} if name == OUTBOX else {}
                    self._delete(lease, self._database[name], {**make_gallery_filter(gallery_id), **rest})
            former = {"gallery_id": gallery_id, "_id": {"$ne": tombstone.key}, "at": {"$lte": tombstone.at}}
            self._tombstones.delete_many(former)
            self._tombstones.delete_many({"gallery_id": gallery_id, "scope": "places", "at": None})
        return newer

    def _delete(self, lease: GalleryLease, collection: Collection[Document], which: Document) -> None:
        while ids := [one["_id"] for one in collection.find(which, ["_id"]).limit(WRITE_BATCH)]:
            # The filter once more: one of them may be a newer photo by now.
            self._leases.run_fenced(lease, partial(collection.delete_many, {**which, "_id": {"$in": ids}}))

    def _delete_orphans(self, gallery_id: str) -> None:
        """Remove faces without a photo, and names that no photo has or claims."""
        image_ids = self._faces.distinct("image_id", {"gallery_id": gallery_id})
        names = [one["_id"] for one in self._database["photo_names"].find(make_gallery_filter(gallery_id), ["_id"])]
        for remove, all_ids in ((self._remove_faces, image_ids), (self._remove_names, names)):
            for some in split_into_batches(all_ids, ORPHANS_AT_ONCE):
                delete: Callable[[ClientSession], None] = partial(remove, gallery_id, some)
                run_in_transaction(self._database.client, delete)

    def _remove_faces(self, gallery_id: str, image_ids: Sequence[str], session: ClientSession) -> None:
        wanted = {"_id": {"$in": [f"{gallery_id}/{one}" for one in image_ids]}}
        there = {one["image_id"] for one in self._images.find(wanted, ["image_id"], session=session)}
        gone = [one for one in image_ids if one not in there]
        self._faces.delete_many({"gallery_id": gallery_id, "image_id": {"$in": gone}}, session=session)

    def _remove_names(self, gallery_id: str, names: Sequence[str], session: ClientSession) -> None:
        plain = [name.removeprefix(f"{gallery_id}/") for name in names]
        claims = {"gallery_id": gallery_id, "$or": [{"name": {"$in": plain}}, {"_id": {"$in": list(names)}}]}
        found = self._images.find(claims, ["name", "image_id"], session=session)
        kept = {f"{gallery_id}/{one[field]}" for one in found for field in ("name", "image_id") if one.get(field)}
        gone = [name for name in names if name not in kept]
        self._database["photo_names"].delete_many({"_id": {"$in": gone}}, session=session)

    def find_expired(self, default_days: int | None) -> list[tuple[str, datetime]]:
        own: Document = {} if default_days else {"retention_days": {"$type": "number"}}
        expired = []
        with translate_mongo_errors("Looking for galleries whose retention is over"):
            now = datetime.now(UTC)
            for gallery in self._galleries.find(own, ["retention_days"]):
                days = gallery.get("retention_days") or default_days
                mine = {"gallery_id": gallery["_id"]}
                newest = self._images.find_one(mine, ["processed_at"], sort=[("processed_at", DESCENDING)])
                if newest and days and newest["processed_at"] < now - timedelta(days=days):
                    expired.append((gallery["_id"], newest["processed_at"]))
        return expired


def read_tombstone(document: Document) -> Tombstone:
    return Tombstone(
        key=document["_id"],
        scope=document["scope"],
        gallery_id=document["gallery_id"],
        request_id=document["request_id"],
        at=document["at"],
        photo=_read_photo(document) if document["scope"] == "photo" else None,
        person_id=document.get("person_id"),
        people=tuple(document.get("people", ())),
        removed=document.get("removed", {}),
        erased_at=document.get("erased_at"),
        checked_at=document.get("checked_at"),
    )


def make_gallery_filter(gallery_id: str) -> Document:
    """Documents of a gallery in any collection: by their field, their id, or the beginning of their id. The receipt of
    an erasure, which waits in `outbox` until it is sent, is none."""
    below = {"$gte": f"{gallery_id}/", "$lt": f"{gallery_id}0"}  # `0` is the character after `/`.
    return {"type": {"$ne": "forgotten"}, "$or": [{"gallery_id": gallery_id}, {"_id": gallery_id}, {"_id": below}]}


def _list_old(gallery_id: str, until: datetime | None) -> Document:
    return {"gallery_id": gallery_id, "$or": [{"last_modified": None}, {"last_modified": {"$lte": until}}]}


def _go_on(known: Document, order: Forget) -> Tombstone | None:
    """The request as far as it is; None where nothing of it is left to do. Raises RejectMessage for another one."""
    ids = (known.get("person_id"), *known.get("people", ()))
    same = known["scope"] == order.scope and (order.scope != "person" or order.person_id in ids)
    if not same:
        raise RejectMessage(
            f"The request {order.request_id} was sent before, to forget something else; a new request needs an id of "
            "its own.",
            "request_id used",
        )
    if known["request_id"] != order.request_id or known.get("checked_at"):
        return None
    return read_tombstone(known)


def _describe_photo(photo: PhotoRef, scope: str = "photo") -> Document:
    key = make_photo_key(photo) if scope == "photo" else make_place_key(photo)
    return {
        "_id": key,
        "scope": scope,
        "gallery_id": photo.gallery_id,
        "image_id": photo.image_id,
        "name": photo.name,
        "s3": {"bucket": photo.bucket, "key": photo.key},
    }


def _read_photo(document: Document) -> PhotoRef:
    s3 = document["s3"]
    return PhotoRef(document["gallery_id"], document["image_id"], s3["bucket"], s3["key"], document["name"])


def _exclude(image: ImageRecord, faces: Sequence[Document], tombstone: Tombstone) -> UpdateOne:
    fields = _describe_photo(image.photo, "places")
    size = (image.width_px, image.height_px)
    places = [
        {
            "content": image.content,
            "etag": image.etag,
            "box": list(make_relative(face["box"], size)),
            "request": tombstone.request_id,
        }
        for face in faces
    ]
    change = {"$set": {k: v for k, v in fields.items() if k != "_id"}, "$addToSet": {"places": {"$each": places}}}
    return UpdateOne({"_id": fields["_id"]}, change, upsert=True)


def _write_time(value: Any) -> str:  # noqa: ANN401 - whatever JSON doesn't know
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a tombstone")


def _read_time(name: str, value: Any) -> Any:  # noqa: ANN401 - a value of JSON
    return datetime.fromisoformat(value) if name in ("at", "erased_at", "checked_at") and value else value
