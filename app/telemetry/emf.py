"""Metrics as lines on standard output that CloudWatch Logs makes CloudWatch metrics of (embedded metric format):
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
    """Gathers, and writes one line at each `flush`: sums and distributions since the last, and gauges that were set.

    What did not happen is not in the line, so that an idle worker costs next to nothing.
    """

    def __init__(self, place: TelemetrySource, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._place, self._stream, self._clock = place, stream, clock
        self._lock = threading.Lock()
        self._sums: dict[Metric, float] = {}
        self._spreads: dict[Metric, Distribution] = {}
        self._kinds: dict[Metric, Counter[str]] = {}
        self._failing = False

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        with self._lock:
            self._sums[metric] = self._sums.get(metric, 0) + amount
            if kind is not None:
                self._kinds.setdefault(metric, Counter())[kind] += 1

    def observe(self, metric: Metric, value: float) -> None:
        with self._lock:
            self._spreads.setdefault(metric, Distribution()).add(value)

    def set_level(self, metric: Metric, value: float) -> None:
        with self._lock:
            self._sums[metric] = value

    def flush(self) -> None:
        """Write what has gathered. Where that fails it is lost, and told once."""
        with self._lock:
            sums, self._sums = self._sums, {}
            spreads, self._spreads = self._spreads, {}
            kinds, self._kinds = self._kinds, {}
        if not sums and not spreads:
            return
        try:
            # In one call, so that no other thread's line begins within this one.
            self._stream.write(json.dumps(self._make_line(sums, spreads) | _write_kinds(kinds)) + "\n")
            self._stream.flush()
            self._failing = False
        except (OSError, ValueError) as error:
            if not self._failing:
                log.warning("metrics can't be written; work goes on without: %s", error)
            self._failing = True

    def _make_line(self, sums: dict[Metric, float], spreads: dict[Metric, Distribution]) -> dict[str, object]:
        values: dict[Metric, object] = {metric: _round_value(value) for metric, value in sums.items()}
        values |= {metric: _write_distribution(spread) for metric, spread in spreads.items() if spread.count}
        place = self._place
        directive = {
            "Namespace": place.namespace,
            "Dimensions": [["Environment", "Service"], ["Environment", "Service", "Compute"]],
            "Metrics": [{"Name": metric.title, "Unit": metric.unit} for metric in values],
        }
        line = {
            "_aws": {"Timestamp": round(self._clock() * 1000), "CloudWatchMetrics": [directive]},
            "Environment": place.environment,
            "Service": place.service,
            "Compute": place.compute,
        }
        return line | {metric.title: value for metric, value in values.items()}


def _write_kinds(kinds: dict[Metric, Counter[str]]) -> dict[str, object]:
    """No metrics of CloudWatch's, which would be paid for one by one; Logs Insights adds them up."""
    return {f"{metric.title}By": dict(counts) for metric, counts in kinds.items()}


def _write_distribution(spread: Distribution) -> dict[str, object]:
    values, counts = spread.list_values()
    return {
        "Values": [_round_value(value) for value in values],
        "Counts": counts,
        "Max": _round_value(spread.greatest),
        "Min": _round_value(spread.least),
        "Count": spread.count,
        "Sum": _round_value(spread.sum),
    }


def _round_value(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
