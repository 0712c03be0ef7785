"""Readings of this container's GPUs from NVIDIA's driver; none where there is no GPU."""

from collections.abc import Callable, Sequence
from statistics import fmean
from types import TracebackType
from typing import Any

import pynvml

from app.telemetry.catalogue import Metric, Reading


class Gpus:
    """Reads GPUs while the context is open. A container sees its GPUs here only with
    NVIDIA_DRIVER_CAPABILITIES=compute,utility."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __enter__(self) -> "Gpus":
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            # No driver, no GPU, or no permission: in each case there are no readings.
            self._handles = []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles:
            pynvml.nvmlShutdown()

    def read(self) -> list[Reading]:
        """What can be read now. A GPU that lacks a figure is left out of that figure."""
        return [
            *_combine(Metric.GPU_UTILISATION, fmean, self._read_each(_read_utilisation)),
            *_combine(Metric.GPU_MEMORY, sum, self._read_each(_read_memory)),
            *_combine(Metric.GPU_TEMPERATURE, max, self._read_each(_read_temperature)),
        ]

    def _read_each(self, ask: Callable[[Any], float]) -> list[float]:
        figures = []
        for handle in self._handles:
            try:
                figures.append(ask(handle))
            except pynvml.NVMLError:
                continue
        return figures


def _combine(metric: Metric, fold: Callable[[Sequence[float]], float], figures: list[float]) -> list[Reading]:
    return [(metric, float(fold(figures)))] if figures else []


def _read_utilisation(handle: Any) -> float:  # noqa: ANN401 - NVML's handles have no type
    return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _read_memory(handle: Any) -> float:  # noqa: ANN401
    return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _read_temperature(handle: Any) -> float:  # noqa: ANN401
    return float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
