"""What a queue delivers, unwrapped: messages may come by way of SNS, and S3's events by way of EventBridge too.

The records of a notification are independent: one that can't be understood is set aside as a notification of its own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from app.core.errors import RejectMessage

MAX_ENVELOPES = 3
_LOOKED_AT = ("ObjectCreated:", "ObjectRemoved:", "LifecycleExpiration:", "ObjectRestore:Completed")
_IGNORED = (
    "ObjectRestore:",
    "ObjectTagging:",
    "ObjectAcl:",
    "LifecycleTransition",
    "IntelligentTiering",
    "Replication:",
    "ReducedRedundancyLostObject",
)
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-event-types-and-destinations.html"""
_DETAIL_TYPES = {
    "Object Created": True,
    "Object Deleted": True,
    "Object Restore Completed": True,
    "Object Restore Initiated": False,
    "Object Restore Expired": False,
    "Object Storage Class Changed": False,
    "Object Access Tier Changed": False,
    "Object ACL Updated": False,
    "Object Tags Added": False,
    "Object Tags Deleted": False,
}
"""EventBridge's names, and whether the photo must be looked at:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/EventBridge.html"""


@dataclass(frozen=True)
class ObjectEvent:
    """Something has happened to an object. `size` is in bytes, None for a removed object; `sequencer` orders events of
    one key; `body` is a message with this event alone."""

    bucket: str
    key: str
    size: int | None
    sequencer: str | None
    body: str


@dataclass(frozen=True)
class RefusedRecord:
    """A record that can't be understood: a message with it alone, the reason, and its kind as of RejectMessage."""

    body: str
    reason: str
    kind: str = "invalid"


@dataclass(frozen=True)
class Envelope:
    """What was in it: S3's events, or a message of this system's own; and how many events, by kind, ask for nothing."""

    events: Sequence[ObjectEvent] = ()
    refused: Sequence[RefusedRecord] = ()
    message: Mapping[str, Any] | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)


def unwrap(body: str) -> Envelope:
    """Raises RejectMessage, with the reason, for a body that is neither a notification nor a JSON object."""
    fields = _parse_object(body)
    for _ in range(MAX_ENVELOPES):
        if not _is_from_sns(fields):
            break
        fields = _parse_object(fields["Message"])
    if fields.get("Event") == "s3:TestEvent":
        return Envelope(ignored={"test": 1})
    if fields.get("source") == "aws.s3" and "detail-type" in fields:
        return _read_eventbridge(fields)
    if "Records" in fields:
        return _read_records(fields["Records"])
    return Envelope(message=fields)


def _parse_object(body: str) -> dict[str, Any]:
    try:
        fields = json.loads(body.removeprefix("\ufeff"))
        json.dumps(fields)  # Parts of it may be sent to the dead letters; what is nested too deep can't be.
    except (ValueError, RecursionError) as error:
        raise RejectMessage(f"The message is not JSON: {error}", "not JSON") from error
    if not isinstance(fields, dict):
        raise RejectMessage("The message is JSON, but not an object.", "not JSON")
    return fields


def _is_from_sns(fields: Mapping[str, Any]) -> bool:
    kind = fields.get("Type")
    if kind in ("SubscriptionConfirmation", "UnsubscribeConfirmation"):
        raise RejectMessage(
            f"SNS asks to confirm a subscription of topic {fields.get('TopicArn')!r:.200}; confirm it by `aws sns "
            "confirm-subscription` with this message's Token.",
            "unknown type",
        )
    return kind == "Notification" and isinstance(fields.get("Message"), str)


def _read_records(records: object) -> Envelope:
    if not isinstance(records, list):
        raise RejectMessage("The S3 notification's Records is not a list.")
    events: list[ObjectEvent] = []
    refused: list[RefusedRecord] = []
    ignored = 0
    for record in records:
        body = json.dumps({"Records": [record]})
        try:
            event = _read_record(record, body)
        except RejectMessage as reject:
            refused.append(RefusedRecord(body, str(reject), reject.kind))
            continue
        ignored += event is None
        events += [event] if event else []
    return Envelope(events, refused, ignored={"other event": ignored} if ignored else {})


def _read_record(record: object, body: str) -> ObjectEvent | None:
    """None for an event that asks for nothing."""
    if not isinstance(record, dict):
        raise RejectMessage("A record of the S3 notification is not an object.")
    name = str(record.get("eventName", "")).removeprefix("s3:")
    if not name.startswith(_LOOKED_AT):
        if name.startswith(_IGNORED):
            return None
        raise RejectMessage(
            f"S3 event {name!r:.80} is not known; restrict the bucket's notification to s3:ObjectCreated:* and "
            "s3:ObjectRemoved:*.",
            "unknown type",
        )
    # S3 encodes keys as a form does: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    return _read_object(record.get("s3"), body, _decode_key)


def _read_eventbridge(fields: Mapping[str, Any]) -> Envelope:
    detail_type, body = fields["detail-type"], json.dumps(fields)
    is_looked_at = _DETAIL_TYPES.get(detail_type) if isinstance(detail_type, str) else None
    if is_looked_at is None:
        raise RejectMessage(f"EventBridge's event {detail_type!r:.80} of S3 is not known.", "unknown type")
    if not is_looked_at:
        return Envelope(ignored={"other event": 1})
    # Keys come as they are here, not encoded.
    return Envelope([_read_object(fields.get("detail"), body, lambda key: key)])


def _read_object(where: object, body: str, decode: Callable[[str], str]) -> ObjectEvent:
    """The part of an event that names the object, the same in S3's own events and in EventBridge's."""
    try:
        bucket, item = where["bucket"]["name"], where["object"]  # type: ignore[index]
        key, size, sequencer = decode(item["key"]), item.get("size"), item.get("sequencer")
    except (KeyError, TypeError, AttributeError) as error:
        raise RejectMessage(f"The S3 notification lacks {error}.") from error
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise RejectMessage("The S3 notification's bucket name or key is not text.")
    return ObjectEvent(
        bucket,
        key,
        size if isinstance(size, int) else None,
        sequencer if isinstance(sequencer, str) else None,
        body,
    )


def _decode_key(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise RejectMessage(
            f"The key {key!r:.200} is not UTF-8 once its percent signs are decoded; S3's keys always are."
        ) from error
