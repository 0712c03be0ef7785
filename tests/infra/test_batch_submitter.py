"""The packed Lambda function in a process of its own, as Lambda runs it, against moto's SQS and Batch.

moto's Batch ends every job at once, so what active jobs change is left to the unit tests with a fake.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import urllib3

from infra.package_lambda import LAMBDAS, write_zip
from tests.conftest import REGION, aws_client

INVOKE = "import json, sys; from batch_submitter.handler import handle; handle(json.loads(sys.argv[1]), None)"
TICK = {"time": "2030-01-01T00:01:00Z"}


@dataclass(frozen=True)
class Place:
    """A queue, a job queue and a job definition, and the zip file."""

    queue_url: str
    job_queue: str
    job_definition: str
    package: Path

    def invoke(self, event: dict[str, str] = TICK, **changes: str) -> "subprocess.CompletedProcess[str]":
        """The function in a new process that has only the zip file and boto3 to import from."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.package),
            "QUEUE_URL": self.queue_url,
            "JOB_QUEUE": self.job_queue,
            "JOB_DEFINITION": self.job_definition,
            "JOB_NAME": "photos",
            "MESSAGES_PER_JOB": "2",
            "MAX_JOBS": "3",
            "TRAFFIC_SHARE": "100",
            **changes,
        }
        command = [sys.executable, "-W", "error", "-c", INVOKE, json.dumps(event)]
        return subprocess.run(
            command, env=environment, cwd=self.package.parent, capture_output=True, text=True, timeout=60, check=False
        )

    def send(self, count: int) -> None:
        for number in range(count):
            aws_client("sqs", REGION).send_message(QueueUrl=self.queue_url, MessageBody=str(number))

    def submitted(self) -> list[dict[str, Any]]:
        filters = [{"name": "JOB_NAME", "values": ["photos-*"]}]
        return list(aws_client("batch", REGION).list_jobs(jobQueue=self.job_queue, filters=filters)["jobSummaryList"])


@pytest.fixture
def place(aws: str, tmp_path: Path) -> Iterator[Place]:
    without_docker = {"batch": {"use_docker": False}}
    urllib3.request("POST", f"{aws}/moto-api/config", json=without_docker)
    batch, name = aws_client("batch", REGION), uuid4().hex
    role = aws_client("iam", REGION).create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    compute = batch.create_compute_environment(
        computeEnvironmentName=name, type="UNMANAGED", state="ENABLED", serviceRole=role
    )
    order = [{"order": 1, "computeEnvironment": compute["computeEnvironmentArn"]}]
    queue = batch.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    container = {"image": "busybox", "vcpus": 1, "memory": 64}
    definition = batch.register_job_definition(jobDefinitionName=name, type="container", containerProperties=container)
    write_zip(LAMBDAS / "batch_submitter", tmp_path / "function.zip")
    yield Place(
        queue_url=aws_client("sqs", REGION).create_queue(QueueName=name)["QueueUrl"],
        job_queue=queue["jobQueueArn"],
        job_definition=definition["jobDefinitionArn"],
        package=tmp_path / "function.zip",
    )
    urllib3.request("POST", f"{aws}/moto-api/config", json={"batch": {"use_docker": True}})


def test_messages_become_one_array_job_and_a_retried_tick_adds_none(place: Place) -> None:
    place.send(5)
    first, again = place.invoke(), place.invoke()
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    said, repeated = json.loads(first.stdout), json.loads(again.stdout)
    assert (said["visible"], said["submitted"]) == (5, 3)
    assert (repeated["submitted"], repeated["reason"]) == (0, "this tick has submitted its jobs before")
    parents = [job for job in place.submitted() if ":" not in job["jobId"]]
    assert [job["jobName"] for job in parents] == ["photos-20300101T0001Z"]
    children = aws_client("batch", REGION).list_jobs(arrayJobId=parents[0]["jobId"], jobStatus="SUCCEEDED")
    assert len(children["jobSummaryList"]) == 3


def test_an_empty_queue_submits_no_job(place: Place) -> None:
    assert json.loads(place.invoke().stdout)["submitted"] == 0
    assert place.submitted() == []


def test_a_queue_that_is_not_there_fails_the_invocation(place: Place) -> None:
    failed = place.invoke(QUEUE_URL=f"{place.queue_url}-missing")
    assert failed.returncode != 0
    assert "QueueDoesNotExist" in failed.stderr


def test_a_job_definition_that_is_not_there_fails_the_invocation(place: Place) -> None:
    place.send(1)
    failed = place.invoke(JOB_DEFINITION="missing")
    assert failed.returncode != 0
    assert place.submitted() == []
