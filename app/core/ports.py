"""The interfaces (ports) of the services to queues and stores. Adapters implement them; tests check fakes by them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.core.errors import Letter
from app.core.events import Event
from app.core.journal import Edit, EditOutcome
from app.core.messages import Forget, Selfie
from app.core.records import (
    Changes,
    FaceBatch,
    FaceMove,
    FaceRecord,
    FaceState,
    ImageRecord,
    PersonRecord,
    PhotoRef,
    PhotoResult,
)
from app.core.roles import QualityBars
from app.core.tombstones import NOTHING_FORGOTTEN, Forgotten, Tombstone

Progress = Callable[[], None]
"""Is called as the work on a message makes progress."""


@dataclass(frozen=True)
class ReceivedMessage:
    """A message under lease: `receipt` names the lease, `receive_count` is 1 on the first delivery.

    `sent_at` is the Unix time at which it was sent, None if unknown; `traceparent` is its sender's trace.
    """

    message_id: str
    body: str
    receipt: str
    receive_count: int
    sent_at: float | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class StoredObject:
    """An object in a store: its size, and what identifies its content."""

    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True)
class OpenObject(StoredObject):
    """An object that can be read: `read` returns its bytes, and may be called once."""

    read: Callable[[], bytes]


@dataclass(frozen=True)
class ObjectVersion:
    """A version of an object: the one that a reader gets (`is_current`), a former one, or a mark of its deletion."""

    key: str
    version_id: str
    at: datetime
    size_bytes: int
    is_current: bool


@dataclass(frozen=True)
class GalleryLease:
    """The right to write one gallery's people.

    `fence` (fencing token) grows with every new owner. `revision` counts the gallery's changes. `grouped` is the
    revision and the model id of its last run, if any, and `last_run` the summary of that run. `quality` are quality
    bars, and `threshold` is a similarity threshold, that this gallery has instead of the pack's. `output` is the digest
    of the last run's output, None where the lease had another owner since, who may have begun to write other output.
    """

    gallery_id: str
    owner: str
    fence: int
    revision: int
    grouped: tuple[int, str] | None = None
    quality: QualityBars | None = None
    threshold: float | None = None
    output: str | None = None
    last_run: Mapping[str, object] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class RunProgress:
    """How far a run is: its stage, the share of its expected time that has passed (0 to 1), and the seconds that are
    left if known. `at` is the time of this report: if that is long ago, the worker has died."""

    stage: str
    share: float
    eta_s: float | None
    at: datetime


@dataclass(frozen=True)
class GalleryState:
    """What operators see of a gallery. `last_run` has at least `revision` and `model`; all changes are grouped where
    that revision is the gallery's. `progress` is None while no run is in progress. `published` is the version of its
    people that readers see. `display_name`, `retention_days`, `quality` and `threshold` are the gallery's own, None
    where it has none."""

    revision: int
    last_run: Mapping[str, object] | None
    progress: RunProgress | None
    published: int = 0
    display_name: str | None = None
    retention_days: int | None = None
    quality: QualityBars | None = None
    threshold: float | None = None


CLAIM_S = 30
"""How long a claim of a grouping message keeps others from sending it: longer than a send commonly takes."""
CHECK_AFTER_S = 900
"""How long after its message should have come a gallery is looked at: is it grouped?"""


@dataclass(frozen=True)
class MessageClaim:
    """The duty to send a gallery's grouping message now. `at` is when it was claimed, by the database server's clock,
    and `revision` the gallery's at that time."""

    gallery_id: str
    token: str
    revision: int
    at: datetime


@dataclass(frozen=True)
class GalleryChange:
    """Fields of a gallery that a request sets, by the names of GalleryState. None takes the gallery's own value
    away."""

    values: Mapping[str, str | int | float | QualityBars | None]

    @property
    def regroups(self) -> bool:
        return not self.values.keys().isdisjoint(("quality", "threshold"))


EVENT_CLAIM_S = 60
"""How long a taken event is kept from others: longer than sending it takes, with all tries."""


