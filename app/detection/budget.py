"""A bound on what is worked on at the same time, in pixels or bytes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """An amount that holders share. A holder that needs more than the whole amount gets it when it is the only one."""

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
    def hold(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._used == 0 or self._used + amount <= self._limit)
            self._waiting -= 1
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()
