"""Metrics for Prometheus to fetch: `http://host:PROMETHEUS_PORT/metrics`."""

import logging
import re
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from app.telemetry.catalogue import Metric
from app.telemetry.interface import TelemetrySource

log = logging.getLogger(__name__)

PREFIX = "face_worker_"
LABELS = ("environment", "service", "compute")


class PrometheusMetrics:
    """Answers while inside. A port that is taken is told, and work goes on without."""

    def __init__(self, place: TelemetrySource, port: int) -> None:
        self._wanted = port
        self.registry = CollectorRegistry()
        labels = {"environment": place.environment, "service": place.service, "compute": place.compute}
        mine = [metric for metric in Metric if metric.where in (place.service, "both")]
        self._counters = {one: self._make_counter(one) for one in mine if one.kind == "counter"}
        self._gauges = {one: self._make_gauge(one) for one in mine if one.kind == "gauge"}
        self._spreads = {one: self._make_histogram(one).labels(**labels) for one in mine if one.kind == "distribution"}
        self._labels = labels
        # What never happened is a zero, not a gap.
        self._plain = {one: counter.labels(**labels) for one, counter in self._counters.items() if not one.has_kinds}
        self._server: WSGIServer | None = None

    def __enter__(self) -> "PrometheusMetrics":
        try:
            self._server, self._thread = start_http_server(self._wanted, registry=self.registry)
        except OSError as error:
            log.warning("PROMETHEUS_PORT %d can't be opened; work goes on without: %s", self._wanted, error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def port(self) -> int | None:
        """That is answered on, None where there is none."""
        return self._server.server_port if self._server else None

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        if metric.has_kinds:
            self._counters[metric].labels(**self._labels, kind=kind or "other").inc(amount)
        else:
            self._plain[metric].inc(amount)

    def observe(self, metric: Metric, value: float) -> None:
        self._spreads[metric].observe(value)

    def set_level(self, metric: Metric, value: float) -> None:
        # Only now gets it a line: a GPU that isn't there must not look like one at 0 degrees.
        self._gauges[metric].labels(**self._labels).set(value)

    def _make_counter(self, metric: Metric) -> Counter:
        labels = (*LABELS, "kind") if metric.has_kinds else LABELS
        return Counter(_make_name(metric), metric.meaning, labels, registry=self.registry)

    def _make_gauge(self, metric: Metric) -> Gauge:
        return Gauge(_make_name(metric), metric.meaning, LABELS, registry=self.registry)

    def _make_histogram(self, metric: Metric) -> Histogram:
        return Histogram(_make_name(metric), metric.meaning, LABELS, registry=self.registry, buckets=metric.bounds)


def _make_name(metric: Metric) -> str:
    """`PhotosIndexed` → `face_worker_photos_indexed`, to which the library adds `_total`."""
    return PREFIX + re.sub(r"(?<!^)(?=[A-Z])", "_", metric.title).lower()
