"""The frame of every thread that works in the background of a service."""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

log = logging.getLogger(__name__)

Made = TypeVar("Made")


class BackgroundThread:
    """A daemon thread for the life of a `with` block.

    `work(closing)` runs in it, and returns soon after the event `closing` is set. `wake` is called after that, for work
    that waits for something else than `closing`. Leaving the block waits for the end, for `join_s` seconds at most
    (None: as long as it takes; 0: not at all). An error that leaves `work` is logged, then `on_death` is called.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[threading.Event], None],
        *,
        wake: Callable[[], None] = lambda: None,
        join_s: float | None = None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._wake, self._join_s, self._on_death = work, wake, join_s, on_death
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """What entering the block does, for those who live longer than a block."""
        self._thread.start()

    def close(self) -> None:
        """What leaving the block does."""
        self._closing.set()
        self._wake()
        self._thread.join(self._join_s)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work(self._closing)
        except Exception:
            log.exception("the thread %s died", self._thread.name)
            self._on_death()


def repeat(closing: threading.Event, every_s: float, action: Callable[[], None]) -> None:
    """Call `action` every so many seconds until `closing` is set."""
    while not closing.wait(every_s):
        action()


class Slots:
    """A context that so many threads can be in at the same time, as threading.Semaphore. It is entered and left some
    hundred times a second by threads that have little else to do, and this one runs no Python code under its lock."""

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.put(None)


class Once(Generic[Made]):
    """A function that makes something when it is first called, and returns the same from then on. Other threads wait
    meanwhile; where it fails, the next call tries again."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: list[Made] = []
        self._lock = threading.Lock()

    def __call__(self) -> Made:
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]
