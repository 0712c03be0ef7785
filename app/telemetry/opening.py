"""Opens the exporters that the settings name. The others are not imported."""

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import psutil

from app.config import Settings, TelemetrySettings
from app.core.threads import BackgroundThread, repeat
from app.host import measure_memory_share
from app.telemetry.catalogue import Metric, Reading
from app.telemetry.emf import EmfMetrics
from app.telemetry.interface import Metrics, MetricsFanOut, NoMetrics, NoTracer, Telemetry, TelemetrySource, Tracer

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 20.0
CLOSE_WITHIN_S = 3.0
"""Together with the traces' and the log's: less than stopTimeout leaves after SHUTDOWN_DEADLINE_S and a poll."""

Read = Callable[[], Iterable[Reading]]


@contextmanager
def open_telemetry(settings: Settings, process: str = "", place: int | None = 0) -> Iterator[Telemetry]:
    """The telemetry of one service, or of a `process` of it that has a name of its own. `place` is that of this process
    among those of a service, of which each has a port for Prometheus; None: it has none. Leaving writes and sends what
    has been collected, within some seconds.

    No failure of telemetry stops the service.
    """
    telemetry = settings.telemetry
    source = TelemetrySource(
        telemetry.metrics_namespace,
        telemetry.environment,
        process or settings.service_type,
        settings.process.compute,
    )
    with ExitStack() as stack:
        yield Telemetry(_open_metrics(telemetry, source, stack, place), _open_tracer(telemetry, source, stack))


def _open_metrics(settings: TelemetrySettings, source: TelemetrySource, stack: ExitStack, place: int | None) -> Metrics:
    if not settings.metrics:
        return NoMetrics()
    targets: list[Metrics] = []
    flushes: list[Callable[[], None]] = []
    if "emf" in settings.metrics:
        emf = EmfMetrics(source, sys.stdout)
        targets.append(emf)
        flushes.append(emf.flush)
    if "prometheus" in settings.metrics and place is not None:
        from app.telemetry.prometheus import PrometheusMetrics

        # Two processes of one container can't serve one port.
        targets.append(stack.enter_context(PrometheusMetrics(source, settings.prometheus_port + place)))
    metrics = targets[0] if len(targets) == 1 else MetricsFanOut(targets)
    stack.enter_context(Sampler(metrics, open_gauges, flushes))
    return metrics


def _open_tracer(settings: TelemetrySettings, source: TelemetrySource, stack: ExitStack) -> Tracer:
    if settings.traces_endpoint is None:
        return NoTracer()
    from app.telemetry.otel import OtelTracer

    if settings.log_level != "DEBUG":
        # OpenTelemetry logs each batch that fails; app/telemetry/otel.py logs once that none arrives.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return stack.enter_context(OtelTracer(settings.traces_endpoint, settings.traces_sample_share, source))


@contextmanager
def open_gauges() -> Iterator[Read]:
    """Reads the memory of this process and the state of the GPUs."""
    from app.telemetry.gpu import Gpus

    with Gpus() as gpus:
        yield lambda: [*read_process(), *gpus.read()]


def read_process() -> list[Reading]:
    """The memory that this process uses now."""
    resident = psutil.Process().memory_info().rss
    return [(Metric.PROCESS_MEMORY, float(resident)), (Metric.MEMORY_SHARE, measure_memory_share())]


class Sampler(BackgroundThread):
    """While inside, reads the gauges and flushes the exporters at each interval, and once more at the end.

    One thread does all of it, so that a driver or a reader of standard output that hangs blocks no work. A failure is
    logged once.
    """

    def __init__(
        self,
        metrics: Metrics,
        open_gauges: Callable[[], AbstractContextManager[Read]],
        flushes: Iterable[Callable[[], None]],
        every_s: float = FLUSH_EVERY_S,
    ) -> None:
        self._metrics, self._open_gauges, self._flushes, self._every_s = metrics, open_gauges, tuple(flushes), every_s
        self._has_warned = False
        super().__init__("metrics", self._sample, join_s=CLOSE_WITHIN_S)

    def _sample(self, closing: threading.Event) -> None:
        with ExitStack() as stack:
            read = self._open_readings(stack)
            repeat(closing, self._every_s, partial(self._flush_once, read))
            self._flush_once(read)

    def _open_readings(self, stack: ExitStack) -> Read:
        try:
            return stack.enter_context(self._open_gauges())
        except Exception:  # noqa: BLE001 - logged; metrics must not stop the work
            self._warn_once()
            return list

    def _flush_once(self, read: Read) -> None:
        try:
            for metric, value in read():
                self._metrics.set_level(metric, value)
        except Exception:  # noqa: BLE001 - as above
            self._warn_once()
        for flush in self._flushes:
            flush()

    def _warn_once(self) -> None:
        if not self._has_warned:
            log.warning("gauges can't be read; work goes on without", exc_info=True)
        self._has_warned = True
