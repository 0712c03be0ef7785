"""What the services need of the world, in their own words. Adapters implement these; tests hold fakes to them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.core.records import FaceBatch, FaceMove, ImageRecord, PersonRecord, PhotoRef, PhotoResult
from app.core.roles import QualityBars

Progress = Callable[[], None]
"""Is called as the work on a message makes progress."""


@dataclass(frozen=True)
class ReceivedMessage:
    """A message under lease: `receipt` names the lease, `receive_count` is 1 on the first delivery.

    `sent_at` is the Unix time of its sending, None where the queue doesn't tell; `traceparent` is its sender's trace.
    """

    message_id: str
    body: str
    receipt: str
    receive_count: int
    sent_at: float | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class StoredObject:
    """What a store says of an object: its size, and what identifies this content."""

    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True)
class OpenObject(StoredObject):
    """An object about to be read: `read` gives its bytes once."""

    read: Callable[[], bytes]


@dataclass(frozen=True)
class GalleryLease:
    """The right to write one gallery's people.

    `fence` grows with every new owner; `revision` counts the gallery's changes, and `grouped` is the revision
    and model id of its last run, if any; `last_run` is what that run was recorded with. `quality` is what this gallery
    asks of faces instead of what the pack does. `output` is what the last run recorded of its output; None where the
    gallery had another owner since, who may have begun to write another.
    """

    gallery_id: str
    owner: str
    fence: int
    revision: int
    grouped: tuple[int, str] | None = None
    quality: QualityBars | None = None
    output: str | None = None
    last_run: Mapping[str, object] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class RunProgress:
    """How far a run is: its stage, the share of its time that has passed (0 to 1), and what is left of it as far as
    is known. `at` is when that was so: long ago means that its worker has died."""

    stage: str
    share: float
    eta_s: float | None
    at: datetime


@dataclass(frozen=True)
class GalleryState:
    """What operators see of a gallery. `last_run` has at least `revision` and `model`; all is grouped where that
    revision is the gallery's. `progress` is None while nobody groups it."""

    revision: int
    last_run: Mapping[str, object] | None
    progress: RunProgress | None


class MessageQueue(Protocol):
    """A queue with leases.

    Every method raises RetryLater while the queue is away; those that take a message raise LeaseLost once its
    receipt is no longer valid (`delete` only logs that: the message comes again, and changes nothing).
    """

    def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]: ...

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None:
        """`traceparent` travels beside the body; see app/telemetry/traces.py."""

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        """Delete at most ten messages. Returns those that the queue could not delete now."""

    def hide(self, message: ReceivedMessage, for_s: float) -> None:
        """Keep the message from others for this long from now; 0 gives it back."""

    def reject(self, message: ReceivedMessage, reason: str) -> None:
        """Put the message and the reason into the dead-letter queue, then delete it here."""


class ObjectStore(Protocol):
    """Objects in buckets. Raises RetryLater while the store is away."""

    def describe(self, photo: PhotoRef) -> StoredObject:
        """What there is to read. Raises BadPhoto where there is nothing."""

    def open(self, photo: PhotoRef, max_bytes: int) -> AbstractContextManager[OpenObject]:
        """The object, unread. Raises BadPhoto where there is none or it is larger than `max_bytes`."""

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Write an object of the output bucket, replacing what is there."""

    def replace(self, key: str, data: bytes, content_type: str, fence: int) -> None:
        """`put` that raises StaleFence where the object there was written with a higher fence."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects of the output bucket; those that are not there are fine."""


class FaceStore(Protocol):
    """Photos and their faces. Raises RetryLater while the database is away."""

    def find_image(self, photo: PhotoRef) -> ImageRecord | None: ...

    def save_photos(self, results: Sequence[PhotoResult]) -> list[PhotoResult]:
        """Store photos' records and exactly these faces under their model, as if one after the other.

        Returns those that were overtaken: a newer version of the photo is stored, and nothing of theirs was written.
        All others are written, or none where this raises; the same call again changes nothing. A face that stays
        keeps its person, unless the photo's content has changed. Meant for some hundred photos at most.
        """

    def find_twin(self, content: str, model_id: str) -> PhotoResult | None:
        """A photo of any gallery whose file has this SHA-256, and the faces that this model found in it.

        None where there is none, or where its faces are being written just now.
        """


