"""What the services tell their telemetry by: metrics, traces, and whose they are. Without an exporter nothing is told.

What comes of metrics is emf.py's and prometheus.py's; what comes of traces is otel.py's.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from app.telemetry.catalogue import Metric


@dataclass(frozen=True)
class TelemetrySource:
    """What metrics and traces say of where they come from. `compute` is `ecs`, `batch` or `local`."""

    namespace: str
    environment: str
    service: str
    compute: str


class Metrics(Protocol):
    """Takes what happens. Any thread may call any method; none blocks on the outside world, and none raises."""

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        """A counter grows; one that has kinds, by something of this kind, one of few words."""

    def observe(self, metric: Metric, value: float) -> None:
        """One value of a distribution."""

    def set_level(self, metric: Metric, value: float) -> None:
        """A gauge stands here now."""


class NoMetrics:
    """Nobody wants to know."""

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None: ...

    def observe(self, metric: Metric, value: float) -> None: ...

    def set_level(self, metric: Metric, value: float) -> None: ...


class MetricsFanOut:
    """Tells each of several."""

    def __init__(self, targets: Sequence[Metrics]) -> None:
        self._targets = targets

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        for target in self._targets:
            target.add(metric, amount, kind)

    def observe(self, metric: Metric, value: float) -> None:
        for target in self._targets:
            target.observe(metric, value)

    def set_level(self, metric: Metric, value: float) -> None:
        for target in self._targets:
            target.set_level(metric, value)


class MessageSpan(Protocol):
    """The work on one message, from its receive until it is settled."""

    def activate(self) -> AbstractContextManager[object]:
        """While inside, the stages, notes and log lines of this thread belong to this message."""

    def end(self, outcome: str) -> None:
        """The message is settled so. Any thread may say it."""


class Tracer(Protocol):
    """Follows messages from one service to the next. No method blocks on the outside world, and none raises."""

    def start_message(self, name: str, traceparent: str | None, received_at: float) -> MessageSpan:
        """Begin the span of a message that was received at this Unix time, as part of its sender's trace if any."""

    def stage(self, name: str) -> AbstractContextManager[object]:
        """A part of what this thread is doing."""

    def note(self, **facts: str | int) -> None:
        """Facts about the message that this thread works on."""

    def traceparent(self) -> str | None:
        """What a message sent now should carry, by W3C Trace Context, so that its receiver goes on with this trace."""

    def trace_id(self) -> str | None:
        """The trace that this thread works in, where it is one that is exported."""


class NoSpan:
    def activate(self) -> AbstractContextManager[object]:
        return NOTHING

    def end(self, outcome: str) -> None: ...


class NoTracer:
    """Follows nothing."""

    def start_message(self, name: str, traceparent: str | None, received_at: float) -> MessageSpan:
        return NO_SPAN

    def stage(self, name: str) -> AbstractContextManager[object]:
        return NOTHING

    def note(self, **facts: str | int) -> None: ...

    def traceparent(self) -> str | None:
        return None

    def trace_id(self) -> str | None:
        return None


NOTHING = nullcontext()
NO_SPAN = NoSpan()
NO_TRACER = NoTracer()


@dataclass(frozen=True)
class Telemetry:
    """Where a service's figures and traces go: by default nowhere, which costs nothing."""

    metrics: Metrics = field(default_factory=NoMetrics)
    tracer: Tracer = field(default_factory=NoTracer)
