"""The seconds of each stage of a photo, and the metrics of a photo."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.core.records import ImageStatus, PhotoResult
from app.core.stages import Stage
from app.telemetry.catalogue import STAGE_METRICS, Metric
from app.telemetry.interface import NO_TRACER, Metrics, Tracer

SECONDS_DIGITS = 4


class StageTimes:
    """Measures the stages of one photo: `seconds` by the stages' labels, and a span of each where there are traces.
    `progress` is called as each stage begins. `decode_cpu_s` is the CPU time of the processes that decoded it."""

    def __init__(self, progress: Callable[[], None] = lambda: None, tracer: Tracer = NO_TRACER) -> None:
        self.seconds: dict[str, float] = {}
        self.decode_cpu_s = 0.0
        self.progress = progress
        self._tracer = tracer
        self._begun = time.perf_counter()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        self.progress()
        start = time.perf_counter()
        try:
            with self._tracer.stage(stage.label):
                yield
        finally:
            self.add(stage, time.perf_counter() - start)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning, those between the stages included."""
        return time.perf_counter() - self._begun

    def add(self, stage: Stage, seconds: float) -> None:
        self.seconds[stage.label] = round(self.seconds.get(stage.label, 0.0) + seconds, SECONDS_DIGITS)


ENDS = {
    ImageStatus.INDEXED: Metric.PHOTOS_INDEXED,
    ImageStatus.NO_FACES: Metric.PHOTOS_WITHOUT_FACES,
    ImageStatus.LOW_QUALITY: Metric.PHOTOS_LOW_QUALITY,
    ImageStatus.REJECTED: Metric.PHOTOS_REJECTED,
    ImageStatus.NOT_A_PHOTO: Metric.NOT_PHOTOS,
}


def report_metrics(
    result: PhotoResult, times: StageTimes, metrics: Metrics, *, kind: str | None, has_twin: bool
) -> None:
    """Count a photo and its faces, and observe the seconds of the stages that it passed.

    `kind` is that of the BadPhoto for which a photo was rejected.
    """
    metrics.add(ENDS[result.image.status], kind=kind)
    metrics.observe(Metric.PHOTO_SECONDS, times.elapsed_s)
    for stage, metric in STAGE_METRICS.items():
        if stage.label in times.seconds:
            metrics.observe(metric, times.seconds[stage.label])
    if has_twin:
        metrics.add(Metric.TWIN_HITS)
    if result.faces:
        metrics.add(Metric.FACES, len(result.faces))
    for face in result.faces:
        if "unified" in face.quality:
            metrics.observe(Metric.FACE_QUALITY, face.quality["unified"])
