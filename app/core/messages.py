"""Queue messages, version 1, and the functions that parse and validate message bodies.

Unknown fields are ignored, so that a newer sender doesn't break an older worker. Unknown types and versions are
rejected with a reason. The JSON Schemas are in docs/schemas.
"""

import json
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote_plus

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, StringConstraints, TypeAdapter, ValidationError

from app.core.errors import RejectMessage
from app.core.records import PhotoRef

MAX_S3_KEY_BYTES = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""
# Old MongoDB servers limit an index entry to 1,024 bytes, and a face's id is gallery/image/model/index.
MAX_ID_CHARS = 400


def _check_plain(value: str) -> str:
    """Refuse control characters, which break logs and pages, and `..`, which would leave a gallery's folder."""
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("has a control character")
    if any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError("has an empty, '.' or '..' path segment")
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
    """Find the faces of one photo."""

    type: Literal["detect_image"] = "detect_image"
    gallery_id: GalleryId
    image_id: ImageId
    s3_key: S3Key
    bucket: Text | None = None
    etag: Text | None = None
    version_id: Text | None = None
    force: bool = False
    """Analyse the photo again even where this version of it is stored already."""
    _id_from_key: bool = PrivateAttr(default=False)

    @property
    def id_from_key(self) -> bool:
        """Whether the image id was made from the key: then keys that differ only in their ending have the same id."""
        return self._id_from_key

    def photo(self, default_bucket: str) -> PhotoRef:
        return PhotoRef(self.gallery_id, self.image_id, self.bucket or default_bucket, self.s3_key, self.version_id)


class GroupGallery(_Message):
    """Group the faces of one gallery into people."""

    type: Literal["group_gallery"] = "group_gallery"
    gallery_id: GalleryId
    mode: Literal["auto", "full"] = "auto"


M = TypeVar("M", bound=_Message)

_detect_image = TypeAdapter(DetectImage)
_group_gallery = TypeAdapter(GroupGallery)


def parse_detection(body: str) -> list[DetectImage]:
    """The photos to analyse for a message; none for S3's test event. Raises RejectMessage with the reason."""
    fields = _parse_json_object(body)
    if fields.get("Event") == "s3:TestEvent":
        return []
    if "Records" in fields:
        return [_parse_s3_record(record) for record in _get_records(fields)]
    return [_validate(_detect_image, fields, "detect_image")]


def parse_grouping(body: str) -> GroupGallery:
    """The order to the grouping service. Raises RejectMessage with the reason."""
    return _validate(_group_gallery, _parse_json_object(body), "group_gallery")


def _parse_json_object(body: str) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RejectMessage(f"The message is not JSON: {error}", "not JSON") from error
    if not isinstance(fields, dict):
        raise RejectMessage("The message is JSON, but not an object.", "not JSON")
    return fields


def _validate(adapter: TypeAdapter[M], fields: dict[str, Any], expected: str) -> M:
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


def _get_records(fields: dict[str, Any]) -> list[dict[str, Any]]:
    records = fields["Records"]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise RejectMessage("The S3 notification's Records is not a list of objects.")
    return records


def _parse_s3_record(record: dict[str, Any]) -> DetectImage:
    """An S3 ObjectCreated record. The gallery is the key's first segment, the image the rest without its ending."""
    event = str(record.get("eventName", ""))
    if not event.startswith("ObjectCreated:"):
        raise RejectMessage(
            f"S3 event {event!r:.80} is not ObjectCreated; restrict the bucket's notification to s3:ObjectCreated:*.",
            "unknown type",
        )
    try:
        bucket, item = record["s3"]["bucket"]["name"], record["s3"]["object"]
        key = unquote_plus(item["key"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RejectMessage(f"The S3 notification lacks {error}.") from error
    gallery_id, _, rest = key.partition("/")
    if not rest:
        raise RejectMessage(f"The key {key!r:.200} names no gallery; photos belong under <gallery>/<photo>.")
    fields = {
        "type": "detect_image",
        "gallery_id": gallery_id,
        "image_id": make_image_id(rest),
        "s3_key": key,
        "bucket": bucket,
        "etag": item.get("eTag"),
        "version_id": item.get("versionId"),
    }
    request = _validate(_detect_image, fields, "detect_image")
    request._id_from_key = True
    return request


def make_image_id(name: str) -> str:
    """A file's name without its ending: `day 1/IMG_7.JPG` → `day 1/IMG_7`."""
    folder, slash, file = name.rpartition("/")
    stem, dot, _ = file.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else file}"


def make_json_schemas() -> dict[str, dict[str, Any]]:
    """Schema name → JSON Schema of every message."""
    return {"detect_image": _detect_image.json_schema(), "group_gallery": _group_gallery.json_schema()}
