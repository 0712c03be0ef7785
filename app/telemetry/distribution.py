"""An exponential histogram: many values in little memory, each with an error of a few percent."""

from collections.abc import Iterable
from math import exp, inf, isfinite, log

GROWTH = 1.05
"""Ratio of a bucket's upper bound to its lower one: its middle is within 2.5 % of each of its values."""
MOST_BUCKETS = 100
"""Values that CloudWatch takes of one metric in one line:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html"""


class Distribution:
    """Count, sum, least and greatest are exact; values at or below zero share a bucket. Not thread-safe."""

    def __init__(self) -> None:
        self.count, self.sum = 0, 0.0
        self.least, self.greatest = inf, -inf
        self._by_bucket: dict[int | None, int] = {}

    def add(self, value: float) -> None:
        if not isfinite(value):
            return
        self.count += 1
        self.sum += value
        self.least, self.greatest = min(self.least, value), max(self.greatest, value)
        bucket = _find_bucket(value)
        self._by_bucket[bucket] = self._by_bucket.get(bucket, 0) + 1

    def list_values(self) -> tuple[list[float], list[int]]:
        """At most MOST_BUCKETS values in order, and how often each occurred. Adjacent buckets are merged until they
        fit."""
        counts, growth = dict(self._by_bucket), GROWTH
        while len(counts) > MOST_BUCKETS:
            counts, growth = _halve_resolution(counts.items()), growth**2
        ordered = sorted(counts.items(), key=lambda item: -inf if item[0] is None else item[0])
        return [self._clip(_compute_middle(bucket, growth)) for bucket, _ in ordered], [count for _, count in ordered]

    def _clip(self, value: float) -> float:
        return min(max(value, self.least), self.greatest)


def _find_bucket(value: float) -> int | None:
    return int(log(value) // log(GROWTH)) if value > 0 else None


def _halve_resolution(counts: Iterable[tuple[int | None, int]]) -> dict[int | None, int]:
    halved: dict[int | None, int] = {}
    for bucket, count in counts:
        half = None if bucket is None else bucket // 2
        halved[half] = halved.get(half, 0) + count
    return halved


def _compute_middle(bucket: int | None, growth: float) -> float:
    return 0.0 if bucket is None else exp((bucket + 0.5) * log(growth))
