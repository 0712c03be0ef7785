"""Traces by OpenTelemetry, sent to TRACES_ENDPOINT by OTLP over HTTP."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.core.threads import BackgroundThread
from app.telemetry.interface import NOTHING, MessageSpan, TelemetrySource

log = logging.getLogger(__name__)

SEND_EVERY_MS = 5_000
SEND_TIMEOUT_S = 5.0
MOST_WAITING = 2_048
CLOSE_WITHIN_S = 3.0
NANOSECONDS = 1_000_000_000
GOOD_OUTCOMES = ("done",)


class OtelTracer:
    """Traces while the context is open. Spans wait in a bounded queue, and a thread sends them; leaving the context
    sends the rest, within CLOSE_WITHIN_S.

    A message is traced if its sender's trace is sampled; of messages without a sender's trace, `share` are.
    """

    def __init__(self, endpoint: str, share: float, source: TelemetrySource) -> None:
        resource = Resource.create(
            {
                "service.name": f"face-worker-{source.service}",
                "deployment.environment.name": source.environment,
                "face_worker.compute": source.compute,
            }
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=resource, shutdown_on_exit=False
        )
        exporter = _WarnOnceExporter(
            OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=SEND_TIMEOUT_S), endpoint
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=MOST_WAITING, schedule_delay_millis=SEND_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("face_worker")
        self._propagator = TraceContextTextMapPropagator()

    def __enter__(self) -> "OtelTracer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        # The library waits for half a minute; a worker that ends has no such time.
        with BackgroundThread("last traces", lambda _: self._provider.shutdown(), join_s=CLOSE_WITHIN_S):
            pass

    def start_message(self, name: str, traceparent: str | None, received_at: float) -> MessageSpan:
        parent = self._propagator.extract({"traceparent": traceparent} if traceparent else {})
        start = round(received_at * NANOSECONDS)
        return _OtelSpan(self._tracer.start_span(name, parent, trace.SpanKind.CONSUMER, start_time=start))

    def stage(self, name: str) -> AbstractContextManager[object]:
        return self._tracer.start_as_current_span(name) if trace.get_current_span().is_recording() else NOTHING

    def note(self, **facts: str | int) -> None:
        trace.get_current_span().set_attributes(facts)

    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def trace_id(self) -> str | None:
        context = trace.get_current_span().get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid and context.trace_flags.sampled else None


class _OtelSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def activate(self) -> AbstractContextManager[object]:
        return trace.use_span(self._span)

    def end(self, outcome: str) -> None:
        self._span.set_attribute("outcome", outcome)
        if outcome not in GOOD_OUTCOMES:
            self._span.set_status(trace.StatusCode.ERROR, outcome)
        self._span.end()


class _WarnOnceExporter(SpanExporter):
    """Logs once that spans don't arrive, and then nothing until they arrive again; the library would log every
    batch."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter, self._endpoint = exporter, endpoint
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("traces don't reach TRACES_ENDPOINT %s; work goes on without", self._endpoint)
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
