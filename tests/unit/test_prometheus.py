import socket
import urllib.request

import pytest

from app.telemetry.catalogue import Metric
from app.telemetry.interface import TelemetrySource
from app.telemetry.prometheus import PrometheusMetrics

LABELS = 'compute="ecs",environment="staging",service="detection"'


def exporter(port: int = 0) -> PrometheusMetrics:
    return PrometheusMetrics(TelemetrySource("FaceWorker", "staging", "detection", "ecs"), port)


def fetched(metrics: PrometheusMetrics) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
        return str(answer.read().decode())


def test_prometheus_gets_sums_distributions_and_levels() -> None:
    with exporter() as metrics:
        metrics.add(Metric.FACES, 3)
        metrics.add(Metric.FACES, 2)
        metrics.observe(Metric.PHOTO_SECONDS, 0.07)
        metrics.set_level(Metric.MEMORY_SHARE, 0.5)
        text = fetched(metrics)
    assert f"face_worker_faces_total{{{LABELS}}} 5.0" in text
    assert 'face_worker_photo_seconds_bucket{compute="ecs",environment="staging",le="0.05",' in text
    assert f"face_worker_photo_seconds_count{{{LABELS}}} 1.0" in text
    assert f"face_worker_memory_share{{{LABELS}}} 0.5" in text


def test_what_never_happened_is_a_zero_but_a_gpu_that_is_not_there_is_nothing() -> None:
    with exporter() as metrics:
        text = fetched(metrics)
    assert f"face_worker_photos_indexed_total{{{LABELS}}} 0.0" in text
    assert "face_worker_gpu_temperature_c{" not in text


def test_what_was_rejected_is_counted_by_its_kind() -> None:
    labels = {"compute": "ecs", "environment": "staging", "service": "detection"}
    metrics = exporter()
    for kind in ("empty", "damaged", "empty"):
        metrics.add(Metric.PHOTOS_REJECTED, kind=kind)
    told = metrics.registry.get_sample_value
    assert told("face_worker_photos_rejected_total", {**labels, "kind": "empty"}) == 2
    assert told("face_worker_photos_rejected_total", {**labels, "kind": "damaged"}) == 1


def test_a_service_has_no_metrics_of_the_other_one() -> None:
    with exporter() as metrics:
        text = fetched(metrics)
    assert "face_worker_full_runs" not in text
    assert "face_worker_messages_done_total" in text


def test_every_metric_of_a_service_can_be_recorded() -> None:
    metrics = exporter()
    for metric in Metric:
        if metric.where in ("detection", "both"):
            record = {"counter": metrics.add, "distribution": metrics.observe, "gauge": metrics.set_level}[metric.kind]
            record(metric, 1)


def test_a_port_that_is_taken_is_logged_and_the_service_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("", 0)) as taken, exporter(taken.getsockname()[1]) as metrics:
        metrics.add(Metric.FACES)
        assert metrics.port is None
    assert "can't be opened; work goes on without" in caplog.text


def test_the_port_is_free_again_afterwards() -> None:
    with exporter() as metrics:
        port = metrics.port
    assert port is not None
    with exporter(port) as again:
        assert again.port == port
