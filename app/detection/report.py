"""What the metrics hear of a photo that is stored."""

from app.detection.stages import StageTimes
from app.records import ImageStatus, PhotoResult
from app.telemetry.catalogue import Metric
from app.telemetry.metrics import Metrics

ENDS = {
    ImageStatus.INDEXED: Metric.PHOTOS_INDEXED,
    ImageStatus.NO_FACES: Metric.PHOTOS_WITHOUT_FACES,
    ImageStatus.LOW_QUALITY: Metric.PHOTOS_LOW_QUALITY,
    ImageStatus.REJECTED: Metric.PHOTOS_REJECTED,
}
STAGES = {
    "fetch": Metric.FETCH_SECONDS,
    "decode": Metric.DECODE_SECONDS,
    "detect": Metric.DETECT_SECONDS,
    "embed": Metric.EMBED_SECONDS,
    "device_wait": Metric.DEVICE_WAIT_SECONDS,
    "store": Metric.STORE_SECONDS,
}


def report(result: PhotoResult, times: StageTimes, metrics: Metrics, *, kind: str | None, has_twin: bool) -> None:
    """Count a photo and its faces, and how long its stages took. A stage that it did not pass has no time.

    `kind` is that of the BadPhoto for which a photo was rejected.
    """
    metrics.add(ENDS[result.image.status], kind=kind)
    metrics.observe(Metric.PHOTO_SECONDS, times.elapsed_s)
    for stage, seconds in times.seconds.items():
        if stage in STAGES:
            metrics.observe(STAGES[stage], seconds)
    if has_twin:
        metrics.add(Metric.TWIN_HITS)
    if result.faces:
        metrics.add(Metric.FACES, len(result.faces))
    for face in result.faces:
        if "unified" in face.quality:
            metrics.observe(Metric.FACE_QUALITY, face.quality["unified"])
