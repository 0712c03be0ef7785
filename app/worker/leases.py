"""Leases of messages: a short visibility timeout, which is extended while the work makes progress."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.core.errors import LeaseLost, RetryLater
from app.core.ports import MessageQueue, ReceivedMessage
from app.core.threads import BackgroundThread, repeat

log = logging.getLogger(__name__)

BEATS_PER_VISIBILITY = 3
LONGEST_LEASE_S = 11 * 3600.0
"""SQS ends every lease 12 hours after the receive:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html"""


@dataclass
class _HeldLease:
    """A lease. `progressed_at` is None until the message is started: a message that waits for a thread is not stuck."""

    message: ReceivedMessage
    received_at: float
    extended_at: float
    progressed_at: float | None = None
    lost: bool = False


class MessageLeases(BackgroundThread):
    """Extends the visibility of every held message at a third of it, from one thread.

    A lease is let go when its receipt is refused, when it could not be extended for a whole visibility, or when it
    is too old. `on_stuck` is called for a message whose handler makes no progress. `on_death` is called where the
    thread itself ends, since messages whose leases are not extended are done twice. `on_lost` is called for each lease
    that is let go.
    """

    def __init__(
        self,
        queue: MessageQueue,
        visibility_s: float,
        stuck_after_s: float,
        on_stuck: Callable[[], None],
        on_death: Callable[[], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._visibility_s = visibility_s
        self._stuck_after_s = stuck_after_s
        self._on_stuck, self._on_lost = on_stuck, on_lost
        self._held: dict[str, _HeldLease] = {}
        self._lock = threading.Lock()
        super().__init__(
            "leases", partial(repeat, every_s=visibility_s / BEATS_PER_VISIBILITY, action=self._beat), on_death=on_death
        )

    def hold(self, message: ReceivedMessage, received_at: float | None = None) -> None:
        """Begin to extend; `received_at` (time.monotonic) is when the receive was asked for."""
        begin = time.monotonic() if received_at is None else received_at
        with self._lock:
            self._held[message.receipt] = _HeldLease(message, begin, begin)

    def note_progress(self, message: ReceivedMessage) -> None:
        """The message's handler has begun, or has made progress."""
        held = self._held.get(message.receipt)
        if held is not None:
            held.progressed_at = time.monotonic()

    def pause_progress(self, message: ReceivedMessage) -> None:
        """The handler is done; the lease goes on until the message is deleted."""
        held = self._held.get(message.receipt)
        if held is not None:
            held.progressed_at = None

    @property
    def held(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def is_lost(self, message: ReceivedMessage) -> bool:
        held = self._held.get(message.receipt)
        return held is not None and held.lost

    def drop(self, message: ReceivedMessage) -> bool:
        """Stop extending; False where the lease was lost. When this returns, no extension of this message is under way:
        a late one would undo a back-off."""
        with self._lock:
            held = self._held.pop(message.receipt, None)
        return held is not None and not held.lost

    def _beat(self) -> None:
        for receipt in list(self._held):
            with self._lock:
                held = self._held.get(receipt)
                if held is not None and not held.lost:
                    self._extend(held)

    def _extend(self, held: _HeldLease) -> None:
        now = time.monotonic()
        about = {"message_id": held.message.message_id}
        if held.progressed_at is not None and now - held.progressed_at > self._stuck_after_s:
            log.critical("no progress for %.0f s: lease let go", now - held.progressed_at, extra=about)
            self._lose(held)
            self._on_stuck()
        elif now - held.received_at > LONGEST_LEASE_S:
            log.error("worked on for %.0f h: lease let go", LONGEST_LEASE_S / 3600, extra=about)
            self._lose(held)
        else:
            self._try_to_extend(held, now)

    def _try_to_extend(self, held: _HeldLease, now: float) -> None:
        about = {"message_id": held.message.message_id}
        try:
            self._queue.hide(held.message, self._visibility_s)
            held.extended_at = now
        except LeaseLost as error:
            log.warning("lease lost: %s", error, extra=about)
            self._lose(held)
        except RetryLater as error:
            log.warning("lease not extended: %s", error, extra=about)
            if now - held.extended_at > self._visibility_s:
                self._lose(held)

    def _lose(self, held: _HeldLease) -> None:
        held.lost = True
        self._on_lost()
