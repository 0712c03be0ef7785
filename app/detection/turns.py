"""Taking turns at a device: who is urgent goes first."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType


class _Waiter:
    """Who waits. `is_urgent` may change its answer while it waits."""

    def __init__(self, is_urgent: Callable[[], bool]) -> None:
        self.is_urgent = is_urgent


class Turns:
    """A semaphore: so many hold it at a time. Of those who wait, the first urgent one is next, else the first one.

    As a context it is held by somebody who is not urgent.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[_Waiter] = []
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        self.take(lambda: False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    @contextmanager
    def hold(self, is_urgent: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """A context in which it is held by somebody who is urgent as soon as `is_urgent` says so."""
        self.take(is_urgent)
        try:
            yield
        finally:
            self.give_back()

    def look_again(self) -> None:
        """Somebody who waits may have become urgent."""
        with self._changed:
            self._changed.notify_all()

    def take(self, is_urgent: Callable[[], bool] = lambda: True) -> None:
        """Wait for a turn."""
        me = _Waiter(is_urgent)
        with self._changed:
            self._waiting.append(me)
            self._changed.wait_for(lambda: self._free > 0 and self._get_next() is me)
            self._waiting.remove(me)
            self._free -= 1
            if self._free and self._waiting:
                self._changed.notify_all()

    def give_back(self) -> None:
        """End a turn."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def _get_next(self) -> _Waiter:
        return next((one for one in self._waiting if one.is_urgent()), self._waiting[0])


class UrgentTurns:
    """The same turns as a context for somebody who is always urgent."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def __enter__(self) -> None:
        self._turns.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.give_back()
