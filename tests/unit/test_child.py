"""The second process of a service. What runs in it are functions of this module."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from app.worker.child import ChildProcess, stop_service, stop_with_parent
from app.worker.shutdown import Shutdown

PATIENCE_S = 20.0
DEAD = 10


def serve(file: Path, code: int = 0) -> int:
    """Works until a stop, and writes down when it has begun and that it has ended."""
    shutdown = Shutdown()
    with shutdown.handle_signals(), stop_with_parent(shutdown):
        file.with_suffix(".part").write_text(str(os.getpid()))
        file.with_suffix(".part").rename(file)
        while not shutdown.wait(0.05):
            pass
    file.with_suffix(".ended").touch()
    return code


def end_with(code: int) -> int:
    return code


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def stay_deaf(file: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    file.touch()
    time.sleep(PATIENCE_S)
    return 0


def finish_unless_told_again(folder: Path) -> int:
    shutdown = Shutdown()
    with shutdown.handle_signals():
        (folder / "there").touch()
        wait_until(lambda: shutdown.requested)
        (folder / "told").touch()
        wait_until(lambda: shutdown.at_once)
    (folder / "told again").touch()
    return 0


def end_slowly(folder: Path) -> int:
    """Lives on for a while after all its files are closed, as a process that gives back much memory."""
    shutdown = Shutdown()
    with shutdown.handle_signals():
        (folder / "there").touch()
        wait_until(lambda: shutdown.requested)
    os.closerange(3, 256)
    time.sleep(1)
    (folder / "ended").touch()
    return 0


def live_and_be_killed(file: Path) -> int:
    """A parent that is gone without a word."""
    shutdown = Shutdown()
    with ChildProcess("find", partial(serve, file), shutdown, 1, stop_service(shutdown, DEAD)):
        wait_until(file.exists)
        os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_a_child_is_asked_to_end_and_may_end_its_work(tmp_path: Path) -> None:
    shutdown = Shutdown()
    with ChildProcess("find", partial(serve, tmp_path / "pid"), shutdown, 10, stop_service(shutdown, DEAD)):
        wait_until((tmp_path / "pid").exists)
        assert not shutdown.requested
    assert (tmp_path / "pid.ended").exists()
    assert shutdown.exit_code == 0
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_stop_of_the_service_reaches_the_child_at_once(tmp_path: Path) -> None:
    shutdown = Shutdown()
    with ChildProcess("find", partial(serve, tmp_path / "pid"), shutdown, 10, stop_service(shutdown, DEAD)):
        wait_until((tmp_path / "pid").exists)
        shutdown.request()
        # The service itself goes on with what it has begun.
        wait_until((tmp_path / "pid").with_suffix(".ended").exists)


@pytest.mark.parametrize(
    ("work", "code"), [(partial(end_with, 4), 4), (partial(end_with, 0), DEAD), (die, DEAD)], ids=["4", "0", "killed"]
)
def test_a_child_that_ends_by_itself_stops_the_service(work: Callable[[], int], code: int) -> None:
    shutdown = Shutdown()
    with ChildProcess("find", work, shutdown, 10, stop_service(shutdown, DEAD)):
        wait_until(lambda: shutdown.requested)
    assert shutdown.exit_code == code


def test_a_child_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.worker.child.SLACK_S", 0.1)
    began, shutdown = 0.0, Shutdown()
    with ChildProcess("find", partial(stay_deaf, tmp_path / "there"), shutdown, 0.1, stop_service(shutdown, DEAD)):
        wait_until((tmp_path / "there").exists)
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE_S / 2


def test_ctrl_c_which_reaches_all_processes_of_a_terminal_is_left_to_the_parent(tmp_path: Path) -> None:
    shutdown, file = Shutdown(), tmp_path / "pid"
    with ChildProcess("find", partial(serve, file), shutdown, 10, stop_service(shutdown, DEAD)):
        wait_until(file.exists)
        os.kill(int(file.read_text()), signal.SIGINT)
        time.sleep(0.5)
        assert not file.with_suffix(".ended").exists()
    assert file.with_suffix(".ended").exists()


def test_a_second_stop_reaches_the_child_too(tmp_path: Path) -> None:
    shutdown = Shutdown()
    with ChildProcess("find", partial(finish_unless_told_again, tmp_path), shutdown, 10, stop_service(shutdown, DEAD)):
        wait_until((tmp_path / "there").exists)
        shutdown.request()
        wait_until((tmp_path / "told").exists)
        shutdown.at_once = True
        wait_until((tmp_path / "told again").exists)


def test_a_child_that_takes_a_moment_to_end_after_its_files_are_closed_is_not_killed(tmp_path: Path) -> None:
    shutdown = Shutdown()
    with ChildProcess("find", partial(end_slowly, tmp_path), shutdown, 10, stop_service(shutdown, DEAD)):
        wait_until((tmp_path / "there").exists)
    assert (tmp_path / "ended").exists()


def test_a_child_whose_parent_was_killed_ends(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    parent = multiprocessing.get_context("spawn").Process(target=live_and_be_killed, args=(file,))
    parent.start()
    parent.join(PATIENCE_S)
    assert parent.exitcode == -signal.SIGKILL
    wait_until(file.with_suffix(".ended").exists)
