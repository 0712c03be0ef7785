"""The collection `people`, and `person_id` of `faces`, in versions.

A grouping run writes in place. In every document that it changes, it sets `version` to the number of the new version,
and `was` to the former values. The gallery's `published` is the version that is valid. A document with a higher
`version` is not published yet: its former values in `was` are valid. So one update of `published` publishes all changes
at once, and no document needs a second write after it.

While a run writes, the gallery has `writing`, the number of the new version. A run that finds `writing` set by a run
that died restores the former values first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pymongo import DESCENDING, DeleteOne, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, T, split_into_batches, translate_mongo_errors
from app.adapters.mongo_galleries import GalleryLeases
from app.core.errors import RetryLater
from app.core.ports import GalleryLease
from app.core.records import FaceMove, PersonRecord, PersonStatus

VERSIONED = ("cover_face_id", "face_count", "photo_count", "status", "merged_into", "version")
"""The fields of a person that a run writes. The name is not among them: only users set it. Nor is the number, which
stays for good once it is given."""


class MongoPeopleStore:
    """`people`, `faces`, and the versions in `galleries`."""

    def __init__(self, database: Database[Document]) -> None:
        self._people: Collection[Document] = database["people"]
        self._faces: Collection[Document] = database["faces"]
        self._images: Collection[Document] = database["images"]
        self._galleries: Collection[Document] = database["galleries"]
        self._leases = GalleryLeases(database)

    def read_people(self, lease: GalleryLease) -> list[PersonRecord]:
        with translate_mongo_errors("Reading people"):
            self.discard_unpublished(lease)
            # Sorted here: the server's sort is limited to 100 MB, and no index has this order.
            found = map(read_person_record, self._people.find({"gallery_id": lease.gallery_id}))
            return sorted(found, key=lambda person: person.person_id)

    def write_people(
        self, lease: GalleryLease, people: Sequence[PersonRecord], moves: Iterable[FaceMove]
    ) -> dict[str, int]:
        numbers: dict[str, int] = {}
        with translate_mongo_errors("Writing people"):
            version = self.discard_unpublished(lease) + 1
            self._update_fenced(lease, {"$set": {"writing": version}})
            for some in split_into_batches(people):
                self._leases.run_fenced(lease, partial(self._write_people, lease.gallery_id, some, version, numbers))
            for few in split_into_batches(moves):
                updates = [_move_face(move, version) for move in few]
                self._leases.run_fenced(lease, partial(self._faces.bulk_write, updates, ordered=False))
        return numbers

    def list_changed(self, gallery_id: str, since: int) -> list[str]:
        changed = {"gallery_id": gallery_id, "version": {"$gt": since}}
        with translate_mongo_errors("Reading changed people"):
            return sorted(one["person_id"] for one in self._people.find(changed, ["person_id"]))

    def publish_people(self, lease: GalleryLease) -> None:
        written = {"_id": lease.gallery_id, "writing": {"$type": "number"}}
        publish: list[Document] = [{"$set": {"published": "$writing"}}, {"$unset": "writing"}]

        def write(session: ClientSession) -> None:
            if not self._galleries.update_one(written, publish, session=session).matched_count:
                raise RetryLater(f"The gallery {lease.gallery_id} has no written people to publish: it was removed.")

        with translate_mongo_errors("Publishing people"):
            self._leases.run_fenced(lease, write)

    def move_chosen_covers(self, lease: GalleryLease, covers: Mapping[str, str]) -> None:
        changes = [
            UpdateOne({"_id": make_person_key(lease.gallery_id, person)}, {"$set": {"chosen_cover": face}})
            for person, face in covers.items()
        ]
        with translate_mongo_errors("Moving chosen covers"):
            for some in split_into_batches(changes):
                self._leases.run_fenced(lease, partial(self._people.bulk_write, some, ordered=False))

    def remove_former_faces(self, lease: GalleryLease, model_id: str, image_ids: Iterable[str]) -> list[str]:
        crops: set[str] = set()

        def remove(some: Sequence[str], session: ClientSession) -> None:
            # Read in the transaction: a photo that a worker of another model stores meanwhile conflicts with it.
            keys = [f"{lease.gallery_id}/{image_id}" for image_id in some]
            images = self._images.find({"_id": {"$in": keys}, "model": model_id}, ["image_id"], session=session)
            examined = {"$in": [image["image_id"] for image in images]}
            former = {"gallery_id": lease.gallery_id, "image_id": examined, "model": {"$ne": model_id}}
            found = self._faces.find(former, ["crop_key"], session=session)
            crops.update(key for face in found if (key := face["crop_key"]))
            self._faces.delete_many(former, session=session)

        with translate_mongo_errors("Removing faces of a former model"):
            for some in split_into_batches(image_ids):
                self._leases.run_fenced(lease, partial(remove, some))
        return sorted(crops)

    def discard_unpublished(self, lease: GalleryLease) -> int:
        """Restore what a run that died has changed. Returns the version that is published."""
        gallery = self._read_gallery(lease)
        published: int = gallery.get("published", 0)
        if not gallery.keys() & {"published", "writing"} and (published := self._find_last_version(lease)):
            # Somebody removed the gallery's document: readers would take all of its people for not published yet.
            self._update_fenced(lease, {"$set": {"published": published}})
        if "writing" in gallery:
            unpublished = {"gallery_id": lease.gallery_id, "version": {"$gt": published}}
            for person in split_into_batches(self._people.find(unpublished)):
                self._leases.run_fenced(lease, partial(self._people.bulk_write, list(map(_restore_person, person))))
            for face in split_into_batches(self._faces.find(unpublished, ["person_id", "was"])):
                self._leases.run_fenced(lease, partial(self._faces.bulk_write, list(map(_restore_face, face))))
            self._update_fenced(lease, {"$unset": {"writing": ""}})
        return published

    def _find_last_version(self, lease: GalleryLease) -> int:
        """The highest version in the gallery's people and faces, 0 where it has no people yet."""
        mine, newest = {"gallery_id": lease.gallery_id}, [("version", DESCENDING)]
        person = self._people.find_one(mine, ["version"], sort=newest)
        face = self._faces.find_one(mine, ["version"], sort=newest) if person else None
        return max(one.get("version") or 0 for one in (person or {}, face or {}))

    def _read_gallery(self, lease: GalleryLease) -> Document:
        return self._galleries.find_one({"_id": lease.gallery_id}, ["published", "writing"]) or {}

    def _update_fenced(self, lease: GalleryLease, change: Document) -> None:
        this = {"_id": lease.gallery_id}
        self._leases.run_fenced(lease, partial(self._galleries.update_one, this, change, upsert=True))

    def _write_people(
        self,
        gallery_id: str,
        people: Sequence[PersonRecord],
        version: int,
        numbers: dict[str, int],
        session: ClientSession,
    ) -> None:
        ids = [make_person_key(gallery_id, person.person_id) for person in people]
        stored = {one["_id"]: one for one in self._people.find({"_id": {"$in": ids}}, session=session)}
        unnumbered = [
            person.person_id
            for key, person in zip(ids, people, strict=True)
            if stored.get(key, {}).get("number") is None
        ]
        first = self._take_numbers(gallery_id, len(unnumbered), session)
        # Assigned anew where the transaction is tried again.
        numbers.update({person_id: number for number, person_id in enumerate(unnumbered, first)})
        updates = [
            _make_person_update(gallery_id, person, version, stored.get(key), numbers.get(person.person_id))
            for key, person in zip(ids, people, strict=True)
        ]
        self._people.bulk_write(updates, ordered=False, session=session)

    def _take_numbers(self, gallery_id: str, count: int, session: ClientSession) -> int:
        """The first of so many numbers that nobody has had.

        A run that dies may leave some unused. The highest number that is stored counts too, since somebody may have
        removed the gallery's document.
        """
        if not count:
            return 0
        gallery = self._galleries.find_one({"_id": gallery_id}, ["people_numbered"], session=session) or {}
        last = gallery.get("people_numbered")
        if last is None:
            mine, highest = {"gallery_id": gallery_id, "number": {"$type": "number"}}, [("number", DESCENDING)]
            numbered = self._people.find_one(mine, ["number"], sort=highest, session=session)
            last = numbered["number"] if numbered else 0
        counted = {"$set": {"people_numbered": last + count}}
        self._galleries.update_one({"_id": gallery_id}, counted, upsert=True, session=session)
        return int(last) + 1