class FaceReader(Protocol):
    """A gallery's photos and faces, as grouping reads them. Raises RetryLater while the database is away."""

    def read_faces(self, gallery_id: str, model_id: str, *, with_embeddings: bool = True) -> Iterator[FaceBatch]:
        """All faces of a gallery under one model, ordered by face id, in batches of at most 10,000.

        Most of what is read are embeddings; without them those of a batch are (N,0).
        """

    def read_embeddings(self, face_ids: Sequence[str]) -> NDArray[np.float32]:
        """N face ids → (N,D) float32 unit length. Raises RetryLater where a face is gone since it was read."""

    def read_images(self, gallery_id: str) -> Iterator[ImageRecord]:
        """All photos of a gallery, ordered by image id."""


class GalleryChanges(Protocol):
    """Which galleries have changed. Raises RetryLater while the database is away."""

    def mark_dirty(self, gallery_id: str, delay_s: int) -> bool:
        """Count a change. True when the caller owes the gallery a grouping message delayed by `delay_s`.

        That is once in `delay_s`: a change within it is covered by the message already on its way, which is
        delivered later than the change. Times are the database server's, so that workers' clocks don't matter.
        """

    def claim_message(self, gallery_id: str, delay_s: int) -> bool:
        """As `mark_dirty`, of a gallery that waits to be grouped though nothing new has happened to it."""

    def set_quality(self, gallery_id: str, bars: QualityBars | None) -> None:
        """What this gallery asks of faces from its next run on, None for what the pack does; counts as a change."""

    def find_gallery(self, gallery_id: str) -> GalleryState | None:
        """None for a gallery that was never marked."""


class GalleryStore(GalleryChanges, Protocol):
    """And who groups them. Raises RetryLater while the database is away."""

    def take_lease(self, gallery_id: str, owner: str, ttl_s: float) -> GalleryLease | None:
        """The exclusive lease of a gallery, or None while another owner holds it.

        Its owner may renew it so and keeps the fence, unless it was another's in between.
        """

    def release(self, lease: GalleryLease) -> None:
        """Give the lease back, and take its run's progress away; nothing happens where it is another's by now."""

    def report_progress(self, lease: GalleryLease, progress: RunProgress) -> None:
        """Show how far the lease's run is; nothing happens where a newer run has said so of itself."""

    def record_run(self, lease: GalleryLease, model_id: str, summary: Mapping[str, object]) -> None:
        """Note that all changes up to the lease's revision are grouped under this model.

        Raises StaleFence once the lease was given back or is another's; a lease whose time is over, but which
        nobody has taken since, still counts.
        """


class PeopleStore(Protocol):
    """People, and the person of each face. Raises RetryLater while the database is away.

    What a run writes is nobody's to see until it is published, and then all at once. Each method raises StaleFence as
    soon as the lease was given back or is another's, and writes nothing from then on.
    """

    def read_people(self, lease: GalleryLease) -> list[PersonRecord]:
        """Everybody the gallery has ever had, absent and merged people too.

        What another run wrote and did not publish is discarded first, so that the faces are read as published.
        """

    def write_people(self, lease: GalleryLease, people: Sequence[PersonRecord], moves: Iterable[FaceMove]) -> None:
        """Write people and faces that are others than before, unseen. What was written and not published is discarded.

        Names are not written, and faces that were removed meanwhile are not brought back.
        """

    def publish_people(self, lease: GalleryLease) -> None:
        """Make all that was written what readers get, in one step; nothing happens where nothing was written."""


class PeopleEditor(Protocol):
    """What users say of people. Each call is seen at once, all of it, and counts as a change of the gallery.

    Ids of merged people stand for those they were merged into. Raises RejectMessage for people and faces that the
    gallery does not have, StaleFence as PeopleStore does, and RetryLater while the database is away.
    """

    def name_person(self, lease: GalleryLease, person_id: str, name: str | None) -> None:
        """None takes the name away."""

    def confirm_faces(self, lease: GalleryLease, person_id: str, face_ids: Sequence[str]) -> None:
        """These faces are this person, whatever the clustering says; and so is the cover that they were compared to."""

    def reject_faces(self, lease: GalleryLease, person_id: str, face_ids: Sequence[str]) -> None:
        """These faces are not this person, and never will be unless they are confirmed."""

    def merge_people(self, lease: GalleryLease, into: str, others: Sequence[str]) -> None:
        """The others are this person. Their covers are confirmed, so that the next run doesn't take them apart."""


class OwnerMetadata(Protocol):
    """The owner's own image documents, of which this system writes `face_index` alone.

    Raises RetryLater while the database is away.
    """

    def set_face_indexes(self, images: Sequence[ImageRecord]) -> None:
        """Tell the owner how photos ended; of a photo that comes twice, the later one counts."""
