"""A service of several processes that do the same work, as one service for whoever runs it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from app.health import HealthFile, Report, join_reports, read_report
from app.worker.child import ChildProcess, stop_service
from app.worker.shutdown import Shutdown

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class Supervisor:
    """Starts a process for each of `works`, and waits until a stop is requested or all of them have ended with 0.

    `works` gets the file that each process keeps its health in, one a process, in `folder`. A process that ends with
    another code stops the others, and so does one that ends though it `must_stay`. `health_file` gets the health of the
    whole, and `set_busy` whether any process has messages in work.
    """

    def __init__(  # noqa: PLR0913 - what runs, and who hears of it
        self,
        works: Sequence[Callable[[Path], Callable[[], int]]],
        shutdown: Shutdown,
        deadline_s: float,
        folder: Path,
        *,
        must_stay: bool,
        dead_code: int,
        health_file: Path | None = None,
        set_busy: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._shutdown, self._must_stay, self._set_busy = shutdown, must_stay, set_busy
        self._stop_service = stop_service(shutdown, dead_code)
        self._health_file = HealthFile(health_file)
        files = [folder / f"{number}.json" for number in range(len(works))]
        self._running = set(files)
        self._children = [
            ChildProcess(f"photos-{number}", work(file), shutdown, deadline_s, partial(self._on_end, file))
            for number, (work, file) in enumerate(zip(works, files, strict=True))
        ]

    def run(self) -> int:
        """Returns the exit code of the service."""
        with ExitStack() as stack:
            for child in self._children:
                stack.enter_context(child)
            while not self._shutdown.requested:
                self._report()
                self._shutdown.wait(LOOK_EVERY_S)
        self._set_busy(False)
        return self._shutdown.exit_code

    def _on_end(self, file: Path, name: str, code: int) -> None:
        if code or self._must_stay:
            self._stop_service(name, code)
            return
        log.info("the process %s is done", name)
        self._running.discard(file)
        if not self._running:
            log.info("all processes are done")
            self._shutdown.request()

    def _report(self) -> None:
        running = list(self._running)
        reports = [report for file in running if (report := _read(file))]
        self._set_busy(any(report.busy for report in reports))
        # Until all of them have started, the service has not.
        if reports and len(reports) == len(running):
            self._health_file.try_to_write(join_reports(reports))


def _read(file: Path) -> Report | None:
    try:
        return read_report(file)
    except (OSError, ValueError, TypeError):
        return None
