"""Deletes done messages in batches, from one thread. Their leases are kept until SQS has confirmed the deletion."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from app.config import SQS_MAX_BATCH
from app.core.errors import RetryLater
from app.core.kill_points import KillPoints
from app.core.ports import MessageQueue, ReceivedMessage
from app.core.threads import BackgroundThread
from app.worker.leases import MessageLeases

log = logging.getLogger(__name__)

Settled = Callable[[bool], None]
"""Is called once it is known whether a message is deleted."""

GATHER_S = 0.5
TRIES = 3
PAUSE_S = 0.5


class Deletions(BackgroundThread):
    """Deletes messages that are done. Leaving the `with` block deletes those that still wait."""

    def __init__(
        self, messages: MessageQueue, leases: MessageLeases, on_death: Callable[[], None], kill_points: KillPoints
    ) -> None:
        self._messages = messages
        self._leases = leases
        self._kill_points = kill_points
        self._waiting: queue.SimpleQueue[tuple[ReceivedMessage, Settled] | None] = queue.SimpleQueue()
        super().__init__("deletions", self._delete_all, wake=lambda: self._waiting.put(None), on_death=on_death)

    def add(self, message: ReceivedMessage, settled: Settled = lambda _: None) -> None:
        self._waiting.put((message, settled))

    def _delete_all(self, _closing: threading.Event) -> None:
        while batch := self._gather():
            self._delete(batch)

    def _gather(self) -> list[tuple[ReceivedMessage, Settled]]:
        """The next messages, at most ten. Waits GATHER_S for more after the first one. Empty at the end."""
        batch: list[tuple[ReceivedMessage, Settled]] = []
        until = None
        while len(batch) < SQS_MAX_BATCH:
            try:
                timeout = None if until is None else max(0.0, until - time.monotonic())
                next_one = self._waiting.get(timeout=timeout)
            except queue.Empty:
                break
            if next_one is None:
                # The end. The next call gets it again, once this batch is deleted.
                self._waiting.put(None)
                break
            batch.append(next_one)
            until = until or time.monotonic() + GATHER_S
        return batch

    def _delete(self, batch: list[tuple[ReceivedMessage, Settled]]) -> None:
        left = [message for message, _ in batch]
        for attempt in range(TRIES):
            try:
                left = self._messages.delete(left)
            except RetryLater as error:
                log.warning("%d messages not deleted yet: %s", len(left), error)
            if not left:
                break
            time.sleep(PAUSE_S * (attempt + 1))
        for message, settled in batch:
            self._leases.drop(message)
            settled(message not in left)
        if left:
            log.error("%d done messages could not be deleted; they come again and change nothing", len(left))
        else:
            self._kill_points.reach("after-delete")
