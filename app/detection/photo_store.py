"""What detection reads and writes of photos in MongoDB: each step for several photos in one trip."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from app.core.erasing import erase_keys
from app.core.events import NoEvents, tell_photos
from app.core.kill_points import KillPoints
from app.core.ports import EventSink, FaceStore, ForgottenPhotos, NoForgottenPhotos, ObjectStore, OwnerMetadata
from app.core.records import Changes, ImageRecord, PhotoRef, PhotoResult
from app.core.tombstones import Forgotten
from app.detection.batcher import Batcher
from app.detection.changes import ChangeParts, request_grouping
from app.telemetry.catalogue import Metric

MOST_PHOTOS = 50
READ_LINGER_S, WRITE_LINGER_S = 0.01, 0.05
"""How long a trip waits for other photos, where any are in work. A transaction costs more than a read, and is the last
that a photo waits for."""


@dataclass(frozen=True)
class KnownPhoto:
    """What is stored of a photo before it is examined: its record, if any, its edition, and what is forgotten of it."""

    image: ImageRecord | None
    edition: int
    forgotten: Forgotten


@dataclass(frozen=True)
class Saved:
    """How a photo's result was stored: not at all if it was overtaken. `to_index` are photos to be examined anew."""

    is_overtaken: bool
    to_index: Sequence[PhotoRef] = ()


class PhotoStore:
    """The stores of photos for many threads. Photos that need the same step at about the same time share a trip."""

    def __init__(  # noqa: PLR0913 - what a photo's result goes to
        self,
        faces: FaceStore,
        owner: OwnerMetadata,
        objects: ObjectStore,
        changes: ChangeParts,
        *,
        events: EventSink | None = None,
        forgotten: ForgottenPhotos | None = None,
        kill_points: KillPoints | None = None,
    ) -> None:
        self.faces, self.owner, self.objects, self.changes = faces, owner, objects, changes
        self._events: EventSink = events or NoEvents()
        self.forgotten: ForgottenPhotos = forgotten or NoForgottenPhotos()
        self._kill_points = kill_points or KillPoints()
        self._in_work, self._lock = 0, threading.Lock()
        self._known = Batcher("look up", self._look_up, most=MOST_PHOTOS, linger_s=partial(self._linger, READ_LINGER_S))
        self._twins = Batcher(
            "find twins", self._find_twins, most=MOST_PHOTOS, linger_s=partial(self._linger, READ_LINGER_S)
        )
        self._results = Batcher(
            "store",
            self._save,
            most=MOST_PHOTOS,
            linger_s=partial(self._linger, WRITE_LINGER_S),
            metrics=changes.telemetry.metrics,
            sizes=(Metric.STORE_BATCH, Metric.STORE_QUEUE),
        )

    @contextmanager
    def work_on_photo(self) -> Iterator[None]:
        """While inside, a photo is in work, and trips of other photos wait a little for it."""
        with self._lock:
            self._in_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_work -= 1

    def look_up(self, photo: PhotoRef) -> KnownPhoto:
        """What is stored of the photo. Raises RetryLater while the database does not answer."""
        return self._known.ask(photo)[0]

    def find_twin(self, content: str) -> PhotoResult | None:
        """A photo of the same bytes, analysed by the same model. Raises as `look_up`."""
        return self._twins.ask(content)[0]

    def save(self, result: PhotoResult) -> Saved:
        """Store the photo and tell its owner, then have its gallery grouped. Raises RetryLater while a store does not
        answer; all of it may be repeated."""
        return self._results.ask(result)[0]

    def tell(self, images: Sequence[ImageRecord]) -> None:
        """Tell whoever listens that the photos are stored. It may be repeated."""
        if not isinstance(self._events, NoEvents):
            self._events.add(tell_photos(images))

    def _linger(self, longest_s: float) -> float:
        return longest_s if self._in_work > 1 else 0

    def _look_up(self, photos: Sequence[PhotoRef]) -> list[KnownPhoto]:
        images = self.faces.find_images(photos)
        # After the editions: what is forgotten later changes those.
        forgotten = self.forgotten.find_all(photos)
        return [KnownPhoto(*image, gone) for image, gone in zip(images, forgotten, strict=True)]

    def _find_twins(self, contents: Sequence[str]) -> list[PhotoResult | None]:
        found = self.faces.find_twins(contents, self.changes.model_id)
        return [found.get(content) for content in contents]

    def _save(self, results: Sequence[PhotoResult]) -> list[Saved]:
        changes = self.faces.save_photos(results)
        self.owner.set_face_indexes(changes.images)
        if any(result.image.excluded for result in results):
            # In a bucket that keeps versions, former crops may show a forgotten face.
            erase_keys(changes.pictures, self.objects)
        elif changes.pictures:
            self.objects.remove(changes.pictures)
        self.tell(changes.images)
        self._kill_points.reach("after-save")
        saved = [_find_saved(result, changes) for result in results]
        stored = (result.image.photo for result, one in zip(results, saved, strict=True) if not one.is_overtaken)
        for gallery_id, count in Counter(photo.gallery_id for photo in stored).items():
            request_grouping(gallery_id, self.changes, count)
        return saved


def _find_saved(result: PhotoResult, changes: Changes) -> Saved:
    claim = result.image.photo.claim
    return Saved(result in changes.overtaken, [one for one in changes.to_index if one.claim == claim])
