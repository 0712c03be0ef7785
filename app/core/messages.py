"""Queue messages, version 1, and the functions that parse and validate message bodies.

Unknown fields are ignored, so that a newer sender doesn't break an older worker. Unknown types and versions are
rejected with a reason. The JSON Schemas are in docs/schemas.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from app.core.envelopes import ObjectEvent, unwrap
from app.core.errors import Letter, RejectMessage
from app.core.naming import guess_name
from app.core.pictures import split_ending
from app.core.records import PhotoRef

MAX_S3_KEY_BYTES = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""
# Old MongoDB servers limit an index entry to 1,024 bytes, and a face's id is gallery/image/model/index.
MAX_ID_CHARS = 400


def _check_plain(value: str) -> str:
    """Refuse control characters, which break logs and pages, and `..`, which would leave a gallery's folder."""
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("has a control character")
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError("has a '.' or '..' path segment")
    return value


def _check_key(value: str) -> str:
    if len(value.encode("utf-8", "replace")) > MAX_S3_KEY_BYTES:
        raise ValueError(f"is longer than {MAX_S3_KEY_BYTES} bytes")
    return _check_plain(value)


GalleryId = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^/]+$"), AfterValidator(_check_plain)
]
ImageId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARS), AfterValidator(_check_plain)]
Text = Annotated[str, StringConstraints(max_length=1024)]
"""The constraint also makes pydantic refuse text that is not valid Unicode."""
S3Key = Annotated[str, StringConstraints(min_length=1), AfterValidator(_check_key)]


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


class GroupGallery(_Message):
    """Group the faces of one gallery into people."""

    type: Literal["group_gallery"] = "group_gallery"
    gallery_id: GalleryId
    mode: Literal["auto", "full"] = "auto"


M = TypeVar("M", bound=_Message)

_detect_image = TypeAdapter(DetectImage)
_group_gallery = TypeAdapter(GroupGallery)


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


def parse_grouping(body: str) -> GroupGallery:
    """The order to the grouping service. Raises RejectMessage with the reason."""
    return _validate(_group_gallery, unwrap(body).message or {}, "group_gallery")


def _validate(adapter: TypeAdapter[M], fields: Mapping[str, Any], expected: str) -> M:
    kind = fields.get("type")
    if kind != expected:
        raise RejectMessage(
            f"Message type {kind!r:.80} is not known to this queue; it takes {expected!r}.", "unknown type"
        )
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))} {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_input=False)
        )
        raise RejectMessage(f"The {expected} message is not valid: {'; '.join(problems)}") from error


def make_image_id(name: str) -> str:
    """A file's name without its ending: `day 1/IMG_7.JPG` → `day 1/IMG_7`."""
    return split_ending(name)[0]


def make_json_schemas() -> dict[str, dict[str, Any]]:
    """Schema name → JSON Schema of every message."""
    return {"detect_image": _detect_image.json_schema(), "group_gallery": _group_gallery.json_schema()}
