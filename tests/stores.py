"""The database's ports side by side, and what a test must see beyond them; one shape for fakes and MongoDB."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import bson
import numpy as np
import pytest
from pymongo.database import Database
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_outbox import MongoEventOutbox
from app.adapters.mongo_people import MongoPeopleStore, read_person_record
from app.core.ports import EditJournal, EventOutbox, FaceReader, FaceStore, GalleryStore, PeopleEditor, PeopleStore
from app.core.records import (
    FaceRecord,
    ImageRecord,
    ImageStatus,
    PersonRecord,
    PhotoRef,
    PhotoResult,
    make_face_id,
)
from app.core.result_keys import ResultKeys
from tests.fake_outbox import FakeEventOutbox
from tests.fake_stores import FakeFaceStore, FakeGalleryStore, FakePeopleStore
from tests.fakes import FakeClock

MODEL = "toy-000000000000"
CONTENT = "c0ffee" * 10
COLLECT_S = 5
"""How long the outbox has photos' events wait for others."""
TIMES = ("processed_at", "timings_s")
CLIENTS = {"secantus": "mongo_client", "mongod": "mongod_client"}
"""Kind of server → the fixture with a client of it."""
ON_SERVERS = pytest.mark.parametrize("stores", CLIENTS, indirect=True)
"""For tests of what only a server can show: without the fakes."""
BOOKKEEPING = ("version", "was")
"""What tells readers which of a document's values counts; two ways to one result may differ in it."""


@dataclass(frozen=True)
class View:
    """What a reader of the database gets: a gallery's people but for their age and number, and each face's person."""

    people: tuple[PersonRecord, ...]
    faces: tuple[tuple[str, str | None], ...]

    @property
    def statuses(self) -> dict[str, str]:
        return {person.person_id: person.status.value for person in self.people}

    @property
    def person_ids(self) -> list[str | None]:
        """In the order of the faces' ids."""
        return [person_id for _, person_id in self.faces]


class Faces(FaceStore, FaceReader, Protocol):
    """What one adapter is to both services."""


@dataclass(frozen=True)
class Stores:
    """`snapshot` gives all that is stored but for times; `look` is a reader."""

    faces: Faces
    people: PeopleStore
    editor: PeopleEditor
    journal: EditJournal
    galleries: GalleryStore
    outbox: EventOutbox
    snapshot: Callable[[], list[bytes]]
    look: Callable[[str], View]
    sleep: Callable[[float], None]
    database: Database[dict[str, Any]] | None = None

    @classmethod
    def of_fakes(cls, clock: FakeClock) -> "Stores":
        faces, galleries = FakeFaceStore(), FakeGalleryStore(clock)
        people = FakePeopleStore(faces, galleries)

        def look(gallery_id: str) -> View:
            with galleries.quiet():
                mine = sorted(face for face, record in faces.faces.items() if record.gallery_id == gallery_id)
                found = tuple(replace(person, since=0, number=None) for person in people.published(gallery_id))
                return View(found, tuple((face, faces.person_of.get(face)) for face in mine))

        outbox = FakeEventOutbox(COLLECT_S, clock)
        return cls(faces, people, people, people.journal, galleries, outbox, faces.snapshot, look, clock.sleep)

    @classmethod
    def of_mongo(cls, database: Database[dict[str, Any]], sleep: Callable[[float], None]) -> "Stores":
        def snapshot() -> list[bytes]:
            documents = [one for name in ("images", "faces") for one in database[name].find().sort("_id")]
            return [bson.encode({k: v for k, v in one.items() if k not in TIMES + BOOKKEEPING}) for one in documents]

        return cls(
            MongoFaceStore(database),
            MongoPeopleStore(database),
            MongoPeopleEditor(database),
            MongoEditJournal(database),
            MongoGalleryStore(database),
            MongoEventOutbox(database, COLLECT_S),
            snapshot,
            partial(look, database),
            sleep,
            database,
        )


