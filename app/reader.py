"""Reads a gallery's people from MongoDB as they are published, also while a run writes. For applications.

This file stands alone: copy it, or import it. It needs Python 3.11 and pymongo's database of the face worker:

    database = MongoClient(uri).get_default_database("gallery_images")
    people = read_people(database, "wedding")
    faces = read_faces_of(database, "wedding", "p0123456789abcdef")

A run changes documents in place, beside their former values: `version` counts a gallery's changes, and `published` of
its document in `galleries` is the version that is valid. A document of a higher version is not published yet, and what
it has under `was` counts instead. Where `published` has changed while documents were read, they are read again. Read
from the primary, as pymongo does unless it is told otherwise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

TRIES = 20
"""A gallery is published every few seconds at most, and read in far less, unless it is very large."""
FACE_FIELDS = {"embedding": False, "landmarks": False}
"""What is not read of faces: embeddings are most of what is stored, and nobody but grouping needs them."""

Document = Mapping[str, Any]
Found = TypeVar("Found")


class Database(Protocol):
    """What is used of pymongo's Database."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - pymongo's Collection, without pymongo
        ...


class GalleryKeepsChanging(Exception):
    """The gallery was published anew each time while it was read: read it again later, or a smaller part of it."""


@dataclass(frozen=True)
class Person:
    """A person. `status` is `active`, `absent` (without a face now), or `merged` (then `merged_into` is who it is now).

    `number` is shown until there is a name; None only where a former version stored the person. `hidden` people are not
    to be shown.
    """

    person_id: str
    name: str | None
    number: int | None
    hidden: bool
    status: str
    merged_into: str | None
    face_count: int
    photo_count: int
    cover_face_id: str


@dataclass(frozen=True)
class Face:
    """A face on a photo. `box` is x1 y1 x2 y2 in pixels of the upright original, `quality` maps measure to value.

    The crop, a JPEG, is `crop_range` (first byte, length) of the object `crop_key`, all of it where that is None. With
    PICTURES=none there is no `crop_key`.
    `confirmed`: a user said who it is.
    """

    face_id: str
    image_id: str
    person_id: str | None
    confirmed: bool
    model: str
    box: tuple[float, float, float, float]
    det_score: float
    quality: Mapping[str, float]
    digest: str | None
    crop_key: str | None
    crop_range: tuple[int, int] | None


def read_people(database: Database, gallery_id: str) -> dict[str, Person]:
    """Person id → person, those in most photos first, with absent and merged people at the end.

    Raises GalleryKeepsChanging.
    """

    def read(published: int) -> list[Person]:
        return list(_take_people(database["people"].find({"gallery_id": gallery_id}), published))

    people = _read_published(database, gallery_id, read)
    people.sort(key=lambda one: (one.status != "active", -one.photo_count, one.person_id))
    return {person.person_id: person for person in people}


def find_person(database: Database, gallery_id: str, person_id: str) -> Person | None:
    """The person that has this id, or into whom the one with this id was merged. Raises GalleryKeepsChanging."""
    return _read_published(database, gallery_id, lambda published: _find(database, gallery_id, person_id, published))


def read_faces_of(database: Database, gallery_id: str, person_id: str) -> list[Face]:
    """All faces of the person whom `find_person` finds, by face id; none where there is nobody.

    Raises GalleryKeepsChanging.
    """

    def read(published: int) -> list[Face]:
        person = _find(database, gallery_id, person_id, published)
        if person is None:
            return []
        # While a run writes, some of the person's faces may be another's already, and only `was` names the person.
        queries: list[Document] = [{"gallery_id": gallery_id, "person_id": person.person_id}]
        if database["galleries"].find_one({"_id": gallery_id, "writing": {"$exists": True}}, ["_id"]):
            queries.append({"gallery_id": gallery_id, "was": person.person_id, "version": {"$gt": published}})
        found = {face["_id"]: face for query in queries for face in _find_faces(database, query)}
        return [face for face in _take_faces(found.values(), published) if face.person_id == person.person_id]

    return sorted(_read_published(database, gallery_id, read), key=lambda face: face.face_id)


def read_faces(database: Database, gallery_id: str) -> list[Face]:
    """All faces of the gallery, by face id; `person_id` is None for an unassigned one. Raises GalleryKeepsChanging.

    Faces of a former model are among them while they wait to be removed: they have no person.
    """

    def read(published: int) -> list[Face]:
        return list(_take_faces(_find_faces(database, {"gallery_id": gallery_id}), published))

    return sorted(_read_published(database, gallery_id, read), key=lambda face: face.face_id)


def _read_published(database: Database, gallery_id: str, read: Callable[[int], Found]) -> Found:
    published = _find_published(database, gallery_id)
    for _ in range(TRIES):
        found = read(published)
        before, published = published, _find_published(database, gallery_id)
        if before == published:
            return found
    raise GalleryKeepsChanging(f"The gallery {gallery_id} was published anew in each of {TRIES} reads. Try it later.")


def _find_published(database: Database, gallery_id: str) -> int:
    gallery = database["galleries"].find_one({"_id": gallery_id}, ["published"]) or {}
    return int(gallery.get("published") or 0)


def _is_ahead(document: Document, published: int) -> bool:
    return (document.get("version") or 0) > published


def _find(database: Database, gallery_id: str, person_id: str, published: int) -> Person | None:
    seen: set[str] = set()
    while person_id not in seen:
        seen.add(person_id)
        found = database["people"].find({"_id": f"{gallery_id}/{person_id}"})
        person = next(_take_people(found, published), None)
        if person is None or person.merged_into is None:
            return person
        person_id = person.merged_into
    return None


def _take_people(documents: Iterable[Document], published: int) -> Iterator[Person]:
    for document in documents:
        person = document
        if _is_ahead(document, published):
            if document.get("was") is None:
                continue  # The person does not exist yet.
            person = {**document, **document["was"]}
        yield Person(
            person_id=person["person_id"],
            name=person.get("name"),
            number=person.get("number"),
            hidden=bool(person.get("hidden")),
            status=person["status"],
            merged_into=person.get("merged_into"),
            face_count=person["face_count"],
            photo_count=person["photo_count"],
            cover_face_id=person["cover_face_id"],
        )


def _find_faces(database: Database, query: Document) -> Iterable[Document]:
    found: Iterable[Document] = database["faces"].find(query, FACE_FIELDS)
    return found


def _take_faces(documents: Iterable[Document], published: int) -> Iterator[Face]:
    for face in documents:
        x1, y1, x2, y2 = face["box"]
        part = face.get("crop_range")
        yield Face(
            face_id=face["_id"],
            image_id=face["image_id"],
            person_id=face.get("was") if _is_ahead(face, published) else face.get("person_id"),
            confirmed=face.get("assigned_by") == "user",
            model=face["model"],
            box=(x1, y1, x2, y2),
            det_score=face["det_score"],
            quality=face.get("quality") or {},
            digest=face.get("digest"),
            crop_key=face["crop_key"],
            crop_range=(part[0], part[1]) if part else None,
        )
