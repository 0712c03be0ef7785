"""Where the time of a photo goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimes:
    """Seconds of each named stage of one photo."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 4)
