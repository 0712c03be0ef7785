"""The peak memory of a process over some time."""

import threading
from types import TracebackType

import psutil

SAMPLE_EVERY_S = 0.05


class PeakMemory:
    """Samples the resident bytes of a process (by default this one) from a thread; `peak` is the largest sample."""

    def __init__(self, pid: int | None = None) -> None:
        self.peak = 0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self.peak = max(self.peak, self._process.memory_info().rss)
