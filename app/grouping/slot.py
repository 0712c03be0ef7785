"""One grouping run at a time in a process, since a run uses all cores. Edits are applied beside it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class RunSlot:
    """Held by the run of this process. One more thread may wait for it; others get it at once or not at all, so that a
    thread stays free for edits."""

    def __init__(self) -> None:
        self._run = threading.Lock()
        self._waiting = threading.Lock()

    @contextmanager
    def hold(self, wait_s: float) -> Iterator[bool]:
        """Yields whether the caller has the slot, after so many seconds at most."""
        has_it = self._run.acquire(blocking=False) or self._wait(wait_s)
        try:
            yield has_it
        finally:
            if has_it:
                self._run.release()

    def _wait(self, wait_s: float) -> bool:
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._run.acquire(timeout=wait_s)
        finally:
            self._waiting.release()
