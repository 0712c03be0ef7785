"""What applications are told: the events, what each of them says, and their form as CloudEvents 1.0.

An event speaks of what is published already. It is put into the outbox before the message that caused it is done, so a
worker that dies in between says it again. The same fact has the same `event_id`. See docs/events.md.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field

from app.core.records import ImageRecord, ImageStatus

EventType = Literal[
    "photo.indexed",
    "photo.rejected",
    "gallery.grouped",
    "edit.applied",
    "edit.refused",
    "forgotten",
    "find.answered",
]
MOST_PHOTOS = 100
"""Photos that one event lists; it counts all."""
MOST_PEOPLE = 1_000
"""People that one event lists; it counts all. SNS and EventBridge take 256 KB."""
INDEXED = (ImageStatus.INDEXED, ImageStatus.NO_FACES)
REJECTED = (ImageStatus.REJECTED, ImageStatus.LOW_QUALITY)


class PhotosIndexed(BaseModel):
    """Photos whose faces, if any, are stored. The gallery's people follow with `gallery.grouped`."""

    photos: int
    faces: int
    """Of all these photos, in sum."""
    image_ids: Annotated[list[str], Field(max_length=MOST_PHOTOS)]
    """Of the first of these photos; `photos` counts all."""


class RejectedPhoto(BaseModel):
    """A photo that can't be used, and why."""

    image_id: str
    status: Literal["rejected", "low_quality"]
    reason: str


class PhotosRejected(BaseModel):
    """Photos that can't be used."""

    photos: int
    rejected: Annotated[list[RejectedPhoto], Field(max_length=MOST_PHOTOS)]
    """The first of these photos; `photos` counts all."""


class GalleryGrouped(BaseModel):
    """A run has ended, and its people and files are published."""

    revision: int
    """The gallery's changes up to this one are grouped."""
    published: int
    """The version of the gallery's people that is published."""
    model: str
    people: int
    photos: int
    changed_people: Annotated[list[str], Field(max_length=MOST_PEOPLE)]
    """Ids of people that have changed since the run before, the first of them; `changed` counts all."""
    changed: int
    merged: Annotated[dict[str, str], Field(max_length=MOST_PEOPLE)]
    """Of the changed people, those that were merged: former id → the person that they are now."""
    groups_key: str
    """The key of `groups.json` in the results bucket."""


class EditApplied(BaseModel):
    """What an owner said of a gallery's people is published. A run follows, and with it `gallery.grouped`."""

    edit_id: str
    notes: list[str]
    """What was left out, as of faces that have moved since."""


class EditRefused(BaseModel):
    """What an owner said of a gallery's people can't be done, and why. Nothing of it was done."""

    edit_id: str
    reason: str


class ErasureReceipt(BaseModel):
    """The receipt of an erasure: what was removed of each kind of thing, as counts."""

    request_id: str
    scope: Literal["photo", "person", "gallery"]
    image_id: str | None = None
    person_id: str | None = None
    removed: dict[str, int]


class FindAnswered(BaseModel):
    """A guest's question is answered. Who was found stands in the answer alone."""

    request_id: str
    status: str
    answer_key: str | None = None
    """The key of the answer in the results bucket."""


DATA: dict[EventType, type[BaseModel]] = {
    "photo.indexed": PhotosIndexed,
    "photo.rejected": PhotosRejected,
    "gallery.grouped": GalleryGrouped,
    "edit.applied": EditApplied,
    "edit.refused": EditRefused,
    "forgotten": ErasureReceipt,
    "find.answered": FindAnswered,
}
COLLECTED: tuple[EventType, ...] = ("photo.indexed", "photo.rejected")
"""Those of one gallery and some seconds are sent as one, unless EVENTS_EACH_PHOTO asks for each."""


@dataclass(frozen=True)
class Event:
    """Something that an application may want to know. `data` is what `DATA` says of its type, as JSON values."""

    type: EventType
    gallery_id: str
    data: Mapping[str, Any]
    event_id: str
    at: datetime = field(compare=False)


class NoEvents:
    """Tells nobody: the outbox of a service without EVENTS."""

    def add(self, events: Sequence[Event]) -> None: ...


def tell_photos(images: Sequence[ImageRecord]) -> list[Event]:
    """The events of photos that were just stored, one for each. Files that are no photos have none."""
    return [event for image in images if (event := _tell_photo(image))]


