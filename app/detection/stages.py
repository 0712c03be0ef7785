"""Where the time of a photo goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.telemetry.traces import NO_TRACER, Tracer

DIGITS = 4


class StageTimes:
    """Seconds of each named stage of one photo, and a span of each where there are traces; `progress` is called as
    each begins."""

    def __init__(self, progress: Callable[[], None] = lambda: None, tracer: Tracer = NO_TRACER) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._tracer = tracer
        self._begun = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._progress()
        start = time.perf_counter()
        try:
            with self._tracer.stage(name):
                yield
        finally:
            self.add(name, time.perf_counter() - start)

    @property
    def elapsed_s(self) -> float:
        """Since the beginning, what lies between the stages included."""
        return time.perf_counter() - self._begun

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, DIGITS)
