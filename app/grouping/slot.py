"""One grouping run at a time in a process, since a run uses all cores. Edits are applied beside it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class RunSlot:
    """Held by the run of this process. One more thread may wait for it; others get it at once or not at all, so that a
    thread stays free for edits."""

    def __init__(self, wait_s: float = 1.0) -> None:
        """`wait_s` is how long a message waits for the run of another gallery; then it is left to come again."""
        self._wait_s = wait_s
        self._run = threading.Lock()
        self._waiting = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Yields whether the caller has the slot, after `wait_s` at most."""
        has_it = self._run.acquire(blocking=False) or self._wait()
        try:
            yield has_it
        finally:
            if has_it:
                self._run.release()

    def _wait(self) -> bool:
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._run.acquire(timeout=self._wait_s)
        finally:
            self._waiting.release()
