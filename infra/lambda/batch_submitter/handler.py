"""The Lambda function: counts the waiting messages and the active jobs, and submits the jobs that are missing.

No error is caught: an invocation that fails counts in Lambda's error metric, and the next tick counts again. Two
invocations at once would not see each other's jobs, so the function must have a reserved concurrency of 1.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

from batch_submitter.decision import Decision, decide
from batch_submitter.jobs import AwsClient, Jobs
from batch_submitter.settings import Settings

Event = Mapping[str, Any]


def handle(event: Event, _context: object) -> dict[str, Any]:
    """One tick of the schedule. Returns the counts and what was submitted, which are logged as well."""
    settings = Settings.read(os.environ)
    # A retry of SubmitJob by the client could submit a second array; the next tick counts the active jobs first.
    return run_tick(settings, make_job_name(settings.job_name, event), _open_client("sqs", 3), _open_client("batch", 1))


def run_tick(settings: Settings, name: str, sqs: AwsClient, batch: AwsClient) -> dict[str, Any]:
    """Submit, under `name`, the jobs that are missing. Does nothing where a job of this name was submitted before."""
    jobs = Jobs(batch, settings.job_queue, settings.job_name)
    visible, active = count_visible_messages(sqs, settings.queue_url), jobs.count_active()
    decision = decide(visible, active, settings.limits)
    done = _submit(jobs, name, settings.job_definition, decision)
    seen = {
        "visible": visible,
        "active": active,
        "wanted": decision.wanted,
        "traffic_share": settings.limits.traffic_share,
    }
    result = {"level": "INFO", "message": "batch jobs", "job_name": name, **seen, **done}
    print(json.dumps(result))
    return result


def make_job_name(prefix: str, event: Event) -> str:
    """`<prefix>-20260131T1405Z`: the minute that this tick was scheduled for, by the event's `time`, else by the clock.

    An event that comes twice carries the same time. Batch has no token that would make SubmitJob idempotent, and takes
    a name any number of times, so `run_tick` checks first whether a job of this name was submitted.
    """
    given = event.get("time")
    moment = datetime.fromisoformat(given) if given else datetime.now(UTC)
    return f"{prefix}-{moment.astimezone(UTC):%Y%m%dT%H%MZ}"


def count_visible_messages(sqs: AwsClient, queue_url: str) -> int:
    name = "ApproximateNumberOfMessages"
    answer = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=[name])
    return int(answer["Attributes"][name])


def _submit(jobs: Jobs, name: str, definition: str, decision: Decision) -> dict[str, Any]:
    if not decision.submit:
        return {"submitted": 0}
    if jobs.was_submitted(name):
        return {"submitted": 0, "reason": "this tick has submitted its jobs before"}
    return {"submitted": decision.submit, "job_id": jobs.submit(name, definition, decision.submit)}


@cache
def _open_client(service: str, attempts: int) -> AwsClient:
    """A client, which is made at the first invocation and kept while the function's process lives."""
    retries = {"total_max_attempts": attempts, "mode": "standard"}
    return boto3.client(service, config=Config(connect_timeout=3, read_timeout=10, retries=retries))
