"""stub"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from app.core.errors import RejectMessage


@dataclass(frozen=True)
class ObjectEvent:
    kind: str
    bucket: str
    key: str
    size: int | None
    sequencer: str | None
    body: str


@dataclass(frozen=True)
class RejectedRecord:
    body: str
    reason: str
    kind: str


@dataclass(frozen=True)
class Envelope:
    events: Sequence[ObjectEvent] = ()
    rejected: Sequence[RejectedRecord] = ()
    message: dict[str, Any] | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)


def unwrap(body: str) -> Envelope:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RejectMessage(f"The message is not JSON: {error}", "not JSON") from error
    if not isinstance(fields, dict):
        raise RejectMessage("The message is JSON, but not an object.", "not JSON")
    if fields.get("Event") == "s3:TestEvent":
        return Envelope(ignored={"test": 1})
    if "Records" not in fields:
        return Envelope(message=fields)
    events, rejected = [], []
    for r in fields["Records"]:
        b = json.dumps({"Records": [r]})
        try:
            o = r["s3"]["object"]
            name = r["eventName"].removeprefix("s3:")
            if not name.startswith(("ObjectCreated", "ObjectRemoved")):
                raise ValueError(name)
            events.append(
                ObjectEvent(
                    "created" if "Created" in name else "removed",
                    r["s3"]["bucket"]["name"],
                    unquote_plus(o["key"]),
                    o.get("size"),
                    o.get("sequencer"),
                    b,
                )
            )
        except Exception as e:
            rejected.append(RejectedRecord(b, f"bad record {e!r}", "invalid"))
    return Envelope(events, rejected)
