"""The sending of events: a thread of each worker takes them out of the outbox, beside the work and never in its way."""

import json
import logging
import threading
from collections.abc import Sequence

from app.core.errors import WorkerError
from app.core.events import Event, make_cloud_event
from app.core.ports import EventOutbox, EventTarget
from app.core.threads import repeat
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Metrics

log = logging.getLogger(__name__)

COLLECT_S = 10
"""How long the first photo of an event waits for others of its gallery."""
LOOK_EVERY_S = 1.0
RETRY_S = 15
"""After how many seconds an event that did not arrive is tried again."""
MOST_AT_ONCE = 10
MOST_BYTES = 200_000
"""SNS and EventBridge take ten events and 256 KB in one call:
https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html"""


def send_events(
    closing: threading.Event, outbox: EventOutbox, target: EventTarget, source: str, metrics: Metrics
) -> None:
    """Send what is due, now and again until `closing` is set, and once more at the end."""

    def look() -> None:
        send_due(outbox, target, source, metrics)

    repeat(closing, LOOK_EVERY_S, look)
    look()


def send_due(outbox: EventOutbox, target: EventTarget, source: str, metrics: Metrics) -> None:
    """Send all events that are due. At the first failure the rest is left for the next look."""
    try:
        while events := _take(outbox):
            if not _send(events, outbox, target, source, metrics):
                break
        metrics.set_level(Metric.EVENTS_WAITING, outbox.count_waiting())
    except WorkerError as error:
        # What was taken is due again once its claim is over.
        log.warning("events are looked for again in %.0f s: %s", LOOK_EVERY_S, error)


def _take(outbox: EventOutbox) -> list[Event]:
    """As many events as fit into one call."""
    events: list[Event] = []
    size = 0
    while len(events) < MOST_AT_ONCE and size < MOST_BYTES:
        event = outbox.take()
        if event is None:
            break
        added = len(json.dumps(dict(event.data)).encode())
        if events and size + added > MOST_BYTES:
            outbox.give_back([event], 0)
            break
        events.append(event)
        size += added
    return events


def _send(events: Sequence[Event], outbox: EventOutbox, target: EventTarget, source: str, metrics: Metrics) -> bool:
    """Whether all of them arrived."""
    try:
        refused = set(target.send([make_cloud_event(event, source) for event in events]))
    except WorkerError as error:
        log.warning("%d events are sent again in %d s: %s", len(events), RETRY_S, error)
        refused = set(range(len(events)))
    else:
        if refused:
            log.warning("%d of %d events were refused, and are sent again in %d s", len(refused), len(events), RETRY_S)
    if arrived := [event for place, event in enumerate(events) if place not in refused]:
        outbox.note_sent(arrived)
        metrics.add(Metric.EVENTS_SENT, len(arrived))
    if refused:
        metrics.add(Metric.EVENTS_FAILED, len(refused))
        outbox.give_back([events[place] for place in sorted(refused)], RETRY_S)
    return not refused
