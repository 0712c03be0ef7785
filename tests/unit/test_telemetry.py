"""What the settings open, when it is written, and what it costs where nothing is asked for."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from app.bootstrap import _on_spot_notice
from app.config import Settings, load_settings
from app.core.errors import BadConfiguration
from app.telemetry import gpu as gpu_module
from app.telemetry import opening
from app.telemetry.catalogue import Metric
from app.telemetry.gpu import Gpus
from app.telemetry.interface import NoMetrics, NoTracer
from app.telemetry.opening import Sampler, open_telemetry, read_process
from app.worker.shutdown import Shutdown
from local.stack import ROOT
from tests.telling import Listener, RecordingMetrics

PATIENCE_S = 20.0


@pytest.fixture
def of(settings: Settings) -> Callable[..., Settings]:
    return lambda **changes: settings.model_copy(update={"telemetry": settings.telemetry.model_copy(update=changes)})


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("METRICS", "TRACES_ENDPOINT", "ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    return load_settings(**REQUIRED)


REQUIRED = {
    "service_type": "detection",
    "aws_default_region": "eu-central-1",
    "queue_url": "http://sqs/detection",
    "group_face_queue_url": "http://sqs/grouping",
    "bucket_name": "photos",
    "face_group_bucket_name": "results",
    "gallery_images_mongo_uri": "mongodb://db",
    "huemn_mongo_uri": "mongodb://db",
}


def emf_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_without_settings_nothing_is_opened(settings: Settings) -> None:
    before = threading.active_count()
    with open_telemetry(settings) as telemetry:
        assert isinstance(telemetry.metrics, NoMetrics)
        assert isinstance(telemetry.tracer, NoTracer)
        assert threading.active_count() == before


def test_without_settings_no_exporter_is_even_imported() -> None:
    code = (
        "import sys, app.bootstrap\n"
        "libraries = {'opentelemetry', 'prometheus_client', 'pynvml'}\n"
        "print(sorted(libraries & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_what_has_gathered_is_written_even_where_a_fatal_error_ends_the_service(
    of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(BadConfiguration),
        open_telemetry(of(metrics=frozenset({"emf"}), environment="staging")) as telemetry,
    ):
        telemetry.metrics.add(Metric.PHOTOS_INDEXED)
        raise BadConfiguration("no")
    (line,) = emf_lines(capsys)
    assert (line["PhotosIndexed"], line["Environment"], line["Service"]) == (1, "staging", "detection")
    assert line["ProcessMemoryBytes"] > 0


def test_emf_and_prometheus_get_the_same(
    of: Callable[..., Settings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.telemetry import prometheus

    kept: list[prometheus.PrometheusMetrics] = []

    class Kept(prometheus.PrometheusMetrics):
        def __enter__(self) -> prometheus.PrometheusMetrics:
            kept.append(self)
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(prometheus, "PrometheusMetrics", Kept)
    with open_telemetry(of(metrics=frozenset({"emf", "prometheus"}))) as telemetry:
        telemetry.metrics.add(Metric.FACES, 4)
    (line,) = emf_lines(capsys)
    labels = {"compute": "local", "environment": "local", "service": "detection"}
    assert line["Faces"] == kept[0].registry.get_sample_value("face_worker_faces_total", labels) == 4
    memory = kept[0].registry.get_sample_value("face_worker_process_memory_bytes", labels)
    assert memory == pytest.approx(line["ProcessMemoryBytes"], rel=1e-5)


@pytest.mark.parametrize(
    ("environment", "compute"),
    [
        ({}, "local"),
        ({"ECS_AGENT_URI": "http://agent"}, "ecs"),
        ({"ECS_CONTAINER_METADATA_URI_V4": "http://metadata"}, "ecs"),
        ({"AWS_BATCH_JOB_ID": "1", "ECS_CONTAINER_METADATA_URI_V4": "http://metadata"}, "batch"),
    ],
)
def test_where_a_process_runs_follows_from_what_aws_sets(
    environment: dict[str, str], compute: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings(**REQUIRED).process.compute == compute


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("METRICS", "emf,statsd", "METRICS"),
        ("TRACES_ENDPOINT", "localhost:4318", "TRACES_ENDPOINT"),
        ("TRACES_SAMPLE_SHARE", "5", "TRACES_SAMPLE_SHARE"),
    ],
)
def test_a_wrong_setting_of_telemetry_is_named(
    variable: str, value: str, problem: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadConfiguration, match=problem):
        load_settings(**REQUIRED)


def test_exporters_are_named_with_commas_between(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS", "emf, prometheus")
    assert load_settings(**REQUIRED).telemetry.metrics == {"emf", "prometheus"}


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "what was waited for didn't happen"
        time.sleep(0.005)


def test_gauges_are_read_and_all_is_written_at_each_interval_and_at_the_end() -> None:
    metrics, written = RecordingMetrics(), []
    with Sampler(
        metrics, lambda: nullcontext(lambda: [(Metric.MEMORY_SHARE, 0.5)]), [lambda: written.append(1)], every_s=0.01
    ):
        wait_until(lambda: len(written) >= 3)
    at_the_end = len(written)
    assert metrics.levels == {Metric.MEMORY_SHARE: 0.5}
    time.sleep(0.05)
    assert len(written) == at_the_end


def test_a_short_life_is_written_too() -> None:
    written: list[int] = []
    with Sampler(NoMetrics(), lambda: nullcontext(list), [lambda: written.append(1)], every_s=3_600):
        pass
    assert written == [1]


def test_what_cannot_be_read_is_logged_once_and_read_again(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    def broken() -> list[opening.Reading]:
        tries.append(1)
        raise OSError("no such file")

    written: list[int] = []
    with Sampler(NoMetrics(), lambda: nullcontext(broken), [lambda: written.append(1)], every_s=0.01):
        wait_until(lambda: len(tries) >= 3)
    assert caplog.text.count("gauges can't be read; work goes on without") == 1
    assert len(written) == len(tries)


def test_a_driver_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "CLOSE_WITHIN_S", 0.1)
    answers = threading.Event()

    def hanging() -> list[opening.Reading]:
        answers.wait(PATIENCE_S)
        return []

    begin = time.monotonic()
    with Sampler(NoMetrics(), lambda: nullcontext(hanging), [], every_s=0.01):
        pass
    assert time.monotonic() - begin < PATIENCE_S / 2
    answers.set()


def test_a_process_knows_its_memory() -> None:
    readings = dict(read_process())
    assert readings[Metric.PROCESS_MEMORY] > 10_000_000
    assert 0 < readings[Metric.MEMORY_SHARE] <= 1


class FakeNvml:
    """Two GPUs, of which the second does not tell how busy it is."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.open = False

    def nvmlInit(self) -> None:
        if self.problem:
            raise self.problem
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle == 1:
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=70)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=(handle + 1) * 1_000)

    def nvmlDeviceGetTemperature(self, handle: int, _: int) -> int:
        return 50 + handle


def test_the_readings_of_several_gpus_are_combined(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setattr(gpu_module, "pynvml", nvml)
    with Gpus() as gpus:
        readings = dict(gpus.read())
    assert readings == {Metric.GPU_UTILISATION: 70, Metric.GPU_MEMORY: 3_000, Metric.GPU_TEMPERATURE: 51}
    assert not nvml.open


def test_without_a_gpu_there_is_nothing_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_module, "pynvml", FakeNvml(FakeNvml.NVMLError("no driver")))
    with Gpus() as gpus:
        assert gpus.read() == []


def test_a_spot_notice_is_counted_and_ends_the_service() -> None:
    shutdown, listener = Shutdown(), Listener()
    _on_spot_notice(shutdown, listener.telemetry)
    assert (listener.metrics.sums[Metric.SPOT_INTERRUPTIONS], shutdown.requested) == (1, True)


@pytest.fixture(autouse=True)
def levels_as_before() -> Any:
    level = logging.getLogger("opentelemetry").level
    yield
    logging.getLogger("opentelemetry").setLevel(level)
