"""Shutdown: signals set flags, and the consumer acts on them."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOK_EVERY_S = 0.05


class Shutdown:
    """A request to stop, and the exit code of the process.

    The flags are plain attributes that are polled. A signal handler interrupts the main thread, so a lock that the
    main thread holds at that moment (such as that of threading.Event) would never be released to it.
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
        """Sleep until the time is over or a stop is requested. True if one is requested."""
        until = time.monotonic() + timeout_s
        while not self.requested and time.monotonic() < until:
            time.sleep(min(LOOK_EVERY_S, timeout_s))
        return self.requested

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """While inside, the first SIGTERM or SIGINT requests a stop, and the second one an immediate stop. What is
        ignored stays so."""
        handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self.at_once = self._signals > 1
        self.request()
