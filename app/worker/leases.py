"""Keeping messages under lease: a short visibility, extended while their work goes on."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from app.errors import RetryLater
from app.ports import MessageQueue, ReceivedMessage

log = logging.getLogger(__name__)

BEATS_PER_VISIBILITY = 3


class Leases:
    """Extends the visibility of every held message at a third of it, from one thread.

    A thread that dies calls `on_death`, since messages without a beat would be done twice.
    """

    def __init__(self, queue: MessageQueue, visibility_s: float, on_death: Callable[[], None]) -> None:
        self._queue = queue
        self._visibility_s = visibility_s
        self._on_death = on_death
        self._held: dict[str, ReceivedMessage] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()

    def hold(self, message: ReceivedMessage) -> None:
        with self._lock:
            self._held[message.receipt] = message

    def drop(self, message: ReceivedMessage) -> None:
        """Stop extending. On return no beat of this message is under way: a late one would undo a back-off."""
        with self._lock:
            self._held.pop(message.receipt, None)

    def _run(self) -> None:
        try:
            while not self._closing.wait(self._visibility_s / BEATS_PER_VISIBILITY):
                self._beat()
        except Exception:
            log.exception("the lease thread died")
            self._on_death()

    def _beat(self) -> None:
        with self._lock:
            receipts = list(self._held)
        for receipt in receipts:
            with self._lock:
                message = self._held.get(receipt)
                if message is None:
                    continue
                try:
                    self._queue.hide(message, self._visibility_s)
                except RetryLater as error:
                    log.warning("lease not extended: %s", error, extra={"message_id": message.message_id})
