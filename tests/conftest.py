"""What more than one kind of test needs. Every server is lazy: a run of pure unit tests starts none."""

import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient

from app.adapters.aws import open_client
from app.adapters.mongo import Document, ensure_indexes
from local.database import SecantusDB
from local.ports import find_free_port, is_listening
from tests.fakes import FakeClock
from tests.servers import find_mongod_or_skip, run_database, run_server, wait_until
from tests.stores import CLIENTS, Stores

REGION = "eu-central-1"


def aws_client(service: str, region: str, *options: float, **named: float) -> Any:
    """A client as `open_client` makes it, for the endpoint that the environment names now: a benchmark that a test runs
    in this process has a server of its own."""
    return _open_at(os.environ.get("AWS_ENDPOINT_URL"), service, region, *options, **named)


@cache
def _open_at(_endpoint: str | None, service: str, region: str, *options: float, **named: float) -> Any:
    # Making a client costs boto3 a third of a second, more than most tests take in all.
    return open_client(service, region, *options, **named)


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a moto server of this session; boto3 finds it, and credentials for it, in the environment."""
    port = find_free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with (
        pytest.MonkeyPatch.context() as environment,
        run_server(command, tmp_path_factory.mktemp("moto")) as still_alive,
    ):
        wait_until(lambda: is_listening(port), still_alive)
        environment.setenv("AWS_ENDPOINT_URL", url)
        environment.setenv("AWS_DEFAULT_REGION", REGION)
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        # A profile of whoever runs the tests could name another endpoint.
        for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            environment.delenv(variable, raising=False)
        for adapter in ("sqs", "s3", "sns", "eventbridge"):
            environment.setattr(f"app.adapters.{adapter}.open_client", aws_client)
        yield url
        _open_at.cache_clear()


@pytest.fixture(scope="session")
def secantus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a SecantusDB server of this session, without a database name."""
    with run_database(SecantusDB(), tmp_path_factory.mktemp("secantus")) as uri:
        yield uri


@pytest.fixture(scope="session")
def mongo_uri(secantus_uri: str) -> str:
    return secantus_uri


@pytest.fixture(scope="session")
def mongod_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a real mongod of this session, a replica set of one member. Skips where none starts; the gate must not."""
    with run_database(find_mongod_or_skip(), tmp_path_factory.mktemp("mongod")) as uri:
        yield uri


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
