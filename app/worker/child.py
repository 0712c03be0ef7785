"""Further processes of a service, which live as long as the service does."""

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from types import TracebackType

from app.core.threads import BackgroundThread
from app.worker.shutdown import Shutdown

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
SLACK_S = 5.0
"""Added to the seconds that the child has for its end."""


class ChildProcess:
    """Runs `work` in a process of its own for the life of a `with` block; `work` returns the process's exit code.

    A stop of the service stops the child with SIGTERM, and it may take `deadline_s` to end. `on_end` is called with the
    name and the exit code of a child that ends by itself; the code is below 0 where a signal has ended it. `work` is
    found by its name in the new process, so it must be a function of a module.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], int],
        shutdown: Shutdown,
        deadline_s: float,
        on_end: Callable[[str, int], None],
    ) -> None:
        self._name, self._shutdown, self._deadline_s, self._on_end = name, shutdown, deadline_s, on_end
        # A fork would take over half of what other threads and CUDA were doing.
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_run, args=(work,), name=name, daemon=True)
        self._watch = BackgroundThread(name, self._look)

    def __enter__(self) -> "ChildProcess":
        self._process.start()
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shutdown.request()
        self._watch.close()

    def _look(self, closing: threading.Event) -> None:
        while not (self._shutdown.requested or closing.is_set()):
            if wait([self._process.sentinel], LOOK_EVERY_S):
                self._process.join()
                self._on_end(self._name, self._process.exitcode or 0)
                return
        self._stop()

    def _stop(self) -> None:
        """SIGTERM, a second one where the service is told to stop at once, and SIGKILL at the deadline."""
        until = time.monotonic() + self._deadline_s + SLACK_S
        self._process.terminate()
        is_told_again = False
        # The sentinel would tell of the end too early, while the process still gives back what it holds.
        while self._process.is_alive() and time.monotonic() < until:
            self._process.join(LOOK_EVERY_S)
            if self._shutdown.at_once and not is_told_again:
                self._process.terminate()
                is_told_again = True
        if self._process.is_alive():
            log.error("the process %s did not end in time; it is killed", self._name)
            self._process.kill()
        self._process.join()


def stop_service(shutdown: Shutdown, dead_code: int) -> Callable[[str, int], None]:
    """For a child that must not end: the service ends too, with the child's exit code or, where that says nothing, with
    `dead_code`. Whoever runs the service starts all of it anew."""

    def stop(name: str, code: int) -> None:
        log.critical("the process %s has ended (exit code %s)", name, code)
        shutdown.request(max(code, 0) or dead_code)

    return stop


def _run(work: Callable[[], int]) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent stops this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(work())


def stop_with_parent(shutdown: Shutdown) -> BackgroundThread:
    """For a ChildProcess: a thread that requests a stop once the parent is gone, however it ended."""
    parent = multiprocessing.parent_process()

    def look(closing: threading.Event) -> None:
        while parent and not closing.is_set():
            if wait([parent.sentinel], LOOK_EVERY_S):
                log.warning("the service's first process is gone")
                shutdown.request()
                return

    return BackgroundThread("parent", look, join_s=1)
