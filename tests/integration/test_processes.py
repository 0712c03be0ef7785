"""The detection service with two processes, as one service for whoever runs it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.health import judge_health, read_report
from benchmarks.common.running import run_local_stores
from local.stack import ROOT
from tests import photos
from tests.integration.services import Services, wait_for

PATIENCE_S = 60
PHOTOS = 24


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with run_local_stores({"MODEL_PACK": "open"}) as stack, Services(stack) as services:
        yield services


class Running:
    """A service that runs, its log and its processes."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self.process, self.log, self.health_file = process, folder / "log", folder / "health"

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def count(self, message: str) -> int:
        return sum(line.get("message") == message for line in self.lines)

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that work on photos."""
        children = psutil.Process(self.process.pid).children()
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())]


@contextmanager
def run_service(services: Services, folder: Path, **settings: str) -> Iterator[Running]:
    environment = {
        **services.environment,
        "WORKER_PROCESSES": "2",
        "FIND_QUEUE_URL": "",
        "HEALTH_FILE": str(folder / "health"),
        "QUEUE_WAIT_S": "1",
        **settings,
    }
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "run_detection_service.py"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
    try:
        yield Running(process, folder)
    finally:
        process.kill()
        process.wait()


def send_photos(services: Services, gallery: str) -> None:
    for number in range(PHOTOS):
        services.send_photo(gallery, f"{number:02}", photos.jpeg(pixels=photos.noise(64, 48, seed=number)))


def is_done(services: Services, gallery: str) -> bool:
    return services.database["images"].count_documents({"gallery_id": gallery}) == PHOTOS


def test_both_processes_work_and_a_stop_ends_all_of_them(services: Services, tmp_path: Path) -> None:
    with run_service(services, tmp_path) as running:
        wait_for(lambda: running.count("ready") == 2, "both processes")
        send_photos(services, "both")
        wait_for(lambda: is_done(services, "both"), "the photos")
        wait_for(running.health_file.exists, "the health file")
        assert judge_health(running.health_file, 30, True, read_report(running.health_file).time + 1)[0]
        workers = running.workers
        assert len(workers) == 2
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0
        assert not any(worker.is_running() for worker in workers)
        # Each of them, and the one that started them.
        assert running.count("stopped") == 3


def test_a_queue_is_drained_by_both_and_the_service_ends_with_0(services: Services, tmp_path: Path) -> None:
    send_photos(services, "drained")
    with run_service(services, tmp_path, WORKER_MODE="drain") as running:
        assert running.process.wait(PATIENCE_S) == 0
        assert is_done(services, "drained")
        assert services.queue_is_empty()


def test_where_one_process_is_killed_the_service_ends_and_no_photo_is_lost(services: Services, tmp_path: Path) -> None:
    with run_service(services, tmp_path, MESSAGE_VISIBILITY_TIMEOUT="10", GROUPING_DELAY_S="1") as running:
        wait_for(lambda: running.count("ready") == 2, "both processes")
        send_photos(services, "killed")
        os.kill(running.workers[0].pid, signal.SIGKILL)
        assert running.process.wait(PATIENCE_S) == 10
        assert any(str(line["message"]).endswith("has ended (exit code -9)") for line in running.lines)
    (again := tmp_path / "again").mkdir()
    with run_service(services, again):
        wait_for(lambda: is_done(services, "killed"), "all photos")


def test_processes_whose_parent_is_killed_end_too(services: Services, tmp_path: Path) -> None:
    with run_service(services, tmp_path) as running:
        wait_for(lambda: running.count("ready") == 2, "both processes")
        workers = running.workers
        running.process.kill()
        running.process.wait()
        psutil.wait_procs(workers, timeout=PATIENCE_S)
        assert not any(worker.is_running() for worker in workers)


def test_a_wrong_pack_ends_the_service_with_its_own_code(services: Services, tmp_path: Path) -> None:
    with run_service(services, tmp_path, MODEL_PACK="none-such") as running:
        assert running.process.wait(PATIENCE_S) == 3
        assert "There is no pack 'none-such'" in running.log.read_text()
