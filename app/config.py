"""All settings, read once. The only reader of environment variables in this system (AWS credentials and
AWS_ENDPOINT_URL aside, which boto3 reads itself)."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
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


class Settings(BaseSettings):
    """Every setting of both services, frozen. Field names in upper case are the environment variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    service_type: ServiceType = Field(
        description="Which service the image runs when no entrypoint is named: detection or grouping."
    )
    aws_default_region: str = Field(description="AWS region of the queues and buckets.")
    queue_url: str = Field(description="SQS queue that detection reads.")
    group_face_queue_url: str = Field(description="SQS queue that detection writes to and grouping reads.")
    bucket_name: str = Field(description="Bucket of the photos, used where a message names none.")
    face_group_bucket_name: str = Field(description="Bucket for crops, previews, groups.json and the people page.")
    gallery_images_mongo_uri: SecretStr = Field(description="MongoDB of images, faces and people. Secret.")
    huemn_mongo_uri: SecretStr = Field(
        description="MongoDB of the owner's image metadata; only `face_index` is written there. Secret."
    )

    worker_mode: Literal["service", "drain"] = Field(
        "service", description="`service` runs until stopped; `drain` exits 0 once the queue stays empty."
    )
    allowed_buckets: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="Further buckets a message may name, separated by commas."
    )
    log_group: str | None = Field(None, description="CloudWatch Logs group; unset logs to standard output only.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    metrics: Annotated[frozenset[MetricsExporter], NoDecode] = Field(
        frozenset(),
        description="Where metrics go, separated by commas: `emf` writes them to standard output for CloudWatch, "
        "`prometheus` answers on PROMETHEUS_PORT.",
    )
    metrics_namespace: str = Field(
        "FaceWorker", pattern=r"^[A-Za-z0-9._#:/-]{1,255}$", description="CloudWatch namespace of the metrics."
    )
    environment: str = Field(
        "local", min_length=1, description="What metrics and traces say of where they come from, such as production."
    )
    prometheus_port: int = Field(9464, ge=1, le=65_535, description="Port that Prometheus asks, at /metrics.")
    traces_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="OTLP/HTTP collector that traces are sent to, such as http://localhost:4318; unset, none are.",
    )
    traces_sample_share: float = Field(
        0.05, ge=0, le=1, description="Share of the messages that are traced, of those whose sender doesn't say."
    )

    drain_max_s: int | None = Field(
        None,
        ge=60,
        description="Seconds after which WORKER_MODE=drain takes in nothing new and ends, so that a machine comes free "
        "though a few messages keep coming; unset, it works until the queue stays empty.",
    )

    message_visibility_timeout: int = Field(
        120,
        ge=10,
        le=SQS_MAX_VISIBILITY_S,
        description="Seconds a message stays hidden; extended while it is worked on.",
    )
    queue_wait_s: int = Field(20, ge=0, le=20, description="Seconds of one long poll.")
    drain_empty_polls: int = Field(3, ge=1, description="Empty polls in a row after which WORKER_MODE=drain ends.")
    batch_size: int = Field(24, ge=1, le=100, description="Messages held at once by one worker.")
    max_face_workers: int = Field(
        16,
        ge=1,
        le=64,
        description="Photos in work at once, a thread each; most of its time a photo waits for a store.",
    )
    shutdown_deadline_s: float = Field(80, gt=0, description="Seconds that started work may take after SIGTERM.")
    stuck_after_s: float = Field(
        300, gt=0, description="Seconds without progress after which a message's lease is let go and the process exits."
    )
    health_file: Path | None = Field(None, description="File whose age tells liveness, for `python -m app.health`.")
    ecs_agent_uri: str | None = Field(None, description="Set by ECS: where task protection is asked for.")
    ecs_container_metadata_uri_v4: str | None = Field(None, description="Set by ECS: tells that this is a task.")
    aws_batch_job_id: str | None = Field(None, description="Set by Batch: tells that this is a job.")
    watch_spot_notice: bool = Field(
        False, description="Ask the instance metadata service for Spot interruptions (Batch, bare EC2)."
    )
    chaos_kill_at: str | None = Field(None, description="For chaos tests on one machine only; refused elsewhere.")
    aws_endpoint_url: str | None = Field(None, description="Another endpoint for AWS; boto3 reads it too.")
    face_recognition_memory_threshold: float = Field(
        0.8, gt=0, le=1, description="Share of the memory limit at which no new photo is taken in."
    )

    model_pack: str = Field(
        "open", description="Name of a pack in MODELS_DIR, path of a manifest, or directory with an InsightFace pack."
    )
    models_dir: Path = Field(Path("models"), description="Folder of the pack manifests and weights.")
    model_source: str | None = Field(
        None,
        pattern=r"^s3://[^/]+",
        description="s3://bucket/prefix that holds <pack>/<file>; asked before a pack's own source.",
    )
    accept_research_licence: bool = Field(
        False, description="Set to true to use packs whose weights are licensed for research only."
    )
    execution_provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="Where the networks run; auto takes CUDA where there is any."
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        "auto",
        description="Variant of the networks, made by `python -m workshop optimise`; auto takes int8 on a CPU and "
        "fp16 on a GPU where they were made and accepted.",
    )
    inference_threads: int = Field(
        0, ge=0, description="CPU threads of one inference; 0 gives each one core, and runs as many at once."
    )

    max_photo_bytes: int = Field(PhotoLimits().max_bytes, ge=1, description="A larger file is rejected unread.")
    max_photo_pixels: int = Field(PhotoLimits().max_pixels, ge=1, description="A larger picture is rejected undecoded.")
    bytes_in_work: int = Field(
        200_000_000, ge=1, description="Bytes of photo files held at the same time; a larger file is worked on alone."
    )
    pixels_in_work: int = Field(
        200_000_000, ge=1, description="Pixels decoded at the same time; a larger photo is worked on alone."
    )
    preview_side_px: int = Field(
        1024, ge=0, le=4096, description="Longer side of the photo previews on the people page; 0 writes none."
    )

    prefilter: Literal["off", "record", "enforce"] = Field(
        "record",
        description="Judges photos before the networks see them (too small, blank, blurred, badly exposed): `record` "
        "only notes the verdict, `enforce` ends those that fail as `low_quality`.",
    )
    thumbnail_key: str | None = Field(
        None,
        description="Where thumbnails lie in a photo's bucket, such as {folder}/small/{stem}.jpg (also {gallery_id}, "
        "{image_id}, {key}, {name}); the pre-filter then judges by them before it fetches the photo.",
    )

    grouping_delay_s: int = Field(
        30, ge=0, le=SQS_MAX_DELAY_S, description="Photos that arrive within this time share one grouping run."
    )
    face_quality: Literal["record", "enforce"] = Field(
        "enforce",
        description="What grouping does with a face's quality: with `enforce` poor faces found no person but "
        "may join one, and the worst are left out; with `record` it is stored only.",
    )
    gallery_index_dir: Path | None = Field(
        None,
        description="Folder on the local disk where a grouping run keeps what it knows of a gallery, so that the next "
        "one looks only at what has changed; unset, every run looks at all faces.",
    )
    gallery_index_gb: float = Field(
        20, gt=0, description="Gigabytes of GALLERY_INDEX_DIR; galleries grouped longest ago make room."
    )
    neighbours_device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Where grouping searches for similar faces; auto takes GPUs where FAISS sees any."
    )
    neighbours_exact_faces: int = Field(
        50_000,
        ge=1,
        description="Faces of a gallery up to which a CPU compares all pairs; above, it finds at least 98 % of the "
        "neighbours by compressed embeddings. GPUs and Ray always compare all.",
    )
    neighbours_gpu_working_mb: int = Field(
        1_000, ge=64, description="Megabytes of each GPU for similarities while they are searched."
    )
    neighbours_gpu_gallery_mb: int = Field(
        8_000, ge=64, description="Megabytes of each GPU for embeddings; a larger gallery is searched in parts."
    )
    neighbours_gpu_float16: bool = Field(
        True, description="Halves what embeddings take on a GPU; similarities are computed anew in float32."
    )
    ray_address: str | None = Field(
        None, description="Ray cluster that large galleries are searched on, such as ray://head:10001 or auto."
    )
    ray_from_faces: int = Field(
        2_000_000, ge=1, description="Faces of a gallery from which a full search of it uses RAY_ADDRESS."
    )
    ray_memory_per_process: ByteSize = Field(
        ByteSize(2_000_000_000),
        ge=1,
        description="Memory that Ray keeps free for each of its processes in a search, in bytes or with a unit (4GiB); "
        "a node runs as many as fit.",
    )
    similarity_threshold: float | None = Field(
        None, gt=0, lt=1, description="Overrides the pack's cosine threshold for one person."
    )

    @field_validator("allowed_buckets", "metrics", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("thumbnail_key")
    @classmethod
    def _is_key_template(cls, value: str | None) -> str | None:
        if value is not None:
            make_thumbnail_key(value, PhotoRef("gallery", "image", "bucket", "folder/name.jpg"))
        return value

    @field_validator("queue_url", "group_face_queue_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("must be the URL of an SQS queue, such as https://sqs.eu-west-1.amazonaws.com/1234/name")
        return value

    @field_validator("gallery_images_mongo_uri", "huemn_mongo_uri")
    @classmethod
    def _is_mongo(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return value

    @model_validator(mode="after")
    def _delay_is_shorter_than_visibility(self) -> Self:
        # A worker that dies between marking a gallery dirty and sending its grouping message leaves the sending to
        # the redelivered photo, which sends only when the delay is over (see GalleryStore.mark_dirty).
        if self.grouping_delay_s >= self.message_visibility_timeout:
            raise ValueError("GROUPING_DELAY_S must be smaller than MESSAGE_VISIBILITY_TIMEOUT")
        return self

    @property
    def compute(self) -> Compute:
        """What runs this process. A Batch job is an ECS task as well."""
        if self.aws_batch_job_id:
            return "batch"
        return "ecs" if self.ecs_agent_uri or self.ecs_container_metadata_uri_v4 else "local"

    @property
    def readable_buckets(self) -> frozenset[str]:
        """Buckets that a message may name."""
        return self.allowed_buckets | {self.bucket_name}


class Wishes(BaseSettings):
    """Those of the settings that decide what a machine must have (see app.preflight), meant as in Settings. By
    themselves, so that a machine can be looked at before the others are known."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    service_type: ServiceType = "detection"
    execution_provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    neighbours_device: WantedDevice = "auto"
    health_file: Path | None = None
    gallery_index_dir: Path | None = None

    @property
    def device(self) -> tuple[str, WantedDevice]:
        """The setting that says where this service computes, and what it asks for."""
        if self.service_type == "grouping":
            return f"NEIGHBOURS_DEVICE={self.neighbours_device}", self.neighbours_device
        devices: dict[str, WantedDevice] = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu"}
        return f"EXECUTION_PROVIDER={self.execution_provider}", devices[self.execution_provider]


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment. Raises BadConfiguration that lists every problem, without secret values."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [_describe_problem(e["loc"], e["type"], e["msg"]) for e in error.errors(include_input=False)]
        raise BadConfiguration("These settings must be put right:\n" + "\n".join(problems)) from None


def _describe_problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(map(str, location)).upper()
    text = "is not set" if kind == "missing" else message.removeprefix("Value error, ")
    return f"  {name} {text}" if name else f"  {text}"


def make_settings_table() -> str:
    """All settings as a Markdown table, for the documentation."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "**required**" if field.is_required() else f"`{_format_default(field.default)}`"
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _format_default(default: object) -> str:
    return {None: "unset", frozenset(): "none"}.get(default, str(default))  # type: ignore[call-overload, no-any-return]