def _tell_photo(image: ImageRecord) -> Event | None:
    photo, version = image.photo, (image.etag, image.model_id, image.status)
    if image.status in INDEXED:
        found = PhotosIndexed(photos=1, faces=image.face_count, image_ids=[photo.image_id])
        return _make("photo.indexed", photo.gallery_id, found, photo.image_id, photo.key, *version)
    if image.status in REJECTED:
        status: Literal["rejected", "low_quality"] = (
            "rejected" if image.status is ImageStatus.REJECTED else "low_quality"
        )
        why = RejectedPhoto(image_id=photo.image_id, status=status, reason=image.reason or "")
        refused = PhotosRejected(photos=1, rejected=[why])
        return _make("photo.rejected", photo.gallery_id, refused, photo.image_id, photo.key, *version)
    return None


def tell_grouped(gallery_id: str, grouped: GalleryGrouped) -> Event:
    """The event of a run. Its lists are cut here."""
    listed = set(grouped.changed_people[:MOST_PEOPLE])
    cut = {
        "changed_people": grouped.changed_people[:MOST_PEOPLE],
        "merged": {former: now for former, now in grouped.merged.items() if former in listed},
    }
    data = grouped.model_copy(update=cut)
    return _make("gallery.grouped", gallery_id, data, data.model, data.revision, data.published)


def tell_edit_applied(gallery_id: str, edit_id: str, notes: Sequence[str]) -> Event:
    return _make("edit.applied", gallery_id, EditApplied(edit_id=edit_id, notes=list(notes)), edit_id)


def tell_edit_refused(gallery_id: str, edit_id: str, reason: str) -> Event:
    return _make("edit.refused", gallery_id, EditRefused(edit_id=edit_id, reason=reason), edit_id)


def tell_forgotten(gallery_id: str, receipt: ErasureReceipt) -> Event:
    return _make("forgotten", gallery_id, receipt, receipt.request_id)


def tell_found(gallery_id: str, request_id: str, status: str, answer_key: str | None = None) -> Event:
    data = FindAnswered(request_id=request_id, status=status, answer_key=answer_key)
    return _make("find.answered", gallery_id, data, request_id)


def collect(events: Sequence[Event], event_id: str) -> Event:
    """One event for photo events of one type and gallery, with the time of the last of them."""
    first, parts = events[0], [event.data for event in events]
    data: dict[str, Any] = {"photos": sum(part["photos"] for part in parts)}
    if first.type == "photo.indexed":
        data["faces"] = sum(part["faces"] for part in parts)
    listed = "image_ids" if first.type == "photo.indexed" else "rejected"
    data[listed] = [one for part in parts for one in part[listed]][:MOST_PHOTOS]
    return Event(first.type, first.gallery_id, data, event_id, max(event.at for event in events))


def make_cloud_event(event: Event, source: str) -> dict[str, Any]:
    """The event in the structured form of CloudEvents 1.0, in which it is sent:
    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md"""
    return {
        "specversion": "1.0",
        "id": event.event_id,
        "source": source,
        "type": event.type,
        "subject": event.gallery_id,
        "time": event.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": dict(event.data),
    }


def make_event_schemas() -> dict[str, dict[str, Any]]:
    """Schema name → JSON Schema of every event, as it is sent."""
    return {f"event.{kind}": _make_schema(kind) for kind in get_args(EventType)}


def _make_schema(kind: EventType) -> dict[str, Any]:
    data = DATA[kind].model_json_schema()
    definitions = data.pop("$defs", None)
    texts = ("id", "source", "subject")
    properties: dict[str, Any] = {
        "specversion": {"const": "1.0"},
        **{name: {"type": "string", "minLength": 1} for name in texts},
        "type": {"const": kind},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "data": data,
    }
    schema = {"title": kind, "type": "object", "properties": properties, "required": list(properties)}
    return {**schema, "$defs": definitions} if definitions else schema


def _make(kind: EventType, gallery_id: str, data: BaseModel, *identity: object) -> Event:
    """An event whose id is made of what it says: the same fact again has the same id."""
    what = json.dumps([kind, gallery_id, *map(str, identity)]).encode()
    event_id = hashlib.blake2b(what, digest_size=16).hexdigest()
    return Event(kind, gallery_id, data.model_dump(exclude_none=True), event_id, datetime.now(UTC))
