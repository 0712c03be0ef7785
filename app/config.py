"""All settings, read once. The only reader of environment variables in this system (AWS credentials and
AWS_ENDPOINT_URL aside, which boto3 reads itself).

Each area is a model of its own; its fields in upper case are the environment variables. A service has the areas that
it reads, so it demands no setting that it does not use.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.errors import BadConfiguration
from app.core.pictures import PhotoLimits
from app.core.records import PhotoRef, make_thumbnail_key

SQS_MAX_VISIBILITY_S = 43_200
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""
SQS_MAX_DELAY_S = 900
SQS_MAX_BATCH = 10

ServiceType = Literal["detection", "grouping"]
MetricsExporter = Literal["emf", "prometheus"]
Compute = Literal["ecs", "batch", "local"]
WantedDevice = Literal["auto", "cpu", "gpu"]

PICTURE_SHARE = 0.45
"""Of a container's memory, for pictures and their decoders. Networks and libraries take about 600 MB of 2 GB."""

RARELY = "rarely set"
"""Marks a setting whose default serves nearly everybody; docs/configuration.md lists those apart."""


def _check_queue_url(value: str) -> str:
    if urlsplit(value).scheme not in ("http", "https"):
        raise ValueError("must be the URL of an SQS queue, such as https://sqs.eu-west-1.amazonaws.com/1234/name")
    return value


