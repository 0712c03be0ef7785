"""The local stack: moto's server for AWS, a MongoDB (local/database.py), and both services, each as a process.

The running processes, their ports and their environment are written to `.local/state.json`, so that a later command
finds them. Ports and environment are decided and written down before the first process is started, and a lock lets one
command at a time start or stop anything: no service ever runs without the endpoint of its AWS. Where QUEUE_URL or
GALLERY_IMAGES_MONGO_URI is set, real AWS or MongoDB is used and nothing is started in its place.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM

import psutil
from filelock import FileLock, Timeout

from app.adapters.aws import open_client
from app.config import list_fields
from app.core.errors import WorkerError
from app.packs.manifest import read_manifest
from local.database import Database, DatabaseName, choose_database
from local.ports import find_free_port, is_listening

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 2 * START_TIMEOUT_S
MAX_RECEIVE_COUNT = 5
SERVICES = ("detection", "grouping")
QUEUES = {"QUEUE_URL": "detection", "GROUP_FACE_QUEUE_URL": "grouping", "FIND_QUEUE_URL": "find"}
"""Setting → the local queue."""
SELFIES = "selfies"
"""The local bucket for guests' selfies."""
AWS_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
NAMED_WITH_QUEUE = ("GROUP_FACE_QUEUE_URL", "BUCKET_NAME", "FACE_GROUP_BUCKET_NAME", "AWS_DEFAULT_REGION")
"""What must be set beside QUEUE_URL: in real AWS, a default would name somebody else's bucket."""
LEADS_ELSEWHERE = ("AWS_ENDPOINT_URL", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
"""Names, or beginnings of names, of variables that could lead boto3 past the local AWS."""

LOCAL_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
LOCAL_DEFAULTS = {
    **LOCAL_CREDENTIALS,
    "AWS_DEFAULT_REGION": "eu-central-1",
    "BUCKET_NAME": "photos",
    "FACE_GROUP_BUCKET_NAME": "face-groups",
    "LOG_GROUP": "face-worker",
    "MESSAGE_VISIBILITY_TIMEOUT": "60",
    "GROUPING_DELAY_S": "2",
    # One folder of photos is tried with several packs.
    "ALLOW_MODEL_CHANGE": "true",
    "QUEUE_WAIT_S": "2",
    # As in the image: see the Dockerfile.
    "MALLOC_ARENA_MAX": "2",
}


class LocalStackError(WorkerError):
    """The local stack can't do this; the message says why and what to do."""


@dataclass
class ProcessEntry:
    """A started process. Its start time tells it from a later process with the same id. Its words in the log begin at
    `log_begin`."""

    pid: int
    started: float
    log_begin: int = 0


@dataclass
class State:
    """The running processes, and the environment with which they were started. `ports` has those of `aws` and `mongo`,
    as far as these are started here; `database` is the name of the one that is."""

    processes: dict[str, ProcessEntry] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    database: str = ""


class LocalStack:
    """Starts, finds and stops the processes under one folder. `database` is wanted where one is started here."""

    def __init__(self, home: Path, database: DatabaseName | None = None) -> None:
        self._home = home
        self._wanted_database = database
        self._state_file = home / "state.json"
        self._lock = FileLock(home / "lock", timeout=LOCK_TIMEOUT_S)
        self.logs = home / "logs"
        self._written = self._read_state_file()
        self.state = _parse_state(self._written)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._entered: dict[str, str] = {}
        """What this object has set in this process's own environment; all else in it is the user's."""
        self._database: Database | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the services."""
        mine = dict(os.environ)
        if "aws" in self.state.ports:
            mine = {name: value for name, value in mine.items() if not name.startswith(LEADS_ELSEWHERE)}
        return {**mine, **self.state.environment}

    def enter_environment(self) -> None:
        """Set the services' environment in this process, too, because boto3 reads its settings there.

        Raises LocalStackError where this would lead to real AWS and nobody has named queues there.
        """
        environment = self.environment
        if not environment.get("AWS_ENDPOINT_URL") and not self._get_users("QUEUE_URL"):
            raise LocalStackError(
                "The endpoint of the local AWS is not known, and without it photos would go to real AWS. Run "
                "./dev_worker.sh stop, and then start anew; or set QUEUE_URL to use real AWS."
            )
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        self._entered = dict(self.state.environment)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which no other command starts or stops anything under this folder."""
        self._home.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise LocalStackError(
                f"Another command has been starting or stopping processes for {LOCK_TIMEOUT_S:.0f} s; end it first."
            ) from None
        try:
            found = self._read_state_file()
            if found != self._written:
                self._written, self.state = found, _parse_state(found)
            yield
        finally:
            self._lock.release()

    def is_running(self, name: str) -> bool:
        return self._process(name) is not None

    def start(self, pack: str) -> list[str]:
        """Start what isn't running yet, the services with this pack. Returns the names of the started processes."""
        with self.locked():
            started = self.start_stores()
            wanted = {"MODEL_PACK": pack, "DEV_WORKER_IMAGE": os.environ.get("DEV_WORKER_IMAGE", "")}
            if wanted.items() - self.state.environment.items():
                self.stop(SERVICES)
            self.state.environment |= wanted
            return [*started, *self._start_services()]

    def start_stores(self) -> list[str]:
        """Start only AWS and MongoDB, make queues and buckets, and enter their environment."""
        with self.locked():
            self.logs.mkdir(parents=True, exist_ok=True)
            if not any(self.is_running(name) for name in self.state.processes):
                self.state = self._decide()
            self._write_state()
            started = self._start_aws_and_mongo()
            self.enter_environment()
            if "aws" in self.state.ports:
                self._make_queues_and_buckets()
            self._write_state()
        return started

    def stop(self, names: tuple[str, ...] | None = None) -> list[str]:
        """Stop these processes, or all: first the services, then AWS and MongoDB."""
        with self.locked():
            return self._stop(names or (*SERVICES, "mongo", "aws"))

    def _stop(self, names: tuple[str, ...]) -> list[str]:
        stopped = []
        for some in (SERVICES, ("mongo", "aws")):
            chosen = [name for name in some if name in names]
            running = {name: found for name in chosen if (found := self._process(name))}
            for process in running.values():
                process.terminate()
            _, alive = psutil.wait_procs(list(running.values()), timeout=STOP_TIMEOUT_S)
            for process in alive:
                process.kill()
            for name in chosen:
                self.state.processes.pop(name, None)
                if child := self._children.pop(name, None):
                    child.wait()
            stopped += list(running)
        self._write_state()
        return stopped

    def check_services(self) -> None:
        """Raises LocalStackError, with the last line of its log, where a service has ended."""
        for name in SERVICES:
            if name not in self.state.processes:
                raise LocalStackError(f"The {name} service is not running; ./dev_worker.sh starts it.")
            if not self.is_running(name):
                raise LocalStackError(f"The {name} service has ended: {self._read_last_line(name)}")

    def describe_database(self) -> str:
        """Which MongoDB is used, and why."""
        if "mongo" not in self.state.ports:
            return "MongoDB: the server of GALLERY_IMAGES_MONGO_URI."
        return f"MongoDB: {self._get_database().describe()}"

    def _get_users(self, name: str) -> str | None:
        """The value that the user has set in the environment of this process; None where none is set, or it is ours."""
        value = os.environ.get(name)
        return None if value == self._entered.get(name) else value

    def _decide(self) -> State:
        """A state without processes, with all ports and all of the environment that does not depend on a process.

        Raises LocalStackError where real queues are named and the rest of what is in real AWS is not.
        """
        named = self._get_users("QUEUE_URL")
        missing = [name for name in NAMED_WITH_QUEUE if named and not self._get_users(name)]
        if missing:
            raise LocalStackError(f"QUEUE_URL is set, so real AWS is used. Then set {', '.join(missing)}, too.")
        state = State()
        defaults = {"GALLERY_INDEX_DIR": str(self._home / "index"), **LOCAL_DEFAULTS}
        if named:
            defaults = {name: value for name, value in defaults.items() if name not in LOCAL_CREDENTIALS}
        else:
            state.ports["aws"] = find_free_port()
            defaults["SELFIE_BUCKETS"] = SELFIES
            state.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{state.ports['aws']}"
        if not self._get_users("GALLERY_IMAGES_MONGO_URI"):
            database = self._database = choose_database(self._wanted_database)
            port = state.ports["mongo"] = find_free_port()
            state.database = database.name
            defaults["GALLERY_INDEX_DIR"] = str(self._home / database.index)
            state.environment["GALLERY_IMAGES_MONGO_URI"] = database.make_uri(port, "gallery_images")
            state.environment["HUEMN_MONGO_URI"] = database.make_uri(port, "huemn")
        state.environment |= {name: value for name, value in defaults.items() if self._get_users(name) is None}
        return state

    def _get_database(self) -> Database:
        if self._database is None or self._database.name != self.state.database:
            self._database = choose_database(self.state.database or None)
        return self._database

    def _start_aws_and_mongo(self) -> list[str]:
        """Both at once. What a command that was interrupted has started is waited for, too."""
        ports, commands, answers = self.state.ports, dict[str, list[str]](), dict[str, Callable[[], bool]]()
        if aws := ports.get("aws"):
            commands["aws"] = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(aws)]
            answers["aws"] = lambda: is_listening(aws)
        if mongo := ports.get("mongo"):
            database = self._get_database()
            data = self._home / database.data
            data.mkdir(exist_ok=True)
            commands["mongo"] = database.make_command(mongo, data)
            answers["mongo"] = lambda: is_listening(mongo) and database.is_ready(mongo)
        wanted = [name for name in commands if not self.is_running(name)]
        for name in wanted:
            self._spawn(name, commands[name])
        for name, answer in answers.items():
            self._await(name, answer)
        return wanted

    def _make_queues_and_buckets(self) -> None:
        environment = self.environment
        region = environment["AWS_DEFAULT_REGION"]
        sqs, s3 = open_client("sqs", region), open_client("s3", region)
        for variable, name in QUEUES.items():
            dead_letters = sqs.create_queue(QueueName=f"{name}-dead-letters")["QueueUrl"]
            arn = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
            queue = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive})
            self.state.environment[variable] = queue["QueueUrl"]
        replies = sqs.create_queue(QueueName="find-replies")["QueueUrl"]
        self.state.environment.setdefault("ALLOWED_REPLY_QUEUE_URLS", replies)
        for bucket in (environment["BUCKET_NAME"], environment["FACE_GROUP_BUCKET_NAME"], SELFIES):
            with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
                s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})

    def _start_services(self) -> list[str]:
        wanted = [name for name in SERVICES if not self.is_running(name)]
        for name in wanted:
            self._spawn(name, self._make_command(f"run_{name}_service.py"))
        for name in SERVICES:
            self._await_ready(name)
        return wanted

    def _make_command(self, script: str) -> list[str]:
        """The command of a service: a process here or, with DEV_WORKER_IMAGE, a container in this host's network."""
        image = self.state.environment["DEV_WORKER_IMAGE"]
        if not image:
            return [sys.executable, str(ROOT / script)]
        names = [*sorted(name.upper() for name in list_fields()), "AWS_ENDPOINT_URL", *AWS_CREDENTIALS]
        environment = [f"--env={name}" for name in names if name in self.environment and name != "SERVICE_TYPE"]
        mounts = [f"--volume={path}:{path}:ro" for path in _list_pack_folders(self.state.environment["MODEL_PACK"])]
        return ["docker", "run", "--rm", "--init", "--network=host", *environment, *mounts, image, script]

    def _spawn(self, name: str, command: list[str]) -> None:
        begin = self._log(name).stat().st_size if self._log(name).exists() else 0
        # A process that is not written down would never be found again.
        with self._log(name).open("ab") as log, _hold_signals():
            child = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                cwd=ROOT,
                start_new_session=True,
            )
            self._children[name] = child
            self.state.processes[name] = ProcessEntry(child.pid, psutil.Process(child.pid).create_time(), begin)
            self._write_state()

    def _await_ready(self, name: str) -> None:
        def is_ready() -> bool:
            with self._log(name).open("rb") as log:
                log.seek(self.state.processes[name].log_begin)
                return b'"message": "ready"' in log.read()

        self._await(name, is_ready)

    def _await(self, name: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            # Asked first: what answers on its port may be another process.
            if not self.is_running(name):
                raise LocalStackError(f"The {name} process ended while starting: {self._read_last_line(name)}")
            if condition():
                return
            if time.monotonic() > until:
                raise LocalStackError(
                    f"The {name} process is not ready after {START_TIMEOUT_S:.0f} s: see {self._log(name)}."
                )
            time.sleep(0.05)

    def _process(self, name: str) -> psutil.Process | None:
        entry = self.state.processes.get(name)
        if entry is None:
            return None
        try:
            process = psutil.Process(entry.pid)
            same = abs(process.create_time() - entry.started) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _read_last_line(self, name: str) -> str:
        lines = self._log(name).read_text("utf-8", "replace").strip().splitlines()
        return f"{lines[-1] if lines else 'its log is empty'} (log: {self._log(name)})"

    def _read_state_file(self) -> str:
        return self._state_file.read_text("utf-8") if self._state_file.exists() else ""

    def _write_state(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        self._written = json.dumps(asdict(self.state), indent=2)
        partial = self._state_file.with_suffix(".part")
        partial.write_text(self._written, "utf-8")
        partial.replace(self._state_file)


def _parse_state(text: str) -> State:
    """The state of a state file; an empty one where there is none, or none that can be read."""
    try:
        fields = json.loads(text)
        processes = {name: ProcessEntry(**entry) for name, entry in fields.pop("processes").items()}
        return State(processes, **fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return State()


@contextmanager
def _hold_signals() -> Iterator[None]:
    """A context in which Ctrl-C and SIGTERM wait until its end. Only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    former = {each: signal.signal(each, lambda number, _: held.append(number)) for each in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
        for number in held:
            signal.raise_signal(number)


def _list_pack_folders(pack: str) -> set[Path]:
    """The folders that a container needs of a pack that is given as a path."""
    path = Path(pack)
    if path.suffix == ".toml":
        return {path.parent, (path.parent / read_manifest(path).source.path).resolve()}
    return {path} if path.is_dir() and path.is_absolute() else set()
