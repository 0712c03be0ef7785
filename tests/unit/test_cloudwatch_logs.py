"""Log lines on their way to CloudWatch, while it answers, hangs, refuses and comes back."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config

from app.telemetry import cloudwatch
from app.telemetry.cloudwatch import CloudWatchHandler
from local.stack import ROOT
from tests.conftest import REGION

PATIENCE_S = 20.0
LINES = 100_000
MOST_A_LINE_S = 0.000_2


def lines_logged(handler: logging.Handler, count: int, text: str = "photo indexed") -> float:
    """Seconds that it took whoever logged."""
    logger = logging.Logger("app.some")
    logger.addHandler(handler)
    begin = time.perf_counter()
    for number in range(count):
        logger.info("%s %d", text, number)
    return time.perf_counter() - begin


@contextmanager
def hanging_endpoint() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def logs_client(endpoint: str, timeout_s: float = 60) -> Any:
    """Patient on purpose: the handler's own limits are what counts."""
    config = Config(connect_timeout=5, read_timeout=timeout_s, retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client("logs", endpoint_url=endpoint, region_name=REGION, config=config, **keys)


def group_lines(endpoint: str, group: str) -> list[str]:
    logs = logs_client(endpoint)
    return [
        event["message"]
        for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]
        for event in logs.get_log_events(
            logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True, limit=10_000
        )["events"]
    ]


def wait_until(condition: Any) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "what was waited for didn't happen"
        time.sleep(0.01)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudwatch, "CLOSE_WITHIN_S", 1.0)
    monkeypatch.setattr(cloudwatch, "PAUSE_S", 0.05)
    monkeypatch.setattr(cloudwatch, "SEND_EVERY_S", 0.05)


@pytest.mark.alone
@pytest.mark.slow
def test_a_cloudwatch_that_hangs_costs_neither_who_logs_nor_the_end(
    limits: None, caplog: pytest.LogCaptureFixture
) -> None:
    with hanging_endpoint() as endpoint:
        handler = CloudWatchHandler("group", "stream", lambda: logs_client(endpoint), most_chars=1_000_000)
        took_s = lines_logged(handler, LINES)
        begin = time.perf_counter()
        handler.close()
        closing_s = time.perf_counter() - begin
    assert took_s / LINES < MOST_A_LINE_S
    assert closing_s < 2
    assert handler.lost == LINES
    assert f"log lines that did not reach CloudWatch so far: {LINES}" in caplog.text


def test_what_waits_is_bounded(limits: None) -> None:
    with hanging_endpoint() as endpoint:
        handler = CloudWatchHandler("group", "stream", lambda: logs_client(endpoint), most_chars=10_000)
        lines_logged(handler, 1_000, "x" * 100)
        waiting = sum(len(line.msg) for line in handler._lines)
        handler.close()
    assert 0 < waiting <= 10_000


@pytest.mark.alone
def test_an_end_of_the_process_after_that_waits_no_second_time(limits: None) -> None:
    with hanging_endpoint() as endpoint:
        handler = CloudWatchHandler("group", "stream", lambda: logs_client(endpoint))
        lines_logged(handler, 10)
        handler.close()
        begin = time.perf_counter()
        logging.shutdown()
        assert time.perf_counter() - begin < 0.5


A_SERVICE_THAT_ENDS = """
import logging, sys
from types import SimpleNamespace
from app.adapters.aws import open_client
from app.telemetry.logs import Logging
settings = SimpleNamespace(log_group="group", log_level="INFO")
with Logging("detection", settings, lambda: open_client("logs", "eu-central-1", read_timeout_s=60, attempts=1)):
    logging.getLogger("app.some").info("at work")
sys.exit(7)
"""


@pytest.mark.slow
def test_a_process_whose_cloudwatch_hangs_ends_with_its_own_exit_code_and_says_what_was_lost() -> None:
    with hanging_endpoint() as endpoint:
        settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", A_SERVICE_THAT_ENDS],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=ROOT,
            env={**os.environ, **settings},
        )
        took_s = time.perf_counter() - begin
    assert done.returncode == 7, done.stderr
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == [
        "at work",
        "log lines that did not reach CloudWatch so far: 1",
    ]
    assert took_s < 30, "the client alone would have waited for a minute"


