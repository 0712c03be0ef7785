"""What more than one kind of test needs. Every server is lazy: a run of pure unit tests starts none."""

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from pymongo import MongoClient

from app.adapters.aws import open_client
from app.adapters.mongo import Document, ensure_indexes
from local.database import Database, Mongod, NoMongod, SecantusDB, find_mongod
from tests.fakes import FakeClock
from tests.stores import CLIENTS, Stores

REGION = "eu-central-1"
START_TIMEOUT_S = 60.0

# Making a client costs boto3 a third of a second, more than most tests take in all.
aws_client = cache(open_client)


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With several workers: a test marked `alone` waits until no other test runs, and the others wait for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    # The folder above is that of all workers of this run.
    with (tmp_path_factory.getbasetemp().parent / "turn.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH)
        try:
            yield
        finally:
            # Said, and not left to the closing: a forked child would keep the lock for as long as it lives.
            fcntl.flock(lock, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a moto server of this session; boto3 finds it, and credentials for it, in the environment."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as environment, _server(command, tmp_path_factory.mktemp("moto")) as still_alive:
        _wait_until(lambda: _port_answers(port), still_alive)
        environment.setenv("AWS_ENDPOINT_URL", url)
        environment.setenv("AWS_DEFAULT_REGION", REGION)
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        # A profile of whoever runs the tests could name another endpoint.
        for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            environment.delenv(variable, raising=False)
        for adapter in ("sqs", "s3"):
            environment.setattr(f"app.adapters.{adapter}.open_client", aws_client)
        yield url
        aws_client.cache_clear()


@pytest.fixture(scope="session")
def secantus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a SecantusDB server of this session, without a database name."""
    with _run_database(SecantusDB(), tmp_path_factory.mktemp("secantus")) as uri:
        yield uri


@pytest.fixture(scope="session")
def mongo_uri(secantus_uri: str) -> str:
    return secantus_uri


@pytest.fixture(scope="session")
def mongod_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a real mongod of this session, a replica set of one member. Skips where none starts; the gate must not."""
    with _run_database(find_mongod_or_skip(), tmp_path_factory.mktemp("mongod")) as uri:
        yield uri


def find_mongod_or_skip() -> Mongod:
    try:
        return find_mongod()
    except NoMongod as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))


@pytest.fixture(scope="session")
def mongo_client(secantus_uri: str) -> Iterator["MongoClient[Document]"]:
    with MongoClient[Document](secantus_uri, tz_aware=True) as client:
        yield client


@pytest.fixture(scope="session")
def mongod_client(mongod_uri: str) -> Iterator["MongoClient[Document]"]:
    with MongoClient[Document](mongod_uri, tz_aware=True) as client:
        yield client


@pytest.fixture(params=["fake", *CLIENTS])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """The database's ports over empty collections: the fakes, SecantusDB, and a real mongod. All begin with nothing
    stored."""
    if request.param == "fake":
        yield Stores.of_fakes(FakeClock())
        return
    client: MongoClient[Document] = request.getfixturevalue(CLIENTS[request.param])
    database = client[f"test_{uuid4().hex}"]
    ensure_indexes(database)
    yield Stores.of_mongo(database, time.sleep)
    client.drop_database(database)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the test album and test models beside the checkout; tests that need it are skipped without."""
    folder = Path(__file__).parents[1].parent / "shared"
    missing = [str(folder / name) for name in ("album", "models") if not (folder / name).is_dir()]
    if missing:
        pytest.skip(f"the test album and models are not here: {' and '.join(missing)} missing")
    return folder


@contextmanager
def _run_database(database: Database, home: Path) -> Iterator[str]:
    port, data = _free_port(), home / "data"
    data.mkdir()
    with _server(database.make_command(port, data), home) as still_alive:
        _wait_until(lambda: database.is_ready(port), still_alive)
        # Told of a URI without the set's name, the driver finds out by itself.
        yield f"mongodb://127.0.0.1:{port}"


@contextmanager
def _server(command: list[str], home: Path) -> Iterator[Callable[[], None]]:
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


def _wait_until(condition: Callable[[], bool], still_alive: Callable[[], None]) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while not condition():
        still_alive()
        if time.monotonic() > until:
            pytest.fail(f"a server of the tests didn't answer within {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _port_answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
