"""Opens everything a service needs, runs it, and closes in reverse order."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from app.adapters.aws import open_client
from app.adapters.ecs import TaskProtection
from app.adapters.models import make_model_downloader
from app.adapters.mongo import MongoDatabase, ensure_indexes, open_database, ping
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore, MongoOwnerMetadata
from app.adapters.mongo_people import MongoPeopleStore
from app.adapters.s3 import S3Store
from app.adapters.spot import SpotNotice
from app.adapters.sqs import SqsQueue
from app.config import ServiceType, Settings, load_settings
from app.core.errors import BadConfiguration, FatalWorkerError, RetryLater
from app.core.kill_points import KillPoints
from app.core.pictures import PhotoLimits
from app.detection.batcher import Batcher
from app.detection.budget import Budget
from app.health import Health
from app.host import measure_memory_share
from app.packs.store import InstalledPack, PackStore
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry
from app.telemetry.logs import Logging
from app.telemetry.opening import open_telemetry
from app.worker.breaker import Breaker
from app.worker.consumer import EXIT_DEAD_THREAD, Consumer, ConsumerContext, ConsumerOptions, Handler
from app.worker.shutdown import Shutdown

if TYPE_CHECKING:
    from app.clustering.neighbours import NeighbourSearch
    from app.detection.analysis import Analyser
    from app.grouping.index import GalleryIndex

log = logging.getLogger(__name__)

EXIT_UNREACHABLE = 4
PHOTOS_A_WRITE = 50


def run(service: ServiceType | None = None) -> int:
    """Run one service, by default that of SERVICE_TYPE, until it is stopped.

    Returns the process's exit code; every failure is one clear sentence.
    """
    try:
        settings = load_settings(**({"service_type": service} if service else {}))
        with Logging(settings, partial(_open_logs_client, settings)) as logs, open_telemetry(settings) as telemetry:
            logs.trace_id = telemetry.tracer.trace_id
            end = _run_service(settings, telemetry)
    except FatalWorkerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if end.unfinished:
        # A thread that didn't end in time can't be stopped, and would keep the process from exiting.
        sys.stdout.flush()
        os._exit(end.code)
    return end.code


@dataclass(frozen=True)
class Service:
    """What one service works with: its queue, what it does with a message, how to ask whether its stores answer,
    and whether it could begin another message now."""

    queue: SqsQueue
    handler: Handler
    probes: Mapping[str, Callable[[], None]]
    kill_points: KillPoints
    has_room: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class ServiceEnd:
    """How a service ended: its exit code, and how many messages are still under work in threads that go on."""

    code: int
    unfinished: int = 0


def _run_service(settings: Settings, telemetry: Telemetry) -> ServiceEnd:
    shutdown = Shutdown()
    try:
        with shutdown.handle_signals(), ExitStack() as stack:
            service = SERVICES[settings.service_type](settings, stack, shutdown, telemetry)
            for probe in service.probes.values():
                probe()
            if settings.watch_spot_notice:
                stack.enter_context(SpotNotice(partial(_on_spot_notice, shutdown, telemetry)))
            around = _make_consumer_context(settings, service, telemetry)
            log.info("ready", extra={"pack": settings.model_pack, "mode": settings.worker_mode})
            consumer = Consumer(service.queue, service.handler, _make_consumer_options(settings), shutdown, around)
            code = consumer.run()
    except FatalWorkerError as error:
        log.critical("the service can't start: %s", error)
        raise
    except RetryLater as error:
        log.critical("the service can't start: %s", error)
        return ServiceEnd(EXIT_UNREACHABLE)
    log.info("stopped", extra={"exit_code": code, "unfinished": consumer.unfinished})
    return ServiceEnd(code, consumer.unfinished)


def _open_logs_client(settings: Settings) -> object:
    # Watchtower tries a batch five times itself.
    return open_client("logs", settings.aws_default_region, read_timeout_s=5, attempts=1)


def _on_spot_notice(shutdown: Shutdown, telemetry: Telemetry) -> None:
    telemetry.metrics.add(Metric.SPOT_INTERRUPTIONS)
    shutdown.request()


def _open_detection(settings: Settings, stack: ExitStack, shutdown: Shutdown, telemetry: Telemetry) -> Service:
    from app.detection.handle import DetectionParts, handle, make_saver

    on_death = partial(shutdown.request, EXIT_DEAD_THREAD)
    # First, for a wrong pack is told at once, where a database that is away is waited for.
    eyes = _open_analyser(settings, stack, on_death)
    database = _open_database(settings, stack)
    owner_database = open_database(settings.huemn_mongo_uri.get_secret_value(), "huemn", "HUEMN_MONGO_URI")
    stack.callback(owner_database.client.close)
    objects, faces = S3Store(settings.face_group_bucket_name, settings.aws_default_region), MongoFaceStore(database)
    owner = MongoOwnerMetadata(owner_database)
    save = make_saver(faces, owner)
    parts = DetectionParts(
        eyes=eyes,
        objects=objects,
        faces=faces,
        results=stack.enter_context(Batcher("store", save, most=PHOTOS_A_WRITE, on_death=on_death)),
        owner=owner,
        galleries=MongoGalleryStore(database),
        grouping_queue=_open_queue(settings, settings.group_face_queue_url),
        default_bucket=settings.bucket_name,
        output_bucket=settings.face_group_bucket_name,
        readable_buckets=settings.readable_buckets,
        preview_side_px=settings.preview_side_px,
        grouping_delay_s=settings.grouping_delay_s,
        file_bytes=Budget(settings.bytes_in_work),
        pixels=Budget(settings.pixels_in_work),
        kill_points=_make_kill_points(settings),
        telemetry=telemetry,
    )
    return Service(
        queue=_open_queue(settings, settings.queue_url),
        handler=partial(handle, parts=parts),
        probes=_make_probes(database, objects),
        kill_points=parts.kill_points,
        has_room=lambda: not (parts.file_bytes.is_exhausted or parts.pixels.is_exhausted),
    )


def _open_analyser(settings: Settings, stack: ExitStack, on_death: Callable[[], None]) -> "Analyser":
    from app.detection.analysis import Analyser
    from app.detection.device import open_device
    from app.detection.prefilter import Prefilter
    from app.vision import golden

    prefilter = Prefilter(settings.prefilter, settings.thumbnail_key)
    installed = _install_pack(settings)
    device = open_device(
        installed, settings.execution_provider, settings.inference_threads, settings.precision, on_death
    )
    golden.check_golden_photo(device.pack)
    limits = PhotoLimits(settings.max_photo_bytes, settings.max_photo_pixels)
    return Analyser(stack.enter_context(device), limits, prefilter)


def _open_grouping(settings: Settings, stack: ExitStack, _shutdown: Shutdown, telemetry: Telemetry) -> Service:
    from app.grouping.handle import GroupingParts, handle

    manifest = _open_packs(settings).read(settings.model_pack)
    database = _open_database(settings, stack)
    objects = S3Store(settings.face_group_bucket_name, settings.aws_default_region)
    queue = _open_queue(settings, settings.group_face_queue_url)
    parts = GroupingParts(
        queue=queue,
        objects=objects,
        faces=MongoFaceStore(database),
        galleries=MongoGalleryStore(database),
        people=MongoPeopleStore(database),
        model_id=manifest.model_id,
        similarity_threshold=settings.similarity_threshold or manifest.similarity_threshold,
        quality=manifest.quality,
        uses_quality=settings.face_quality == "enforce",
        grouping_delay_s=settings.grouping_delay_s,
        # Half of it: when a worker has died, its message comes back after its lease is over, finds the gallery free,
        # and its receive count tells in the end that it kills every worker.
        lease_s=settings.message_visibility_timeout / 2,
        search=make_neighbour_search(settings),
        index=_open_gallery_index(settings),
        kill_points=_make_kill_points(settings),
        telemetry=telemetry,
    )
    return Service(queue, partial(handle, parts=parts), _make_probes(database, objects), parts.kill_points)


def _open_gallery_index(settings: Settings) -> "GalleryIndex | None":
    from app.grouping.index import GalleryIndex

    folder = settings.gallery_index_dir
    return GalleryIndex(folder, round(settings.gallery_index_gb * 1e9)) if folder else None


def make_neighbour_search(settings: Settings) -> "NeighbourSearch":
    """What the settings ask for. Raises BadConfiguration for a GPU or for Ray where there is none."""
    from app.clustering.candidates import GpuMemory, has_gpu
    from app.clustering.neighbours import NeighbourSearch

    if settings.neighbours_device == "gpu" and not has_gpu():
        raise BadConfiguration(
            "NEIGHBOURS_DEVICE is gpu, but FAISS sees none: run on a GPU host with the GPU image, or set auto or cpu."
        )
    memory = GpuMemory(
        settings.neighbours_gpu_working_mb, settings.neighbours_gpu_gallery_mb, settings.neighbours_gpu_float16
    )
    search = NeighbourSearch(settings.neighbours_device, settings.neighbours_exact_faces, memory)
    if settings.ray_address is None:
        return search
    try:
        from app.clustering.distributed import Cluster, ClusterSearch
    except ImportError as error:
        raise BadConfiguration(
            f"RAY_ADDRESS is set, but Ray can't be used here ({error}): install the extra `ray`, or unset it."
        ) from error
    cluster = Cluster(settings.ray_address, settings.ray_memory_per_process)
    return ClusterSearch(search.device, search.exact_faces, memory, cluster=cluster, from_faces=settings.ray_from_faces)


SERVICES: dict[ServiceType, Callable[[Settings, ExitStack, Shutdown, Telemetry], Service]] = {
    "detection": _open_detection,
    "grouping": _open_grouping,
}


def _make_consumer_context(settings: Settings, service: Service, telemetry: Telemetry) -> ConsumerContext:
    health = Health(settings.health_file)
    health.mark_ready()
    protection = TaskProtection(settings.ecs_agent_uri)

    def has_room() -> bool:
        if measure_memory_share() < settings.face_recognition_memory_threshold:
            return service.has_room()
        log.warning("memory is full: no new message is taken in")
        return False

    return ConsumerContext(health, has_room, protection.set, Breaker(service.probes), service.kill_points, telemetry)


def _make_kill_points(settings: Settings) -> KillPoints:
    return KillPoints(settings.chaos_kill_at, settings.aws_endpoint_url)


def _make_probes(database: MongoDatabase, objects: S3Store) -> dict[str, Callable[[], None]]:
    return {"MongoDB": partial(ping, database), "S3": objects.ping}


def _open_queue(settings: Settings, url: str) -> SqsQueue:
    return SqsQueue(url, settings.aws_default_region, settings.message_visibility_timeout)


def _open_database(settings: Settings, stack: ExitStack) -> MongoDatabase:
    uri = settings.gallery_images_mongo_uri.get_secret_value()
    database = open_database(uri, "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    stack.callback(database.client.close)
    ensure_indexes(database)
    return database


def _open_packs(settings: Settings) -> PackStore:
    return PackStore(
        models_dir=settings.models_dir,
        accept_research_licence=settings.accept_research_licence,
        model_source=settings.model_source,
        download=make_model_downloader(settings.aws_default_region),
    )


def _install_pack(settings: Settings) -> InstalledPack:
    return _open_packs(settings).install(settings.model_pack)


def _make_consumer_options(settings: Settings) -> ConsumerOptions:
    one_at_a_time = settings.service_type == "grouping"
    return ConsumerOptions(
        threads=1 if one_at_a_time else settings.max_face_workers,
        batch_size=1 if one_at_a_time else settings.batch_size,
        visibility_s=settings.message_visibility_timeout,
        wait_s=settings.queue_wait_s,
        deadline_s=settings.shutdown_deadline_s,
        stuck_after_s=settings.stuck_after_s,
        empty_polls=settings.drain_empty_polls if settings.worker_mode == "drain" else None,
        drain_s=settings.drain_max_s if settings.worker_mode == "drain" else None,
    )
