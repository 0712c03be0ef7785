"""Users' edits of people, in MongoDB: each is one transaction, which also writes what became of it into the journal."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace

from pymongo import DeleteOne, UpdateMany, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from app.adapters.mongo import Document, split_into_batches, translate_mongo_errors
from app.adapters.mongo_galleries import CHANGED, GalleryLeases
from app.adapters.mongo_journal import find_edit, make_edit_key, make_result_fields
from app.adapters.mongo_people import MongoPeopleStore, make_person_key, read_person_record
from app.core.errors import RejectMessage
from app.core.journal import Edit, EditOutcome, EditState
from app.core.ports import GalleryLease, PeopleReader
from app.core.records import FaceState, PersonRecord, PersonStatus

FACE_FIELDS = ("image_id", "digest", "etag", "person_id", "assigned_by", "rejected")
UNSET_WHERE_EMPTY = ("number", "hidden", "chosen_cover", "kept_apart")


class MongoPeopleEditor:
    """Writes `people`, `faces`, `edits` and the gallery's revision."""

    def __init__(self, database: Database[Document]) -> None:
        self._people: MongoCollection[Document] = database["people"]
        self._faces: MongoCollection[Document] = database["faces"]
        self._edits: MongoCollection[Document] = database["edits"]
        self._galleries: MongoCollection[Document] = database["galleries"]
        self._leases = GalleryLeases(database)
        self._store = MongoPeopleStore(database)

    def apply_edit(self, lease: GalleryLease, edit: Edit, decide: Callable[[PeopleReader], EditOutcome]) -> Edit:
        ended = edit

        def write(session: ClientSession) -> None:
            nonlocal ended
            stored = find_edit(self._edits, edit.gallery_id, edit.edit_id, session)
            if stored is None or stored.state is not EditState.QUEUED:
                ended = stored or edit
                return
            try:
                outcome = decide(_MongoPeopleReader(self._people, self._faces, self._edits, edit.gallery_id, session))
            except RejectMessage as refused:
                ended = replace(stored, state=EditState.REFUSED, reason=str(refused))
            else:
                ended = replace(stored, state=EditState.APPLIED, changes=outcome.changes, notes=outcome.notes)
                self._write(edit.gallery_id, outcome, session)
            this = {"_id": make_edit_key(edit.gallery_id, edit.edit_id)}
            self._edits.update_one(this, {"$set": make_result_fields(ended)}, session=session)

        with translate_mongo_errors("Applying an edit"):
            self._store.discard_unpublished(lease)
            self._leases.run_fenced(lease, write)
        return ended

    def _write(self, gallery_id: str, outcome: EditOutcome, session: ClientSession) -> None:
        """Write all changes under the next version, and publish it."""
        this = {"_id": gallery_id}
        gallery = self._galleries.find_one(this, ["published"], session=session) or {}
        version = gallery.get("published", 0) + 1
        people = [_make_person_write(gallery_id, *one, version) for one in outcome.people.items()]
        if people:
            self._people.bulk_write(people, session=session)
        for some in split_into_batches(_make_face_writes(outcome.faces, version)):
            self._faces.bulk_write(some, session=session)
        for edit_id, by in outcome.undone.items():
            undone = {"_id": make_edit_key(gallery_id, edit_id)}
            self._edits.update_one(undone, {"$set": {"undone_by": by}}, session=session)
        # The gallery is looked at soon, should its run not be ordered because this worker dies.
        self._galleries.update_one(this, [{"$set": {"published": version, **CHANGED}}], session=session)


class _MongoPeopleReader:
    def __init__(
        self,
        people: MongoCollection[Document],
        faces: MongoCollection[Document],
        edits: MongoCollection[Document],
        gallery_id: str,
        session: ClientSession,
    ) -> None:
        self._people, self._faces, self._edits = people, faces, edits
        self._gallery_id, self._session = gallery_id, session

    def find_people(self, person_ids: Collection[str]) -> dict[str, PersonRecord]:
        keys = [make_person_key(self._gallery_id, person_id) for person_id in person_ids]
        found = self._people.find({"_id": {"$in": keys}}, session=self._session)
        return {one.person_id: one for one in map(read_person_record, found)}

    def find_merged_into(self, person_id: str) -> list[PersonRecord]:
        merged = {"gallery_id": self._gallery_id, "status": PersonStatus.MERGED.value, "merged_into": person_id}
        return [read_person_record(one) for one in self._people.find(merged, session=self._session)]

    def find_faces(self, face_ids: Collection[str]) -> list[FaceState]:
        return [
            face
            for some in split_into_batches(face_ids)
            for face in self._find_faces({"_id": {"$in": some}, "gallery_id": self._gallery_id})
        ]

    def find_faces_of(
        self, person_ids: Collection[str], rejected_for: Collection[str] | None = None
    ) -> list[FaceState]:
        told = {} if rejected_for is None else {"rejected": {"$in": list(rejected_for)}}
        return self._find_faces({"gallery_id": self._gallery_id, "person_id": {"$in": list(person_ids)}, **told})

    def find_edit(self, edit_id: str) -> Edit | None:
        return find_edit(self._edits, self._gallery_id, edit_id, self._session)

    def _find_faces(self, wanted: Document) -> list[FaceState]:
        return [_read_face(face) for face in self._faces.find(wanted, FACE_FIELDS, session=self._session)]


def _read_face(document: Document) -> FaceState:
    return FaceState(
        face_id=document["_id"],
        image_id=document["image_id"],
        digest=document.get("digest", ""),
        etag=document.get("etag"),
        person_id=document.get("person_id"),
        assigned_by=document.get("assigned_by"),
        rejected=frozenset(document.get("rejected", ())),
    )


def _make_person_write(
    gallery_id: str, person_id: str, person: PersonRecord | None, version: int
) -> UpdateOne | DeleteOne:
    this = {"_id": make_person_key(gallery_id, person_id)}
    if person is None:
        return DeleteOne(this)
    values = {one.name: getattr(person, one.name) for one in fields(person)}
    empty = [name for name in UNSET_WHERE_EMPTY if not values[name]]
    since = values.pop("since") or version
    kept = {name: value for name, value in values.items() if name not in empty}
    kept |= {"gallery_id": gallery_id, "status": person.status.value, "version": version}
    if person.kept_apart:
        kept["kept_apart"] = list(person.kept_apart)
    change: Document = {"$set": kept, "$setOnInsert": {"since": since, "was": None}}
    return UpdateOne(this, change | ({"$unset": dict.fromkeys(empty, "")} if empty else {}), upsert=True)


def _make_face_writes(faces: Sequence[FaceState], version: int) -> list[UpdateMany]:
    """One write for all faces that get the same values, in batches of ids."""
    alike: dict[tuple[str | None, str | None, frozenset[str]], list[str]] = {}
    for face in faces:
        alike.setdefault((face.person_id, face.assigned_by, face.rejected), []).append(face.face_id)
    writes = []
    for (person_id, assigned_by, rejected), ids in alike.items():
        values = {"person_id": person_id, "assigned_by": assigned_by, "rejected": sorted(rejected)}
        change: Document = {"$set": {name: value for name, value in values.items() if value} | {"version": version}}
        if empty := [name for name, value in values.items() if not value]:
            change["$unset"] = dict.fromkeys(empty, "")
        writes += [UpdateMany({"_id": {"$in": some}}, change) for some in split_into_batches(ids)]
    return writes
