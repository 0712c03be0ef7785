"""What was forgotten, kept so that nothing brings it back. A tombstone has ids, times and places, nothing biometric.

A tombstone is written before anything is erased: whoever finds it goes on where another worker was killed. It stays,
in MongoDB and in S3, since a message may come late, and a database may be restored from a backup.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.core.boxes import compute_ious, relate_boxes
from app.core.messages import Forget
from app.core.records import PhotoRef

Scope = Literal["photo", "person", "gallery"]
SAME_FACE_IOU = 0.4
"""From this overlap on, a face is the one that was forgotten: two models' boxes of one face overlap by more, and boxes
of two people on a photo hardly ever do."""


@dataclass(frozen=True)
class Place:
    """Where a forgotten face is on a photo: x1 y1 x2 y2, relative to the photo's size (0 to 1).

    The photo is the one with this content (SHA-256 of the file) or, where that was not known, this ETag: on another
    picture under the same key, somebody else may be there.
    """

    content: str | None
    etag: str | None
    box: tuple[float, float, float, float]

    def is_on(self, content: str | None, etag: str | None) -> bool:
        return self.content == content if self.content and content else self.etag == etag


@dataclass(frozen=True)
class Forgotten:
    """What is forgotten of a photo: all that was uploaded until `until`, and the faces at some places."""

    until: datetime | None = None
    places: tuple[Place, ...] = ()

    def covers(self, last_modified: datetime | None) -> bool:
        """Whether an object that was uploaded then is forgotten. S3 tells full seconds, so that an upload in the second
        of the request counts as older. Without a time it is: nothing shows that it is a new photo."""
        return self.until is not None and (last_modified is None or last_modified <= self.until)

    def find_faces(
        self, boxes: NDArray[np.float32], size_px: tuple[int, int], content: str | None, etag: str | None
    ) -> NDArray[np.bool_]:
        """(N,4) boxes in pixels of a photo of this width and height → (N,) whether each is a forgotten face."""
        there = [place.box for place in self.places if place.is_on(content, etag)]
        if not there or not len(boxes):
            return np.zeros(len(boxes), bool)
        overlaps = compute_ious(relate_boxes(boxes, size_px), np.array(there, np.float32))
        return np.asarray((overlaps >= SAME_FACE_IOU).any(axis=1), bool)


NOTHING_FORGOTTEN = Forgotten()


@dataclass(frozen=True)
class Tombstone:
    """A request to forget, and how far it is. `at` is when a worker first had it, by the database server's clock: what
    was uploaded until then is forgotten. `people` are the ids of the person, merged ones too.

    `removed` counts what was found, the receipt. It is erased since `erased_at`, and after `checked_at` a second look
    has found nothing that a slower worker had written meanwhile.
    """

    key: str
    scope: Scope
    gallery_id: str
    request_id: str
    at: datetime
    photo: PhotoRef | None = None
    person_id: str | None = None
    people: tuple[str, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)
    erased_at: datetime | None = None
    checked_at: datetime | None = None

    @property
    def covers(self) -> Forgotten:
        return Forgotten(self.at)


def make_photo_key(photo: PhotoRef) -> str:
    """The tombstone's id of a photo; it stays when the photo's id changes."""
    return f"{photo.gallery_id}/photo/{photo.plain_id}/{photo.slot}"


def make_place_key(photo: PhotoRef) -> str:
    return f"{photo.gallery_id}/places/{photo.plain_id}/{photo.slot}"


def make_person_key(gallery_id: str, person_id: str) -> str:
    return f"{gallery_id}/person/{person_id}"


def make_gallery_key(gallery_id: str) -> str:
    return f"{gallery_id}/gallery"


def make_relative(box: NDArray[np.float32], size_px: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box in pixels as parts of the photo's width and height, to four decimals."""
    x1, y1, x2, y2 = (round(float(side), 4) for side in relate_boxes(box, size_px))
    return x1, y1, x2, y2


def make_order(tombstone: Tombstone) -> Forget:
    """The message that asked for it."""
    fields: dict[str, object] = {
        "request_id": tombstone.request_id,
        "scope": tombstone.scope,
        "gallery_id": tombstone.gallery_id,
    }
    if tombstone.scope == "gallery":
        fields["confirm"] = tombstone.gallery_id
    elif tombstone.scope == "person":
        fields["person_id"] = tombstone.person_id
    elif tombstone.photo:
        fields["image_id"] = tombstone.photo.image_id
    return Forget.model_validate(fields)


def name_copy(key: str, request_id: str) -> str:
    """The file of a tombstone's copy in S3, without its folder: it names a request, and nobody."""
    return f"{_digest(key)}-{_digest(request_id)}.json"


def name_folder(gallery_id: str) -> str:
    return _digest(gallery_id)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
