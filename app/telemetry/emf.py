"""Metrics as lines on standard output, from which CloudWatch Logs makes metrics (EMF, embedded metric format):
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

A distribution is written as `Values` and `Counts` with its exact `Sum`, `Min` and `Max`, as AWS's collector does, so
that percentiles work and a line stays small however many photos it stands for.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TextIO

from app.telemetry.catalogue import Metric
from app.telemetry.distribution import Distribution
from app.telemetry.interface import TelemetrySource

log = logging.getLogger(__name__)

DIGITS = 6
"""Significant digits of a value."""


class EmfMetrics:
    """Collects metrics, and writes one line at each `flush`: the sums, distributions and gauges since the last one.

    A metric without values is not in the line, so that an idle worker costs next to nothing.
    """

    def __init__(self, source: TelemetrySource, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._source, self._stream, self._clock = source, stream, clock
        self._lock = threading.Lock()
        self._sums: dict[Metric, float] = {}
        self._distributions: dict[Metric, Distribution] = {}
        self._kinds: dict[Metric, Counter[str]] = {}
        self._failing = False

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        with self._lock:
            self._sums[metric] = self._sums.get(metric, 0) + amount
            if kind is not None:
                self._kinds.setdefault(metric, Counter())[kind] += 1

    def observe(self, metric: Metric, value: float) -> None:
        with self._lock:
            self._distributions.setdefault(metric, Distribution()).add(value)

    def set_level(self, metric: Metric, value: float) -> None:
        with self._lock:
            self._sums[metric] = value

    def flush(self) -> None:
        """Write the collected values. Where that fails they are lost, and the failure is logged once."""
        with self._lock:
            sums, self._sums = self._sums, {}
            distributions, self._distributions = self._distributions, {}
            kinds, self._kinds = self._kinds, {}
        if not sums and not distributions:
            return
        try:
            # In one call, so that no other thread's line begins within this one.
            self._stream.write(json.dumps(self._make_line(sums, distributions) | _write_kinds(kinds)) + "\n")
            self._stream.flush()
            self._failing = False
        except (OSError, ValueError) as error:
            if not self._failing:
                log.warning("metrics can't be written; work goes on without: %s", error)
            self._failing = True

    def _make_line(self, sums: dict[Metric, float], distributions: dict[Metric, Distribution]) -> dict[str, object]:
        values: dict[Metric, object] = {metric: _round_value(value) for metric, value in sums.items()}
        values |= {
            metric: _write_distribution(distribution)
            for metric, distribution in distributions.items()
            if distribution.count
        }
        source = self._source
        directive = {
            "Namespace": source.namespace,
            "Dimensions": [["Environment", "Service"], ["Environment", "Service", "Compute"]],
            "Metrics": [{"Name": metric.title, "Unit": metric.unit} for metric in values],
        }
        line = {
            "_aws": {"Timestamp": round(self._clock() * 1000), "CloudWatchMetrics": [directive]},
            "Environment": source.environment,
            "Service": source.service,
            "Compute": source.compute,
        }
        return line | {metric.title: value for metric, value in values.items()}


def _write_kinds(kinds: dict[Metric, Counter[str]]) -> dict[str, object]:
    """The counts by kind. They are no metrics, since CloudWatch charges for each one; Logs Insights can add them up."""
    return {f"{metric.title}By": dict(counts) for metric, counts in kinds.items()}


def _write_distribution(distribution: Distribution) -> dict[str, object]:
    values, counts = distribution.list_values()
    return {
        "Values": [_round_value(value) for value in values],
        "Counts": counts,
        "Max": _round_value(distribution.greatest),
        "Min": _round_value(distribution.least),
        "Count": distribution.count,
        "Sum": _round_value(distribution.sum),
    }


def _round_value(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
