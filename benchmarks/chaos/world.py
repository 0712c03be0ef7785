"""The services' surroundings: local AWS and MongoDB as processes, with a fault proxy before each store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from botocore.exceptions import BotoCoreError
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from app.adapters.aws import open_client
from benchmarks.chaos.proxy import FaultProxy
from benchmarks.chaos.workload import NO_SUCH_BUCKET
from local.database import DatabaseName, choose_database
from local.ports import find_free_port, is_listening
from local.stack import LOCAL_DEFAULTS, ROOT, LocalStackError

START_TIMEOUT_S = 120.0
STORES = ("s3", "sqs", "mongo")
VISIBILITY_S = 10
QUEUE_WAIT_S = 1
SHUTDOWN_DEADLINE_S = 20
SETTINGS = {
    **LOCAL_DEFAULTS,
    "MESSAGE_VISIBILITY_TIMEOUT": str(VISIBILITY_S),
    "QUEUE_WAIT_S": str(QUEUE_WAIT_S),
    "GROUPING_DELAY_S": "2",
    "SHUTDOWN_DEADLINE_S": str(SHUTDOWN_DEADLINE_S),
    # A worker that is killed costs each message that it holds one of its few tries, so it must hold few.
    "BATCH_SIZE": "4",
    "MAX_FACE_WORKERS": "2",
    "INFERENCE_THREADS": "1",
    "PREVIEW_SIDE_PX": "160",
    "ALLOWED_BUCKETS": NO_SUCH_BUCKET,
    # Other programs use the machine's memory, too.
    "FACE_RECOGNITION_MEMORY_THRESHOLD": "0.97",
}
QUEUE_VARIABLES = {"detection": "QUEUE_URL", "grouping": "GROUP_FACE_QUEUE_URL"}


@dataclass(frozen=True)
class WorldOptions:
    """`max_receives` is the queues' maxReceiveCount; `settings` override SETTINGS. `database` names the server in
    MongoDB's place; None takes a mongod where one starts, else SecantusDB."""

    home: Path
    pack: str = "open"
    strict: bool = False
    max_receives: int = 5
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    database: DatabaseName | None = None
    own_s3: bool = False
    """Whether S3 has a stand-in of its own. It is faster; notifications of buckets don't reach SQS then."""


class World:
    """A context in which the stand-ins run. `environment` has the settings with which a service uses them."""

    def __init__(self, options: WorldOptions) -> None:
        self.options = options
        self.journal_path = options.home / "journal.jsonl"
        self.server = choose_database(options.database)
        self.pids: dict[str, int] = {}
        """The process of each stand-in: `aws` (SQS and S3), `s3` where that has one of its own, and `mongo`."""
        self._stack = ExitStack()

    def __enter__(self) -> "World":
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        self.options.home.mkdir(parents=True, exist_ok=True)
        if (self.options.home / "mongo").exists():
            raise LocalStackError(f"{self.options.home} has the data of an earlier round: name another folder.")
        aws_port, mongo_port = self._start_aws("aws"), self._start_mongo()
        s3_port = self._start_aws("s3") if self.options.own_s3 else aws_port
        self.straight = {**SETTINGS, **self.options.settings, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws_port}"}
        self.straight["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{s3_port}"
        self.proxies = {
            store: self._stack.enter_context(FaultProxy(port, self.options.seed + row))
            for row, (store, port) in enumerate(zip(STORES, (aws_port, s3_port, mongo_port), strict=True))
        }
        region = self.straight["AWS_DEFAULT_REGION"]
        with Environment(self.straight):
            self.s3, self.sqs = open_client("s3", region), open_client("sqs", region)
        self.mongo: MongoClient[dict[str, Any]] = MongoClient(f"mongodb://127.0.0.1:{mongo_port}", tz_aware=True)
        self._stack.callback(self.mongo.close)
        self.database = self.mongo["gallery_images"]
        self.queues = self._make_queues_and_buckets()
        self.environment = self._make_environment()

    def _make_environment(self) -> dict[str, str]:
        ports = {store: proxy.port for store, proxy in self.proxies.items()}
        # Without directConnection the driver would connect to the address that the server reports, not to the proxy.
        mongo = "mongodb://127.0.0.1:{}/{}?directConnection=true"
        sqs = f"http://127.0.0.1:{ports['sqs']}"
        return {
            **self.straight,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3']}",
            "AWS_ENDPOINT_URL_SQS": sqs,
            "GALLERY_IMAGES_MONGO_URI": mongo.format(ports["mongo"], "gallery_images"),
            "HUEMN_MONGO_URI": mongo.format(ports["mongo"], "huemn"),
            "MODEL_PACK": self.options.pack,
            # The path, which contains the account, stays; the host is replaced with the proxy's.
            **{QUEUE_VARIABLES[name]: f"{sqs}/{_get_url_path(self.queues[name])}" for name in QUEUE_VARIABLES},
        }

    def _start_aws(self, name: str) -> int:
        port = find_free_port()
        command = [sys.executable, "-m", "benchmarks.chaos.strict_moto", "--port", str(port)]
        command += ["--journal", str(self.journal_path), *(["--strict"] if self.options.strict else [])]
        self._spawn(name, command, port)
        return port

    def _start_mongo(self) -> int:
        port, data = find_free_port(), self.options.home / "mongo"
        data.mkdir(exist_ok=True)
        self._spawn("mongo", self.server.make_command(port, data), port)
        self._await(lambda: self.server.is_ready(port), self.server.name)
        return port

    def _spawn(self, name: str, command: list[str], port: int) -> None:
        with (self.options.home / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
            )
        self._stack.callback(_end, child)
        self.pids[name] = child.pid
        self._await(lambda: child.poll() is None and is_listening(port), name)

    def _make_queues_and_buckets(self) -> dict[str, str]:
        urls = {}
        for name in QUEUE_VARIABLES:
            dead = self.sqs.create_queue(QueueName=f"{name}-dead-letters")["QueueUrl"]
            arn = self.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": self.options.max_receives})
            urls[name] = self.sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive})["QueueUrl"]
            urls[f"{name}-dead-letters"] = dead
        region = {"LocationConstraint": self.straight["AWS_DEFAULT_REGION"]}
        for bucket in (SETTINGS["BUCKET_NAME"], SETTINGS["FACE_GROUP_BUCKET_NAME"]):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=region)
        return urls

    def _await(self, condition: Any, what: str) -> None:  # noqa: ANN401 - any callable that tells true from false
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            with suppress(OSError, PyMongoError, BotoCoreError):
                if condition():
                    return
            time.sleep(0.1)
        raise LocalStackError(f"{what} did not start within {START_TIMEOUT_S:.0f} s; see {self.options.home}.")


class Environment:
    """A context with other environment variables: boto3 reads endpoint and credentials when it makes a client."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._before = dict(os.environ)
        os.environ.update(self._values)

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _get_url_path(queue_url: str) -> str:
    return "/".join(queue_url.split("/")[3:])
