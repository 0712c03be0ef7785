"""Counting and measuring, in the services' words. What comes of it is an exporter's: emf.py, prometheus.py."""

from collections.abc import Sequence
from typing import Protocol

from app.telemetry.catalogue import Metric


class Metrics(Protocol):
    """Takes what happens. Any thread may call any method; none blocks on the outside world, and none raises."""

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        """A counter grows; one that has kinds, by something of this kind, one of few words."""

    def observe(self, metric: Metric, value: float) -> None:
        """One value of a distribution."""

    def level(self, metric: Metric, value: float) -> None:
        """A gauge stands here now."""


class NoMetrics:
    """Nobody wants to know."""

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None: ...

    def observe(self, metric: Metric, value: float) -> None: ...

    def level(self, metric: Metric, value: float) -> None: ...


class Several:
    """Tells each of several."""

    def __init__(self, targets: Sequence[Metrics]) -> None:
        self._targets = targets

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        for target in self._targets:
            target.add(metric, amount, kind)

    def observe(self, metric: Metric, value: float) -> None:
        for target in self._targets:
            target.observe(metric, value)

    def level(self, metric: Metric, value: float) -> None:
        for target in self._targets:
            target.level(metric, value)
