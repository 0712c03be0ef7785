"""What the driver tells of a real GPU. Skipped, with the reason, where it knows none."""

import pytest

from app.telemetry.catalogue import Metric
from app.telemetry.gpu import Gpus


@pytest.fixture(scope="module")
def readings() -> dict[Metric, float]:
    with Gpus() as gpus:
        found = dict(gpus.read())
    if not found:
        pytest.skip("NVIDIA's driver knows no GPU here")
    return found


@pytest.mark.gpu
def test_the_figures_of_a_gpu_lie_where_they_can_be(readings: dict[Metric, float]) -> None:
    assert 0 <= readings[Metric.GPU_UTILISATION] <= 100
    assert 1e6 < readings[Metric.GPU_MEMORY] < 1e12
    assert 10 < readings[Metric.GPU_TEMPERATURE] < 110
