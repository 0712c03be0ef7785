"""An in-memory outbox of events. tests/contract/test_outbox.py holds it to what MongoDB does."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from app.core.events import COLLECTED, Event, collect
from app.core.ports import EVENT_CLAIM_S
from tests.fakes import Clock, Outages, RealClock

MOST_COLLECTED = 1_000
NEVER = float("inf")


@dataclass
class _Waiting:
    event: Event
    due_at: float
    batch: str | None = None
    is_head: bool = False


class FakeEventOutbox(Outages):
    """`added` are all events that were ever added, in order."""

    def __init__(self, collect_s: int = 0, clock: Clock | None = None) -> None:
        super().__init__()
        self.added: list[Event] = []
        self._waiting: dict[str, _Waiting] = {}
        self._collect_s = collect_s
        self._clock = clock or RealClock()
        self._lock = threading.Lock()

    def add(self, events: Sequence[Event]) -> None:
        self._pass("add")
        with self._lock:
            self.added += events
            for event in events:
                waits_s = self._collect_s if event.type in COLLECTED else 0
                self._waiting.setdefault(event.event_id, _Waiting(event, self._clock.now() + waits_s))

    def take(self) -> Event | None:
        self._pass("take")
        with self._lock:
            due = [one for one in self._waiting.values() if one.due_at <= self._clock.now()]
            first = min(due, key=lambda one: one.due_at, default=None)
            if first is None:
                return None
            first.due_at = self._clock.now() + EVENT_CLAIM_S
            if first.event.type not in COLLECTED or not self._collect_s:
                return first.event
            if first.batch is None:
                self._join(first)
            events = [one.event for one in self._waiting.values() if one.batch == first.batch]
            return collect(sorted(events, key=lambda event: (event.at, event.event_id)), first.batch or "")

    def _join(self, first: _Waiting) -> None:
        first.batch, first.is_head = uuid4().hex, True
        what = (first.event.type, first.event.gallery_id)
        alike = [one for one in self._waiting.values() if (one.event.type, one.event.gallery_id) == what]
        for one in [one for one in alike if one.batch is None][: MOST_COLLECTED - 1]:
            one.batch, one.due_at = first.batch, NEVER

    def note_sent(self, events: Sequence[Event]) -> None:
        self._pass("note_sent")
        with self._lock:
            for one in self._find(events):
                del self._waiting[one.event.event_id]

    def give_back(self, events: Sequence[Event], for_s: int) -> None:
        self._pass("give_back")
        with self._lock:
            for one in self._find(events):
                if one.due_at != NEVER:
                    one.due_at = self._clock.now() + for_s

    def count_waiting(self) -> int:
        self._pass("count_waiting")
        return len(self._waiting)

    def _find(self, events: Sequence[Event]) -> list[_Waiting]:
        ids = {event.event_id for event in events}
        return [one for key, one in self._waiting.items() if key in ids or one.batch in ids]
