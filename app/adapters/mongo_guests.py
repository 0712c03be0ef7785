"""What guests see of people in MongoDB, by the rule for readers (docs/operations.md)."""

from collections.abc import Sequence

from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, split_into_batches, translate_mongo_errors
from app.adapters.mongo_people import make_person_key
from app.adapters.mongo_records import decode_vectors
from app.core.ports import GuestFaces, SeenFace
from app.core.records import PersonStatus

TRIES = 5
"""How often is read anew where people are published meanwhile; then what was read last counts."""
FACE_FIELDS = ["image_id", "box", "embedding", "person_id", "version", "was"]


class MongoGuestReader:
    """`people`, `faces` and `images`, read only."""

    def __init__(self, database: Database[Document]) -> None:
        self._galleries: Collection[Document] = database["galleries"]
        self._people: Collection[Document] = database["people"]
        self._faces: Collection[Document] = database["faces"]
        self._images: Collection[Document] = database["images"]

    def read_guest(
        self, gallery_id: str, model_id: str, person_ids: Sequence[str], face_ids: Sequence[str]
    ) -> GuestFaces:
        with translate_mongo_errors("Reading a guest's photos"):
            published = self._read_published(gallery_id)
            for _ in range(TRIES):
                people = self._read_people(gallery_id, person_ids, published)
                faces = self._read_faces(gallery_id, model_id, set(people.values()), face_ids, published)
                before, published = published, self._read_published(gallery_id)
                if published == before:
                    break
            return GuestFaces(people, self._add_photos(gallery_id, faces))

    def _read_published(self, gallery_id: str) -> int:
        gallery = self._galleries.find_one({"_id": gallery_id}, ["published"]) or {}
        published: int = gallery.get("published", 0)
        return published

    def _read_people(self, gallery_id: str, person_ids: Sequence[str], published: int) -> dict[str, str]:
        """Id → id now, of people that are there and not hidden."""
        known = self._find_people(gallery_id, person_ids, published)
        into = [one["merged_into"] for one in known.values() if one["status"] == PersonStatus.MERGED.value]
        known |= self._find_people(gallery_id, [one for one in into if one not in known], published)
        people: dict[str, str] = {}
        for person_id in person_ids:
            person = known.get(person_id)
            if person and person["status"] == PersonStatus.MERGED.value:
                person = known.get(person["merged_into"])
            if person and person["status"] == PersonStatus.ACTIVE.value and not person.get("hidden"):
                people[person_id] = person["person_id"]
        return people

    def _find_people(self, gallery_id: str, person_ids: Sequence[str], published: int) -> dict[str, Document]:
        keys = [make_person_key(gallery_id, person_id) for person_id in person_ids]
        found = list(self._people.find({"_id": {"$in": keys}}))
        valid = (one if one.get("version", 0) <= published else one["was"] and {**one, **one["was"]} for one in found)
        return {one["person_id"]: one for one in valid if one}

    def _read_faces(
        self, gallery_id: str, model_id: str, people: set[str], face_ids: Sequence[str], published: int
    ) -> list[tuple[Document, str | None]]:
        """Faces and the published person of each: those of these people, and of these faces the unassigned ones."""
        mine = {"gallery_id": gallery_id, "model": model_id}
        chosen = {"$in": sorted(people)}
        found = list(self._faces.find({**mine, "person_id": chosen}, FACE_FIELDS)) if people else []
        if people:
            moved = {**mine, "version": {"$gt": published}, "was": chosen}
            found += self._faces.find({**moved, "person_id": {"$nin": sorted(people)}}, FACE_FIELDS)
        for some in split_into_batches(face_ids):
            found += self._faces.find({**mine, "_id": {"$in": some}}, FACE_FIELDS)
        of_each = {
            face["_id"]: (
                face,
                face.get("person_id") if face.get("version", 0) <= published else face.get("was"),
            )
            for face in found
        }
        wanted = set(face_ids)
        return [
            (face, person_id)
            for face, person_id in of_each.values()
            if person_id in people or (person_id is None and face["_id"] in wanted)
        ]

    def _add_photos(self, gallery_id: str, faces: Sequence[tuple[Document, str | None]]) -> list[SeenFace]:
        """The faces with the keys of their photos; a photo that is gone meanwhile takes its faces along."""
        ids = sorted({f"{gallery_id}/{face['image_id']}" for face, _ in faces})
        keys: dict[str, str] = {}
        for some in split_into_batches(ids):
            found = self._images.find({"_id": {"$in": some}}, ["image_id", "s3"])
            keys |= {image["image_id"]: image["s3"]["key"] for image in found}
        vectors = decode_vectors([face["embedding"] for face, _ in faces])
        return [
            SeenFace(face["_id"], person_id, face["image_id"], keys[face["image_id"]], tuple(face["box"]), vector)
            for (face, person_id), vector in zip(faces, vectors, strict=True)
            if face["image_id"] in keys
        ]
