"""Metrics for Prometheus to scrape: `http://host:PROMETHEUS_PORT/metrics`."""

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
    """Serves metrics while the context is open. If the port is taken, that is logged, and work goes on without
    metrics."""

    def __init__(self, source: TelemetrySource, port: int) -> None:
        self._wanted = port
        self.registry = CollectorRegistry()
        labels = {"environment": source.environment, "service": source.service, "compute": source.compute}
        mine = [metric for metric in Metric if metric.where in (source.service, "all")]
        self._counters = {one: self._make_counter(one) for one in mine if one.kind == "counter"}
        self._gauges = {one: self._make_gauge(one) for one in mine if one.kind == "gauge"}
        self._distributions = {
            one: self._make_histogram(one).labels(**labels) for one in mine if one.kind == "distribution"
        }
        self._labels = labels
        # A counter of what never happened is 0, not absent.
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
        """The port on which metrics are served; None where they are not."""
        return self._server.server_port if self._server else None

    def add(self, metric: Metric, amount: float = 1, kind: str | None = None) -> None:
        if metric.has_kinds:
            self._counters[metric].labels(**self._labels, kind=kind or "other").inc(amount)
        else:
            self._plain[metric].inc(amount)

    def observe(self, metric: Metric, value: float) -> None:
        self._distributions[metric].observe(value)

    def set_level(self, metric: Metric, value: float) -> None:
        # A gauge is absent until it is set: a GPU that does not exist must not look like one at 0 degrees.
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