class MessageQueue(Protocol):
    """A queue with leases.

    Every method raises RetryLater while the queue does not answer. Those that take a message raise LeaseLost once its
    receipt is no longer valid; `delete` only logs that: the message is received again and changes nothing.
    After `max_receives` receives the queue itself makes a message a dead letter; None where it never does.
    """

    max_receives: int | None

    def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]: ...

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None:
        """`traceparent` is sent as a message attribute; see app/telemetry/traces.py."""

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        """Delete at most ten messages. Returns those that the queue could not delete now."""

    def hide(self, message: ReceivedMessage, for_s: float) -> None:
        """Hide the message from other receivers for this long from now; 0 gives it back at once."""

    def reject(self, message: ReceivedMessage, letters: Sequence[Letter]) -> None:
        """Put letters into the dead-letter queue in the message's place, then delete it here."""


class ObjectStore(Protocol):
    """Objects in buckets. Raises RetryLater while the store does not answer.

    A photo's object is the one that its key has now, whichever version was announced.
    """

    def describe(self, photo: PhotoRef) -> StoredObject:
        """The photo's object without its bytes. Raises PhotoGone where there is none."""

    def open(self, photo: PhotoRef, max_bytes: int) -> AbstractContextManager[OpenObject]:
        """The photo's object, not read yet.

        Raises PhotoGone where there is none, and BadPhoto where it is larger than `max_bytes` or can't be read as it is
        stored (archived, or encrypted with a key of the owner's).
        """

    def put(self, key: str, data: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        """Write an object of the output bucket, replacing what is there. Rules of the bucket may go by its tags."""

    def replace(self, key: str, data: bytes, content_type: str, fence: int) -> None:
        """As `put`, but raises StaleFence, with that fence, where the object there was written with a higher one."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects of the output bucket; objects that are not there are no error."""

    def fetch(self, key: str) -> bytes | None:
        """An object of the output bucket; None where there is none."""

    def read_part(self, key: str, start: int, length: int) -> bytes | None:
        """`length` bytes of an object of the output bucket, from byte `start` on; None where there is no such part."""

    def list_keys(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Keys of the output bucket that begin with `prefix`, each with the time of its last writing."""

    def list_versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """All versions of the output bucket's objects whose keys begin with `prefix`, marks of deletion too."""

    def read_version(self, version: ObjectVersion) -> bytes | None:
        """All of a version; None where it is not there any more."""

    def erase(self, versions: Iterable[ObjectVersion]) -> None:
        """Remove versions for good; those that are not there are no error."""


class SelfieStore(Protocol):
    """Guests' selfies. Raises RetryLater while the store does not answer."""

    def read_selfie(self, selfie: Selfie, max_bytes: int) -> bytes:
        """Raises PhotoGone where it is not there, and BadPhoto where it is larger or can't be read as it is stored."""

    def remove_selfie(self, selfie: Selfie) -> None:
        """Remove its object, or the version that is named; one that is not there is no error."""


class ReplySender(Protocol):
    """Queues of those who wait for answers."""

    def send(self, queue_url: str, body: str) -> None:
        """Raises RetryLater where it can't be sent now."""


@dataclass(frozen=True, eq=False)
class SeenFace:
    """A face as readers see it: its published person, None for an unassigned one; the S3 key of its photo; `box` is x1
    y1 x2 y2 in pixels of the upright original; `embedding` (D,) float32 of unit length."""

    face_id: str
    person_id: str | None
    image_id: str
    key: str
    box: tuple[float, float, float, float]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class GuestFaces:
    """`people` maps ids to the ids that they have now; hidden and absent people are not in it."""

    people: dict[str, str]
    faces: list[SeenFace]


class GuestReader(Protocol):
    """What a guest may see of people. Raises RetryLater while the database does not answer."""

    def read_guest(
        self, gallery_id: str, model_id: str, person_ids: Sequence[str], face_ids: Sequence[str]
    ) -> GuestFaces:
        """These people as published, their faces under the model, and those of `face_ids` that have no person."""


class FaceStore(Protocol):
    """Photos and their faces. Raises RetryLater while the database does not answer.

    A photo's edition counts how often it was written or removed, also while it has no record. Who examines a photo asks
    for the edition first, then looks at the object, and hands the edition in with the result: whatever was stored in
    between may follow a newer state of the object, so then nothing is written.
    """

    def find_image(self, photo: PhotoRef) -> tuple[ImageRecord | None, int]:
        """The photo's record, if any, and its edition."""

    def find_images(self, photos: Sequence[PhotoRef]) -> list[tuple[ImageRecord | None, int]]:
        """The same of each photo."""

    def find_companion(self, photo: PhotoRef) -> ImageRecord | None:
        """A JPEG or HEIC of the same name, beside which a raw file is no photo of its own; None where there is none."""

    def save_photos(self, results: Sequence[PhotoResult]) -> Changes:
        """Store photos' records and, of each photo, exactly these faces under its model, as if one by one.

        All of a name's photos get the ids that they have now (see app/core/naming.py); what is known of their faces
        moves with them. A face that is stored already keeps its person, unless the photo's content has changed; faces
        of former content are removed under all models. All results but the overtaken ones are written, or none if this
        raises. For some hundred photos at most.
        """

    def remove_photo(self, photo: PhotoRef, edition: int) -> Changes | None:
        """Remove the photo's record and its faces under all models; None where the photo was overtaken.

        The same call again, or one for a photo that is not stored, changes nothing.
        """

    def find_twins(self, contents: Sequence[str], model_id: str) -> dict[str, PhotoResult]:
        """SHA-256 of a file → a photo of any gallery that has it, and the faces that this model found in it.

        It lacks those of which there is none, or of which the faces are just being written.
        """


class FaceReader(Protocol):
    """A gallery's photos and faces, as grouping reads them. Raises RetryLater while the database does not answer."""

    def read_faces(self, gallery_id: str, model_id: str, *, with_embeddings: bool = True) -> Iterator[FaceBatch]:
        """All faces of a gallery under one model, ordered by face id, in batches of at most 10,000.

        Embeddings are most of what is read. Without them a batch has embeddings of shape (N,0).
        """

    def find_other_model(self, gallery_id: str, model_id: str) -> str | None:
        """Another model id that the gallery has faces of; None where it has none."""

    def read_former_faces(self, gallery_id: str, model_id: str) -> Iterator[FaceBatch]:
        """The gallery's faces under all other models, of which a run or a user has said something; no embeddings."""

    def count_unexamined(self, gallery_id: str, model_id: str) -> int:
        """How many of the gallery's photos were not examined under this model last."""

    def read_embeddings(self, face_ids: Sequence[str]) -> NDArray[np.float32]:
        """N face ids → (N,D) float32 unit length. Raises RetryLater where a face has been removed since it was read."""

    def read_images(self, gallery_id: str) -> Iterator[ImageRecord]:
        """All photos of a gallery, ordered by image id."""


class GalleryChanges(Protocol):
    """Which galleries have changed, and the grouping messages that they owe (see app/core/coalescing.py).

    Times are the database server's, so that workers' clocks don't matter. Raises RetryLater while the database does not
    answer.
    """

    def mark_dirty(self, gallery_id: str, delay_s: int, changes: int = 1) -> MessageClaim | None:
        """Count changes. From then on a grouping message is owed, unless one was sent that is received later.

        A claim where the caller must send the message now, delayed by `delay_s`. None where nothing is owed, or where
        another caller claimed it less than CLAIM_S ago.
        """

    def claim_message(self, gallery_id: str, delay_s: int) -> MessageClaim | None:
        """As `mark_dirty`, but without a change: for a gallery that could not be grouped yet."""

    def claim_overdue(self) -> MessageClaim | None:
        """Claim a message of any gallery that is owed and that nobody sends; None where there is none.

        It is also owed, once for each revision, where the last run is older than the gallery's revision CHECK_AFTER_S
        after its message should have come.
        """

    def note_sent(self, claim: MessageClaim, delay_s: int) -> None:
        """The claimed message was sent, delayed by `delay_s`: it covers the changes until it is received.

        Nothing happens where the claim is another caller's by now.
        """

    def give_claim_back(self, claim: MessageClaim) -> None:
        """The claimed message was not sent: the next caller may claim it at once."""

    def set_quality(self, gallery_id: str, bars: QualityBars | None) -> None:
        """Set this gallery's quality bars from its next run on, None for the pack's. This counts as a change."""

    def set_threshold(self, gallery_id: str, threshold: float | None) -> None:
        """The same for this gallery's similarity threshold."""

    def set_gallery(self, gallery_id: str, request_id: str, change: GalleryChange) -> bool:
        """Set what the change has, once by the request's id. Bars and threshold count as a change of the gallery's
        people. Returns False where the request was done before."""

    def find_gallery(self, gallery_id: str) -> GalleryState | None:
        """None for a gallery that was never marked."""


class GalleryStore(GalleryChanges, Protocol):
    """Changes and leases of galleries, and their runs. Raises RetryLater while the database does not answer."""

    def take_lease(self, gallery_id: str, owner: str, ttl_s: float) -> GalleryLease | None:
        """The exclusive lease of a gallery, or None while another owner holds it.

        The owner renews the lease by the same call. It keeps the fence, unless another owner had the lease in between.
        """

    def lift_fence(self, lease: GalleryLease, above: int) -> GalleryLease:
        """The same lease with a fence higher than `above`: for a gallery whose documents are older than its files.

        Raises StaleFence once the lease was given back or taken by another owner.
        """

    def release(self, lease: GalleryLease) -> None:
        """Give the lease back and remove its run's progress; nothing happens where another owner has the lease now."""

    def report_progress(self, lease: GalleryLease, progress: RunProgress) -> None:
        """Show how far the lease's run is; nothing happens where a newer run has reported its own progress."""

    def record_run(self, lease: GalleryLease, model_id: str, summary: Mapping[str, object]) -> None:
        """Note that all changes up to the lease's revision are grouped under this model.

        Raises StaleFence once the lease was given back or taken by another owner. A lease whose time is over, but which
        no other owner has taken since, is still valid.
        """


class PeopleStore(Protocol):
    """People, and the person of each face. Raises RetryLater while the database does not answer.

    Readers see nothing of what a run writes until it is published, and then all of it at once. Each method raises
    StaleFence as soon as the lease was given back or taken by another owner, and writes nothing from then on.
    """

    def read_people(self, lease: GalleryLease) -> list[PersonRecord]:
        """All people that the gallery has ever had, absent and merged ones too.

        What another run wrote and did not publish is discarded first, so that the faces are read as published.
        """

    def write_people(
        self, lease: GalleryLease, people: Sequence[PersonRecord], moves: Iterable[FaceMove]
    ) -> dict[str, int]:
        """Write changed people and faces, not yet visible. What was written before and not published is discarded.

        Names are not written, and faces that were removed meanwhile are not restored. Returns the numbers that people
        got who had none: the next ones of the gallery, in the order of `people`. No number is given twice.
        """

    def list_changed(self, gallery_id: str, since: int) -> list[str]:
        """Ids of people whose record has changed after this published version, as runs and users' edits write it."""

    def publish_people(self, lease: GalleryLease) -> None:
        """Make all that was written visible to readers in one step. Raises RetryLater where nothing was written."""

    def move_chosen_covers(self, lease: GalleryLease, covers: Mapping[str, str]) -> None:
        """Person → the face that a user's chosen cover is now, under another model. It is visible at once."""

    def remove_former_faces(self, lease: GalleryLease, model_id: str, image_ids: Iterable[str]) -> list[str]:
        """Remove the faces under all other models of those of these photos that were examined under this one last.

        Returns the keys of their crops, which nothing names any more.
        """


class PeopleReader(Protocol):
    """People and faces of one gallery, as an edit reads them: as published, within the edit's transaction."""

    def find_people(self, person_ids: Collection[str]) -> dict[str, PersonRecord]:
        """Id → record, of those of these very ids that there are, merged ones too."""

    def find_merged_into(self, person_id: str) -> list[PersonRecord]:
        """The people that were merged into this one."""

    def find_faces(self, face_ids: Collection[str]) -> list[FaceState]:
        """Those of these faces that the gallery has."""

    def find_faces_of(
        self, person_ids: Collection[str], rejected_for: Collection[str] | None = None
    ) -> list[FaceState]:
        """The faces of these people; with `rejected_for`, only those that were rejected for one of these."""

    def find_edit(self, edit_id: str) -> Edit | None:
        """An edit of the gallery's journal."""


class PeopleEditor(Protocol):
    """Users' corrections of people. Raises StaleFence as PeopleStore does, and RetryLater while the database does not
    answer."""

    def apply_edit(self, lease: GalleryLease, edit: Edit, decide: Callable[[PeopleReader], EditOutcome]) -> Edit:
        """Make a queued edit, once: what `decide` says is written, or nothing of it.

        All of it is visible at once, together with the edit's new state in the journal, and counts as a change of the
        gallery. Where `decide` raises RejectMessage, the journal gets the edit as refused, with the reason. `decide`
        may be called several times. Returns the edit as the journal has it now.
        """


class EditJournal(Protocol):
    """What users asked for, and what became of it. Raises RetryLater while the database does not answer."""

    def add(self, edit: Edit) -> Edit:
        """Write the edit down, in order. Returns it as the journal has it: the one that is there already where the same
        edit comes again. Raises RejectMessage where there is another edit of this id."""

    def find(self, gallery_id: str, edit_id: str) -> Edit | None: ...

    def list_unsettled(self, gallery_id: str) -> list[Edit]:
        """Edits that are queued, or that nobody was told of yet, in their order."""

    def settle(self, edit: Edit) -> None:
        """The edit is applied or refused, and everybody was told."""


class OwnerMetadata(Protocol):
    """The owner's own image documents. This system writes only their field `face_index`.

    Raises RetryLater while the database does not answer.
    """

    def set_face_indexes(self, images: Sequence[ImageRecord]) -> None:
        """Write the results of photos; of two results of one photo, the later one counts."""

    def clear_face_index(self, photo: PhotoRef) -> None:
        """Remove the result of a photo that is gone."""

    def clear_gallery(self, gallery_id: str) -> int:
        """Remove the results of all photos of a gallery. Returns of how many."""


class ForgottenPhotos(Protocol):
    """What detection must not bring back. Raises RetryLater while the database does not answer."""

    def find_all(self, photos: Sequence[PhotoRef]) -> list[Forgotten]:
        """What is forgotten of each photo, whether it is stored or not."""

    def find_gallery(self, gallery_id: str) -> datetime | None:
        """Until when a gallery's photos are forgotten; None where it never was forgotten."""

    def read_photo_faces(self, photo: PhotoRef) -> list[FaceRecord]:
        """The faces of a photo under all models."""

    def note_erasure(self, gallery_id: str) -> None:
        """A photo was erased: what workers keep of the gallery on their disks is out of date."""


class NoForgottenPhotos:
    """Where nothing is ever forgotten."""

    def find_all(self, photos: Sequence[PhotoRef]) -> list[Forgotten]:
        return [NOTHING_FORGOTTEN] * len(photos)

    def find_gallery(self, gallery_id: str) -> datetime | None:
        return None

    def read_photo_faces(self, photo: PhotoRef) -> list[FaceRecord]:
        return []

    def note_erasure(self, gallery_id: str) -> None: ...


class Tombstones(ForgottenPhotos, Protocol):
    """Requests to forget, how far they are, and what of MongoDB they erase.

    Methods with a lease raise StaleFence as PeopleStore does. Each may be repeated after a kill. Raises RetryLater
    while the database does not answer.
    """

    def ask(self, order: Forget) -> Tombstone | None:
        """Note the request. None where it is done, or where a later one has taken its place.

        Raises RejectMessage where there is nothing of the kind, or where the request's id was another one's.
        """

    def list_pending(self, gallery_id: str) -> list[Tombstone]:
        """Requests that are not erased yet, in their order."""

    def find_overdue(self, older_than_s: float) -> list[Tombstone]:
        """Requests of any gallery that should be erased, or looked at again, since so long."""

    def finish(self, tombstone: Tombstone) -> Tombstone:
        """Note that it is erased; or, where that is known, that a second look was taken."""

    def count(self, tombstone: Tombstone) -> Tombstone:
        """Note how much is about to be removed, unless that was noted before."""

    def read_gallery(self, gallery_id: str) -> Tombstone | None:
        """The tombstone of a gallery, if it is forgotten."""

    def has_photos(self, gallery_id: str, forgotten: Forgotten) -> tuple[bool, bool]:
        """Whether a gallery has photos that are forgotten, and whether it has others."""

    def make_copy(self, tombstone: Tombstone) -> bytes:
        """The tombstone with its places, for where a restored database can't lose it."""

    def read_copy(self, data: bytes) -> bool:
        """Bring a copy back. Returns whether the database had lost it: then it is not erased."""

    def list_requests(self, gallery_id: str) -> set[tuple[str, str]]:
        """Keys of tombstones, each with the ids of its requests."""

    def bury(self, photo: PhotoRef, tombstone: Tombstone) -> None:
        """Forget another file of a photo as well."""

    def exclude_faces(self, lease: GalleryLease, tombstone: Tombstone) -> Tombstone:
        """Store the places of all faces of a person, and the ids of the person, which the result has."""

    def list_places(self, tombstone: Tombstone) -> list[PhotoRef]:
        """The photos with a face of the person."""

    def drop_faces(
        self,
        lease: GalleryLease,
        before: ImageRecord,
        edition: int,
        after: ImageRecord,
        gone: Sequence[str],
        moved: Mapping[str, tuple[str, tuple[int, int]]],
    ) -> bool:
        """Remove faces of a photo, and store its record and where the crops of its other faces are now.

        False where the photo was overtaken: nothing is written.
        """

    def erase_people(self, lease: GalleryLease, tombstone: Tombstone) -> None:
        """Remove a person under all ids, and what is said of it elsewhere. Its faces are gone already."""

    def list_old_pictures(self, gallery_id: str) -> list[str]:
        """Keys of crops and previews that a gallery's photos name."""

    def erase_gallery(self, lease: GalleryLease, tombstone: Tombstone) -> list[ImageRecord]:
        """Remove all documents of a gallery but those of photos that were uploaded since, which are returned."""

    def find_expired(self, default_days: int | None) -> list[tuple[str, datetime]]:
        """Galleries whose retention is over, each with the time of its newest photo."""


class EventSink(Protocol):
    """Where a service puts what applications are to be told."""

    def add(self, events: Sequence[Event]) -> None:
        """Keep the events until they are sent. One that waits already, by its id, is kept once.

        Call it after what they speak of is published, and before its message is done. Raises RetryLater while the
        database does not answer.
        """


class EventOutbox(EventSink, Protocol):
    """Events that wait to be sent, each at least once. Raises RetryLater while the database does not answer."""

    def take(self) -> Event | None:
        """An event to send now, for EVENT_CLAIM_S nobody else's; None where none is due.

        Photo events of one gallery may come as one; tried again, it is the same one. The event that waited longest
        comes first.
        """

    def note_sent(self, events: Sequence[Event]) -> None:
        """The events arrived, and are waited for no more."""

    def give_back(self, events: Sequence[Event], for_s: int) -> None:
        """The events did not arrive: they are due again in so many seconds."""

    def count_waiting(self) -> int:
        """How many events were added and not sent yet, each photo's counted."""


class EventTarget(Protocol):
    """Where events go."""

    def send(self, events: Sequence[Mapping[str, object]]) -> list[int]:
        """Send ten CloudEvents at most. Returns the places in `events` of those that were refused.

        Raises RetryLater while the target does not answer, or where it can't be used.
        """
