"""The database's ports side by side, and what a test must see beyond them; one shape for fakes and MongoDB."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import bson
import numpy as np
from pymongo.database import Database
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.ports import FaceReader, FaceStore, GalleryStore, PeopleStore
from app.records import FaceRecord, ImageRecord, ImageStatus, PhotoRef, PhotoResult, crop_key, face_id

MODEL = "toy-000000000000"
TIMES = ("processed_at", "timings_s")


class Faces(FaceStore, FaceReader, Protocol):
    """What one adapter is to both services."""


@dataclass(frozen=True)
class Stores:
    """`snapshot` gives all that is stored but for times; `statuses` a gallery's person ids → active or absent."""

    faces: Faces
    people: PeopleStore
    galleries: GalleryStore
    snapshot: Callable[[], list[bytes]]
    statuses: Callable[[str], dict[str, str]]
    sleep: Callable[[float], None]
    database: Database[dict[str, Any]] | None = None

    @classmethod
    def of_mongo(
        cls,
        database: Database[dict[str, Any]],
        faces: Faces,
        people: PeopleStore,
        galleries: GalleryStore,
        sleep: Callable[[float], None],
    ) -> "Stores":
        def snapshot() -> list[bytes]:
            documents = [one for name in ("images", "faces") for one in database[name].find().sort("_id")]
            return [bson.encode({k: v for k, v in one.items() if k not in TIMES}) for one in documents]

        def statuses(gallery_id: str) -> dict[str, str]:
            found = database["people"].find({"gallery_id": gallery_id})
            return {person["person_id"]: person["status"] for person in found}

        return cls(faces, people, galleries, snapshot, statuses, sleep, database)


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
    return PhotoRef(gallery, name, "photos", f"{gallery}/{name}.jpg")


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
        face_id=face_id(of, model, index),
        gallery_id=of.gallery_id,
        image_id=of.image_id,
        model_id=model,
        box=np.array([left, 1.5, left + 9, 12], np.float32),
        landmarks=np.arange(10, dtype=np.float32).reshape(5, 2) + left,
        det_score=0.9,
        quality={"size_px": 9.0, "sharpness": 12.5},
        embedding=unit_vector(index) if vector is None else vector,
        crop_key=crop_key(of, model, index),
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
