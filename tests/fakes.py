"""In-memory stand-ins at the ports. The suites in tests/contract hold them to what the real adapters do."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, Protocol

import numpy as np

from app.errors import BadPhoto, RetryLater
from app.ports import GalleryLease, ReceivedMessage, StoredObject
from app.records import FaceBatch, FaceRecord, ImageRecord, PersonRecord, PhotoRef

READ_BATCH = 10_000
RECEIVE_BATCH = 10


class Clock(Protocol):
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self._now = 1_000.0

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class RealClock:
    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Outages:
    """`outages["send"] = 2` makes the next two calls of `send` fail as a service does that is away."""

    def __init__(self) -> None:
        self.outages: Counter[str] = Counter()

    def _pass(self, method: str) -> None:
        if self.outages[method] > 0:
            self.outages[method] -= 1
            raise RetryLater(f"{method} is away")


@dataclass
class Letter:
    """A message in a queue."""

    message_id: str
    body: str
    visible_at: float
    attributes: Mapping[str, str] = field(default_factory=dict)
    receipt: str = ""
    receive_count: int = 0


class FakeQueue(Outages):
    """`polls` counts receives; `hides` are (message id, seconds) in order."""

    def __init__(
        self, visibility_s: float = 30, dead_letters: "FakeQueue | None" = None, clock: Clock | None = None
    ) -> None:
        super().__init__()
        self.letters: list[Letter] = []
        self.polls = 0
        self.hides: list[tuple[str, float]] = []
        self._visibility_s = visibility_s
        self._dead_letters = dead_letters
        self._clock = clock or RealClock()
        self._numbers = count(1)
        self._lock = threading.RLock()

    def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]:
        self.polls += 1
        self._pass("receive")
        until = self._clock.now() + wait_s
        while not (messages := self._take(min(max_messages, RECEIVE_BATCH))) and self._clock.now() < until:
            self._clock.sleep(0.01)
        if not messages:
            self._clock.sleep(0.001)
        return messages

    def send(self, body: str, delay_s: int = 0) -> None:
        self._pass("send")
        self.put(body, {}, delay_s)

    def put(self, body: str, attributes: Mapping[str, str], delay_s: float = 0) -> None:
        with self._lock:
            self.letters.append(Letter(str(next(self._numbers)), body, self._clock.now() + delay_s, attributes))

    def delete(self, message: ReceivedMessage) -> None:
        self._pass("delete")
        with self._lock:
            self.letters = [letter for letter in self.letters if letter.receipt != message.receipt]

    def hide(self, message: ReceivedMessage, for_s: float) -> None:
        self._pass("hide")
        with self._lock:
            self.hides.append((message.message_id, for_s))
            held = next((letter for letter in self.letters if letter.receipt == message.receipt), None)
            if held is None:
                raise RetryLater("the message is gone")
            held.visible_at = self._clock.now() + for_s

    def reject(self, message: ReceivedMessage, reason: str) -> None:
        self._pass("reject")
        if self._dead_letters is not None:
            self._dead_letters.put(message.body, {"reason": reason, "receive_count": str(message.receive_count)})
        self.delete(message)

    @property
    def bodies(self) -> list[str]:
        """Of all messages, hidden ones too."""
        return [letter.body for letter in self.letters]

    @property
    def visible(self) -> list[str]:
        """Bodies that the next receive may bring."""
        with self._lock:
            return [letter.body for letter in self.letters if letter.visible_at <= self._clock.now()]

    def _take(self, most: int) -> list[ReceivedMessage]:
        with self._lock:
            now = self._clock.now()
            chosen = [letter for letter in self.letters if letter.visible_at <= now][:most]
            for letter in chosen:
                letter.visible_at = now + self._visibility_s
                letter.receive_count += 1
                letter.receipt = f"{letter.message_id}#{letter.receive_count}"
            return [ReceivedMessage(one.message_id, one.body, one.receipt, one.receive_count) for one in chosen]


class FakeObjectStore(Outages):
    """`objects` are by bucket and key; `journal` tells what was written and removed, in order."""

    def __init__(self, output_bucket: str = "results", journal: list[str] | None = None) -> None:
        super().__init__()
        self.output_bucket = output_bucket
        self.objects: dict[tuple[str, str], StoredObject] = {}
        self.content_types: dict[str, str] = {}
        self.journal = journal if journal is not None else []
        self._versions: dict[tuple[str, str, str], StoredObject] = {}

    def upload(self, bucket: str, key: str, data: bytes, last_modified: datetime | None = None) -> str:
        """What the photos' owner does. Returns the version's id."""
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[bucket, key] = stored = StoredObject(data, etag, last_modified or datetime.now(UTC))
        version = str(len(self._versions) + 1)
        self._versions[bucket, key, version] = stored
        return version

    def fetch(self, photo: PhotoRef, max_bytes: int) -> StoredObject:
        self._pass("fetch")
        if photo.version_id:
            stored = self._versions.get((photo.bucket, photo.key, photo.version_id))
        else:
            stored = self.objects.get((photo.bucket, photo.key))
        if stored is None:
            raise BadPhoto(f"There is no object {photo.bucket}/{photo.key}.")
        if len(stored.data) > max_bytes:
            raise BadPhoto("The file is too large.")
        return stored

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self._pass("put")
        self.journal.append(f"put {key}")
        self.upload(self.output_bucket, key, data)
        self.content_types[key] = content_type

    def remove(self, keys: Iterable[str]) -> None:
        self._pass("remove")
        for key in keys:
            self.journal.append(f"remove {key}")
            self.objects.pop((self.output_bucket, key), None)

    def read(self, key: str) -> bytes:
        """An object of the output bucket."""
        return self.objects[self.output_bucket, key].data

    @property
    def output_keys(self) -> set[str]:
        return {key for bucket, key in self.objects if bucket == self.output_bucket}


class FakeFaceStore(Outages):
    """`person_of` maps face ids to people; FakePeopleStore writes it."""

    def __init__(self, journal: list[str] | None = None) -> None:
        super().__init__()
        self.images: dict[str, ImageRecord] = {}
        self.faces: dict[str, FaceRecord] = {}
        self.person_of: dict[str, str] = {}
        self.journal = journal if journal is not None else []
        self._etags: dict[str, str | None] = {}

    def find_image(self, photo: PhotoRef) -> ImageRecord | None:
        self._pass("find_image")
        return self.images.get(photo.document_id)

    def save_photo(self, image: ImageRecord, faces: Sequence[FaceRecord]) -> None:
        self._pass("save_photo")
        self.journal.append(f"save {image.photo.document_id}")
        known = [face for face in self.faces.values() if face.gallery_id == image.photo.gallery_id]
        for face in [face for face in known if face.image_id == image.photo.image_id]:
            if self._etags[face.face_id] != image.etag:
                self.person_of.pop(face.face_id, None)
            if face.model_id == image.model_id and face.face_id not in {kept.face_id for kept in faces}:
                del self.faces[face.face_id]
                self.person_of.pop(face.face_id, None)
        for face in faces:
            self.faces[face.face_id] = face
            self._etags[face.face_id] = image.etag
        self.images[image.photo.document_id] = image

    def read_faces(self, gallery_id: str, model_id: str) -> Iterator[FaceBatch]:
        self._pass("read_faces")
        wanted = [face for face in self.faces.values() if (face.gallery_id, face.model_id) == (gallery_id, model_id)]
        wanted.sort(key=lambda face: face.face_id)
        for start in range(0, len(wanted), READ_BATCH):
            yield self._batch(wanted[start : start + READ_BATCH])

    def read_images(self, gallery_id: str) -> Iterator[ImageRecord]:
        self._pass("read_images")
        wanted = [image for image in self.images.values() if image.photo.gallery_id == gallery_id]
        yield from sorted(wanted, key=lambda image: image.photo.image_id)

    def snapshot(self) -> list[bytes]:
        """All that is stored but for times, for comparing."""
        images = [replace(image, timings_s={}) for _, image in sorted(self.images.items())]
        faces = [
            (*(part.tobytes() if isinstance(part, np.ndarray) else part for part in _fields(face)), self._etags[key])
            for key, face in sorted(self.faces.items())
        ]
        return [repr(part).encode() for part in (*images, *faces, sorted(self.person_of.items()))]

    def _batch(self, faces: Sequence[FaceRecord]) -> FaceBatch:
        return FaceBatch(
            face_ids=[face.face_id for face in faces],
            image_ids=[face.image_id for face in faces],
            boxes=np.stack([face.box for face in faces]),
            det_scores=np.array([face.det_score for face in faces], np.float32),
            quality=[face.quality for face in faces],
            embeddings=np.stack([face.embedding for face in faces]),
            crop_keys=[face.crop_key for face in faces],
            person_ids=[self.person_of.get(face.face_id) for face in faces],
        )


def _fields(face: FaceRecord) -> tuple[Any, ...]:
    return astuple(replace(face, quality=sorted(face.quality.items())))


@dataclass
class _Gallery:
    revision: int = 0
    due_at: float = float("-inf")
    fence: int = 0
    owner: str | None = None
    until: float = float("-inf")
    grouped: tuple[int, str] | None = None
    summary: Mapping[str, object] = field(default_factory=dict)


class FakeGalleryStore(Outages):
    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.galleries: dict[str, _Gallery] = {}
        self._clock = clock or RealClock()
        self._lock = threading.Lock()

    def mark_dirty(self, gallery_id: str, delay_s: int) -> bool:
        self._pass("mark_dirty")
        with self._lock:
            gallery = self.galleries.setdefault(gallery_id, _Gallery())
            gallery.revision += 1
            due = gallery.due_at <= self._clock.now()
            if due:
                gallery.due_at = self._clock.now() + delay_s
            return due

    def take_lease(self, gallery_id: str, owner: str, ttl_s: float) -> GalleryLease | None:
        self._pass("take_lease")
        with self._lock:
            gallery = self.galleries.setdefault(gallery_id, _Gallery())
            if gallery.owner != owner:
                if gallery.owner is not None and gallery.until > self._clock.now():
                    return None
                gallery.fence += 1
            gallery.owner, gallery.until = owner, self._clock.now() + ttl_s
            return GalleryLease(gallery_id, owner, gallery.fence, gallery.revision, gallery.grouped)

    def release(self, lease: GalleryLease) -> None:
        self._pass("release")
        gallery = self.galleries[lease.gallery_id]
        if gallery.owner == lease.owner:
            gallery.owner = None

    def record_run(self, lease: GalleryLease, model_id: str, summary: Mapping[str, object]) -> None:
        self._pass("record_run")
        gallery = self.galleries[lease.gallery_id]
        if gallery.owner == lease.owner:
            gallery.grouped, gallery.summary = (lease.revision, model_id), summary


class FakePeopleStore(Outages):
    """`names` is what customers wrote, by gallery and person; `saved` are the people of the last run."""

    def __init__(self, faces: FakeFaceStore) -> None:
        super().__init__()
        self.people: dict[tuple[str, str], PersonRecord] = {}
        self.names: dict[tuple[str, str], str] = {}
        self._absent: set[tuple[str, str]] = set()
        self._faces = faces
        self.assignments: list[Mapping[str, str | None]] = []

    def read_names(self, gallery_id: str) -> dict[str, str]:
        self._pass("read_names")
        return {person: name for (gallery, person), name in self.names.items() if gallery == gallery_id}

    def save_people(
        self, lease: GalleryLease, people: Sequence[PersonRecord], assigned: Mapping[str, str | None]
    ) -> None:
        self._pass("save_people")
        seen = {(lease.gallery_id, person.person_id): person for person in people}
        of_gallery = {key for key in self.people if key[0] == lease.gallery_id}
        self.people |= seen
        self._absent = (self._absent | (of_gallery - seen.keys())) - seen.keys()
        self.assignments.append(assigned)
        for face_id, person_id in assigned.items():
            if person_id is None:
                self._faces.person_of.pop(face_id, None)
            elif face_id in self._faces.faces:
                self._faces.person_of[face_id] = person_id

    def statuses(self, gallery_id: str) -> dict[str, str]:
        """Person id → active or absent."""
        mine = [key for key in self.people if key[0] == gallery_id]
        return {key[1]: "absent" if key in self._absent else "active" for key in mine}


class FakeOwnerMetadata(Outages):
    """`documents` are by gallery and image."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[tuple[str, str], dict[str, object]] = {}

    def set_face_index(self, image: ImageRecord) -> None:
        self._pass("set_face_index")
        document = self.documents.get((image.photo.gallery_id, image.photo.image_id))
        if document is not None:
            document["face_index"] = {
                "status": image.status.value,
                "reason": image.reason,
                "face_count": image.face_count,
                "model": image.model_id,
                "etag": image.etag,
            }
