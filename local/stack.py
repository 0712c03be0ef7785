"""The local stack: moto's server for AWS, SecantusDB for MongoDB, and both services, each as a process.

The running processes are written to `.local/state.json`, so that a later command finds them. Where QUEUE_URL or
GALLERY_IMAGES_MONGO_URI is set, real AWS or MongoDB is used and no stand-in is started.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from app.adapters.aws import open_client
from app.config import list_fields
from app.core.errors import WorkerError
from app.packs.manifest import read_manifest

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
SLOWEST_ANSWER_S = 300
MAX_RECEIVE_COUNT = 5
SERVICES = ("detection", "grouping")
AWS_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

LOCAL_DEFAULTS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
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
    """A started process. Its start time tells it from a later process with the same id."""

    pid: int
    started: float


@dataclass
class State:
    """The running processes, and the environment with which they were started."""

    processes: dict[str, ProcessEntry] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


class LocalStack:
    """Starts, finds and stops the processes under one folder."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._state_file = home / "state.json"
        self.logs = home / "logs"
        self.state = self._read_state()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the services."""
        return {**os.environ, **self.state.environment}

    def enter_environment(self) -> None:
        """Set the services' environment in this process, too, because boto3 reads its settings there."""
        os.environ.update(self.state.environment)

    def is_running(self, name: str) -> bool:
        return self._process(name) is not None

    def start(self, pack: str) -> list[str]:
        """Start what isn't running yet, the services with this pack. Returns the names of the started processes."""
        started = self.start_stores()
        wanted = {"MODEL_PACK": pack, "DEV_WORKER_IMAGE": os.environ.get("DEV_WORKER_IMAGE", "")}
        if wanted.items() - self.state.environment.items():
            self.stop(SERVICES)
        self.state.environment |= wanted
        return [*started, *self._start_services()]

    def start_stores(self) -> list[str]:
        """Start only AWS and MongoDB, make queues and buckets, and enter their environment."""
        self.logs.mkdir(parents=True, exist_ok=True)
        if not any(self.is_running(name) for name in self.state.processes):
            defaults = {**LOCAL_DEFAULTS, "GALLERY_INDEX_DIR": str(self._home / "index")}
            self.state = State(environment={k: v for k, v in defaults.items() if k not in os.environ})
        started = [*self._start_aws(), *self._start_mongo()]
        self.enter_environment()
        if not os.environ.get("QUEUE_URL"):
            self._make_queues_and_buckets()
        return started

    def stop(self, names: tuple[str, ...] | None = None) -> list[str]:
        """Stop these processes, or all: first the services, then AWS and MongoDB."""
        order = names or (*SERVICES, "mongo", "aws")
        stopped = []
        for some in (SERVICES, ("mongo", "aws")):
            chosen = [name for name in some if name in order]
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

    def _start_aws(self) -> list[str]:
        if os.environ.get("QUEUE_URL") or self.is_running("aws"):
            return []
        port = _find_free_port()
        self._spawn("aws", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
        self._await_port("aws", port)
        self.state.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        return ["aws"]

    def _start_mongo(self) -> list[str]:
        if os.environ.get("GALLERY_IMAGES_MONGO_URI") or self.is_running("mongo"):
            return []
        port = _find_free_port()
        data = self._home / "mongo"
        data.mkdir(exist_ok=True)
        # The lock that a killed SecantusDB leaves in its folder does not prevent a new one from starting.
        program = str(Path(sys.executable).parent / "secantusd-py")
        self._spawn("mongo", [program, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data)])
        self._await_port("mongo", port)
        uri = f"mongodb://127.0.0.1:{port}"
        # SecantusDB collects a whole answer before it sends the first byte: for 100,000 faces ten seconds and more.
        timeout = f"socketTimeoutMS={SLOWEST_ANSWER_S * 1000}"
        self.state.environment["GALLERY_IMAGES_MONGO_URI"] = f"{uri}/gallery_images?{timeout}"
        self.state.environment["HUEMN_MONGO_URI"] = f"{uri}/huemn"
        self._await_mongo(uri)
        return ["mongo"]

    def _make_queues_and_buckets(self) -> None:
        environment = self.environment
        region = environment["AWS_DEFAULT_REGION"]
        sqs, s3 = open_client("sqs", region), open_client("s3", region)
        for variable, name in (("QUEUE_URL", "detection"), ("GROUP_FACE_QUEUE_URL", "grouping")):
            dead_letters = sqs.create_queue(QueueName=f"{name}-dead-letters")["QueueUrl"]
            arn = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
            queue = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive})
            self.state.environment[variable] = queue["QueueUrl"]
        for bucket in (environment["BUCKET_NAME"], environment["FACE_GROUP_BUCKET_NAME"]):
            with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
                s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})

    def _start_services(self) -> list[str]:
        wanted = [name for name in SERVICES if not self.is_running(name)]
        begins = {name: self._log_size(name) for name in wanted}
        for name in wanted:
            self._spawn(name, self._make_command(f"run_{name}_service.py"))
        for name, begin in begins.items():
            self._await_ready(name, begin)
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
        with self._log(name).open("ab") as log:
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
        self.state.processes[name] = ProcessEntry(child.pid, psutil.Process(child.pid).create_time())
        self._write_state()

    def _await_port(self, name: str, port: int) -> None:
        def answers() -> bool:
            with closing(socket.socket()) as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self._await(name, answers)

    def _await_mongo(self, uri: str) -> None:
        def answers() -> bool:
            mongo: MongoClient[dict[str, object]] = MongoClient(uri, serverSelectionTimeoutMS=500)
            with suppress(PyMongoError), mongo:
                return bool(mongo.admin.command("ping")["ok"])
            return False

        self._await("mongo", answers)

    def _await_ready(self, name: str, begin: int) -> None:
        def is_ready() -> bool:
            with self._log(name).open("rb") as log:
                log.seek(begin)
                return b'"message": "ready"' in log.read()

        self._await(name, is_ready)

    def _await(self, name: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while not condition():
            if not self.is_running(name):
                raise LocalStackError(f"The {name} process ended while starting: {self._read_last_line(name)}")
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

    def _log_size(self, name: str) -> int:
        return self._log(name).stat().st_size if self._log(name).exists() else 0

    def _read_last_line(self, name: str) -> str:
        lines = self._log(name).read_text("utf-8", "replace").strip().splitlines()
        return f"{lines[-1] if lines else 'its log is empty'} (log: {self._log(name)})"

    def _read_state(self) -> State:
        try:
            fields = json.loads(self._state_file.read_text("utf-8"))
        except (OSError, ValueError):
            return State()
        processes = {name: ProcessEntry(**entry) for name, entry in fields["processes"].items()}
        return State(processes, fields["environment"])

    def _write_state(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        partial = self._state_file.with_suffix(".part")
        partial.write_text(json.dumps(asdict(self.state), indent=2), "utf-8")
        partial.replace(self._state_file)


def _list_pack_folders(pack: str) -> set[Path]:
    """The folders that a container needs of a pack that is given as a path."""
    path = Path(pack)
    if path.suffix == ".toml":
        return {path.parent, (path.parent / read_manifest(path).source.path).resolve()}
    return {path} if path.is_dir() and path.is_absolute() else set()


def _find_free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
