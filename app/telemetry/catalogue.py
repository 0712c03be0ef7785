"""Every metric of all processes: the one list from which both exporters and docs/metrics.md are made."""

from enum import Enum
from typing import Literal

from app.core.stages import Stage

Kind = Literal["counter", "distribution", "gauge"]
"""A counter is summed, a distribution has percentiles, a gauge has a value at each moment."""
Unit = Literal["Count", "Seconds", "Bytes", "Percent", "None"]
"""As CloudWatch writes them:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html"""
Where = Literal["detection", "find", "grouping", "all"]
"""`find` is the process of the detection service that looks for guests."""

STAGE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MESSAGE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600)
AGE_S = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14_400, 86_400)
PEOPLE_COUNTS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000)
BATCH_COUNTS = (1, 2, 4, 8, 16, 32, 64)
QUALITY = (10, 20, 30, 40, 50, 60, 70, 80, 90)
SHARE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def _of_stage(stage: Stage) -> tuple[str, Where, Kind, Unit, str, tuple[float, ...]]:
    """The metric of a stage's seconds."""
    return (
        stage.metric or "",
        "detection",
        "distribution",
        "Seconds",
        f"Stage `{stage.label}` of a photo: {stage.meaning}.",
        STAGE_S,
    )


class Metric(Enum):
    """A metric: its name in CloudWatch, the service that reports it, its kind and unit, its meaning, and for a
    distribution the upper bounds of Prometheus's buckets."""

    PHOTOS_INDEXED = ("PhotosIndexed", "detection", "counter", "Count", "Photos stored with at least one face.")
    PHOTOS_WITHOUT_FACES = ("PhotosWithoutFaces", "detection", "counter", "Count", "Photos stored without a face.")
    PHOTOS_LOW_QUALITY = (
        "PhotosLowQuality",
        "detection",
        "counter",
        "Count",
        "Photos that the pre-filter ended as `low_quality` (`PREFILTER=enforce`).",
    )
    PHOTOS_REJECTED = (
        "PhotosRejected",
        "detection",
        "counter",
        "Count",
        "Photos that can't be used, by kind: `crash`, `cut off`, `damaged`, `empty`, `last try`, `missing`, "
        "`no picture`, `not readable`, `not supported`, `too large`, `too slow`. Each log line has the `reason`.",
    )
    NOT_PHOTOS = (
        "NotPhotos",
        "detection",
        "counter",
        "Count",
        "Files stored as `not_a_photo`: videos, sidecar files, raw files beside their JPEG.",
    )
    PHOTOS_REMOVED = ("PhotosRemoved", "detection", "counter", "Count", "Photos removed since their object is gone.")
    EVENTS_IGNORED = (
        "EventsIgnored",
        "detection",
        "counter",
        "Count",
        "Events of S3 for which nothing is to be done, by kind: `folder`, `test`, `own result`, `other event`.",
    )
    FACES = ("Faces", "detection", "counter", "Count", "Faces stored.")
    PHOTO_SECONDS = (
        "PhotoSeconds",
        "detection",
        "distribution",
        "Seconds",
        "From the first look at a photo until it is stored, waiting included.",
        STAGE_S,
    )
    FETCH_SECONDS = _of_stage(Stage.FETCH)
    DECODE_SECONDS = _of_stage(Stage.DECODE)
    DETECT_SECONDS = _of_stage(Stage.DETECT)
    EMBED_SECONDS = _of_stage(Stage.EMBED)
    DEVICE_WAIT_SECONDS = _of_stage(Stage.DEVICE_WAIT)
    STORE_SECONDS = _of_stage(Stage.STORE)
    DETECTOR_BATCH = (
        "DetectorBatchSize",
        "detection",
        "distribution",
        "Count",
        "Photos that one call of the detector took.",
        BATCH_COUNTS,
    )
    DETECTOR_QUEUE = (
        "DetectorQueueSize",
        "detection",
        "distribution",
        "Count",
        "Photos that waited for the detector when a call began, those of the call included.",
        BATCH_COUNTS,
    )
    EMBEDDER_BATCH = (
        "EmbedderBatchSize",
        "detection",
        "distribution",
        "Count",
        "Photos whose faces one call of the embedder took.",
        BATCH_COUNTS,
    )
    EMBEDDER_QUEUE = (
        "EmbedderQueueSize",
        "detection",
        "distribution",
        "Count",
        "Photos that waited for the embedder when a call began, those of the call included.",
        BATCH_COUNTS,
    )
    STORE_BATCH = (
        "StoreBatchSize",
        "detection",
        "distribution",
        "Count",
        "Photos that one transaction stored.",
        BATCH_COUNTS,
    )
    STORE_QUEUE = (
        "StoreQueueSize",
        "detection",
        "distribution",
        "Count",
        "Photos that waited to be stored when a transaction began, its own included.",
        BATCH_COUNTS,
    )
    FACE_QUALITY = (
        "FaceQuality",
        "detection",
        "distribution",
        "None",
        "The unified quality of each face stored, 0 to 100.",
        QUALITY,
    )
    TWIN_HITS = (
        "TwinHits",
        "detection",
        "counter",
        "Count",
        "Photos whose faces were taken over from a photo of the same bytes.",
    )

    FINDS = (
        "Finds",
        "find",
        "counter",
        "Count",
        "Requests of guests that were answered, by kind: the answer's `status`.",
    )
    FIND_SECONDS = (
        "FindSeconds",
        "find",
        "distribution",
        "Seconds",
        "From the beginning of a guest's request until it is answered; `MessageAgeSeconds` has what it waited before.",
        STAGE_S,
    )

    PEOPLE = ("People", "grouping", "distribution", "Count", "People of a gallery after a run.", PEOPLE_COUNTS)
    FACES_GROUPED = ("FacesGrouped", "grouping", "counter", "Count", "Faces of the galleries that runs grouped.")
    GROUPING_SECONDS = ("GroupingSeconds", "grouping", "distribution", "Seconds", "Length of a run.", MESSAGE_S)
    FULL_RUNS = ("FullRuns", "grouping", "counter", "Count", "Runs that looked at all faces.")
    INCREMENTAL_RUNS = ("IncrementalRuns", "grouping", "counter", "Count", "Runs that looked at what had changed.")
    GROUPING_DIFFERENCE = (
        "GroupingDifference",
        "grouping",
        "distribution",
        "None",
        "Share (0 to 1) of known faces that a full run gave other companions than the incremental ones before it.",
        SHARE,
    )
    INDEX_HITS = ("IndexHits", "grouping", "counter", "Count", "Runs that found their gallery in GALLERY_INDEX_DIR.")
    INDEX_MISSES = ("IndexMisses", "grouping", "counter", "Count", "Runs that did not find it there.")

    MESSAGES_DONE = ("MessagesDone", "all", "counter", "Count", "Messages handled and deleted.")
    MESSAGES_PUT_BACK = (
        "MessagesPutBack",
        "all",
        "counter",
        "Count",
        "Messages put back to be tried again; those that a stopping worker gives back don't count.",
    )
    MESSAGES_REJECTED = (
        "MessagesRejected",
        "all",
        "counter",
        "Count",
        "Messages sent to the dead-letter queue, by kind: `foreign bucket`, `id taken`, `invalid`, `not JSON`, "
        "`other model`, `unknown type`. The log line of each has the reason.",
    )
    MESSAGE_SECONDS = (
        "MessageSeconds",
        "all",
        "distribution",
        "Seconds",
        "From a message's receive until it is settled, waiting for a thread included.",
        MESSAGE_S,
    )
    MESSAGE_AGE_SECONDS = (
        "MessageAgeSeconds",
        "all",
        "distribution",
        "Seconds",
        "From a message's sending to its receive, its delay and earlier tries included.",
        AGE_S,
    )
    LEASES_LOST = ("LeasesLost", "all", "counter", "Count", "Messages whose lease ended while they were worked on.")
    EVENTS_SENT = ("EventsSent", "all", "counter", "Count", "Events that arrived at the target of `EVENTS`.")
    EVENTS_FAILED = (
        "EventsFailed",
        "all",
        "counter",
        "Count",
        "Tries to send an event that failed; each event is tried again.",
    )
    EVENTS_WAITING = (
        "EventsWaiting",
        "all",
        "gauge",
        "Count",
        "Events that wait to be sent, of all workers, each photo's counted.",
    )
    SPOT_INTERRUPTIONS = (
        "SpotInterruptions",
        "all",
        "counter",
        "Count",
        "Spot notices (`WATCH_SPOT_NOTICE`); on ECS the agent sees them and sends SIGTERM.",
    )
    PROCESS_MEMORY = ("ProcessMemoryBytes", "all", "gauge", "Bytes", "Resident memory of the process.")
    MEMORY_SHARE = (
        "MemoryShare",
        "all",
        "gauge",
        "None",
        "Used share (0 to 1) of the container's memory, or of the machine's where it has no limit.",
    )
    GPU_UTILISATION = ("GpuUtilisation", "all", "gauge", "Percent", "Time that the GPUs were busy, their mean.")
    GPU_MEMORY = ("GpuMemoryBytes", "all", "gauge", "Bytes", "Memory of the GPUs in use by all processes, in sum.")
    GPU_TEMPERATURE = ("GpuTemperatureC", "all", "gauge", "None", "Degrees Celsius of the hottest GPU.")

    def __init__(
        self, title: str, where: Where, kind: Kind, unit: Unit, meaning: str, bounds: tuple[float, ...] = ()
    ) -> None:
        self.title, self.where, self.meaning = title, where, meaning
        self.kind: Kind = kind
        self.unit: Unit = unit
        self.bounds = bounds

    @property
    def has_kinds(self) -> bool:
        """Whether the counter is also counted by the kind of what it counts."""
        return self in (Metric.PHOTOS_REJECTED, Metric.MESSAGES_REJECTED, Metric.EVENTS_IGNORED)


Reading = tuple[Metric, float]
"""A gauge and its value."""

STAGE_METRICS = {stage: metric for stage in Stage for metric in Metric if metric.title == stage.metric}


def make_metrics_table() -> str:
    """All metrics as a Markdown table, for the documentation."""
    rows = ["| metric | service | kind | unit | meaning |", "|---|---|---|---|---|"]
    rows += [f"| `{one.title}` | {one.where} | {one.kind} | {one.unit} | {one.meaning} |" for one in Metric]
    return "\n".join(rows) + "\n"
