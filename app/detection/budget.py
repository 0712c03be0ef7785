"""A bound on the memory of what is worked on at the same time."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.core.errors import BadPhoto

_PROGRESS_EVERY_S = 5.0


class Budget:
    """Bytes that holders share."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting = 0
        self._changed = threading.Condition()

    @property
    def is_exhausted(self) -> bool:
        """Whether a holder waits. No further message should be taken in then."""
        return self._waiting > 0

    @contextmanager
    def hold(self, amount: int, progress: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them. `progress` is called while it waits: others make progress.

        Raises BadPhoto for more than there is at all.
        """
        if amount > self._limit:
            raise BadPhoto(
                f"The picture is too large for this worker's memory (needs {math.ceil(amount / 1e6)} MB).", "too large"
            )
        with self._changed:
            self._waiting += 1
            try:
                while not self._changed.wait_for(lambda: self._used + amount <= self._limit, _PROGRESS_EVERY_S):
                    progress()
            finally:
                self._waiting -= 1
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()