class PublishedPeople:
    """A gallery's people as they are published, for reading alone; the rule is in docs/operations.md."""

    def __init__(self, database: Database[Document]) -> None:
        self._people: Collection[Document] = database["people"]
        self._faces: Collection[Document] = database["faces"]
        self._galleries: Collection[Document] = database["galleries"]

    def list_people(self, gallery_id: str) -> list[PersonRecord]:
        def read(published: int) -> list[PersonRecord]:
            found = (_look(one, published) for one in self._people.find({"gallery_id": gallery_id}))
            return sorted((read_person_record(one) for one in found if one), key=lambda one: one.person_id)

        return self._read(gallery_id, read)

    def list_faces(self, gallery_id: str, person_id: str) -> list[tuple[str, str, bool]]:
        """The person's faces: id, digest, and whether a user confirmed it."""
        # A face that a run is moving has the person here or in `was`.
        wanted = {"gallery_id": gallery_id, "$or": [{"person_id": person_id}, {"was": person_id}]}

        def read(published: int) -> list[tuple[str, str, bool]]:
            names = ["digest", "person_id", "assigned_by", "version", "was"]
            found = list(self._faces.find(wanted, names).sort("_id"))
            now = [one for one in found if _get_person(one, published) == person_id]
            return [(one["_id"], one["digest"], one.get("assigned_by") == "user") for one in now]

        return self._read(gallery_id, read)

    def _read(self, gallery_id: str, read: Callable[[int], T]) -> T:
        with translate_mongo_errors("Reading people"):
            published = self._find_published(gallery_id)
            while True:
                found, before = read(published), published
                published = self._find_published(gallery_id)
                if published == before:
                    return found

    def _find_published(self, gallery_id: str) -> int:
        return int((self._galleries.find_one({"_id": gallery_id}, ["published"]) or {}).get("published", 0))


