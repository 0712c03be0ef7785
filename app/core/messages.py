"""Queue messages, version 1, and the functions that parse and validate message bodies.

Unknown fields are ignored, so that a newer sender doesn't break an older worker. Unknown types and versions are
rejected with a reason. The JSON Schemas are in docs/schemas.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from app.core.edits import MOST_OPERATIONS, Operation
from app.core.envelopes import ObjectEvent, unwrap
from app.core.errors import Letter, RejectMessage
from app.core.ids import GalleryId, ImageId, Name, PersonId, RequestId, S3Key, Text
from app.core.naming import guess_name
from app.core.pictures import split_ending
from app.core.records import PhotoRef
from app.core.roles import QualityBars


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    version: Literal[1] = 1


class DetectImage(_Message):
    """Find the faces of one photo: of the object that its key has now, whichever version the message names."""

    type: Literal["detect_image"] = "detect_image"
    gallery_id: GalleryId
    image_id: ImageId
    s3_key: S3Key
    bucket: Text | None = None
    etag: Text | None = None
    version_id: Text | None = None
    force: bool = False
    """Analyse the photo again even where this version of it is stored already."""
    redo_pictures: bool = False
    """Write the photo's crops and preview anew; what was found in it is kept."""
    sequencer: Text | None = None
    """S3's number of the event that the message follows: an older one of the same key is ignored."""

    def photo(self, default_bucket: str) -> PhotoRef:
        name = guess_name(self.image_id, self.s3_key)
        return PhotoRef(self.gallery_id, self.image_id, self.bucket or default_bucket, self.s3_key, name)


Mode = Literal["auto", "full"]
"""Of a grouping run: whether it may look only at what has changed."""


class GroupGallery(_Message):
    """Group the faces of one gallery into people."""

    type: Literal["group_gallery"] = "group_gallery"
    gallery_id: GalleryId
    mode: Mode = "auto"


class EditPeople(_Message):
    """What an owner says of a gallery's people. The operations are applied together, in their order, or not at all.

    The same `edit_id` again changes nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["edit_people"] = "edit_people"
    gallery_id: GalleryId
    edit_id: RequestId
    by: Name
    """Who says it, for the journal."""
    edits: Annotated[list[Operation], Field(min_length=1, max_length=MOST_OPERATIONS)]


class SetGallery(_Message):
    """What belongs to a gallery. A field that is not sent stays as it is; null takes the gallery's own value away."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["set_gallery"] = "set_gallery"
    gallery_id: GalleryId
    request_id: RequestId
    display_name: Name | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """Days after its newest photo was stored until the gallery is forgotten."""
    quality: QualityBars | None = None
    similarity_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.model_fields_set & {"display_name", "retention_days", "quality", "similarity_threshold"}:
            raise ValueError("sets nothing")
        return self


class Forget(_Message):
    """Erase a photo, a person or a gallery everywhere. It has exactly the ids of its scope."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["forget"] = "forget"
    request_id: RequestId
    scope: Literal["photo", "person", "gallery"]
    gallery_id: GalleryId
    image_id: ImageId | None = None
    person_id: PersonId | None = None
    confirm: GalleryId | None = None
    """The gallery's id once more, where all of it is to be forgotten."""

    @model_validator(mode="after")
    def _check_scope(self) -> Self:
        needs = {"photo": {"image_id"}, "person": {"person_id"}, "gallery": {"confirm"}}[self.scope]
        given = {name for name in ("image_id", "person_id", "confirm") if getattr(self, name) is not None}
        if missing := sorted(needs - given):
            raise ValueError(f"lacks {', '.join(missing)}, which the scope {self.scope} needs")
        if extra := sorted(given - needs):
            raise ValueError(f"has {', '.join(extra)}, which the scope {self.scope} must not have")
        if self.confirm is not None and self.confirm != self.gallery_id:
            raise ValueError("confirm must be the gallery's id")
        return self


class Expire(_Message):
    """Forget the galleries whose retention is over. A schedule sends it daily."""

    type: Literal["expire"] = "expire"


class Selfie(BaseModel):
    """Where a guest's selfie lies."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    bucket: Text
    s3_key: S3Key
    version_id: Text | None = None


class FindPerson(_Message):
    """Find a guest in a gallery by one selfie or several. Neither they nor their vectors are stored."""

    type: Literal["find_person"] = "find_person"
    request_id: RequestId
    gallery_id: GalleryId
    selfies: Annotated[list[Selfie], Field(min_length=1, max_length=5)]
    max_photos: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    delete_selfies: bool = False
    """Remove the selfies' objects once the answer is there."""
    reply_queue_url: Text | None = None


M = TypeVar("M", bound=_Message)
GroupingOrder = GroupGallery | EditPeople | SetGallery | Forget | Expire

