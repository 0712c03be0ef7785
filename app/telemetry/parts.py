"""What the services tell their telemetry by. Handed to them as a part; without any, nothing is told."""

from dataclasses import dataclass, field

from app.telemetry.metrics import Metrics, NoMetrics
from app.telemetry.traces import NoTracer, Tracer


@dataclass(frozen=True)
class Telemetry:
    """Where a service's figures and traces go: by default nowhere, which costs nothing."""

    metrics: Metrics = field(default_factory=NoMetrics)
    tracer: Tracer = field(default_factory=NoTracer)