def _look(person: Document, published: int) -> Document | None:
    if (person.get("version") or 0) <= published:
        return person
    return {**person, **person["was"]} if person["was"] else None


def _get_person(face: Document, published: int) -> str | None:
    found: str | None = face.get("was") if (face.get("version") or 0) > published else face.get("person_id")
    return found


def make_person_key(gallery_id: str, person_id: str) -> str:
    return f"{gallery_id}/{person_id}"


def read_person_record(document: Document) -> PersonRecord:
    return PersonRecord(
        person_id=document["person_id"],
        cover_face_id=document["cover_face_id"],
        face_count=document["face_count"],
        photo_count=document["photo_count"],
        name=document.get("name"),
        status=PersonStatus(document["status"]),
        merged_into=document.get("merged_into"),
        since=document.get("since", 0),
        number=document.get("number"),
        hidden=document.get("hidden", False),
        chosen_cover=document.get("chosen_cover"),
        kept_apart=tuple(document.get("kept_apart", ())),
    )


def _make_person_update(
    gallery_id: str, person: PersonRecord, version: int, stored: Document | None, number: int | None
) -> UpdateOne:
    fields: dict[str, Any] = {
        "gallery_id": gallery_id,
        "person_id": person.person_id,
        "cover_face_id": person.cover_face_id,
        "face_count": person.face_count,
        "photo_count": person.photo_count,
        "status": person.status.value,
        "merged_into": person.merged_into,
        "version": version,
        "was": {name: stored.get(name) for name in VERSIONED} if stored else None,
    }
    if number is not None:
        fields["number"] = number
    change = {"$set": fields, "$setOnInsert": {"name": None, "since": version}}
    return UpdateOne({"_id": make_person_key(gallery_id, person.person_id)}, change, upsert=True)


def _restore_person(person: Document) -> UpdateOne | DeleteOne:
    if person["was"] is None:
        return DeleteOne({"_id": person["_id"]})
    return UpdateOne({"_id": person["_id"]}, {"$set": person["was"], "$unset": {"was": ""}})


def _move_face(move: FaceMove, version: int) -> UpdateOne:
    fields: dict[str, Any] = {"version": version, "was": move.before}
    if move.rejected is not None:
        fields["rejected"] = sorted(move.rejected)
    change = _assign_person(move.now, fields, was_assigned=move.before is not None)
    if move.confirmed and move.now is not None:
        change["$set"]["assigned_by"] = "user"
    # Where the photo was replaced, another face has the id by now.
    same_face = {"digest": move.digest} if move.digest else {}
    return UpdateOne({"_id": move.face_id, **same_face}, change)


def _restore_face(face: Document) -> UpdateOne:
    change = _assign_person(face.get("was"), {"version": 0}, was_assigned="person_id" in face)
    change.setdefault("$unset", {})["was"] = ""
    return UpdateOne({"_id": face["_id"]}, change)


def _assign_person(person_id: str | None, fields: Document, *, was_assigned: bool) -> Document:
    """`assigned_by` is unchanged where the face had a person before: a user may have assigned it."""
    if person_id is None:
        return {"$set": fields, "$unset": {"person_id": "", "assigned_by": ""}}
    by = {} if was_assigned else {"assigned_by": "auto"}
    return {"$set": {**fields, "person_id": person_id, **by}}
