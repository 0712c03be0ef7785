"""In-memory queue and object store; stand-ins for the database are in tests/fake_stores.py.

The suites in tests/contract hold both to what the real adapters do.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Protocol

from app.core.errors import BadPhoto, LeaseLost, PhotoGone, RetryLater, StaleFence
from app.core.errors import Letter as DeadPart
from app.core.messages import Selfie
from app.core.ports import ObjectVersion, OpenObject, ReceivedMessage, StoredObject
from app.core.records import PhotoRef

RECEIVE_BATCH = 10


class Clock(Protocol):
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self._get_progress = 1_000.0

    def now(self) -> float:
        return self._get_progress

    def sleep(self, seconds: float) -> None:
        self._get_progress += seconds


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
    sent_at: float = 0.0


class FakeQueue(Outages):
    """`polls` counts receives; `hides` are (message id, seconds) in order; `refused` are receipts it won't delete."""

    def __init__(
        self, visibility_s: float = 30, dead_letters: "FakeQueue | None" = None, clock: Clock | None = None
    ) -> None:
        super().__init__()
        self.letters: list[Letter] = []
        self.polls = 0
        self.hides: list[tuple[str, float]] = []
        self.refused: set[str] = set()
        self._visibility_s = visibility_s
        self.max_receives: int | None = None
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

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None:
        self._pass("send")
        self.put(body, {"traceparent": traceparent} if traceparent else {}, delay_s)

    def put(self, body: str, attributes: Mapping[str, str], delay_s: float = 0) -> None:
        with self._lock:
            now = self._clock.now()
            self.letters.append(Letter(str(next(self._numbers)), body, now + delay_s, attributes, sent_at=time.time()))

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        self._pass("delete")
        receipts = {message.receipt for message in messages} - self.refused
        with self._lock:
            self.letters = [letter for letter in self.letters if letter.receipt not in receipts]
        return [message for message in messages if message.receipt in self.refused]

    def hide(self, message: ReceivedMessage, for_s: float) -> None:
        self._pass("hide")
        with self._lock:
            self.hides.append((message.message_id, for_s))
            held = next((letter for letter in self.letters if letter.receipt == message.receipt), None)
            if held is None:
                raise LeaseLost("the receipt is no longer valid")
            held.visible_at = self._clock.now() + for_s

    def reject(self, message: ReceivedMessage, letters: Sequence[DeadPart]) -> None:
        self._pass("reject")
        for letter in letters if self._dead_letters is not None else ():
            attributes = {"reason": letter.reason, "receive_count": str(message.receive_count)}
            attributes |= {"traceparent": message.traceparent} if message.traceparent else {}
            self._dead_letters.put(letter.body, attributes)
        self.delete([message])

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
            return [self._received(one) for one in chosen]

    def _received(self, letter: Letter) -> ReceivedMessage:
        return ReceivedMessage(
            letter.message_id,
            letter.body,
            letter.receipt,
            letter.receive_count,
            letter.sent_at,
            letter.attributes.get("traceparent"),
        )


@dataclass(frozen=True)
class Upload:
    """What the fake bucket keeps of an object."""

    data: bytes
    etag: str
    last_modified: datetime


class FakeObjectStore(Outages):
    """`objects` are by bucket and key; `journal` tells what was written and removed, in order."""

    def __init__(self, output_bucket: str = "results", journal: list[str] | None = None) -> None:
        super().__init__()
        self.output_bucket = output_bucket
        self.objects: dict[tuple[str, str], Upload] = {}
        self.content_types: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.journal = journal if journal is not None else []
        self._fences: dict[str, int] = {}
        self._lock = threading.Lock()

    def upload(self, bucket: str, key: str, data: bytes, last_modified: datetime | None = None) -> None:
        """What the photos' owner does."""
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[bucket, key] = Upload(data, etag, last_modified or datetime.now(UTC))

    def delete(self, bucket: str, key: str) -> None:
        """What the photos' owner does."""
        self.objects.pop((bucket, key), None)

    def describe(self, photo: PhotoRef) -> StoredObject:
        self._pass("describe")
        stored = self._find(photo)
        return StoredObject(len(stored.data), stored.etag, stored.last_modified)

    @contextmanager
    def open(self, photo: PhotoRef, max_bytes: int) -> Iterator[OpenObject]:
        self._pass("open")
        stored = self._find(photo)
        if len(stored.data) > max_bytes:
            raise BadPhoto("The file is too large.")
        yield OpenObject(len(stored.data), stored.etag, stored.last_modified, lambda: stored.data)

    def _find(self, photo: PhotoRef) -> Upload:
        stored = self.objects.get((photo.bucket, photo.key))
        if stored is None:
            raise PhotoGone(f"There is no object {photo.bucket}/{photo.key}.")
        return stored

    def read_selfie(self, selfie: Selfie, max_bytes: int) -> bytes:
        self._pass("read_selfie")
        with self.open(PhotoRef("", "", selfie.bucket, selfie.s3_key), max_bytes) as stored:
            return stored.read()

    def remove_selfie(self, selfie: Selfie) -> None:
        self._pass("remove_selfie")
        self.delete(selfie.bucket, selfie.s3_key)

    def put(self, key: str, data: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        self._pass("put")
        self.journal.append(f"put {key}")
        self.tags[key] = dict(tags or {})
        self.upload(self.output_bucket, key, data)
        self.content_types[key] = content_type
        self._fences.pop(key, None)

    def replace(self, key: str, data: bytes, content_type: str, fence: int) -> None:
        self._pass("replace")
        with self._lock:
            if self._fences.get(key, 0) > fence:
                raise StaleFence(f"{key} was written with fence {self._fences[key]}", stored_fence=self._fences[key])
            self.put(key, data, content_type)
            self._fences[key] = fence

    def remove(self, keys: Iterable[str]) -> None:
        self._pass("remove")
        for key in keys:
            self.journal.append(f"remove {key}")
            self.objects.pop((self.output_bucket, key), None)
            self._fences.pop(key, None)

    def fetch(self, key: str) -> bytes | None:
        self._pass("fetch")
        stored = self.objects.get((self.output_bucket, key))
        return stored.data if stored else None

    def list_versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """As of a bucket without versions."""
        self._pass("list_versions")
        for key, at in list(self.list_keys(prefix)):
            yield ObjectVersion(key, "null", at, len(self.read(key)), is_current=True)

    def read_version(self, version: ObjectVersion) -> bytes | None:
        self._pass("read_version")
        stored = self.objects.get((self.output_bucket, version.key))
        return stored.data if stored else None

    def erase(self, versions: Iterable[ObjectVersion]) -> None:
        self._pass("erase")
        self.remove([one.key for one in versions])

    def read_part(self, key: str, start: int, length: int) -> bytes | None:
        self._pass("read_part")
        stored = self.objects.get((self.output_bucket, key))
        part = stored.data[start : start + length] if stored else b""
        return part if len(part) == length else None

    def list_keys(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        self._pass("list_keys")
        mine = sorted(key for bucket, key in self.objects if bucket == self.output_bucket)
        yield from (
            (key, self.objects[self.output_bucket, key].last_modified) for key in mine if key.startswith(prefix)
        )

    def read(self, key: str) -> bytes:
        """An object of the output bucket."""
        return self.objects[self.output_bucket, key].data

    @property
    def output_keys(self) -> set[str]:
        return {key for bucket, key in self.objects if bucket == self.output_bucket}