_detect_image = TypeAdapter(DetectImage)
_find_person = TypeAdapter(FindPerson)
_of_grouping: dict[str, TypeAdapter[Any]] = {
    "group_gallery": TypeAdapter(GroupGallery),
    "edit_people": TypeAdapter(EditPeople),
    "set_gallery": TypeAdapter(SetGallery),
    "forget": TypeAdapter(Forget),
    "expire": TypeAdapter(Expire),
}


@dataclass(frozen=True)
class PhotoRequest:
    """A photo to look at. `is_event`: S3 announces that something has happened to its object, which may be its removal;
    otherwise its sender says that it is there. `body` is a message for this photo alone."""

    photo: PhotoRef
    is_event: bool = False
    force: bool = False
    redo_pictures: bool = False
    sequencer: str | None = None
    body: str = ""


@dataclass(frozen=True)
class DetectionWork:
    """What a message asks for: photos to look at, in their order; parts that are refused, and the kind of the last of
    them; and how many events, by kind, ask for nothing."""

    requests: Sequence[PhotoRequest] = ()
    letters: Sequence[Letter] = ()
    kind: str = "invalid"
    ignored: Mapping[str, int] = field(default_factory=dict)


def parse_detection(body: str, default_bucket: str) -> DetectionWork:
    """What a message of the detection queue asks for. Raises RejectMessage, with the reason, where nothing of it can be
    understood."""
    envelope = unwrap(body)
    if envelope.message is not None:
        message = _validate(_detect_image, envelope.message, "detect_image")
        photo = message.photo(default_bucket)
        request = PhotoRequest(
            photo,
            force=message.force,
            redo_pictures=message.redo_pictures,
            sequencer=message.sequencer,
            body=body,
        )
        return DetectionWork([request])
    requests: list[PhotoRequest] = []
    letters = [Letter(one.body, one.reason) for one in envelope.refused]
    kind = envelope.refused[-1].kind if envelope.refused else "invalid"
    ignored = Counter(envelope.ignored)
    for event in envelope.events:
        if event.key.endswith("/") and not event.size:
            ignored["folder"] += 1
            continue
        try:
            requests.append(_make_request(event))
        except RejectMessage as reject:
            letters.append(Letter(event.body, str(reject)))
            kind = reject.kind
    return DetectionWork(requests, letters, kind, ignored)


def _make_request(event: ObjectEvent) -> PhotoRequest:
    """The gallery is the key's first segment, the image the rest without its ending."""
    gallery_id, _, rest = event.key.partition("/")
    if not rest or not gallery_id:
        raise RejectMessage(f"The key {event.key!r:.200} names no gallery; photos belong under <gallery>/<photo>.")
    fields = {
        "type": "detect_image",
        "gallery_id": gallery_id,
        "image_id": make_image_id(rest),
        "s3_key": event.key,
        "bucket": event.bucket,
    }
    photo = _validate(_detect_image, fields, "detect_image").photo(event.bucket)
    return PhotoRequest(photo, is_event=True, sequencer=event.sequencer, body=event.body)


def parse_grouping(body: str) -> GroupingOrder:
    """The order to the grouping service. Raises RejectMessage with the reason."""
    fields = unwrap(body).message or {}
    kind = fields.get("type")
    adapter = _of_grouping.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        raise _make_unknown(kind, list(_of_grouping))
    order: GroupingOrder = _validate(adapter, fields, str(kind))
    return order


def parse_find(body: str) -> FindPerson:
    """The request to find a guest. Raises RejectMessage with the reason."""
    return _validate(_find_person, unwrap(body).message or {}, "find_person")


def _validate(adapter: TypeAdapter[M], fields: Mapping[str, Any], expected: str) -> M:
    kind = fields.get("type")
    if kind != expected:
        raise _make_unknown(kind, [expected])
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))} {e['msg'].removeprefix('Value error, ')}".strip()
            for e in error.errors(include_input=False)
        )
        raise RejectMessage(f"The {expected} message is not valid: {'; '.join(problems)}") from error


def _make_unknown(kind: object, known: Sequence[str]) -> RejectMessage:
    takes = " or ".join(map(repr, known))
    return RejectMessage(f"Message type {kind!r:.80} is not known to this queue; it takes {takes}.", "unknown type")


def make_image_id(name: str) -> str:
    """A file's name without its ending: `day 1/IMG_7.JPG` → `day 1/IMG_7`."""
    return split_ending(name)[0]


def make_json_schemas() -> dict[str, dict[str, Any]]:
    """Schema name → JSON Schema of every message."""
    adapters: dict[str, TypeAdapter[Any]] = {
        "detect_image": _detect_image,
        "find_person": _find_person,
        **_of_grouping,
    }
    return {name: adapter.json_schema() for name, adapter in adapters.items()}
