"""Servers as processes of a test run."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.database import Database, Mongod, NoMongod, find_mongod
from local.ports import find_free_port

START_TIMEOUT_S = 60.0


def find_mongod_or_skip() -> Mongod:
    """Skips, with the reason, where none starts. With CI set, as in the gate, this fails."""
    try:
        return find_mongod()
    except NoMongod as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))


@contextmanager
def run_database(database: Database, home: Path) -> Iterator[str]:
    port, data = find_free_port(), home / "data"
    data.mkdir()
    with run_server(database.make_command(port, data), home) as still_alive:
        wait_until(lambda: database.is_ready(port), still_alive)
        # Told of a URI without the set's name, the driver finds out by itself.
        yield f"mongodb://127.0.0.1:{port}"


@contextmanager
def run_server(command: list[str], home: Path) -> Iterator[Callable[[], None]]:
    """A process that ends with the `with`. Yields a check that fails, with its last words, once it is dead."""
    log = home / "server.log"
    # Nothing of a server's own code counts as ours, so coverage would only slow it down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=home, env=environment
        )

    def still_alive() -> None:
        if process.poll() is not None:
            pytest.fail(f"{command} ended with {process.returncode}: {log.read_text('utf-8', 'replace')[-500:]}")

    try:
        yield still_alive
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], still_alive: Callable[[], None]) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while not condition():
        still_alive()
        if time.monotonic() > until:
            pytest.fail(f"a server of the tests didn't answer within {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
