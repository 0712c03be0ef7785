"""What two running services tell: metrics, traces from one to the other, and their last log lines."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.adapters.aws import open_client
from app.telemetry.cloudwatch import OWN_LOGGERS
from benchmarks.common.running import run_local_stack
from local.ports import find_free_port
from tests.integration.services import Services
from tests.integration.test_bad_input import astronaut
from tests.otlp import Collector, ReceivedSpan, collector

GALLERY = "told"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
"""Of the W3C's examples: https://www.w3.org/TR/trace-context/#examples-of-http-traceparent-headers"""
SENDER = "00f067aa0ba902b7"


@dataclass
class Told:
    """All that was told of two photos, one of which cannot be used, and their grouping."""

    traces: Collector
    logs: dict[str, list[dict[str, Any]]]
    prometheus: str
    cloudwatch: dict[str, list[dict[str, Any]]]

    def emf(self, service: str) -> list[dict[str, Any]]:
        return [line for line in self.logs[service] if "_aws" in line]

    def sum_of(self, service: str, metric: str) -> float:
        return sum(line.get(metric, 0) for line in self.emf(service))

    def count_of(self, service: str, metric: str) -> int:
        return sum(line[metric]["Count"] for line in self.emf(service) if metric in line)


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    with collector() as traces:
        # The process that looks for guests serves its metrics on the next one.
        port = find_free_port(in_a_row=2)
        settings = {
            "METRICS": "emf,prometheus",
            "ENVIRONMENT": "test",
            "PROMETHEUS_PORT": str(port),
            "TRACES_ENDPOINT": traces.url,
            "TRACES_SAMPLE_SHARE": "0",
            "LOG_GROUP": "told",
        }
        with run_local_stack("open", settings) as stack, Services(stack) as services:
            services.put_photo(f"{GALLERY}/a.jpg", astronaut())
            services.sqs.send_message(
                QueueUrl=services.environment["QUEUE_URL"],
                MessageBody=json.dumps(
                    {"type": "detect_image", "gallery_id": GALLERY, "image_id": "a", "s3_key": f"{GALLERY}/a.jpg"}
                ),
                MessageAttributes={
                    "traceparent": {"DataType": "String", "StringValue": f"00-{TRACE_ID}-{SENDER}-01"},
                },
            )
            services.image(GALLERY, "a")
            services.send_photo(GALLERY, "b", b"not a picture")
            services.send("not JSON")
            services.dead_letter("not JSON")
            services.grouped(GALLERY, photos=2)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                prometheus = answer.read().decode()
            stack.stop(("detection", "grouping"))
            logs = {
                name: [json.loads(line) for line in (stack.logs / f"{name}.log").read_text().splitlines()]
                for name in ("detection", "grouping")
            }
            yield Told(traces, logs, prometheus, cloudwatch_lines("told", services.environment["AWS_DEFAULT_REGION"]))


def cloudwatch_lines(group: str, region: str) -> dict[str, list[dict[str, Any]]]:
    """Service → its lines in CloudWatch Logs."""
    logs = open_client("logs", region)
    found: dict[str, list[dict[str, Any]]] = {}
    for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]:
        name = stream["logStreamName"]
        events = logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"]
        found.setdefault(name.split("/")[0], []).extend(json.loads(event["message"]) for event in events)
    return found


def test_the_metrics_of_detection_tell_how_its_photos_and_messages_ended(told: Told) -> None:
    once = ("PhotosIndexed", "PhotosRejected", "Faces", "MessagesRejected")
    assert {name: told.sum_of("detection", name) for name in once} == dict.fromkeys(once, 1)
    assert told.sum_of("detection", "MessagesDone") == 2
    kinds = [line[name] for line in told.emf("detection") for name in line if name.endswith("RejectedBy")]
    assert sorted(map(str, kinds)) == ["{'no picture': 1}", "{'not JSON': 1}"]
    assert (told.count_of("detection", "PhotoSeconds"), told.count_of("detection", "DecodeSeconds")) == (2, 1)
    assert (told.count_of("detection", "FaceQuality"), told.count_of("detection", "MessageAgeSeconds")) == (1, 3)
    assert told.emf("detection")[-1]["ProcessMemoryBytes"] > 10_000_000


def test_the_metrics_of_grouping_tell_of_its_runs(told: Told) -> None:
    runs = told.sum_of("grouping", "FullRuns") + told.sum_of("grouping", "IncrementalRuns")
    assert runs >= 1
    assert told.count_of("grouping", "GroupingSeconds") == runs
    assert told.sum_of("grouping", "IndexMisses") >= 1
    assert told.sum_of("grouping", "MessagesDone") >= 1


def test_the_metrics_say_where_they_come_from(told: Told) -> None:
    line = told.emf("grouping")[-1]
    assert (line["Environment"], line["Service"], line["Compute"]) == ("test", "grouping", "local")
    assert line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "FaceWorker"


def test_prometheus_gets_the_same_from_the_service_that_has_the_port(told: Told) -> None:
    assert 'compute="local",environment="test"' in told.prometheus
    assert "face_worker_messages_done_total{" in told.prometheus
    taken = [line for lines in told.logs.values() for line in lines if "PROMETHEUS_PORT" in str(line.get("message"))]
    assert len(taken) == 1, "both services ask for one port here, and one of them must say that it is taken"


def test_a_trace_leads_from_the_detection_message_to_the_writes_of_grouping(told: Told) -> None:
    spans = {(span.service, span.name): span for span in told.traces.spans if span.trace_id == TRACE_ID}
    detection = spans["face-worker-detection", "message"]
    grouping = spans["face-worker-grouping", "message"]
    assert detection.parent_id == SENDER
    assert (detection.attributes["image"], detection.attributes["outcome"]) == (f"{GALLERY}/a", "done")
    assert parent_of(grouping, told).name == "store"
    for stage in ("fetch", "decode", "detect", "embed", "store"):
        assert spans["face-worker-detection", stage].parent_id == detection.span_id
    for stage in ("read", "cluster", "people", "publish"):
        assert spans["face-worker-grouping", stage].parent_id == grouping.span_id
    assert parent_of(spans["face-worker-grouping", "publish people"], told).name == "people"
    assert parent_of(spans["face-worker-grouping", "write files"], told).name == "publish"


def test_what_no_sender_traces_is_not_traced_with_a_share_of_none(told: Told) -> None:
    assert {span.trace_id for span in told.traces.spans} == {TRACE_ID}


def test_the_log_lines_of_a_traced_message_carry_its_trace(told: Told) -> None:
    traced = {(line["service"], line["message"]) for line in all_lines(told) if line.get("trace_id") == TRACE_ID}
    assert {("detection", "photo indexed"), ("grouping", "gallery grouped")} <= traced
    assert ("detection", "photo rejected") not in traced


@pytest.mark.parametrize("service", ["detection", "grouping"])
def test_the_last_line_before_the_end_arrives_in_cloudwatch(told: Told, service: str) -> None:
    assert told.cloudwatch[service][-1]["message"] == "stopped"
    # The process that looks for guests has a log stream of its own.
    lines = [line for line in told.logs[service] if "message" in line and line["service"] == service]
    here = [line["message"] for line in lines if not line["logger"].startswith(OWN_LOGGERS)]
    assert [line["message"] for line in told.cloudwatch[service]] == here


def parent_of(span: ReceivedSpan, told: Told) -> ReceivedSpan:
    return next(one for one in told.traces.spans if one.span_id == span.parent_id)


def all_lines(told: Told) -> Iterator[dict[str, Any]]:
    for lines in told.logs.values():
        yield from (line for line in lines if "message" in line)
