import io
import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.catalogue import Metric
from app.telemetry.distribution import MOST_BUCKETS, Distribution
from app.telemetry.emf import EmfMetrics
from app.telemetry.interface import TelemetrySource

PLACE = TelemetrySource("FaceWorker", "production", "detection", "batch")
NOW = 1_700_000_000.25

# By the specification, with the histogram values that CloudWatch takes beside numbers:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
NAME = {"type": "string", "minLength": 1, "maxLength": 1024}
SCHEMA = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "additionalProperties": False,
                        "properties": {
                            "Namespace": NAME,
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {"type": "array", "items": NAME, "minItems": 1, "maxItems": 30},
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "Name": NAME,
                                        "Unit": {"enum": ["Seconds", "Bytes", "Percent", "Count", "None"]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
VALUE = {
    "oneOf": [
        {"type": "number"},
        {
            "type": "object",
            "required": ["Values", "Counts", "Max", "Min", "Count", "Sum"],
            "additionalProperties": False,
            "properties": {
                "Values": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 100},
                "Counts": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
                **{name: {"type": "number"} for name in ("Max", "Min", "Count", "Sum")},
            },
        },
    ]
}


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def metrics(stream: io.StringIO) -> EmfMetrics:
    return EmfMetrics(PLACE, stream, clock=lambda: NOW)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_with_every_metric_is_what_cloudwatch_asks_for(metrics: EmfMetrics, stream: io.StringIO) -> None:
    for metric in Metric:
        record = {"counter": metrics.add, "distribution": metrics.observe, "gauge": metrics.set_level}[metric.kind]
        for number in range(500):
            record(metric, 1.37**number / 1e9 if metric.kind == "distribution" else number)
    metrics.flush()
    (line,) = lines(stream)
    jsonschema.validate(line, SCHEMA)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    named = [one["Name"] for one in directive["Metrics"]]
    assert sorted(named) == sorted(metric.title for metric in Metric)
    for name in named:
        jsonschema.validate(line[name], VALUE)
        if isinstance(line[name], dict):
            assert len(line[name]["Values"]) == len(line[name]["Counts"])
            assert sum(line[name]["Counts"]) == line[name]["Count"] == 500
    for dimension in {name for names in directive["Dimensions"] for name in names}:
        assert 1 <= len(line[dimension]) <= 1024
    assert len(stream.getvalue()) < 256_000


def test_a_line_says_whose_it_is_and_when_it_was(metrics: EmfMetrics, stream: io.StringIO) -> None:
    metrics.add(Metric.FACES, 3)
    metrics.flush()
    assert lines(stream) == [
        {
            "_aws": {
                "Timestamp": 1_700_000_000_250,
                "CloudWatchMetrics": [
                    {
                        "Namespace": "FaceWorker",
                        "Dimensions": [["Environment", "Service"], ["Environment", "Service", "Compute"]],
                        "Metrics": [{"Name": "Faces", "Unit": "Count"}],
                    }
                ],
            },
            "Environment": "production",
            "Service": "detection",
            "Compute": "batch",
            "Faces": 3,
        }
    ]


def test_what_was_rejected_is_counted_by_its_kind_beside_the_metric(metrics: EmfMetrics, stream: io.StringIO) -> None:
    for kind in ("empty", "damaged", "empty"):
        metrics.add(Metric.PHOTOS_REJECTED, kind=kind)
    metrics.flush()
    metrics.add(Metric.PHOTOS_REJECTED, kind="missing")
    metrics.flush()
    told = [(line["PhotosRejected"], line["PhotosRejectedBy"]) for line in lines(stream)]
    assert told == [(3, {"empty": 2, "damaged": 1}), (1, {"missing": 1})]


def test_each_line_has_what_happened_since_the_last(metrics: EmfMetrics, stream: io.StringIO) -> None:
    metrics.add(Metric.FACES, 3)
    metrics.flush()
    metrics.add(Metric.FACES, 2)
    metrics.observe(Metric.PHOTO_SECONDS, 0.5)
    metrics.flush()
    assert [line.get("Faces") for line in lines(stream)] == [3, 2]
    assert lines(stream)[1]["PhotoSeconds"]["Count"] == 1


def test_where_nothing_happened_nothing_is_written(metrics: EmfMetrics, stream: io.StringIO) -> None:
    metrics.flush()
    assert stream.getvalue() == ""


def test_a_thousand_photos_are_one_line(metrics: EmfMetrics, stream: io.StringIO) -> None:
    for number in range(1_000):
        metrics.add(Metric.PHOTOS_INDEXED)
        metrics.observe(Metric.PHOTO_SECONDS, 0.05 + number / 1_000)
    metrics.flush()
    (line,) = lines(stream)
    assert line["PhotosIndexed"] == 1_000
    assert line["PhotoSeconds"]["Count"] == 1_000
    assert len(stream.getvalue()) < 3_000


def test_a_gauge_is_written_only_where_it_was_read_again(metrics: EmfMetrics, stream: io.StringIO) -> None:
    metrics.set_level(Metric.GPU_TEMPERATURE, 61)
    metrics.set_level(Metric.GPU_TEMPERATURE, 62)
    metrics.flush()
    metrics.flush()
    assert [line["GpuTemperatureC"] for line in lines(stream)] == [62]


class Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError("nobody reads")


def test_a_stream_that_breaks_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = EmfMetrics(PLACE, Broken())
    for _ in range(3):
        metrics.add(Metric.FACES)
        metrics.flush()
    assert caplog.text.count("metrics can't be written; work goes on without: nobody reads") == 1


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=400))
def test_a_distribution_knows_values_to_two_and_a_half_percent_unless_they_lie_far_apart(
    values: list[float],
) -> None:
    spread = Distribution()
    for value in values:
        spread.add(value)
    middles, counts = spread.list_values()
    assert len(middles) <= MOST_BUCKETS
    assert middles == sorted(middles)
    assert sum(counts) == spread.count == len(values)
    assert (spread.least, spread.greatest) == (min(values), max(values))
    assert spread.sum == pytest.approx(sum(values))
    told = [middle for middle, count in zip(middles, counts, strict=True) for _ in range(count)]
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) < 100:
        assert told == pytest.approx(sorted(values), rel=0.025)


def test_a_distribution_of_values_over_17_orders_of_magnitude_still_tells_how_large_they_are() -> None:
    spread = Distribution()
    values = [1.3**number / 1e6 for number in range(150)]
    for value in values:
        spread.add(value)
    middles, counts = spread.list_values()
    told = [middle for middle, count in zip(middles, counts, strict=True) for _ in range(count)]
    assert told == pytest.approx(values, rel=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(value: float) -> None:
    spread = Distribution()
    spread.add(value)
    spread.add(2)
    assert (spread.count, spread.sum) == (1, 2)
