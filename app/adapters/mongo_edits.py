"""Users' edits of people: names, confirmed and rejected faces, merges. Each edit is one small transaction."""

from collections.abc import Callable, Sequence

from pymongo import UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, translate_mongo_errors
from app.adapters.mongo_galleries import GalleryLeases
from app.adapters.mongo_people import MongoPeopleStore, make_person_key
from app.core.errors import RejectMessage
from app.core.ports import GalleryLease
from app.core.records import FaceRef, PersonStatus


class MongoPeopleEditor:
    """Writes `people`, `faces` and the gallery's revision."""

    def __init__(self, database: Database[Document]) -> None:
        self._people: Collection[Document] = database["people"]
        self._faces: Collection[Document] = database["faces"]
        self._galleries: Collection[Document] = database["galleries"]
        self._leases = GalleryLeases(database)
        self._store = MongoPeopleStore(database)

    def name_person(self, lease: GalleryLease, person_id: str, name: str | None) -> None:
        def change(session: ClientSession, _version: int) -> None:
            person = self._find_person(lease, person_id, session)
            self._people.update_one({"_id": person["_id"]}, {"$set": {"name": name}}, session=session)

        self._edit(lease, "Naming a person", change)

    def confirm_faces(self, lease: GalleryLease, person_id: str, faces: Sequence[FaceRef]) -> None:
        def change(session: ClientSession, version: int) -> None:
            person = self._find_person(lease, person_id, session)
            self._require_faces(lease, faces, session)
            updates = [self._confirm(person, face.face_id, version) for face in faces]
            self._faces.bulk_write([*updates, self._confirm_cover(person, version)], session=session)

        self._edit(lease, "Confirming faces", change)

    def reject_faces(self, lease: GalleryLease, person_id: str, faces: Sequence[FaceRef]) -> None:
        def change(session: ClientSession, version: int) -> None:
            person = self._find_person(lease, person_id, session)
            self._require_faces(lease, faces, session)
            these, ids = {"_id": {"$in": [face.face_id for face in faces]}}, [person["person_id"], person_id]
            rejected = {"$addToSet": {"rejected": person["person_id"]}}
            self._faces.update_many(these, rejected, session=session)
            unassign = {"$unset": {"person_id": "", "assigned_by": ""}, "$set": {"version": version}}
            self._faces.update_many({**these, "person_id": {"$in": ids}}, unassign, session=session)

        self._edit(lease, "Rejecting faces", change)

    def merge_people(self, lease: GalleryLease, into: str, others: Sequence[str]) -> None:
        def change(session: ClientSession, version: int) -> None:
            person = self._find_person(lease, into, session)
            merged = [self._find_person(lease, other, session) for other in others]
            for other in merged:
                if other["_id"] != person["_id"]:
                    self._merge(person, other, version, session)
            # The person keeps its name; without one, it takes the first name of the others.
            names = [one["name"] for one in (person, *merged) if one.get("name")]
            name = {"$set": {"name": names[0] if names else None}}
            self._people.update_one({"_id": person["_id"]}, name, session=session)

        self._edit(lease, "Merging people", change)

    def _merge(self, person: Document, other: Document, version: int, session: ClientSession) -> None:
        """Mark `other` as merged into `person`. Its faces move in the next run; until then its id leads to `person`."""
        gallery, pair = person["gallery_id"], [person["person_id"], other["person_id"]]
        merged = {"$set": {"status": PersonStatus.MERGED.value, "merged_into": pair[0], "version": version}}
        older = {"gallery_id": gallery, "merged_into": pair[1]}
        self._people.update_many({"$or": [{"_id": other["_id"]}, older]}, merged, session=session)
        rejections = {"gallery_id": gallery, "person_id": {"$in": pair}, "rejected": {"$in": pair}}
        self._faces.update_many(rejections, {"$pull": {"rejected": {"$in": pair}}}, session=session)
        covers = [self._confirm_cover(person, version), self._confirm_cover(other, version)]
        self._faces.bulk_write(covers, session=session)

    def _edit(self, lease: GalleryLease, action: str, change: Callable[[ClientSession, int], None]) -> None:
        """Run `change(session, version)` in one transaction, which publishes that version and increments the
        revision."""
        this = {"_id": lease.gallery_id}

        def edit(session: ClientSession) -> None:
            gallery = self._galleries.find_one(this, ["published"], session=session) or {}
            version = gallery.get("published", 0) + 1
            change(session, version)
            counted = {"$set": {"published": version}, "$inc": {"revision": 1}}
            self._galleries.update_one(this, counted, upsert=True, session=session)

        with translate_mongo_errors(action):
            self._store.discard_unpublished(lease)
            self._leases.run_fenced(lease, edit)

    def _find_person(self, lease: GalleryLease, person_id: str, session: ClientSession) -> Document:
        """The person of this id, or the one that it was merged into."""
        person = self._people.find_one({"_id": make_person_key(lease.gallery_id, person_id)}, session=session)
        if person and person.get("merged_into"):
            return self._find_person(lease, person["merged_into"], session)
        if person is None:
            raise RejectMessage(f"The gallery {lease.gallery_id} has no person {person_id}.")
        return person

    def _require_faces(self, lease: GalleryLease, faces: Sequence[FaceRef], session: ClientSession) -> None:
        wanted = {"_id": {"$in": [face.face_id for face in faces]}, "gallery_id": lease.gallery_id}
        found = {face["_id"]: face["digest"] for face in self._faces.find(wanted, ["digest"], session=session)}
        missing = [one.face_id for one in faces if found.get(one.face_id) is None]
        if missing:
            raise RejectMessage(f"The gallery {lease.gallery_id} has no face {', '.join(missing)}.")
        other = [one.face_id for one in faces if one.digest not in (None, found[one.face_id])]
        if other:
            raise RejectMessage(
                f"Under {', '.join(other)} there is another face now: the photo was replaced. Look at the gallery's "
                "newest page."
            )

    def _confirm(self, person: Document, face_id: str, version: int) -> UpdateOne:
        fields = {"person_id": person["person_id"], "assigned_by": "user", "version": version}
        return UpdateOne({"_id": face_id}, {"$set": fields, "$pull": {"rejected": person["person_id"]}})

    def _confirm_cover(self, person: Document, version: int) -> UpdateOne:
        """Users know a person by its cover, so an edit of the person confirms that face, if it still is the
        person's."""
        fields = {"assigned_by": "user", "version": version}
        return UpdateOne({"_id": person["cover_face_id"], "person_id": person["person_id"]}, {"$set": fields})
