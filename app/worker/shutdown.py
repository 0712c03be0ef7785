"""Stopping: signals set flags, the consumer acts on them."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """The wish to stop, and the exit code the process ends with."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self.at_once = False
        self.exit_code = 0

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def request(self, exit_code: int = 0) -> None:
        """Take in nothing new; a non-zero code of an earlier request stays."""
        self.exit_code = self.exit_code or exit_code
        self._requested.set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep, but not through a request."""
        return self._requested.wait(timeout_s)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """While inside: the first SIGTERM or SIGINT asks to finish what is started, a second to leave at once."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.at_once = self.requested
        self.request()
