"""Opens what the settings ask for. What they don't ask for is not even imported."""

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType

import psutil

from app.config import Settings
from app.host import measure_memory_share
from app.telemetry.catalogue import Metric
from app.telemetry.emf import EmfMetrics
from app.telemetry.interface import Metrics, MetricsFanOut, NoMetrics, NoTracer, Telemetry, TelemetrySource, Tracer

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 20.0
CLOSE_WITHIN_S = 3.0
"""With those of the traces and of the log: less than what stopTimeout leaves after SHUTDOWN_DEADLINE_S and a poll."""

Reading = tuple[Metric, float]
Read = Callable[[], Iterable[Reading]]


@contextmanager
def open_telemetry(settings: Settings) -> Iterator[Telemetry]:
    """The telemetry of one service; leaving writes and sends what has gathered, within some seconds.

    Nothing that goes wrong with it stops the service.
    """
    place = TelemetrySource(settings.metrics_namespace, settings.environment, settings.service_type, settings.compute)
    with ExitStack() as stack:
        yield Telemetry(_open_metrics(settings, place, stack), _open_tracer(settings, place, stack))


def _open_metrics(settings: Settings, place: TelemetrySource, stack: ExitStack) -> Metrics:
    if not settings.metrics:
        return NoMetrics()
    targets: list[Metrics] = []
    flushes: list[Callable[[], None]] = []
    if "emf" in settings.metrics:
        emf = EmfMetrics(place, sys.stdout)
        targets.append(emf)
        flushes.append(emf.flush)
    if "prometheus" in settings.metrics:
        from app.telemetry.prometheus import PrometheusMetrics

        targets.append(stack.enter_context(PrometheusMetrics(place, settings.prometheus_port)))
    metrics = targets[0] if len(targets) == 1 else MetricsFanOut(targets)
    stack.enter_context(Sampler(metrics, open_gauges, flushes))
    return metrics


def _open_tracer(settings: Settings, place: TelemetrySource, stack: ExitStack) -> Tracer:
    if settings.traces_endpoint is None:
        return NoTracer()
    from app.telemetry.otel import OtelTracer

    if settings.log_level != "DEBUG":
        # It complains of each batch, where app/telemetry/otel.py says once that none arrives.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return stack.enter_context(OtelTracer(settings.traces_endpoint, settings.traces_sample_share, place))


@contextmanager
def open_gauges() -> Iterator[Read]:
    """Reads what this process takes of its machine, and what the GPUs do."""
    from app.telemetry.gpu import Gpus

    with Gpus() as gpus:
        yield lambda: [*read_process(), *gpus.read()]


def read_process() -> list[Reading]:
    """What this process takes of its machine now."""
    resident = psutil.Process().memory_info().rss
    return [(Metric.PROCESS_MEMORY, float(resident)), (Metric.MEMORY_SHARE, measure_memory_share())]


class Sampler:
    """While inside: reads the gauges and has the exporters write, at each interval and once more at the end.

    All from one thread, so that a driver or a reader of standard output that hangs holds up nobody. What goes wrong is
    told once.
    """

    def __init__(
        self,
        metrics: Metrics,
        open_gauges: Callable[[], AbstractContextManager[Read]],
        flushes: Iterable[Callable[[], None]],
        every_s: float = FLUSH_EVERY_S,
    ) -> None:
        self._metrics, self._open_gauges, self._flushes, self._every_s = metrics, open_gauges, tuple(flushes), every_s
        self._closing = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(CLOSE_WITHIN_S)

    def _run(self) -> None:
        with ExitStack() as stack:
            read = self._open_readings(stack)
            while not self._closing.wait(self._every_s):
                self._flush_once(read)
            self._flush_once(read)

    def _open_readings(self, stack: ExitStack) -> Read:
        try:
            return stack.enter_context(self._open_gauges())
        except Exception:  # noqa: BLE001 - told; figures are worth less than work
            self._complain()
            return list

    def _flush_once(self, read: Read) -> None:
        try:
            for metric, value in read():
                self._metrics.set_level(metric, value)
        except Exception:  # noqa: BLE001 - as above
            self._complain()
        for flush in self._flushes:
            flush()

    def _complain(self) -> None:
        if not self._complained:
            log.warning("gauges can't be read; work goes on without", exc_info=True)
        self._complained = True
