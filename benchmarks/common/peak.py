"""The peak memory of a process over some time."""

from functools import partial

import psutil

from app.core.threads import BackgroundThread, repeat

SAMPLE_EVERY_S = 0.05


class PeakMemory(BackgroundThread):
    """Samples the resident bytes of a process (by default this one) from a thread; `peak` is the largest sample."""

    def __init__(self, pid: int | None = None) -> None:
        self.peak = 0
        self._process = psutil.Process(pid)
        super().__init__("peak memory", partial(repeat, every_s=SAMPLE_EVERY_S, action=self._sample))

    def _sample(self) -> None:
        self.peak = max(self.peak, self._process.memory_info().rss)
