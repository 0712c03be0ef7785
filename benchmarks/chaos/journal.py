"""Reads the journal of strict_moto: which worker holds which message, and how long redeliveries took."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.chaos.fleet import Exit

SERVICE_QUEUES = ("detection", "grouping")


@dataclass(frozen=True)
class Event:
    """One line of the journal. `event` is send, receive, hide, delete, refuse, redrive (queues) or put (objects)."""

    at: float
    event: str
    worker: str | None
    queue: str = ""
    message: str = ""
    count: int = 0
    seconds: int | None = None
    body: str = ""
    key: str = ""
    fence: int = 0


class JournalReader:
    """Reads a journal that is still being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.events: list[Event] = []

    def read(self) -> list[Event]:
        """All events so far."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            lines = stream.read().split(b"\n")
        # What follows the last line break is a line that is still being written.
        for line in lines[:-1]:
            self._offset += len(line) + 1
            self.events.append(_read_event(json.loads(line)))
        return self.events

    def find_holders(self) -> set[str]:
        """Workers that have received a message and neither settled nor lost it."""
        held: dict[tuple[str, str], str] = {}
        for event in self.read():
            place = (event.queue, event.message)
            if event.event == "receive" and event.worker and event.queue in SERVICE_QUEUES:
                held[place] = event.worker
            elif event.event in ("delete", "redrive"):
                held.pop(place, None)
        return set(held.values())


def measure_redelivery_times(events: Iterable[Event], exits: Iterable[Exit], visibility_s: int) -> list[float]:
    """Seconds from each kill to the next receive of each message that the killed worker held."""
    by_message: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        if event.queue in SERVICE_QUEUES and event.message:
            by_message.setdefault((event.queue, event.message), []).append(event)
    killed_at = {one.worker: one.at for one in exits if one.code == -9}
    times = []
    for history in by_message.values():
        for event, following in pairwise(history):
            died = killed_at.get(event.worker or "")
            held = event.event == "receive" or (event.event == "hide" and event.seconds == visibility_s)
            # A message that its worker gave back is received again after the delay it was given, not after a lease.
            if died is not None and held and following.event == "receive" and following.at > died:
                times.append(following.at - died)
    return times


def _read_event(fields: dict[str, Any]) -> Event:
    known = {name: value for name, value in fields.items() if name in Event.__dataclass_fields__}
    return Event(**known)
