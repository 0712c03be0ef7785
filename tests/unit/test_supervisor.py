"""Several processes as one service. What runs in them are functions of this module."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from app.health import Health, read_report
from app.worker.shutdown import Shutdown
from app.worker.supervisor import Supervisor
from tests.unit.test_child import end_with, serve, wait_until

DEAD = 10


def work(busy: bool, file: Path) -> int:
    """Serves, and keeps its health."""
    health = Health(file)
    health.mark_ready()
    health.report_busy(busy)
    return serve(file.with_suffix(".pid"))


def end(code: int, file: Path) -> int:
    Health(file).mark_ready()
    return end_with(code)


class Trial:
    """A supervisor that runs in a thread, and what it told."""

    def __init__(self, folder: Path, *works: Callable[[Path], int], must_stay: bool = True) -> None:
        self.folder, self.shutdown, self.busy, self.code = folder, Shutdown(), list[bool](), -1
        self.health_file = folder / "health"
        self.supervisor = Supervisor(
            [partial(partial, one) for one in works],
            self.shutdown,
            10,
            folder,
            must_stay=must_stay,
            dead_code=DEAD,
            health_file=self.health_file,
            set_busy=self.busy.append,
        )

    def pid(self, place: int) -> int:
        file = self.folder / f"{place}.pid"
        wait_until(file.exists)
        return int(file.read_text())

    @contextmanager
    def running(self) -> Iterator[None]:
        def run() -> None:
            self.code = self.supervisor.run()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join(30)
            assert not thread.is_alive()


def test_a_stop_reaches_all_processes_and_each_may_end_its_work(tmp_path: Path) -> None:
    trial = Trial(tmp_path, partial(work, False), partial(work, False))
    with trial.running():
        pids = [trial.pid(place) for place in (0, 1)]
        trial.shutdown.request()
    assert trial.code == 0
    assert all((tmp_path / f"{place}.ended").exists() for place in (0, 1))
    assert not any(map(psutil.pid_exists, pids))


def test_the_health_is_that_of_all_and_the_service_is_busy_while_any_process_is(tmp_path: Path) -> None:
    trial = Trial(tmp_path, partial(work, False), partial(work, True))
    with trial.running():
        wait_until(trial.health_file.exists)
        wait_until(lambda: read_report(trial.health_file).busy)
        report = read_report(trial.health_file)
        assert (report.ready, report.state) == (True, "working")
        assert report.time <= min(read_report(tmp_path / f"{place}.json").time for place in (0, 1))
        trial.shutdown.request()
    assert True in trial.busy
    assert not trial.busy[-1]


def test_the_service_has_no_health_before_all_processes_have_started(tmp_path: Path) -> None:
    trial = Trial(tmp_path, partial(work, False), serve_without_health)
    with trial.running():
        trial.pid(0)
        time.sleep(2.5)
        assert not trial.health_file.exists()
        trial.shutdown.request()


def serve_without_health(file: Path) -> int:
    return serve(file.with_suffix(".pid"))


def test_a_process_that_is_killed_stops_the_others(tmp_path: Path) -> None:
    trial = Trial(tmp_path, partial(work, False), partial(work, False))
    with trial.running():
        trial.pid(1)
        os.kill(trial.pid(0), signal.SIGKILL)
    assert trial.code == DEAD
    assert (tmp_path / "1.ended").exists()


def test_a_process_that_fails_stops_the_others_with_its_code(tmp_path: Path) -> None:
    trial = Trial(tmp_path, partial(end, 3), partial(work, False))
    with trial.running():
        pass
    assert trial.code == 3


def test_a_process_that_ends_though_it_must_stay_is_a_dead_one(tmp_path: Path) -> None:
    trial = Trial(tmp_path, partial(end, 0), partial(work, False))
    with trial.running():
        pass
    assert trial.code == DEAD


def test_a_queue_is_drained_once_all_processes_have_found_it_empty(tmp_path: Path) -> None:
    trial = Trial(tmp_path, partial(end, 0), partial(work, False), must_stay=False)
    with trial.running():
        pid = trial.pid(1)
        time.sleep(1.5)
        # The health is that of the process which still works.
        wait_until(lambda: read_report(trial.health_file).time > time.monotonic() - 60)
        assert not trial.shutdown.requested
        os.kill(pid, signal.SIGTERM)
    assert (trial.code, (tmp_path / "1.ended").exists()) == (0, True)
