"""A primary that steps down while photos are stored, in a real replica set of three members: nothing is lost."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect

from benchmarks.common.running import run_local_stores
from local.database import Mongod, form_replica_set
from local.ports import find_free_port
from local.stack import ROOT
from tests import photos
from tests.integration.services import Services, wait_for
from tests.servers import find_mongod_or_skip, run_server, wait_until

pytestmark = pytest.mark.slow
PHOTOS, WORKERS = 100, 2
STEP_DOWN_AT = (15, 50)
"""How many photos are stored when the primary steps down."""
QUICK = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 200}


@pytest.fixture
def replica_set(tmp_path: Path) -> Iterator[str]:
    """URI of three members that are one set, without a database name: `{}` stands in its place."""
    mongod, ports = find_mongod_or_skip(), [find_free_port() for _ in range(3)]
    with ExitStack() as stack:
        checks = [stack.enter_context(run_server(*_describe_member(mongod, port, tmp_path))) for port in ports]

        def all_alive() -> None:
            for check in checks:
                check()

        # The first member can't make a set with members that don't listen yet; it is asked again until it can.
        wait_until(lambda: form_replica_set(ports, QUICK), all_alive)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield f"mongodb://{hosts}/{{}}?replicaSet=local"


def _describe_member(mongod: Mongod, port: int, folder: Path) -> tuple[list[str], Path]:
    home = folder / f"member-{port}"
    (home / "data").mkdir(parents=True)
    return mongod.make_command(port, home / "data"), home


@pytest.fixture
def services(replica_set: str) -> Iterator[Services]:
    """Local AWS, that set, and two processes of the detection service with a stub in place of the networks."""
    uris = {f"{name.upper()}_MONGO_URI": replica_set.format(name) for name in ("gallery_images", "huemn")}
    command = [sys.executable, "-m", "benchmarks.speed.load_worker"]
    with run_local_stores(uris) as stack, Services(stack) as services:
        environment = {**stack.environment, "SERVICE_TYPE": "detection"}
        environment.pop("LOG_GROUP")
        workers = [subprocess.Popen(command, env=environment, cwd=ROOT) for _ in range(WORKERS)]
        try:
            yield services
            assert [worker.poll() for worker in workers] == [None] * WORKERS, "a worker did not survive"
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(timeout=30)


def step_down(admin: MongoClient[dict[str, Any]]) -> tuple[str, int]:
    """Returns the member that was the primary."""
    former = admin.primary
    assert former is not None
    with suppress(AutoReconnect):
        admin.admin.command("replSetStepDown", 20, secondaryCatchUpPeriodSecs=5)
    return former


def test_photos_that_are_stored_while_the_primary_steps_down_twice_are_all_there(
    services: Services, replica_set: str
) -> None:
    names = [f"{number:03}" for number in range(PHOTOS)]
    for number, name in enumerate(names):
        services.put_photo(f"g/{name}.jpg", photos.jpeg(pixels=photos.noise(128, 96, seed=number)))
    for name in names:
        services.send_photo("g", name, None)
    images, was_primary = services.database["images"], []
    with MongoClient[dict[str, Any]](replica_set.format("admin")) as admin:
        for count in STEP_DOWN_AT:
            wait_for(lambda count=count: images.count_documents({}) >= count, f"{count} photos")
            assert images.count_documents({}) < PHOTOS, "no photo was left to be stored, so nothing was shown"
            was_primary.append(step_down(admin))
        wait_for(services.queue_is_empty, "the end of all messages")
        assert admin.primary != was_primary[-1]

    assert sorted(image["image_id"] for image in images.find({"status": "indexed"})) == names
    assert sorted(face["image_id"] for face in services.database["faces"].find()) == names
    gallery = services.database["galleries"].find_one({"_id": "g"})
    assert gallery and gallery["revision"] >= PHOTOS, "each photo is counted as a change of its gallery"
    grouping = services.sqs.get_queue_attributes(
        QueueUrl=services.environment["GROUP_FACE_QUEUE_URL"], AttributeNames=["All"]
    )["Attributes"]
    waiting = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed")
    assert sum(int(grouping[name]) for name in waiting) > 0, "nobody was told to group the gallery"
    dead = services.sqs.get_queue_url(QueueName="detection-dead-letters")["QueueUrl"]
    assert not services.sqs.receive_message(QueueUrl=dead).get("Messages")