def test_all_lines_arrive_in_order_and_the_last_one_too(aws: str) -> None:
    handler = CloudWatchHandler("arriving", "stream", lambda: logs_client(aws))
    lines_logged(handler, 2_500)
    handler.close()
    assert group_lines(aws, "arriving") == [f"photo indexed {number}" for number in range(2_500)]
    assert handler.lost == 0


def test_lines_are_sent_while_the_work_goes_on(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudwatch, "SEND_EVERY_S", 0.1)
    handler = CloudWatchHandler("going-on", "stream", lambda: logs_client(aws))
    lines_logged(handler, 3)
    wait_until(lambda: handler._client is not None and handler._client.delivered == 3)
    handler.close()


class Refusing:
    """A client that refuses batches while `refuses`, and what it may not do at all."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.refuses = True
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_log_events(self, **named: Any) -> Any:
        self.tries += 1
        if self.refuses:
            raise ConnectionError("refused")
        return self._client.put_log_events(**named)


def test_lines_that_were_refused_are_counted_once_and_later_ones_arrive(
    aws: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cloudwatch, "SEND_EVERY_S", 0.05)
    client = Refusing(logs_client(aws))
    handler = CloudWatchHandler("refused", "stream", lambda: client)
    for _ in range(3):
        lines_logged(handler, 2, "lost")
        before = client.tries
        wait_until(lambda before=before: client.tries >= before + 5)
    client.refuses = False
    lines_logged(handler, 2, "kept")
    handler.close()
    assert group_lines(aws, "refused") == ["kept 0", "kept 1"]
    assert handler.lost == 6
    told = [record for record in caplog.records if "did not reach CloudWatch" in record.message]
    assert [record.lost_lines for record in told][-1] == 6
    assert len(told) <= 2, "once when it begins and once at the end"


def test_lines_wait_for_a_group_that_cannot_be_made_at_once_and_that_is_logged_once(
    aws: str, limits: None, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def third_time_lucky() -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("no such host")
        return logs_client(aws)

    handler = CloudWatchHandler("in-the-end", "stream", third_time_lucky)
    lines_logged(handler, 2)
    wait_until(lambda: len(tries) == 3)
    handler.close()
    assert group_lines(aws, "in-the-end") == ["photo indexed 0", "photo indexed 1"]
    assert caplog.text.count("CloudWatch Logs can't be used; work goes on without: no such host") == 1
    assert handler.lost == 0


class NoRightToMakeGroups:
    """A client of a role that may write into a group and not make one, nor look which there are."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_paginator(self, _: str) -> Any:
        raise self._denied("DescribeLogGroups")

    def create_log_group(self, **_: Any) -> None:
        raise self._denied("CreateLogGroup")

    def _denied(self, action: str) -> Exception:
        answer = {"Error": {"Code": "AccessDeniedException", "Message": "no"}}
        return self._client.exceptions.ClientError(answer, action)


def test_a_role_that_may_only_write_is_enough_where_the_group_exists(aws: str) -> None:
    client = logs_client(aws)
    client.create_log_group(logGroupName="made-before")
    handler = CloudWatchHandler("made-before", "stream", lambda: NoRightToMakeGroups(client))
    lines_logged(handler, 1)
    handler.close()
    assert group_lines(aws, "made-before") == ["photo indexed 0"]


def test_what_the_sending_itself_logs_is_not_sent(aws: str) -> None:
    handler = CloudWatchHandler("quiet", "stream", lambda: logs_client(aws))
    for name in ("botocore.endpoint", "app.some", "urllib3.connectionpool", "watchtower"):
        handler.handle(logging.LogRecord(name, logging.WARNING, "", 0, name, None, None))
    handler.close()
    assert group_lines(aws, "quiet") == ["app.some"]


def test_a_line_that_cannot_be_written_does_not_end_who_logs_it(limits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = CloudWatchHandler("group", "stream", lambda: None)
    handler.handle(logging.LogRecord("app.some", logging.WARNING, "", 0, "%d", ("no number",), None))
    handler.close()


def test_a_line_keeps_the_time_at_which_it_was_logged(aws: str) -> None:
    handler = CloudWatchHandler("timed", "stream", lambda: logs_client(aws))
    record = logging.LogRecord("app.some", logging.INFO, "", 0, json.dumps({"a": 1}), None, None)
    record.created = time.time() - 100
    handler.handle(record)
    handler.close()
    logs = logs_client(aws)
    (event,) = logs.get_log_events(logGroupName="timed", logStreamName="stream")["events"]
    assert event["timestamp"] == int(record.created * 1000)
