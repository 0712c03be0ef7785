"""Stopping: signals set flags, the consumer acts on them."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOK_EVERY_S = 0.05


class Shutdown:
    """The wish to stop, and the exit code the process ends with.

    Plain flags that are looked at: a signal handler runs within whatever the main thread is doing, and would wait
    for ever for a lock (such as that of threading.Event) which the main thread holds at that moment.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self.exit_code = 0
        self._signals = 0

    def request(self, exit_code: int = 0) -> None:
        """Take in nothing new. The first non-zero code stays."""
        self.exit_code = self.exit_code or exit_code
        self.requested = True

    def wait(self, timeout_s: float) -> bool:
        """Sleep, but not through a request. True where there is one."""
        until = time.monotonic() + timeout_s
        while not self.requested and time.monotonic() < until:
            time.sleep(min(LOOK_EVERY_S, timeout_s))
        return self.requested

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """While inside: the first SIGTERM or SIGINT asks to finish what is started, a second to leave at once."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self.at_once = self._signals > 1
        self.request()
