"""In-memory stand-ins for what the database keeps. The suites in tests/contract hold them to what MongoDB does."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from app.adapters.mongo import split_into_batches
from app.adapters.mongo_galleries import SKEW_S
from app.config import SQS_MAX_DELAY_S
from app.core.errors import RejectMessage, RetryLater, StaleFence
from app.core.journal import Edit, EditOutcome, EditState
from app.core.naming import find_main_picture, find_orphaned_raws, settle_names
from app.core.ports import (
    CHECK_AFTER_S,
    CLAIM_S,
    GalleryChange,
    GalleryLease,
    GalleryState,
    MessageClaim,
    PeopleReader,
    RunProgress,
)
from app.core.records import (
    Changes,
    FaceBatch,
    FaceMove,
    FaceRecord,
    FaceState,
    ImageRecord,
    ImageStatus,
    PersonRecord,
    PhotoRef,
    PhotoResult,
    get_rank,
    make_face_id,
    make_face_index,
    make_quality_columns,
)
from app.core.roles import QualityBars
from app.core.same_faces import PlacedFaces, find_same_faces
from tests.fakes import Clock, Outages, RealClock

READ_BATCH = 10_000
NEVER = float("inf")


class FakeFaceStore(Outages):
    """`person_of` maps face ids to people; FakePeopleStore writes it, and what users said: `confirmed`, `rejected`."""

    def __init__(self, journal: list[str] | None = None) -> None:
        super().__init__()
        self.images: dict[str, ImageRecord] = {}
        self.faces: dict[str, FaceRecord] = {}
        self.person_of: dict[str, str] = {}
        self.confirmed: set[str] = set()
        self.rejected: dict[str, set[str]] = {}
        self.journal = journal if journal is not None else []
        self._etags: dict[str, str | None] = {}
        self._editions: Counter[tuple[str, str, str]] = Counter()
        self._before: list[ImageRecord] = []
        self._lock = threading.Lock()

    def find_image(self, photo: PhotoRef) -> tuple[ImageRecord | None, int]:
        self._pass("find_image")
        return self._find(photo), self._editions[self._key(photo)]

    def find_images(self, photos: Sequence[PhotoRef]) -> list[tuple[ImageRecord | None, int]]:
        return [self.find_image(photo) for photo in photos]

    def find_companion(self, photo: PhotoRef) -> ImageRecord | None:
        self._pass("find_companion")
        return find_main_picture(self._list_members(photo))

    def save_photos(self, results: Sequence[PhotoResult]) -> Changes:
        self._pass("save_photos")
        changes = [self._save(result) for result in sorted(results, key=lambda one: one.image.photo.plain_id)]
        return Changes(
            [image for change in changes for image in change.images],
            sorted({key for change in changes for key in change.pictures}),
            [photo for change in changes for photo in change.to_index],
            [result for change in changes for result in change.overtaken],
        )

    def remove_photo(self, photo: PhotoRef, edition: int) -> Changes | None:
        self._pass("remove_photo")
        with self._lock:
            if self._editions[self._key(photo)] != edition:
                return None
            self._editions[self._key(photo)] += 1
            stored = self._find(photo)
            pictures = self._drop(stored) if stored else set()
            members = self._list_members(photo)
            settled, others = self._settle(members, photo)
            self.journal.append(f"delete {photo.document_id}")
            return Changes(settled, sorted(pictures | others), find_orphaned_raws(settled))

    def _save(self, result: PhotoResult) -> Changes:
        image, photo = result.image, result.image.photo
        with self._lock:
            if self._editions[self._key(photo)] != result.edition:
                return Changes(overtaken=[result])
            self._editions[self._key(photo)] += 1
            stored = self._find(photo)
            if stored:
                del self.images[stored.photo.document_id]
            settled, pictures = self._settle([*self._list_members(photo), image], photo)
            now = settled[-1]
            same = stored is not None and image.content is not None and stored.content == image.content
            said = self._find_said(stored, result) if stored and not same else {}
            if stored:
                pictures |= self._keep_faces(stored, now, result, same_content=same)
            if now.status is image.status:
                for row, face in enumerate(result.faces):
                    face_id = make_face_id(now.photo, face.model_id, get_rank(face.face_id))
                    self.faces[face_id] = replace(face, face_id=face_id, image_id=now.photo.image_id)
                    self._etags[face_id] = image.etag
                    if row in said:
                        self._put_words(face_id, *said[row])
            else:
                pictures |= result.pictures
            self.images[now.photo.document_id] = now
            self.journal.append(f"save {now.photo.document_id}")
            return Changes(
                [one for one in settled if one is now or one not in self._before],
                sorted(pictures),
                find_orphaned_raws(settled),
            )

    def _settle(self, members: Sequence[ImageRecord], photo: PhotoRef) -> tuple[list[ImageRecord], set[str]]:
        """The members with the ids that they have now, and the pictures that they don't have any more."""
        stored = [one for one in members if self.images.get(one.photo.document_id) == one]
        self._before = stored
        taken = {one.photo.image_id for one in self.images.values() if one.photo.gallery_id == photo.gallery_id}
        settled = settle_names(members, photo.plain_id, taken - {one.photo.image_id for one in stored})
        pictures: set[str] = set()
        moves = [(old, now) for old, now in zip(members, settled, strict=True) if old in stored and now != old]
        for old, _ in moves:
            del self.images[old.photo.document_id]
        for old, now in moves:
            pictures |= self._drop_faces(old) if now.status is not old.status else set()
        moved = [(now, self._take_faces(old)) for old, now in moves]
        for now, faces in moved:
            self.images[now.photo.document_id] = now
            self._put_faces(now, faces)
        return settled, pictures

    def _keep_faces(
        self, stored: ImageRecord, now: ImageRecord, result: PhotoResult, *, same_content: bool
    ) -> set[str]:
        """What is left of a photo's former faces; returns the pictures that it doesn't have any more."""
        pictures = {stored.preview_key} - {now.preview_key, None}
        taken = self._take_faces(stored)
        left = []
        crop_keys = {face.crop_key for face in result.faces}
        ranks = {get_rank(face.face_id) for face in result.faces}
        for face, etag, *words in taken:
            if same_content and (face.model_id != now.model_id or get_rank(face.face_id) in ranks):
                left.append((face, now.etag, *words))
            elif (not same_content and etag == now.etag and face.model_id != now.model_id) or (
                etag == now.etag and get_rank(face.face_id) in ranks
            ):
                left.append((face, etag, *words))
        kept = crop_keys | {face.crop_key for face, *_ in left if face.model_id != now.model_id and same_content}
        self._put_faces(now, left)
        return {key for key in pictures | {face.crop_key for face, *_ in taken} if key} - kept

    def _take_faces(self, image: ImageRecord) -> list[tuple[FaceRecord, str | None, str | None, bool, set[str]]]:
        mine = (image.photo.gallery_id, image.photo.image_id)
        faces = [face for face in self.faces.values() if (face.gallery_id, face.image_id) == mine]
        taken = []
        for face in faces:
            key = face.face_id
            words = (self.person_of.get(key), key in self.confirmed, self.rejected.get(key, set()))
            taken.append((face, self._etags[key], *words))
            del self.faces[key]
            self._forget(key)
        return taken

    def _put_faces(
        self, image: ImageRecord, faces: Iterable[tuple[FaceRecord, str | None, str | None, bool, set[str]]]
    ) -> None:
        for face, etag, person, confirmed, rejected in faces:
            key = make_face_id(image.photo, face.model_id, get_rank(face.face_id))
            self.faces[key] = replace(face, face_id=key, image_id=image.photo.image_id)
            self._etags[key] = etag
            self._put_words(key, person, confirmed, rejected)

    def _put_words(self, key: str, person: str | None, confirmed: bool, rejected: set[str]) -> None:
        if person:
            self.person_of[key] = person
        if confirmed:
            self.confirmed.add(key)
        if rejected:
            self.rejected[key] = rejected

    def _find_said(self, stored: ImageRecord, result: PhotoResult) -> dict[int, tuple[str | None, bool, set[str]]]:
        """Row of a new face → what was said of the same face in the photo's former content."""
        image, mine = result.image, (stored.photo.gallery_id, stored.photo.image_id, result.image.model_id)
        former = [face for face in self.faces.values() if (face.gallery_id, face.image_id, face.model_id) == mine]
        before, now = (
            PlacedFaces((of.width_px, of.height_px), [one.box for one in some], [one.embedding for one in some])
            for of, some in ((stored, former), (image, result.faces))
        )
        pairs = [] if result.same_from is None else find_same_faces(before, now, result.same_from)
        ids = {row: former[old].face_id for old, row in pairs}
        return {
            row: (self.person_of.get(key), key in self.confirmed, set(self.rejected.get(key, ())))
            for row, key in ids.items()
        }

    def _drop(self, image: ImageRecord) -> set[str]:
        del self.images[image.photo.document_id]
        return self._drop_faces(image)

    def _drop_faces(self, image: ImageRecord) -> set[str]:
        crops = {face.crop_key for face, *_ in self._take_faces(image) if face.crop_key}
        return crops | {key for key in [image.preview_key] if key}

    def _find(self, photo: PhotoRef) -> ImageRecord | None:
        same = (photo.gallery_id, photo.plain_id, photo.slot)
        members = (one for one in self.images.values())
        return next((o for o in members if (o.photo.gallery_id, o.photo.plain_id, o.photo.slot) == same), None)

    def _list_members(self, photo: PhotoRef) -> list[ImageRecord]:
        mine = [one for one in self.images.values() if one.photo.gallery_id == photo.gallery_id]
        return [one for one in mine if photo.plain_id in (one.photo.plain_id, one.photo.image_id)]

    def _key(self, photo: PhotoRef) -> tuple[str, str, str]:
        return photo.gallery_id, photo.plain_id, photo.slot

    def _forget(self, face_id: str) -> None:
        self.person_of.pop(face_id, None)
        self.confirmed.discard(face_id)
        self.rejected.pop(face_id, None)

    def find_etag(self, face_id: str) -> str | None:
        return self._etags[face_id]

    def find_twins(self, contents: Sequence[str], model_id: str) -> dict[str, PhotoResult]:
        self._pass("find_twins")
        found = {content: self._find_twin(content, model_id) for content in contents}
        return {content: twin for content, twin in found.items() if twin}

    def _find_twin(self, content: str, model_id: str) -> PhotoResult | None:
        for image in self.images.values():
            if (image.content, image.model_id, image.excluded) == (content, model_id, 0) and image.status in (
                ImageStatus.INDEXED,
                ImageStatus.NO_FACES,
            ):
                mine = (image.photo.gallery_id, image.photo.image_id, model_id)
                faces = [f for f in self.faces.values() if (f.gallery_id, f.image_id, f.model_id) == mine]
                faces.sort(key=lambda face: get_rank(face.face_id))
                return PhotoResult(image, faces) if len(faces) == image.face_count else None
        return None

    def read_faces(self, gallery_id: str, model_id: str, *, with_embeddings: bool = True) -> Iterator[FaceBatch]:
        self._pass("read_faces")
        wanted = [face for face in self.faces.values() if (face.gallery_id, face.model_id) == (gallery_id, model_id)]
        wanted.sort(key=lambda face: face.face_id)
        for start in range(0, len(wanted), READ_BATCH):
            yield self._batch(wanted[start : start + READ_BATCH], with_embeddings=with_embeddings)

    def find_other_model(self, gallery_id: str, model_id: str) -> str | None:
        self._pass("find_other_model")
        models = {face.model_id for face in self.faces.values() if face.gallery_id == gallery_id}
        return min(models - {model_id}, default=None)

    def read_former_faces(self, gallery_id: str, model_id: str) -> Iterator[FaceBatch]:
        self._pass("read_former_faces")
        others = [face for face in self.faces.values() if face.gallery_id == gallery_id and face.model_id != model_id]
        said = [face for face in others if face.face_id in self.person_of or face.face_id in self.rejected]
        if said:
            yield self._batch(sorted(said, key=lambda face: face.face_id), with_embeddings=False)

    def count_unexamined(self, gallery_id: str, model_id: str) -> int:
        self._pass("count_unexamined")
        mine = [image for image in self.images.values() if image.photo.gallery_id == gallery_id]
        return sum(image.model_id != model_id for image in mine)

    def remove_former(self, gallery_id: str, model_id: str, image_ids: Iterable[str]) -> list[str]:
        wanted, crops = set(image_ids), set()
        for face in list(self.faces.values()):
            image = self.images.get(f"{gallery_id}/{face.image_id}")
            is_former = face.gallery_id == gallery_id and face.image_id in wanted and face.model_id != model_id
            if is_former and image is not None and image.model_id == model_id:
                crops.add(face.crop_key)
                del self.faces[face.face_id]
                self._forget(face.face_id)
        return sorted(crops)

    def read_embeddings(self, face_ids: Sequence[str]) -> NDArray[np.float32]:
        self._pass("read_embeddings")
        missing = [face_id for face_id in face_ids if face_id not in self.faces]
        if missing:
            raise RetryLater(f"{missing[0]} is gone.")
        vectors = [self.faces[face_id].embedding for face_id in face_ids]
        return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)

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
        said = sorted(self.confirmed), sorted((face, sorted(people)) for face, people in self.rejected.items())
        return [repr(part).encode() for part in (*images, *faces, sorted(self.person_of.items()), *said)]

    def _batch(self, faces: Sequence[FaceRecord], *, with_embeddings: bool) -> FaceBatch:
        return FaceBatch(
            face_ids=[face.face_id for face in faces],
            image_ids=[face.image_id for face in faces],
            boxes=np.stack([face.box for face in faces]),
            det_scores=np.array([face.det_score for face in faces], np.float32),
            quality=make_quality_columns([face.quality for face in faces]),
            embeddings=np.stack([face.embedding[: None if with_embeddings else 0] for face in faces]),
            crop_keys=[face.crop_key for face in faces],
            person_ids=[self.person_of.get(face.face_id) for face in faces],
            digests=[face.digest for face in faces],
            etags=[self._etags[face.face_id] for face in faces],
            crop_ranges=[face.crop_range for face in faces],
            confirmed=frozenset(face.face_id for face in faces if face.face_id in self.confirmed),
            rejected={face.face_id: frozenset(told) for face in faces if (told := self.rejected.get(face.face_id))},
        )


