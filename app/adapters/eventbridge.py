"""A bus of EventBridge that is told of events."""

import json
from collections.abc import Mapping, Sequence

from app.adapters.aws import open_client, translate_aws_errors

SOURCE = "face-worker"


class EventBus:
    """An event's `detail` is the CloudEvent, its `detail-type` the event's type, its `source` SOURCE."""

    def __init__(self, name: str, region: str) -> None:
        self._name = name
        self._events = open_client("events", region, read_timeout_s=10)

    def send(self, events: Sequence[Mapping[str, object]]) -> list[int]:
        entries = [
            {
                "EventBusName": self._name,
                "Source": SOURCE,
                "DetailType": event["type"],
                "Detail": json.dumps(event, ensure_ascii=False),
            }
            for event in events
        ]
        with translate_aws_errors(f"Sending events to the bus {self._name}", "EventBridge"):
            answer = self._events.put_events(Entries=entries)
        return [place for place, entry in enumerate(answer["Entries"]) if "ErrorCode" in entry]
