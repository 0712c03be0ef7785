"""Where a worker's time goes: CPU by stage from inside it (load_ledger.py), and the time under Python's lock by py-spy,
which samples the stack of the thread that holds the lock. A stack counts for the first stage that one of its frames
names, from the innermost frame on."""

import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from app.core.threads import BackgroundThread
from benchmarks.speed.load_processes import Sample
from local.stack import LocalStackError

RATE_PER_S = 200
WARM_UP_S = 5.0
STAGES: dict[str, tuple[str, ...]] = {
    "S3": ("app/adapters/s3",),
    "SQS": ("app/adapters/sqs",),
    "MongoDB": ("app/adapters/mongo", "pymongo/", "bson/"),
    "decode": ("app/vision/decode", "app/vision/plain_jpeg", "app/vision/jpeg", "app/detection/decoders"),
    "align": ("app/vision/align",),
    "quality": ("app/vision/quality", "app/vision/light", "app/vision/photo_quality"),
    "encode": ("app/vision/crops",),
    "telemetry": ("app/telemetry", "logging/", "pythonjsonlogger/"),
}
"""Stage → parts of the files' paths."""
OTHER = "other"


class LockProfiler(BackgroundThread):
    """A context in which a worker is sampled for so many seconds."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid, self._seconds = pid, seconds
        self._lines: list[str] = []
        self._between_s = (0.0, 0.0)
        self._error: str | None = None
        super().__init__("py-spy", self._record)

    def describe(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Milliseconds a message under the lock of each stage and of all, once the context is left. Raises
        LocalStackError where py-spy could not look."""
        if self._error:
            raise LocalStackError(f"py-spy could not look at a worker: {self._error}")
        begin, end = (min(samples, key=lambda one: abs(one.at_s - at_s)).done for at_s in self._between_s)
        if end == begin:
            raise LocalStackError("No message was done while the worker was looked at: use more messages.")
        each = 1 / RATE_PER_S / (end - begin)
        return in_ms({stage: count * each for stage, count in count_stages(self._lines).items()})

    def _record(self, _closing: threading.Event) -> None:
        time.sleep(WARM_UP_S)
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(suffix=".txt") as file:
            # Without --nonblocking the worker would be stopped for each sample, and seem to hold the lock longer.
            command = [str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--nonblocking"]
            command += ["--pid", str(self._pid), "--rate", str(RATE_PER_S), "--duration", f"{self._seconds:.0f}"]
            done = subprocess.run(
                [*command, "--format", "raw", "--output", file.name], capture_output=True, text=True, check=False
            )
            if done.returncode:
                self._error = done.stderr.strip()[-300:]
            self._lines = Path(file.name).read_text("utf-8").splitlines()
        self._between_s = (began, time.monotonic())


def count_stages(lines: Iterable[str]) -> Counter[str]:
    """Samples of each stage; a line is `outermost;…;innermost count`."""
    counts = Counter[str]()
    for line in filter(None, lines):
        stack, _, number = line.rpartition(" ")
        counts[_find_stage(stack.split(";"))] += int(number)
    return counts


def _find_stage(frames: Sequence[str]) -> str:
    for frame in reversed(frames):
        for stage, parts in STAGES.items():
            if any(part in frame for part in parts):
                return stage
    return OTHER


def divide_cpu(seconds: Mapping[str, float], all_ms: float, messages: int) -> dict[str, float]:
    """Milliseconds a message of each stage; what none of them has of a worker's `all_ms` is `other`."""
    each = {stage: spent / messages for stage, spent in seconds.items()}
    return in_ms({**each, OTHER: all_ms / 1000 - sum(each.values())})


def in_ms(seconds: Mapping[str, float]) -> dict[str, float]:
    ordered = sorted(seconds.items(), key=lambda one: -one[1])
    return {"all": round(1000 * sum(seconds.values()), 2), **{stage: round(1000 * each, 2) for stage, each in ordered}}
