"""A worker's health as a small file, and `python -m app.health`, which judges it for a container's health check.

Alive means that the worker polled or progressed a short while ago; ready, that its models are loaded and both stores
answer. A worker that waits for a store which is away is alive: a new process would wait as well.

Imports nothing but the standard library, since a health check runs every few seconds beside the worker.
"""

import argparse
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

from app.core.errors import BadConfiguration

log = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0
WORKING = "working"


@dataclass(frozen=True)
class Report:
    """The content of the file. `time` is the machine's monotonic clock, in seconds.

    All processes of a machine share that clock, and it is never adjusted. The time of day is the file's own date.
    """

    time: float
    ready: bool
    state: str
    busy: bool = False


def join_reports(reports: Sequence[Report]) -> Report:
    """The report of a service of several processes: as old as the oldest one, and ready once all of them are."""
    states = (one.state for one in reports)
    state = next((one for one in states if one != WORKING), WORKING)
    return Report(
        min(one.time for one in reports),
        all(one.ready for one in reports),
        state,
        any(one.busy for one in reports),
    )


def read_report(path: Path) -> Report:
    """Raises OSError, ValueError or TypeError for a file that can't be read or holds something else."""
    return Report(**json.loads(path.read_text("utf-8")))


class HealthFile:
    """Writes reports; does nothing without a path. A failure is logged once, until the file can be written again."""

    def __init__(self, path: Path | None) -> None:
        """Raises BadConfiguration where the file can't be written."""
        self._path = path
        self._lock = threading.Lock()
        self._failing = False
        try:
            if self._part:
                self._part.touch()
                self._part.unlink()
        except OSError as error:
            raise BadConfiguration(f"HEALTH_FILE can't be written: {error}.") from error

    def try_to_write(self, report: Report) -> bool:
        """Whether the report is written. Work goes on without the file: if the failure lasts, the health check fails,
        and whoever runs the service decides."""
        try:
            with self._lock:
                self._write(report)
        except OSError as error:
            if not self._failing:
                log.warning("the health file can't be written: %s", error)
            self._failing = True
            return False
        self._failing = False
        return True

    @property
    def _part(self) -> Path | None:
        return self._path and self._path.with_name(f"{self._path.name}.part")

    def _write(self, report: Report) -> None:
        if self._path and self._part:
            self._part.write_text(json.dumps(asdict(report)) + "\n", "utf-8")
            self._part.replace(self._path)


class Health:
    """Keeps the health file of this process; does nothing without a path. Any thread may call any method."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises BadConfiguration where the file can't be written."""
        self._file = HealthFile(path)
        self._clock = clock
        self._ready = False
        self._awaited: str | None = None
        self._busy = False
        self._written_at_s = -inf
        self._write()

    def beat(self) -> None:
        """The worker polled or progressed. Writes at most once a second."""
        if self._clock() - self._written_at_s >= WRITE_EVERY_S:
            self._write()

    def mark_ready(self) -> None:
        """The models are loaded and both stores have answered."""
        self._ready = True
        self._write()

    def report_waiting(self, store: str | None) -> None:
        """No message is received until this store answers; None where the worker waits for no store any more."""
        if store != self._awaited:
            self._awaited = store
            self._write()

    def report_busy(self, busy: bool) -> None:
        """Whether the worker has messages in work."""
        if busy != self._busy:
            self._busy = busy
            self._write()

    def _write(self) -> None:
        now_s = self._clock()
        is_ready = self._ready and self._awaited is None
        if self._file.try_to_write(Report(now_s, is_ready, self._describe_state(), self._busy)):
            self._written_at_s = now_s

    def _describe_state(self) -> str:
        if self._awaited is not None:
            return f"waiting for {self._awaited}"
        return WORKING if self._ready else "starting"


def judge_health(path: Path, max_age_s: float, must_be_ready: bool, now_s: float) -> tuple[bool, str]:
    """Whether the worker of this file is healthy, and a sentence that says why."""
    try:
        report = read_report(path)
        age_s = now_s - report.time
    except FileNotFoundError:
        return False, f"There is no health file {path}: the worker has not started, or HEALTH_FILE names another file."
    except (OSError, ValueError, TypeError) as error:
        return False, f"The health file {path} can't be read: {error}."
    if age_s < 0:
        return False, f"The health file {path} is older than this machine's last start."
    if age_s > max_age_s:
        return False, f"The worker's last sign of life is {age_s:.0f} s old; at most {max_age_s:.0f} s are allowed."
    if must_be_ready and not report.ready:
        return False, f"The worker is alive but not ready: it is {report.state}."
    return True, f"The worker is alive and {report.state}; its last sign of life is {age_s:.0f} s old."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m app.health", description="Checks whether a worker is healthy: exit code 0 if it is, 1 if not."
    )
    parser.add_argument("--file", type=Path, required=True, help="the worker's HEALTH_FILE")
    parser.add_argument("--max-age-s", type=float, default=60, help="how old the last sign of life may be (60)")
    parser.add_argument("--ready", action="store_true", help="models must be loaded and both stores answer, too")
    options = parser.parse_args(arguments)
    healthy, sentence = judge_health(options.file, options.max_age_s, options.ready, time.monotonic())
    sys.stdout.write(f"{sentence}\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