def look(database: Database[dict[str, Any]], gallery_id: str) -> View:
    """A gallery by the rule that docs/operations.md gives to readers."""
    while True:
        before = _published(database, gallery_id)
        people = [_as_published(one, before) for one in database["people"].find({"gallery_id": gallery_id})]
        faces = list(database["faces"].find({"gallery_id": gallery_id}, ["person_id", "version", "was"]).sort("_id"))
        if _published(database, gallery_id) == before:
            break
    found = [replace(read_person_record(one), since=0, number=None) for one in people if one is not None]
    return View(
        tuple(sorted(found, key=lambda person: person.person_id)),
        tuple((one["_id"], one.get("was") if _is_ahead(one, before) else one.get("person_id")) for one in faces),
    )


def _published(database: Database[dict[str, Any]], gallery_id: str) -> int:
    gallery = database["galleries"].find_one({"_id": gallery_id}) or {}
    return int(gallery.get("published", 0))


def _is_ahead(document: dict[str, Any], published: int) -> bool:
    return (document.get("version") or 0) > published


def _as_published(person: dict[str, Any], published: int) -> dict[str, Any] | None:
    if not _is_ahead(person, published):
        return person
    return {**person, **person["was"]} if person["was"] else None


class OnceBefore(CommandListener):
    """Does something once, in the writer's own thread, when it is about to send a command, named as
    `update faces` or `commitTransaction`."""

    def __init__(self, command: str, action: Callable[[CommandStartedEvent], None]) -> None:
        self._command, _, self._collection = command.partition(" ")
        self._action = action
        self.done = False

    def started(self, event: CommandStartedEvent) -> None:
        wanted = self._collection in ("", event.command.get(self._command))
        if event.command_name == self._command and wanted and not self.done:
            self.done = True
            self._action(event)

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


def photo(name: str = "a", gallery: str = "g") -> PhotoRef:
    return PhotoRef(gallery, name, "photos", f"{gallery}/{name}.jpg", name)


def store(stores: "Stores", results: Sequence[PhotoResult]) -> list[PhotoResult]:
    """Store photos as workers do that have just looked at them. Returns those that were overtaken."""
    fresh = [replace(one, edition=stores.faces.find_image(one.image.photo)[1]) for one in results]
    overtaken = stores.faces.save_photos(fresh).overtaken
    return [result for result, one in zip(results, fresh, strict=True) if one in overtaken]


def image_record(
    of: PhotoRef,
    face_count: int = 1,
    *,
    etag: str = "etag-1",
    model: str = MODEL,
    last_modified: datetime | None = None,
) -> ImageRecord:
    return ImageRecord(
        of,
        ImageStatus.INDEXED if face_count else ImageStatus.NO_FACES,
        etag=etag,
        last_modified=last_modified,
        width_px=64,
        height_px=48,
        face_count=face_count,
        model_id=model,
        timings_s={"decode": 0.1},
    )


def unit_vector(seed: int, dimension: int = 16) -> np.ndarray:
    """(D,) float32 of unit length."""
    vector = np.random.default_rng(seed).normal(size=dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def face_record(of: PhotoRef, index: int, vector: np.ndarray | None = None, *, model: str = MODEL) -> FaceRecord:
    left = 10.25 * index
    return FaceRecord(
        face_id=make_face_id(of, model, index),
        gallery_id=of.gallery_id,
        image_id=of.image_id,
        model_id=model,
        box=np.array([left, 1.5, left + 9, 12], np.float32),
        landmarks=np.arange(10, dtype=np.float32).reshape(5, 2) + left,
        det_score=0.9,
        quality={"size_px": 9.0, "sharpness": 12.5},
        embedding=unit_vector(index) if vector is None else vector,
        crop_key=ResultKeys().crops(of, 0, CONTENT, model),
        crop_range=(100 * index, 100),
    )


def photo_result(
    of: PhotoRef,
    face_count: int = 1,
    *,
    etag: str = "etag-1",
    model: str = MODEL,
    last_modified: datetime | None = None,
) -> PhotoResult:
    """A photo with this many faces."""
    image = image_record(of, face_count, etag=etag, model=model, last_modified=last_modified)
    return PhotoResult(image, [face_record(of, index, model=model) for index in range(face_count)])
