"""Telemetry that keeps what it is told."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry


class RecordingMetrics:
    """`sums` of counters and their `kinds`, `values` of distributions, `levels` of gauges."""

    def __init__(self) -> None:
        self.sums: Counter[Metric] = Counter()
        self.kinds: Counter[tuple[Metric, str]] = Counter()
        self.values: dict[Metric, list[float]] = defaultdict(list)
        self.levels: dict[Metric, float] = {}
        self._lock = threading.Lock()

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        assert metric.kind == "counter"
        assert (kind is not None) == metric.has_kinds
        with self._lock:
            self.sums[metric] += amount
            if kind is not None:
                self.kinds[metric, kind] += 1

    def observe(self, metric: Metric, value: float) -> None:
        assert metric.kind == "distribution"
        with self._lock:
            self.values[metric].append(value)

    def set_level(self, metric: Metric, value: float) -> None:
        assert metric.kind == "gauge"
        self.levels[metric] = value


class RecordingSpan:
    """A message's span; `outcome` is None until it ends."""

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent
        self.outcome: str | None = None

    @contextmanager
    def activate(self) -> Iterator[None]:
        yield

    def end(self, outcome: str) -> None:
        assert self.outcome is None, "a message ends once"
        self.outcome = outcome


class RecordingTracer:
    """`sends` is what messages sent now carry."""

    def __init__(self, sends: str | None = None) -> None:
        self.spans: list[RecordingSpan] = []
        self.stages: list[str] = []
        self.facts: dict[str, str | int] = {}
        self._sends = sends

    def start_message(self, name: str, traceparent: str | None, received_at: float) -> RecordingSpan:
        self.spans.append(RecordingSpan(traceparent))
        return self.spans[-1]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.stages.append(name)
        yield

    def note(self, **facts: str | int) -> None:
        self.facts.update(facts)

    def traceparent(self) -> str | None:
        return self._sends

    def trace_id(self) -> str | None:
        return None


class Listener:
    """Telemetry and what it heard."""

    def __init__(self, sends: str | None = None) -> None:
        self.metrics, self.tracer = RecordingMetrics(), RecordingTracer(sends)
        self.telemetry = Telemetry(self.metrics, self.tracer)
