"""Nothing but the configured stores is spoken to, and no library calls its maker (docs/what_leaves.md)."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from app import SILENCED
from benchmarks.common.running import run_local_stores
from local.stack import LOCAL_DEFAULTS, SERVICES
from tests.integration.outgoing import Outgoing, OutgoingRecord
from tests.integration.services import Services, wait_for
from tests.integration.test_bad_input import astronaut

COLLECTOR = "mobile.events.data.microsoft.com"
"""Where onnxruntime sends its events; it looks the name up nine seconds after it was imported."""
LISTENED_S = 25.0

TALKS = f"""
import socket
try: socket.getaddrinfo("{COLLECTOR}", 443)
except OSError: pass
socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
socket.socket().connect_ex(("127.0.0.1", 9))
"""


@pytest.fixture
def record(tmp_path: Path) -> OutgoingRecord:
    return OutgoingRecord(tmp_path)


def test_a_look_up_a_datagram_and_a_connection_are_noted(record: OutgoingRecord) -> None:
    subprocess.run([sys.executable, "-c", TALKS], env=record.environment, check=True)
    noted = {(one.what, one.name, one.port) for one in record.read()}
    assert noted == {("lookup", COLLECTOR, 0), ("send", "127.0.0.1", 9), ("connect", "127.0.0.1", 9)}


@pytest.mark.slow
def test_onnxruntime_by_itself_would_call_its_maker_and_write_into_the_home_folder(record: OutgoingRecord) -> None:
    """If this fails after an update, onnxruntime has changed what it does: look again at what switches it off."""
    code = f"import onnxruntime, time; time.sleep({LISTENED_S})"
    with subprocess.Popen([sys.executable, "-c", code], env=record.environment) as process:
        wait_for(record.read, "the look-up")
        process.kill()
    assert {(one.what, one.name) for one in record.read()} == {("lookup", COLLECTOR)}
    assert any("onnxruntime" in name for name in record.list_written_files())


@contextmanager
def run_recorded_services(record: OutgoingRecord) -> Iterator[Services]:
    """Both services, recorded, and their stores, which are not. The environment tells the libraries to talk."""
    with run_local_stores() as stack:
        settings = {**LOCAL_DEFAULTS, **stack.state.environment}
        os.environ.clear()
        os.environ.update({**record.environment, **settings, **dict.fromkeys(SILENCED, "0")})
        os.environ["RAY_USAGE_STATS_ENABLED"] = "1"
        stack.start("open")
        with Services(stack) as services:
            yield services


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_both_services_speak_to_the_configured_stores_alone(record: OutgoingRecord) -> None:
    with run_recorded_services(record) as services:
        stack = services.stack
        processes = [stack.state.processes[name].pid for name in SERVICES]
        services.send_photo("quiet", "face", astronaut())
        wait_for(lambda: services.database["galleries"].find_one({"last_run.faces": 1}), "the grouping run")
        youngest = max(psutil.Process(process).create_time() for process in processes)
        time.sleep(max(0.0, LISTENED_S - (time.time() - youngest)))
        # What is sent at the end counts too.
        stack.stop(SERVICES)
        stores = [services.environment[name] for name in ("AWS_ENDPOINT_URL", "GALLERY_IMAGES_MONGO_URI")]
        lines = [line for name in SERVICES for line in (stack.logs / f"{name}.log").read_text("utf-8").splitlines()]

    noted = record.read()
    wanted = {(urlsplit(store).hostname, urlsplit(store).port) for store in stores}
    assert [one for one in noted if not _leads_to(one, wanted)] == []
    for process in processes:
        assert wanted <= {(one.name, one.port) for one in noted if one.process == process}
    assert record.list_written_files() == []
    assert [line for line in lines if not line.startswith("{")] == []


def _leads_to(one: Outgoing, wanted: set[tuple[str | None, int | None]]) -> bool:
    return one.name in {host for host, _ in wanted} if one.what == "lookup" else (one.name, one.port) in wanted
