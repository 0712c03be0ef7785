"""Where the time of a photo goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DIGITS = 4


class StageTimes:
    """Seconds of each named stage of one photo; `progress` is called as each begins."""

    def __init__(self, progress: Callable[[], None] = lambda: None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._progress()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, DIGITS)