def _check_base_url(value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be a URL that is followed by a key, such as https://photos.example.com/")
    return value if value.endswith("/") else f"{value}/"


def _check_mongo_uri(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("must begin with mongodb:// or mongodb+srv://")
    return value


def _check_key_template(value: str | None) -> str | None:
    if value is not None:
        make_thumbnail_key(value, PhotoRef("gallery", "image", "bucket", "folder/name.jpg"))
    return value


def _check_events(value: str | None) -> str | None:
    if value is None or EVENT_BUS.fullmatch(value) or (SNS_TOPIC.fullmatch(value) and not value.endswith(".fifo")):
        return value
    raise ValueError(
        "must be the ARN of an SNS topic that is not FIFO, such as arn:aws:sns:eu-west-1:123456789012:name, or the ARN "
        "or the name of an EventBridge bus"
    )


def _split_list(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


SNS_TOPIC = re.compile(r"arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
EVENT_BUS = re.compile(r"(arn:[a-z-]+:events:[a-z0-9-]+:[0-9]{12}:event-bus/)?[A-Za-z0-9/_.-]{1,256}")

QueueUrl = Annotated[str, AfterValidator(_check_queue_url)]
BaseUrl = Annotated[str | None, AfterValidator(_check_base_url)]
MongoUri = Annotated[SecretStr, AfterValidator(_check_mongo_uri)]
KeyTemplate = Annotated[str | None, AfterValidator(_check_key_template)]
ResultsPrefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}/$")]
Names = Annotated[frozenset[str], NoDecode, BeforeValidator(_split_list)]
Exporters = Annotated[frozenset[MetricsExporter], NoDecode, BeforeValidator(_split_list)]


class Area(BaseSettings):
    """Settings that belong together, frozen."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)


class ServiceChoice(Area):
    """The service"""

    service_type: ServiceType = Field(
        description="Which service the image runs when no entrypoint is named: detection or grouping."
    )


class StoreSettings(Area):
    """Queues, buckets and databases"""

    aws_default_region: str = Field(description="AWS region of the queues and buckets.")
    group_face_queue_url: QueueUrl = Field(description="SQS queue that detection writes to and grouping reads.")
    face_group_bucket_name: str = Field(description="Bucket for crops, previews, groups.json and the people page.")
    results_prefix: ResultsPrefix = Field(
        "face-worker/",
        description="All objects that the services write begin with it; no photo may. It ends with a slash.",
    )
    gallery_images_mongo_uri: MongoUri = Field(description="MongoDB of images, faces and people. Secret.")
    aws_endpoint_url: Annotated[str | None, RARELY] = Field(
        None, description="Another endpoint for AWS; boto3 reads it too."
    )


class SourceSettings(Area):
    """Where photos come from"""

    queue_url: QueueUrl = Field(description="SQS queue that detection reads.")
    bucket_name: str = Field(description="Bucket of the photos, used where a message names none.")
    huemn_mongo_uri: MongoUri = Field(
        description="MongoDB of the owner's image metadata; only `face_index` is written there. Without it, grouping "
        "refuses requests to forget. Secret."
    )
    allowed_buckets: Names = Field(frozenset(), description="Further buckets a message may name, separated by commas.")

    @property
    def readable_buckets(self) -> frozenset[str]:
        """Buckets that a message may name."""
        return self.allowed_buckets | {self.bucket_name}


class ProcessSettings(Area):
    """The process"""

    worker_mode: Literal["service", "drain"] = Field(
        "service", description="`service` runs until stopped; `drain` exits 0 once the queue stays empty."
    )
    health_file: Path | None = Field(None, description="File whose age tells liveness, for `python -m app.health`.")
    watch_spot_notice: bool = Field(
        False, description="Ask the instance metadata service for Spot interruptions (Batch, bare EC2)."
    )
    drain_max_s: Annotated[int | None, RARELY] = Field(
        None,
        ge=60,
        description="Seconds after which WORKER_MODE=drain takes in nothing new and ends, so that a machine comes free "
        "though a few messages keep coming; unset, it works until the queue stays empty.",
    )
    drain_empty_polls: Annotated[int, RARELY] = Field(
        3, ge=1, description="Empty polls in a row after which WORKER_MODE=drain ends."
    )
    shutdown_deadline_s: Annotated[float, RARELY] = Field(
        80, gt=0, description="Seconds that started work may take after SIGTERM."
    )
    stuck_after_s: Annotated[float, RARELY] = Field(
        300, gt=0, description="Seconds without progress after which a message's lease is let go and the process exits."
    )
    face_recognition_memory_threshold: Annotated[float, RARELY] = Field(
        0.8, gt=0, le=1, description="Share of the memory limit at which no new message is taken in."
    )
    ecs_agent_uri: Annotated[str | None, RARELY] = Field(
        None, description="Set by ECS: where task protection is asked for."
    )
    ecs_container_metadata_uri_v4: Annotated[str | None, RARELY] = Field(
        None, description="Set by ECS: tells that this is a task."
    )
    aws_batch_job_id: Annotated[str | None, RARELY] = Field(None, description="Set by Batch: tells that this is a job.")
    chaos_kill_at: Annotated[str | None, RARELY] = Field(
        None, description="For chaos tests on one machine only; refused elsewhere."
    )

    @property
    def compute(self) -> Compute:
        """What runs this process. A Batch job is an ECS task as well."""
        if self.aws_batch_job_id:
            return "batch"
        return "ecs" if self.ecs_agent_uri or self.ecs_container_metadata_uri_v4 else "local"


class MessageSettings(Area):
    """Messages"""

    message_visibility_timeout: int = Field(
        120,
        ge=10,
        le=SQS_MAX_VISIBILITY_S,
        description="Seconds a message stays hidden; extended while it is worked on.",
    )
    grouping_delay_s: int = Field(
        30, ge=0, le=SQS_MAX_DELAY_S, description="Photos that arrive within this time share one grouping run."
    )
    queue_wait_s: Annotated[int, RARELY] = Field(20, ge=0, le=20, description="Seconds of one long poll.")

    @model_validator(mode="after")
    def _check_delay(self) -> Self:
        # Nothing is lost without this rule (see app/core/coalescing.py); such a delay is a mistake in one of the two.
        if self.grouping_delay_s >= self.message_visibility_timeout:
            raise ValueError("GROUPING_DELAY_S must be smaller than MESSAGE_VISIBILITY_TIMEOUT")
        return self


class TelemetrySettings(Area):
    """Logs, metrics and traces"""

    log_group: str | None = Field(None, description="CloudWatch Logs group; unset logs to standard output only.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    metrics: Exporters = Field(
        frozenset(),
        description="Where metrics go, separated by commas: `emf` writes them to standard output for CloudWatch, "
        "`prometheus` answers on PROMETHEUS_PORT.",
    )
    environment: str = Field(
        "local", min_length=1, description="What metrics and traces say of where they come from, such as production."
    )
    traces_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="OTLP/HTTP collector that traces are sent to, such as http://localhost:4318; unset, none are.",
    )
    metrics_namespace: Annotated[str, RARELY] = Field(
        "FaceWorker", pattern=r"^[A-Za-z0-9._#:/-]{1,255}$", description="CloudWatch namespace of the metrics."
    )
    prometheus_port: Annotated[int, RARELY] = Field(
        9464,
        ge=1,
        le=65_000,
        description="Port that Prometheus asks, at /metrics. Further processes have the ports above it; the one that "
        "looks for guests has the last of them.",
    )
    traces_sample_share: Annotated[float, RARELY] = Field(
        0.05, ge=0, le=1, description="Share of the messages that are traced, of those whose sender doesn't say."
    )


class EventSettings(Area):
    """Events"""

    events: Annotated[str | None, AfterValidator(_check_events), RARELY] = Field(
        None,
        description="ARN of an SNS topic, or ARN or name of an EventBridge bus, that is told what happens "
        "(docs/events.md); unset, nobody is.",
    )
    events_each_photo: Annotated[bool, RARELY] = Field(
        False, description="Set to true for an event for each photo, instead of one a gallery and some seconds."
    )


class ModelSettings(Area):
    """The model pack"""

    model_pack: str = Field(
        "open", description="Name of a pack in MODELS_DIR, path of a manifest, or directory with an InsightFace pack."
    )
    model_source: str | None = Field(
        None,
        pattern=r"^s3://[^/]+",
        description="s3://bucket/prefix that holds <pack>/<file>; asked before a pack's own source.",
    )
    accept_research_licence: bool = Field(
        False, description="Set to true to use packs whose weights are licensed for research only."
    )
    models_dir: Annotated[Path, RARELY] = Field(Path("models"), description="Folder of the pack manifests and weights.")


class DeviceSettings(Area):
    """Where the networks run"""

    execution_provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="Where the networks run; auto takes CUDA where there is any."
    )
    precision: Annotated[Literal["auto", "fp32", "fp16", "int8"], RARELY] = Field(
        "auto",
        description="Variant of the networks, made by `python -m workshop optimise`; auto takes int8 on a CPU and "
        "fp16 on a GPU where they were made and accepted.",
    )
    inference_threads: Annotated[int, RARELY] = Field(
        0, ge=0, description="CPU threads of one inference; 0 gives each one core, and runs as many at once."
    )

    @property
    def wanted(self) -> WantedDevice:
        """What kind of device is asked for."""
        devices: dict[str, WantedDevice] = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu"}
        return devices[self.execution_provider]


class PhotoSettings(Area):
    """Photos"""

    prefilter: Literal["off", "record", "enforce"] = Field(
        "record",
        description="Judges photos before the networks see them (too small, blank, blurred, badly exposed): `record` "
        "only notes the verdict, `enforce` ends those that fail as `low_quality`.",
    )
    pictures: Literal["all", "crops", "none"] = Field(
        "all",
        description="Pictures for people to look at that detection writes: a crop of each face and a preview of each "
        "photo, the crops alone, or none, for owners whose application cuts them from the photos.",
    )
    preview_side_px: Annotated[int, RARELY] = Field(
        1024, ge=0, le=4096, description="Longer side of the photo previews on the people page; 0 writes none."
    )
    thumbnail_key: Annotated[KeyTemplate, RARELY] = Field(
        None,
        description="Where thumbnails lie in a photo's bucket, such as {folder}/small/{stem}.jpg (also {gallery_id}, "
        "{image_id}, {key}, {name}); the pre-filter then judges by them before it fetches the photo.",
    )
    worker_processes: Annotated[int, RARELY] = Field(
        0,
        ge=0,
        le=64,
        description="Processes that work on photos, which share the machine's cores, memory and GPU; 0 takes one for "
        "each core where a GPU runs the networks, at most 4, and one on a CPU.",
    )
    batch_size: Annotated[int, RARELY] = Field(24, ge=1, le=100, description="Messages held at once by one process.")
    max_face_workers: Annotated[int, RARELY] = Field(
        16,
        ge=1,
        le=64,
        description="Photos in work at once in one process, a thread each; most of its time a photo waits for a store.",
    )
    max_photo_bytes: Annotated[int, RARELY] = Field(
        PhotoLimits().max_bytes, ge=1, description="A larger file is rejected unread."
    )
    max_photo_pixels: Annotated[int, RARELY] = Field(
        PhotoLimits().max_pixels, ge=1, description="A larger picture is rejected undecoded."
    )
    bytes_in_work: Annotated[int, RARELY] = Field(
        200_000_000, ge=1, description="Bytes of photo files held at the same time; a larger file is rejected."
    )
    picture_memory_mb: Annotated[int | None, RARELY] = Field(
        None,
        ge=1,
        description="Megabytes that decoded pictures and their decoders may take at once; a photo that needs more is "
        "rejected. Unset, it is 45 % of the container's or the machine's memory.",
    )
    pixels_in_work: Annotated[int | None, RARELY] = Field(
        None, ge=1, description="Former way to set PICTURE_MEMORY_MB, as pixels of 8 bytes; used where that is unset."
    )
    photo_cpu_s: Annotated[float, RARELY] = Field(
        8, gt=0, description="Seconds of CPU time after which the decoding of one photo is stopped."
    )

    def choose_picture_bytes(self, memory_bytes: int) -> int:
        """Bytes that decoded pictures and their decoders may take on a machine with so much memory."""
        if self.picture_memory_mb is not None:
            return self.picture_memory_mb * 1_000_000
        return self.pixels_in_work * 8 if self.pixels_in_work else round(PICTURE_SHARE * memory_bytes)

    @property
    def limits(self) -> PhotoLimits:
        """What one photo may cost."""
        return PhotoLimits(self.max_photo_bytes, self.max_photo_pixels)


class FindSettings(Area):
    """Finding guests by selfies"""

    find_queue_url: Annotated[QueueUrl | None, RARELY] = Field(
        None,
        description="SQS queue of `find_person`, for a process of its own of detection; unset, nobody is found.",
    )
    allowed_reply_queue_urls: Annotated[Names, RARELY] = Field(
        frozenset(), description="SQS queues that a `find_person` may name for its answer, separated by commas."
    )
    selfie_buckets: Annotated[Names, RARELY] = Field(
        frozenset(),
        description="Buckets that selfies lie in, separated by commas. Only from these are selfies removed. Unset, "
        "selfies may lie in the photos' buckets, and stay there.",
    )
    find_result_days: Annotated[int, RARELY] = Field(
        7,
        ge=1,
        le=3650,
        description="Days for which the same request gets the same answer; the bucket's lifecycle rule removes answers "
        "after as many.",
    )
    find_threads: Annotated[int, RARELY] = Field(2, ge=1, le=16, description="Requests of guests in work at once.")
    find_cache_mb: Annotated[int, RARELY] = Field(
        128, ge=1, description="Megabytes of galleries' vectors that are kept in memory between requests."
    )
    max_selfie_bytes: Annotated[int, RARELY] = Field(
        20_000_000, ge=1, description="A larger selfie is not read, and its sender is told so."
    )


class PeopleSettings(Area):
    """People"""

    similarity_threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="The cosine threshold for one person in galleries of every size, not the pack's.",
    )
    face_quality: Literal["record", "enforce"] = Field(
        "enforce",
        description="What grouping does with a face's quality: with `enforce` only good faces (core) form people, "
        "poorer ones (border) may join one, and the worst (noise) stay out; with `record` it is stored only.",
    )
    allow_model_change: Annotated[bool, RARELY] = Field(
        False,
        description="Set to true to group galleries of another model before all of their photos have been examined "
        "under this one: people whose photos still wait then have no faces.",
    )
    keep_former_model: Annotated[bool, RARELY] = Field(
        False,
        description="Set to true to keep faces, vectors and crops of a former model once people and names have gone "
        "over to another one.",
    )
    groups_version: Annotated[Literal["1", "2"], RARELY] = Field(
        "2",
        description="Version of groups.json: 1 is one file, 2 an index with a file for each person.",
    )
    results_base_url: Annotated[BaseUrl, RARELY] = Field(
        None,
        description="URL at which the results bucket is served, as by a CDN; groups.json then has the URL of the "
        "gallery's folder.",
    )
    gallery_index_dir: Path | None = Field(
        None,
        description="Folder on the local disk where a grouping run keeps what it knows of a gallery, so that the next "
        "one looks only at what has changed; unset, every run looks at all faces.",
    )
    gallery_index_gb: Annotated[float, RARELY] = Field(
        20, gt=0, description="Gigabytes of GALLERY_INDEX_DIR; galleries grouped longest ago make room."
    )


class ForgettingSettings(Area):
    """Forgetting"""

    huemn_mongo_uri: Annotated[MongoUri | None, RARELY] = Field(
        None,
        description="As in detection: requests to forget remove `face_index` there; unset, they are refused. Secret.",
    )
    retention_days: Annotated[int | None, RARELY] = Field(
        None,
        ge=1,
        le=36_500,
        description="Days after its newest photo was stored until a gallery is forgotten, where it has no days of its "
        "own; unset, such a gallery is kept.",
    )


class SearchSettings(Area):
    """The search for similar faces"""

    neighbours_device: WantedDevice = Field(
        "auto", description="Where grouping searches for similar faces; auto takes GPUs where FAISS sees any."
    )
    neighbours_exact_faces: Annotated[int, RARELY] = Field(
        50_000,
        ge=1,
        description="Faces of a gallery up to which a CPU compares all pairs; above, it finds at least 98 % of the "
        "neighbours by compressed embeddings. GPUs and Ray always compare all.",
    )
    neighbours_gpu_working_mb: Annotated[int, RARELY] = Field(
        1_000, ge=64, description="Megabytes of each GPU for similarities while they are searched."
    )
    neighbours_gpu_gallery_mb: Annotated[int, RARELY] = Field(
        8_000, ge=64, description="Megabytes of each GPU for embeddings; a larger gallery is searched in parts."
    )
    neighbours_gpu_float16: Annotated[bool, RARELY] = Field(
        True, description="Halves what embeddings take on a GPU; similarities are computed anew in float32."
    )
    ray_address: Annotated[str | None, RARELY] = Field(
        None, description="Ray cluster that large galleries are searched on, such as ray://head:10001 or auto."
    )
    ray_from_faces: Annotated[int, RARELY] = Field(
        2_000_000, ge=1, description="Faces of a gallery from which a full search of it uses RAY_ADDRESS."
    )
    ray_memory_per_process: Annotated[ByteSize, RARELY] = Field(
        ByteSize(2_000_000_000),
        ge=1,
        description="Memory that Ray keeps free for each of its processes in a search, in bytes or with a unit (4GiB); "
        "a node runs as many as fit.",
    )


class Settings(BaseModel):
    """The areas that both services read."""

    model_config = ConfigDict(frozen=True)

    service_type: ServiceType
    stores: StoreSettings
    process: ProcessSettings
    messages: MessageSettings
    events: EventSettings
    telemetry: TelemetrySettings
    models: ModelSettings


class DetectionSettings(Settings):
    """What the detection service reads."""

    source: SourceSettings
    device: DeviceSettings
    photos: PhotoSettings
    find: FindSettings


class GroupingSettings(Settings):
    """What the grouping service reads."""

    people: PeopleSettings
    forgetting: ForgettingSettings
    search: SearchSettings


OF_SERVICE: dict[ServiceType, type[DetectionSettings] | type[GroupingSettings]] = {
    "detection": DetectionSettings,
    "grouping": GroupingSettings,
}


def load_settings(**overrides: object) -> DetectionSettings | GroupingSettings:
    """The settings of the service that SERVICE_TYPE names, from the environment; `overrides` go before it, by name.

    Raises BadConfiguration that lists every problem, without secret values.
    """
    problems: list[str] = []
    choice = _read_area(ServiceChoice, overrides, problems)
    # Without a service, what both of them need is listed too, so that nobody mends one line at a time.
    kind = Settings if choice is None else OF_SERVICE[cast(ServiceChoice, choice).service_type]
    areas = {name: _read_area(area, overrides, problems) for name, area in list_areas(kind).items()}
    if problems:
        raise BadConfiguration("These settings must be put right:\n" + "\n".join(problems))
    return cast(DetectionSettings | GroupingSettings, kind(**cast(ServiceChoice, choice).model_dump(), **areas))


def read_service(default: ServiceType) -> ServiceType:
    """The service that SERVICE_TYPE names, `default` where it is not set. Raises ValidationError for any other."""
    try:
        return ServiceChoice().service_type
    except ValidationError as error:
        if error.errors()[0]["type"] == "missing":
            return default
        raise


def list_areas(kind: type[Settings]) -> dict[str, type[Area]]:
    """The areas of a service by their names."""
    fields = {name: field.annotation for name, field in kind.model_fields.items()}
    return {name: area for name, area in fields.items() if isinstance(area, type) and issubclass(area, Area)}


def list_fields() -> dict[str, FieldInfo]:
    """Every setting of every service by name."""
    fields: dict[str, FieldInfo] = {}
    for area in _list_all_areas():
        # Of a setting that only one service requires, the required one counts.
        fields = {**area.model_fields, **fields}
    return fields


def read_setting(name: str) -> str:
    """One setting alone that a command can't do without. Raises BadConfiguration where it is missing or wrong."""
    field = list_fields()[name]
    problems: list[str] = []
    alone = create_model("OneSetting", __base__=Area, **{name: (field.annotation, field)})  # type: ignore[call-overload]
    area = _read_area(alone, {}, problems)
    if area is None:
        raise BadConfiguration(f"{problems[0].strip()}.")
    value: str | SecretStr | None = getattr(area, name)
    if value is None:
        raise BadConfiguration(f"{name.upper()} is not set.")
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _read_area(area: type[Area], overrides: dict[str, object], problems: list[str]) -> Area | None:
    try:
        return area(**{name: overrides[name] for name in area.model_fields if name in overrides})  # type: ignore[arg-type]
    except ValidationError as error:
        problems += [_describe_problem(e["loc"], e["type"], e["msg"]) for e in error.errors(include_input=False)]
        return None


def _describe_problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(map(str, location)).upper()
    text = "is not set" if kind == "missing" else message.removeprefix("Value error, ")
    return f"  {name} {text}" if name else f"  {text}"


def _list_all_areas() -> list[type[Area]]:
    areas: list[type[Area]] = [ServiceChoice]
    for kind in OF_SERVICE.values():
        areas += [area for area in list_areas(kind).values() if area not in areas]
    return areas


def make_settings_page() -> str:
    """All settings as Markdown tables under headings, for the documentation."""
    return (
        "## What you will set\n\n"
        + _make_tables(rarely=False)
        + "## Rarely set\n\nThe defaults serve nearly everybody.\n\n"
        + _make_tables(rarely=True)
    ).rstrip("\n") + "\n"


def _make_tables(*, rarely: bool) -> str:
    text = ""
    fields = list_fields()
    for area in _list_all_areas():
        rows = [
            f"| `{name.upper()}` | {_format_default(field)} | {field.description} |"
            for name, field in area.model_fields.items()
            if (RARELY in field.metadata) == rarely and field is fields[name]
        ]
        if rows:
            head = ["| variable | default | meaning |", "|---|---|---|"]
            text += f"### {area.__doc__}{_name_reader(area)}\n\n" + "\n".join([*head, *rows]) + "\n\n"
    return text


def _name_reader(area: type[Area]) -> str:
    readers = [service for service, kind in OF_SERVICE.items() if area in list_areas(kind).values()]
    return f" (the {readers[0]} service)" if len(readers) == 1 else ""


def _format_default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    shown = {None: "unset", frozenset(): "none"}.get(field.default, str(field.default))
    return f"`{shown}`"
