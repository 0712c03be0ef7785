"""The interface by which services record metrics and traces. Without an exporter, nothing is recorded.

emf.py and prometheus.py export metrics; otel.py exports traces.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from app.telemetry.catalogue import Metric


@dataclass(frozen=True)
class TelemetrySource:
    """Which service, and where, metrics and traces come from. `compute` is `ecs`, `batch` or `local`."""

    namespace: str
    environment: str
    service: str
    compute: str


class Metrics(Protocol):
    """Records metrics. Any thread may call any method. No method waits for the network, and none raises."""

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        """Add to a counter. For a counter that has kinds, `kind` is one of a few words."""

    def observe(self, metric: Metric, value: float) -> None:
        """Add a value to a distribution."""

    def set_level(self, metric: Metric, value: float) -> None:
        """Set a gauge."""


class NoMetrics:
    """Discards all metrics."""

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None: ...

    def observe(self, metric: Metric, value: float) -> None: ...

    def set_level(self, metric: Metric, value: float) -> None: ...


class MetricsFanOut:
    """Passes metrics on to several targets."""

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
        """While the context is open, the stages, notes and log lines of this thread belong to this message."""

    def end(self, outcome: str) -> None:
        """End the span: the message was settled with this outcome. Any thread may call it."""


class Tracer(Protocol):
    """Traces messages from one service to the next. No method waits for the network, and none raises."""

    def start_message(self, name: str, traceparent: str | None, received_at: float) -> MessageSpan:
        """Begin the span of a message that was received at this Unix time, as part of its sender's trace if any."""

    def stage(self, name: str) -> AbstractContextManager[object]:
        """A span for a part of this thread's work."""

    def note(self, **facts: str | int) -> None:
        """Add attributes to the span of the message that this thread works on."""

    def traceparent(self) -> str | None:
        """The W3C `traceparent` for a message that is sent now, so that its receiver continues this trace."""

    def trace_id(self) -> str | None:
        """The id of the trace that this thread works in; None where it is not exported."""


class NoSpan:
    def activate(self) -> AbstractContextManager[object]:
        return NOTHING

    def end(self, outcome: str) -> None: ...


class NoTracer:
    """Discards all traces."""

    def start_message(self, name: str, traceparent: str | None, received_at: float) -> MessageSpan:
        return NO_SPAN

    def stage(self, name: str) -> AbstractContextManager[object]:
        return NOTHING

    def note(self, **facts: str | int) -> None: ...

    def traceparent(self) -> str | None:
        return None

    def trace_id(self) -> str | None:
        return None


NO_METRICS = NoMetrics()
NOTHING = nullcontext()
NO_SPAN = NoSpan()
NO_TRACER = NoTracer()


@dataclass(frozen=True)
class Telemetry:
    """The metrics and the tracer of a service. By default both discard everything, at no cost."""

    metrics: Metrics = field(default_factory=NoMetrics)
    tracer: Tracer = field(default_factory=NoTracer)