def _fields(face: FaceRecord) -> tuple[Any, ...]:
    return astuple(replace(face, quality=sorted(face.quality.items())))


@dataclass
class _Gallery:
    revision: int = 0
    due_at: float = float("-inf")
    is_owed: bool = False
    check_at: float = NEVER
    claimed_by: str = ""
    rescued: int = -1
    fence: int = 0
    owner: str | None = None
    until: float = float("-inf")
    grouped: tuple[int, str] | None = None
    grouped_with: int | None = None
    summary: Mapping[str, object] = field(default_factory=dict)
    quality: QualityBars | None = None
    threshold: float | None = None
    display_name: str | None = None
    retention_days: int | None = None
    requests: list[str] = field(default_factory=list)
    progress: tuple[int, RunProgress] | None = None
    published: int = 0


class FakeGalleryStore(Outages):
    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.galleries: dict[str, _Gallery] = {}
        self._clock = clock or RealClock()
        self._lock = threading.Lock()

    def mark_dirty(self, gallery_id: str, delay_s: int, changes: int = 1) -> MessageClaim | None:
        self._pass("mark_dirty")
        with self._lock:
            self.galleries.setdefault(gallery_id, _Gallery()).revision += changes
            return self._owe(gallery_id, delay_s)

    def claim_message(self, gallery_id: str, delay_s: int) -> MessageClaim | None:
        self._pass("claim_message")
        with self._lock:
            self.galleries.setdefault(gallery_id, _Gallery())
            return self._owe(gallery_id, delay_s)

    def _owe(self, gallery_id: str, delay_s: int) -> MessageClaim | None:
        gallery, now = self.galleries[gallery_id], self._clock.now()
        was_owed = gallery.is_owed
        gallery.is_owed = was_owed or self._is_over(gallery.due_at, delay_s)
        if gallery.is_owed and (not was_owed or self._is_over(gallery.check_at, CLAIM_S)):
            return self._claim(gallery_id)
        gallery.check_at = min(gallery.check_at, now + delay_s + CHECK_AFTER_S)
        return None

    def _is_over(self, time: float, longest_s: float) -> bool:
        return not self._clock.now() < time <= self._clock.now() + longest_s + SKEW_S

    def _claim(self, gallery_id: str) -> MessageClaim:
        gallery, now = self.galleries[gallery_id], self._clock.now()
        gallery.claimed_by, gallery.check_at = uuid4().hex, now + CLAIM_S
        return MessageClaim(gallery_id, gallery.claimed_by, gallery.revision, datetime.fromtimestamp(now, UTC))

    def claim_overdue(self) -> MessageClaim | None:
        self._pass("claim_overdue")
        with self._lock:
            for gallery_id, gallery in self.galleries.items():
                if gallery.check_at == NEVER or not self._is_over(gallery.check_at, SQS_MAX_DELAY_S + CHECK_AFTER_S):
                    continue
                grouped = gallery.grouped[0] if gallery.grouped else 0
                if not gallery.is_owed and gallery.revision > grouped and gallery.rescued != gallery.revision:
                    gallery.is_owed, gallery.rescued = True, gallery.revision
                if gallery.is_owed:
                    return self._claim(gallery_id)
                gallery.check_at = NEVER
        return None

    def note_sent(self, claim: MessageClaim, delay_s: int) -> None:
        self._pass("note_sent")
        with self._lock:
            gallery, now = self.galleries[claim.gallery_id], self._clock.now()
            if gallery.claimed_by != claim.token:
                return
            gallery.due_at = claim.at.timestamp() + delay_s
            gallery.is_owed = gallery.revision != claim.revision and gallery.due_at <= now
            gallery.check_at = now if gallery.is_owed else gallery.due_at + CHECK_AFTER_S

    def give_claim_back(self, claim: MessageClaim) -> None:
        self._pass("give_claim_back")
        with self._lock:
            gallery = self.galleries[claim.gallery_id]
            if gallery.claimed_by == claim.token:
                gallery.check_at = self._clock.now()

    def find_gallery(self, gallery_id: str) -> GalleryState | None:
        self._pass("find_gallery")
        gallery = self.galleries.get(gallery_id)
        if gallery is None:
            return None
        grouped = gallery.grouped
        run = {**gallery.summary, "revision": grouped[0], "model": grouped[1]} if grouped else None
        return GalleryState(
            gallery.revision,
            run,
            gallery.progress[1] if gallery.progress else None,
            gallery.published,
            gallery.display_name,
            gallery.retention_days,
            gallery.quality,
            gallery.threshold,
        )

    def take_lease(self, gallery_id: str, owner: str, ttl_s: float) -> GalleryLease | None:
        self._pass("take_lease")
        with self._lock:
            gallery = self.galleries.setdefault(gallery_id, _Gallery())
            if gallery.owner != owner:
                if gallery.owner is not None and gallery.until > self._clock.now():
                    return None
                gallery.fence += 1
            gallery.owner, gallery.until = owner, self._clock.now() + ttl_s
            output = gallery.summary.get("output") if gallery.grouped_with == gallery.fence - 1 else None
            known = (gallery.revision, gallery.grouped, gallery.quality, gallery.threshold, output, gallery.summary)
            return GalleryLease(gallery_id, owner, gallery.fence, *known)

    def set_quality(self, gallery_id: str, bars: QualityBars | None) -> None:
        self._pass("set_quality")
        with self._lock:
            gallery = self.galleries.setdefault(gallery_id, _Gallery())
            gallery.revision += 1
            gallery.check_at = self._clock.now()
            gallery.quality = bars

    def set_threshold(self, gallery_id: str, threshold: float | None) -> None:
        self._pass("set_threshold")
        with self._lock:
            gallery = self.galleries.setdefault(gallery_id, _Gallery())
            gallery.revision += 1
            gallery.check_at = self._clock.now()
            gallery.threshold = threshold

    def set_gallery(self, gallery_id: str, request_id: str, change: GalleryChange) -> bool:
        self._pass("set_gallery")
        with self._lock:
            gallery = self.galleries.setdefault(gallery_id, _Gallery())
            if request_id in gallery.requests:
                return False
            gallery.requests.append(request_id)
            for name, value in change.values.items():
                setattr(gallery, name, value)
            if change.regroups:
                gallery.revision += 1
                gallery.check_at = self._clock.now()
            return True

    def now(self) -> float:
        return self._clock.now()

    def lift_fence(self, lease: GalleryLease, above: int) -> GalleryLease:
        self._pass("lift_fence")
        with self.run_fenced(lease) as gallery:
            gallery.fence = above + 1
            return replace(lease, fence=gallery.fence)

    def release(self, lease: GalleryLease) -> None:
        self._pass("release")
        gallery = self.galleries[lease.gallery_id]
        if gallery.owner == lease.owner:
            gallery.owner = None
        if gallery.progress and gallery.progress[0] <= lease.fence:
            gallery.progress = None

    def report_progress(self, lease: GalleryLease, progress: RunProgress) -> None:
        self._pass("report_progress")
        with self._lock:
            gallery = self.galleries[lease.gallery_id]
            if gallery.progress is None or gallery.progress[0] <= lease.fence:
                gallery.progress = (lease.fence, progress)

    def record_run(self, lease: GalleryLease, model_id: str, summary: Mapping[str, object]) -> None:
        self._pass("record_run")
        with self.run_fenced(lease) as gallery:
            gallery.grouped, gallery.grouped_with, gallery.summary = (lease.revision, model_id), lease.fence, summary

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nobody writes within."""
        with self._lock:
            yield

    @contextmanager
    def run_fenced(self, lease: GalleryLease) -> Iterator[_Gallery]:
        """What MongoDB does with a transaction: nobody takes the lease over within."""
        with self._lock:
            gallery = self.galleries[lease.gallery_id]
            if (gallery.owner, gallery.fence) != (lease.owner, lease.fence):
                raise StaleFence(f"{lease.gallery_id} is {gallery.owner}'s with fence {gallery.fence}")
            yield gallery


@dataclass
class _Draft:
    """What was written and is not published."""

    people: dict[tuple[str, str], PersonRecord] = field(default_factory=dict)
    moves: list[FaceMove] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)


class FakePeopleStore(Outages):
    """`names` is what customers wrote, by gallery and person; `moves` are those of each run that was published.

    Its `apply_edit` is that of the port PeopleEditor, and `journal` what it writes the edits into.
    """

    def __init__(self, faces: FakeFaceStore, galleries: FakeGalleryStore) -> None:
        super().__init__()
        self.journal = FakeEditJournal()
        self.people: dict[tuple[str, str], PersonRecord] = {}
        self.names: dict[tuple[str, str], str] = {}
        self.moves: list[list[FaceMove]] = []
        self._drafts: dict[str, _Draft] = {}
        self._numbered: dict[str, int] = {}
        self._published = 0
        self._versions: dict[tuple[str, str], int] = {}
        self._faces = faces
        self._galleries = galleries

    def read_people(self, lease: GalleryLease) -> list[PersonRecord]:
        self._pass("read_people")
        with self._galleries.run_fenced(lease):
            self._drafts.pop(lease.gallery_id, None)
        return self.published(lease.gallery_id)

    def write_people(
        self, lease: GalleryLease, people: Sequence[PersonRecord], moves: Iterable[FaceMove]
    ) -> dict[str, int]:
        self._pass("write_people")
        with self._galleries.run_fenced(lease):
            self._drafts[lease.gallery_id] = draft = _Draft()
            draft.people = {(lease.gallery_id, person.person_id): person for person in people}
            last = self._numbered.get(lease.gallery_id, 0)
            numbered = {key for key, person in self.people.items() if person.number is not None}
            unnumbered = [person.person_id for key, person in draft.people.items() if key not in numbered]
            draft.numbers = {person_id: number for number, person_id in enumerate(unnumbered, last + 1)}
            self._numbered[lease.gallery_id] = last + len(unnumbered)
        for some in split_into_batches(moves):
            with self._galleries.run_fenced(lease):
                draft.moves += some
        return draft.numbers

    def list_changed(self, gallery_id: str, since: int) -> list[str]:
        self._pass("list_changed")
        return sorted(key[1] for key, version in self._versions.items() if key[0] == gallery_id and version > since)

    def publish_people(self, lease: GalleryLease) -> None:
        self._pass("publish_people")
        with self._galleries.run_fenced(lease) as gallery:
            draft = self._drafts.pop(lease.gallery_id, None)
            if draft is None:
                raise RetryLater(f"{lease.gallery_id} has no people to publish")
            self._published += 1
            gallery.published += 1
            for key, person in draft.people.items():
                self._versions[key] = gallery.published
                before = self.people.get(key)
                said = before or replace(person, since=self._published, hidden=False, chosen_cover=None, kept_apart=())
                self.people[key] = replace(
                    person,
                    since=said.since,
                    number=draft.numbers.get(person.person_id, said.number),
                    hidden=said.hidden,
                    chosen_cover=said.chosen_cover,
                    kept_apart=said.kept_apart,
                )
            for move in draft.moves:
                self._move(move)
        self.moves.append(draft.moves)

    def move_chosen_covers(self, lease: GalleryLease, covers: Mapping[str, str]) -> None:
        self._pass("move_chosen_covers")
        with self._galleries.run_fenced(lease):
            for person, face in covers.items():
                key = (lease.gallery_id, person)
                self.people[key] = replace(self.people[key], chosen_cover=face)

    def remove_former_faces(self, lease: GalleryLease, model_id: str, image_ids: Iterable[str]) -> list[str]:
        self._pass("remove_former_faces")
        with self._galleries.run_fenced(lease):
            return self._faces.remove_former(lease.gallery_id, model_id, image_ids)

    def _move(self, move: FaceMove) -> None:
        face = self._faces.faces.get(move.face_id)
        if face and move.digest and face.digest != move.digest:
            return
        if move.now is None:
            self._faces.person_of.pop(move.face_id, None)
            self._faces.confirmed.discard(move.face_id)
        elif move.face_id in self._faces.faces:
            self._faces.person_of[move.face_id] = move.now
            if move.confirmed:
                self._faces.confirmed.add(move.face_id)
        if move.rejected is not None and move.face_id in self._faces.faces:
            self._faces.rejected[move.face_id] = set(move.rejected)

    def published(self, gallery_id: str) -> list[PersonRecord]:
        """What readers get."""
        mine = sorted(key for key in self.people if key[0] == gallery_id)
        return [replace(self.people[key], name=self.names.get(key)) for key in mine]

    def apply_edit(self, lease: GalleryLease, edit: Edit, decide: Callable[[PeopleReader], EditOutcome]) -> Edit:
        self._pass("apply_edit")
        with self._galleries.run_fenced(lease) as gallery:
            self._drafts.pop(lease.gallery_id, None)
            stored = self.journal.edits.get((edit.gallery_id, edit.edit_id))
            if stored is None or stored.state is not EditState.QUEUED:
                return stored or edit
            try:
                outcome = decide(_FakePeopleReader(self, self._faces, lease.gallery_id))
            except RejectMessage as refused:
                ended = replace(stored, state=EditState.REFUSED, reason=str(refused))
            else:
                ended = replace(stored, state=EditState.APPLIED, changes=outcome.changes, notes=outcome.notes)
                self._write(lease.gallery_id, outcome)
                gallery.revision += 1
                gallery.published += 1
                gallery.check_at = self._galleries.now()
            self.journal.edits[edit.gallery_id, edit.edit_id] = ended
            return ended

    def _write(self, gallery_id: str, outcome: EditOutcome) -> None:
        self._published += 1
        for person_id, person in outcome.people.items():
            self.names.pop((gallery_id, person_id), None)
            if person is None:
                del self.people[gallery_id, person_id]
                continue
            self.people[gallery_id, person_id] = replace(person, name=None, since=person.since or self._published)
            if person.name is not None:
                self.names[gallery_id, person_id] = person.name
        for face in outcome.faces:
            self._faces.person_of.pop(face.face_id, None)
            self._faces.confirmed.discard(face.face_id)
            self._faces.rejected.pop(face.face_id, None)
            if face.person_id:
                self._faces.person_of[face.face_id] = face.person_id
            if face.assigned_by == "user":
                self._faces.confirmed.add(face.face_id)
            if face.rejected:
                self._faces.rejected[face.face_id] = set(face.rejected)
        for edit_id, by in outcome.undone.items():
            undone = self.journal.edits[gallery_id, edit_id]
            self.journal.edits[gallery_id, edit_id] = replace(undone, undone_by=by)


class _FakePeopleReader:
    def __init__(self, people: FakePeopleStore, faces: FakeFaceStore, gallery_id: str) -> None:
        self._people, self._faces, self._gallery_id = people, faces, gallery_id

    def find_people(self, person_ids: Collection[str]) -> dict[str, PersonRecord]:
        published = {person.person_id: person for person in self._people.published(self._gallery_id)}
        return {person_id: published[person_id] for person_id in person_ids if person_id in published}

    def find_merged_into(self, person_id: str) -> list[PersonRecord]:
        return [one for one in self._people.published(self._gallery_id) if one.merged_into == person_id]

    def find_faces(self, face_ids: Collection[str]) -> list[FaceState]:
        faces = (self._faces.faces.get(face_id) for face_id in face_ids)
        return [self._read(face) for face in faces if face and face.gallery_id == self._gallery_id]

    def find_faces_of(
        self, person_ids: Collection[str], rejected_for: Collection[str] | None = None
    ) -> list[FaceState]:
        faces = self.find_faces(sorted(id_ for id_, person in self._faces.person_of.items() if person in person_ids))
        return [one for one in faces if rejected_for is None or not one.rejected.isdisjoint(rejected_for)]

    def find_edit(self, edit_id: str) -> Edit | None:
        return self._people.journal.edits.get((self._gallery_id, edit_id))

    def _read(self, face: FaceRecord) -> FaceState:
        person_id = self._faces.person_of.get(face.face_id)
        by = "user" if face.face_id in self._faces.confirmed else "auto"
        return FaceState(
            face_id=face.face_id,
            image_id=face.image_id,
            digest=face.digest,
            etag=self._faces.find_etag(face.face_id),
            person_id=person_id,
            assigned_by=by if person_id else None,
            rejected=frozenset(self._faces.rejected.get(face.face_id, ())),
        )


class FakeEditJournal(Outages):
    """`edits` are by gallery and id."""

    def __init__(self) -> None:
        super().__init__()
        self.edits: dict[tuple[str, str], Edit] = {}
        self._untold: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, edit: Edit) -> Edit:
        self._pass("add")
        key = edit.gallery_id, edit.edit_id
        with self._lock:
            if key in self.edits:
                if not self.edits[key].is_same_request(edit):
                    raise RejectMessage(f"The gallery {edit.gallery_id} has another edit {edit.edit_id}.")
                return self.edits[key]
            number = 1 + max(
                (one.number for one in self.edits.values() if one.gallery_id == edit.gallery_id), default=0
            )
            self.edits[key] = replace(edit, number=number)
            self._untold.add(key)
            return self.edits[key]

    def find(self, gallery_id: str, edit_id: str) -> Edit | None:
        self._pass("find")
        return self.edits.get((gallery_id, edit_id))

    def list_unsettled(self, gallery_id: str) -> list[Edit]:
        self._pass("list_unsettled")
        with self._lock:
            mine = [self.edits[key] for key in self._untold if key[0] == gallery_id]
        return sorted(mine, key=lambda edit: edit.number)

    def settle(self, edit: Edit) -> None:
        self._pass("settle")
        key = edit.gallery_id, edit.edit_id
        if key in self.edits and self.edits[key].state is not EditState.QUEUED:
            self._untold.discard(key)


class FakeOwnerMetadata(Outages):
    """`documents` are by gallery and image."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[tuple[str, str], dict[str, object]] = {}

    def set_face_indexes(self, images: Sequence[ImageRecord]) -> None:
        self._pass("set_face_indexes")
        for image in images:
            face_index = make_face_index(image)
            gallery_id, plain_id = image.photo.gallery_id, image.photo.plain_id
            document = self.documents.get((gallery_id, image.photo.image_id), {})
            document["face_index"] = face_index
            self.documents.get((gallery_id, plain_id), {}).setdefault("face_index", face_index)

    def clear_face_index(self, photo: PhotoRef) -> None:
        self._pass("clear_face_index")
        self.documents.get((photo.gallery_id, photo.image_id), {}).pop("face_index", None)
