"""The memory of processes, and its peak over some time."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from app.core.threads import BackgroundThread, repeat

SAMPLE_EVERY_S = 0.05


class PeakMemory(BackgroundThread):
    """Samples the resident bytes of this process, or what `measure` returns, from a thread; `peak` is the largest
    sample."""

    def __init__(self, measure: Callable[[], int] | None = None) -> None:
        self.peak = 0
        self._measure = measure or (lambda: int(psutil.Process().memory_info().rss))
        super().__init__("peak memory", partial(repeat, every_s=SAMPLE_EVERY_S, action=self._sample))

    def _sample(self) -> None:
        self.peak = max(self.peak, self._measure())


def measure_tree(pid: int) -> int:
    """Resident bytes of a process and all below it. What several of them share counts once: each has its part of it
    (proc(5), smaps_rollup, Pss). Memory that they pass to each other and have not mapped is added."""
    total, files, mapped = 0, dict[int, int](), set[int]()
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(OSError):
                rollup = Path(f"/proc/{each.pid}/smaps_rollup").read_text("ascii")
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
                maps = Path(f"/proc/{each.pid}/maps").read_text("utf-8").splitlines()
                mapped |= {int(line.split()[4]) for line in maps if "/memfd:" in line}
            files |= _measure_memory_files(each.pid)
    return total + sum(size for inode, size in files.items() if inode not in mapped)


def _measure_memory_files(pid: int) -> dict[int, int]:
    """Inode → bytes of the memory files (memfd_create) that a process has open."""
    found = {}
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()).startswith("/memfd:"):
                    about = descriptor.stat()
                    found[about.st_ino] = about.st_blocks * 512
    return found
