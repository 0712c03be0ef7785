"""Opens everything that a service needs, runs the service, and closes everything in reverse order."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from app.adapters.aws import open_client
from app.adapters.ecs import TaskProtection
from app.adapters.eventbridge import EventBus
from app.adapters.models import make_model_downloader
from app.adapters.mongo import MongoDatabase, ensure_indexes, open_database, ping, refuse_documentdb
from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_forgotten import MongoForgottenPhotos, list_index_erasures
from app.adapters.mongo_galleries import MongoGalleryStore, MongoOwnerMetadata
from app.adapters.mongo_guests import MongoGuestReader
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_outbox import MongoEventOutbox
from app.adapters.mongo_people import MongoPeopleStore
from app.adapters.mongo_tombstones import MongoTombstones
from app.adapters.s3 import S3Store
from app.adapters.sns import SnsTopic
from app.adapters.spot import SpotNotice
from app.adapters.sqs import SqsQueue, SqsReplies
from app.config import (
    SNS_TOPIC,
    DetectionSettings,
    GroupingSettings,
    SearchSettings,
    ServiceType,
    Settings,
    load_settings,
)
from app.core.coalescing import LOOK_EVERY_S, send_overdue
from app.core.errors import BadConfiguration, FatalWorkerError, RetryLater
from app.core.events import NoEvents
from app.core.kill_points import KillPoints
from app.core.ports import EventSink, GalleryChanges, MessageQueue, Progress
from app.core.result_keys import ResultKeys
from app.core.threads import BackgroundThread, Once, repeat
from app.core.thresholds import make_threshold
from app.detection.budget import Budget
from app.health import Health
from app.host import count_cores, find_memory_limit, measure_memory_share
from app.packs.store import PackStore
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Metrics, Telemetry
from app.telemetry.logs import Logging
from app.telemetry.opening import open_telemetry
from app.worker.breaker import Breaker
from app.worker.child import ChildProcess, stop_service, stop_with_parent
from app.worker.consumer import EXIT_DEAD_THREAD, Consumer, ConsumerContext, ConsumerOptions, Handler
from app.worker.events import COLLECT_S, send_events
from app.worker.shutdown import Shutdown
from app.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from app.clustering.neighbours import NeighbourSearch
    from app.detection.analysis import Analyser
    from app.grouping.index import GalleryIndex

log = logging.getLogger(__name__)

EXIT_UNREACHABLE = 4
GROUPING_THREADS = 3
"""One for the run, one that waits to be the next, and one for edits (see app/grouping/slot.py)."""
CLEAN_INDEX_EVERY_S = 60.0
INDEX_GRACE_S = 600
"""The next run of a gallery, which commonly comes within a minute, writes its file without the faces that were erased.
A file that no run has written since goes after this time."""
MOST_PROCESSES = 4
"""By itself: each has a copy of the networks in the GPU's memory."""
SELFIES_SHARE = 0.25
"""Of the memory for pictures, where guests are looked for: photos that wait for memory must not hold up a selfie."""
YIELDING = 19
"""Niceness of photos where guests are looked for: of cores that both want, guests get nearly all."""


def run(service: ServiceType | None = None) -> int:
    """Run one service, by default that of SERVICE_TYPE, until it is stopped.

    Returns the exit code of the process. Every failure is reported in one sentence.
    """
    return _run(
        lambda: _decide_processes(load_settings(**({"service_type": service} if service else {}))), _open_service
    )


def run_photos(part: "Part", health_file: Path) -> int:
    """One of several processes of the detection service that work on photos (see _supervise)."""
    return _run(_load_detection, partial(_open_part, part=part, health_file=health_file), metrics_place=part.place)


def run_find(place: int) -> int:
    """The process of the detection service that looks for guests (see _open_service)."""
    return _run(_load_detection, _open_find, "find", place)


@dataclass(frozen=True)
class Part:
    """What a process has of its machine, where `count` processes work on photos: an equal share of all. `place` counts
    from 0."""

    place: int = 0
    count: int = 1

    def share(self, amount: int) -> int:
        return max(1, amount // self.count)


Serve = Callable[[], "ServiceEnd"]
Open = Callable[[Any, ExitStack, Shutdown, Telemetry], Serve]
ALONE = Part()


def _load_detection() -> DetectionSettings:
    return cast(DetectionSettings, load_settings(service_type="detection"))


def _run(
    read_settings: Callable[[], Settings], open_service: Open, name: str | None = None, metrics_place: int | None = None
) -> int:
    """`name` is that of the process in logs and metrics, where it is not the service's. `metrics_place` is that of its
    port for Prometheus; without it, a process has the first port if no others work for it."""
    try:
        settings = read_settings()
        name = name or settings.service_type
        if metrics_place is None and not _is_supervised(settings):
            metrics_place = 0
        with (
            Logging(name, settings.telemetry, partial(_open_logs_client, settings)) as logs,
            open_telemetry(settings, name, metrics_place) as telemetry,
        ):
            logs.trace_id = telemetry.tracer.trace_id
            end = _run_service(settings, telemetry, open_service)
    except FatalWorkerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if end.unfinished:
        # A thread that did not end in time can't be stopped, and would keep the process alive.
        sys.stdout.flush()
        os._exit(end.code)
    return end.code


@dataclass(frozen=True)
class Service:
    """What a process does: its queue, the handler of its messages and how they are taken in, the probes of its stores,
    whether another message fits, and whether ECS protects its task while it is busy."""

    queue: SqsQueue
    handler: Handler
    options: ConsumerOptions
    probes: Mapping[str, Callable[[], None]]
    kill_points: KillPoints
    health_file: Path | None = None
    has_room: Callable[[], bool] = lambda: True
    set_busy: Callable[[bool], None] = lambda _: None


@dataclass(frozen=True)
class ServiceEnd:
    """How a service ended: its exit code, and how many messages threads are still working on."""

    code: int
    unfinished: int = 0


def _run_service(settings: Settings, telemetry: Telemetry, open_service: Open) -> ServiceEnd:
    shutdown = Shutdown()
    try:
        with shutdown.handle_signals(), ExitStack() as stack:
            end = open_service(settings, stack, shutdown, telemetry)()
    except FatalWorkerError as error:
        log.critical("the service can't start: %s", error)
        raise
    except RetryLater as error:
        log.critical("the service can't start: %s", error)
        return ServiceEnd(EXIT_UNREACHABLE)
    log.info("stopped", extra={"exit_code": end.code, "unfinished": end.unfinished})
    return end


def _consume(service: "Service", settings: Settings, shutdown: Shutdown, telemetry: Telemetry) -> ServiceEnd:
    """Work on the messages of one queue until a stop is requested."""
    for probe in service.probes.values():
        probe()
    context = _make_consumer_context(settings, service, telemetry)
    consumer = Consumer(service.queue, service.handler, service.options, shutdown, context)
    log.info("ready", extra={"pack": settings.models.model_pack, "mode": settings.process.worker_mode})
    return ServiceEnd(consumer.run(), consumer.unfinished)


def _open_service(
    settings: DetectionSettings | GroupingSettings, stack: ExitStack, shutdown: Shutdown, telemetry: Telemetry
) -> Serve:
    if isinstance(settings, DetectionSettings) and settings.find.find_queue_url:
        work, deadline_s = partial(run_find, settings.photos.worker_processes), settings.process.shutdown_deadline_s
        on_end = stop_service(shutdown, EXIT_DEAD_THREAD)
        stack.enter_context(ChildProcess("find", work, shutdown, deadline_s, on_end))
    if settings.process.watch_spot_notice:
        stack.enter_context(SpotNotice(partial(_on_spot_notice, shutdown, telemetry)))
    if isinstance(settings, GroupingSettings):
        service = _open_grouping(settings, stack, shutdown, telemetry)
    elif _is_supervised(settings):
        return partial(_supervise, settings, shutdown)
    else:
        service = _open_detection(settings, stack, shutdown, telemetry)
    return partial(_consume, service, settings, shutdown, telemetry)


def _decide_processes(settings: DetectionSettings | GroupingSettings) -> DetectionSettings | GroupingSettings:
    """The settings with the number of processes that work on photos, where they leave it open."""
    if isinstance(settings, GroupingSettings) or settings.photos.worker_processes:
        return settings
    uses_gpu = settings.device.wanted != "cpu" and _has_gpu()
    decided = {"worker_processes": min(count_cores(), MOST_PROCESSES) if uses_gpu else 1}
    return settings.model_copy(update={"photos": settings.photos.model_copy(update=decided)})


def _is_supervised(settings: Settings) -> bool:
    return isinstance(settings, DetectionSettings) and settings.photos.worker_processes > 1


def _has_gpu() -> bool:
    """Raises DeviceLost where there is a driver that does not work."""
    from app.preflight.machine import ThisMachine

    driver = ThisMachine().find_driver()
    return driver is not None and len(driver.gpus) > 0


def _supervise(settings: DetectionSettings, shutdown: Shutdown) -> ServiceEnd:
    """Have several processes work on photos until a stop is requested or, in drain mode, until all are done."""
    processes = settings.photos.worker_processes
    # Once for all of them.
    _open_packs(settings).install(settings.models.model_pack)
    with tempfile.TemporaryDirectory(prefix="face-worker-") as folder:
        supervisor = Supervisor(
            [partial(partial, run_photos, Part(place, processes)) for place in range(processes)],
            shutdown,
            settings.process.shutdown_deadline_s,
            Path(folder),
            must_stay=settings.process.worker_mode != "drain",
            dead_code=EXIT_DEAD_THREAD,
            health_file=settings.process.health_file,
            set_busy=TaskProtection(settings.process.ecs_agent_uri).set,
        )
        return ServiceEnd(supervisor.run())


def _open_part(
    settings: DetectionSettings,
    stack: ExitStack,
    shutdown: Shutdown,
    telemetry: Telemetry,
    *,
    part: Part,
    health_file: Path,
) -> Serve:
    stack.enter_context(stop_with_parent(shutdown))
    service = replace(_open_detection(settings, stack, shutdown, telemetry, part), health_file=health_file)
    return partial(_consume, service, settings, shutdown, telemetry)


def _open_logs_client(settings: Settings) -> object:
    # Watchtower itself tries a batch five times.
    return open_client("logs", settings.stores.aws_default_region, read_timeout_s=5, attempts=1)


def _on_spot_notice(shutdown: Shutdown, telemetry: Telemetry) -> None:
    telemetry.metrics.add(Metric.SPOT_INTERRUPTIONS)
    shutdown.request()


def _open_detection(
    settings: DetectionSettings, stack: ExitStack, shutdown: Shutdown, telemetry: Telemetry, part: Part = ALONE
) -> Service:
    from app.detection.changes import ChangeParts
    from app.detection.handle import DetectionParts, handle
    from app.detection.photo_store import PhotoStore

    if settings.find.find_queue_url:
        # All threads of this process inherit it, and guests are answered by another one.
        os.nice(YIELDING)
    on_death = partial(shutdown.request, EXIT_DEAD_THREAD)
    # First, since a wrong pack ends the start at once, while a database that is away is waited for.
    analyser = _open_analyser(settings, stack, telemetry.metrics, part)
    database = _open_database(settings, stack)
    owner_database = open_database(settings.source.huemn_mongo_uri.get_secret_value(), "huemn", "HUEMN_MONGO_URI")
    stack.callback(owner_database.client.close)
    objects = _open_results(settings)
    changes = ChangeParts(
        MongoGalleryStore(database),
        _open_queue(settings, settings.stores.group_face_queue_url),
        settings.messages.grouping_delay_s,
        analyser.model_id,
        telemetry,
    )
    kill_points = _make_kill_points(settings)
    photos = PhotoStore(
        MongoFaceStore(database),
        MongoOwnerMetadata(owner_database),
        objects,
        changes,
        events=_open_events(settings, database, telemetry, stack, on_death),
        forgotten=MongoForgottenPhotos(database),
        kill_points=kill_points,
    )
    find_bytes = _count_find_bytes(settings) if settings.find.find_queue_url else 0
    parts = DetectionParts(
        analyser=analyser,
        objects=objects,
        photos=photos,
        default_bucket=settings.source.bucket_name,
        output_bucket=settings.stores.face_group_bucket_name,
        readable_buckets=settings.source.readable_buckets,
        has_crops=settings.photos.pictures != "none",
        preview_side_px=settings.photos.preview_side_px if settings.photos.pictures == "all" else 0,
        file_bytes=Budget(part.share(settings.photos.bytes_in_work)),
        picture_bytes=Budget(part.share(settings.photos.choose_picture_bytes(find_memory_limit()) - find_bytes)),
        kill_points=kill_points,
        keys=ResultKeys(settings.stores.results_prefix),
        telemetry=telemetry,
    )
    _watch_owed_messages(changes.galleries, changes.grouping_queue, settings, stack, on_death)
    return Service(
        queue=_open_queue(settings, settings.source.queue_url),
        handler=partial(handle, parts=parts),
        options=_make_consumer_options(settings, settings.photos.max_face_workers, settings.photos.batch_size),
        probes=_make_probes(database, objects),
        kill_points=kill_points,
        health_file=settings.process.health_file,
        has_room=lambda: not (parts.file_bytes.is_exhausted or parts.picture_bytes.is_exhausted),
        set_busy=TaskProtection(settings.process.ecs_agent_uri).set,
    )


def _open_find(settings: DetectionSettings, stack: ExitStack, shutdown: Shutdown, telemetry: Telemetry) -> Serve:
    """What the process beside that of the photos does. Its networks are opened when the first guest comes: most workers
    never see one."""
    from app.detection.find import FindParts, handle_find
    from app.detection.vector_cache import VectorCache

    stack.enter_context(stop_with_parent(shutdown))
    find, on_death = settings.find, partial(shutdown.request, EXIT_DEAD_THREAD)
    if find.find_queue_url is None:
        raise BadConfiguration("FIND_QUEUE_URL names no queue that guests' requests could be read from.")
    manifest = _open_packs(settings).read(settings.models.model_pack)
    if manifest.find_bars is None:
        log.warning("the pack %s has no find_threshold: guests are never surely found by it", manifest.name)
    database, objects = _open_database(settings, stack), _open_results(settings)
    keys, output_bucket = ResultKeys(settings.stores.results_prefix), settings.stores.face_group_bucket_name
    parts = FindParts(
        open_analyser=Once(lambda: _open_find_analyser(settings, stack, telemetry.metrics)),
        model_id=manifest.model_id,
        objects=objects,
        selfies=objects,
        replies=SqsReplies(settings.stores.aws_default_region),
        galleries=MongoGalleryStore(database),
        guests=MongoGuestReader(database),
        vectors=VectorCache(objects, output_bucket, keys, find.find_cache_mb * 1_000_000),
        output_bucket=output_bucket,
        readable_buckets=settings.source.readable_buckets,
        is_forgotten=MongoForgottenPhotos(database).is_forgotten,
        selfie_buckets=find.selfie_buckets,
        reply_queue_urls=find.allowed_reply_queue_urls,
        bars=manifest.find_bars,
        threshold=manifest.threshold,
        least_quality=manifest.quality.core,
        max_selfie_bytes=find.max_selfie_bytes,
        result_days=find.find_result_days,
        picture_bytes=Budget(_count_find_bytes(settings)),
        events=_open_events(settings, database, telemetry, stack, on_death),
        keys=keys,
        telemetry=telemetry,
    )
    service = Service(
        queue=_open_queue(settings, find.find_queue_url),
        handler=partial(handle_find, parts=parts),
        options=replace(
            _make_consumer_options(settings, find.find_threads, find.find_threads), empty_polls=None, drain_s=None
        ),
        probes=_make_probes(database, objects),
        kill_points=_make_kill_points(settings),
    )
    return partial(_consume, service, settings, shutdown, telemetry)


def _count_find_bytes(settings: DetectionSettings) -> int:
    """Memory for the pictures of guests."""
    return round(settings.photos.choose_picture_bytes(find_memory_limit()) * SELFIES_SHARE)


def _open_find_analyser(settings: DetectionSettings, stack: ExitStack, metrics: Metrics) -> "Analyser":
    """As for photos, but for selfies of other sizes, and without the pre-filter."""
    from app.detection.prefilter import Prefilter

    analyser = _open_analyser(settings, stack, metrics)
    limits = replace(analyser.limits, max_bytes=settings.find.max_selfie_bytes)
    return replace(analyser, limits=limits, prefilter=Prefilter())


def _open_analyser(settings: DetectionSettings, stack: ExitStack, metrics: Metrics, part: Part = ALONE) -> "Analyser":
    from app.detection.analysis import Analyser
    from app.detection.decoders import Decoders
    from app.detection.device import open_device
    from app.detection.prefilter import Prefilter
    from app.vision import golden

    wanted, photos = settings.device, settings.photos
    # First, since it gets ready while the model pack is loaded.
    decoders = stack.enter_context(Decoders(part.share(count_cores()), photos.photo_cpu_s))
    prefilter = Prefilter(photos.prefilter, photos.thumbnail_key)
    installed = _open_packs(settings).install(settings.models.model_pack)
    device = open_device(
        installed, wanted.execution_provider, wanted.inference_threads, wanted.precision, metrics, part.count
    )
    golden.check_golden_photo(device.pack)
    return Analyser(stack.enter_context(device), photos.limits, prefilter, decoders)


def _open_grouping(settings: GroupingSettings, stack: ExitStack, shutdown: Shutdown, telemetry: Telemetry) -> Service:
    from app.grouping.handle import handle
    from app.grouping.parts import ForgetParts, GroupingParts

    manifest = _open_packs(settings).read(settings.models.model_pack)
    database = _open_database(settings, stack)
    objects = _open_results(settings)
    queue = _open_queue(settings, settings.stores.group_face_queue_url)
    on_death = partial(shutdown.request, EXIT_DEAD_THREAD)
    parts = GroupingParts(
        queue=queue,
        objects=objects,
        faces=MongoFaceStore(database),
        galleries=MongoGalleryStore(database),
        people=MongoPeopleStore(database),
        editor=MongoPeopleEditor(database),
        journal=MongoEditJournal(database),
        model_id=manifest.model_id,
        threshold=make_threshold(settings.people.similarity_threshold or manifest.threshold),
        quality=manifest.quality,
        uses_quality=settings.people.face_quality == "enforce",
        grouping_delay_s=settings.messages.grouping_delay_s,
        # Half of the visibility: the message of a worker that died comes back after the gallery's lease is over, finds
        # the gallery free, and its receive count shows in the end that it kills every worker.
        lease_s=settings.messages.message_visibility_timeout / 2,
        allows_model_change=settings.people.allow_model_change,
        keeps_former_model=settings.people.keep_former_model,
        search=make_neighbour_search(settings.search),
        index=_open_gallery_index(settings),
        groups_version=2 if settings.people.groups_version == "2" else 1,
        results_base_url=settings.people.results_base_url,
        keys=ResultKeys(settings.stores.results_prefix),
        kill_points=_make_kill_points(settings),
        events=_open_events(settings, database, telemetry, stack, on_death),
        telemetry=telemetry,
        forgetting=ForgetParts(
            MongoTombstones(database),
            MongoFaceStore(database),
            _open_owner(settings, stack),
            settings.forgetting.retention_days,
        ),
    )
    _watch_owed_messages(parts.galleries, queue, settings, stack, on_death)
    if parts.index:
        clean = partial(_clean_index, parts.index, database)
        work = partial(repeat, every_s=CLEAN_INDEX_EVERY_S, action=clean)
        stack.enter_context(BackgroundThread("index files", work, join_s=5, on_death=on_death))

    def handle_message(body: str, *, progress: Progress, is_last: bool) -> None:
        handle(body, parts, progress)

    return Service(
        queue=queue,
        handler=handle_message,
        options=_make_consumer_options(settings, GROUPING_THREADS, GROUPING_THREADS),
        probes=_make_probes(database, objects),
        kill_points=parts.kill_points,
        health_file=settings.process.health_file,
        set_busy=TaskProtection(settings.process.ecs_agent_uri).set,
    )


def _watch_owed_messages(
    galleries: GalleryChanges, queue: MessageQueue, settings: Settings, stack: ExitStack, on_death: Callable[[], None]
) -> None:
    """Look now and then for grouping messages that no worker has sent, for as long as the service runs."""
    look = partial(send_overdue, galleries, queue, settings.messages.grouping_delay_s)
    work = partial(repeat, every_s=LOOK_EVERY_S, action=look)
    stack.enter_context(BackgroundThread("owed messages", work, join_s=5, on_death=on_death))


def _open_events(
    settings: Settings,
    database: MongoDatabase,
    telemetry: Telemetry,
    stack: ExitStack,
    on_death: Callable[[], None],
) -> EventSink:
    """The outbox of EVENTS, with a thread that sends what is in it for as long as the service runs."""
    wanted, region = settings.events, settings.stores.aws_default_region
    if wanted.events is None:
        return NoEvents()
    outbox = MongoEventOutbox(database, 0 if wanted.events_each_photo else COLLECT_S)
    target = SnsTopic(wanted.events, region) if SNS_TOPIC.fullmatch(wanted.events) else EventBus(wanted.events, region)
    source = f"/face-worker/{quote(settings.telemetry.environment, safe='')}"
    work = partial(send_events, outbox=outbox, target=target, source=source, metrics=telemetry.metrics)
    stack.enter_context(BackgroundThread("events", work, join_s=5, on_death=on_death))
    return outbox


def _open_owner(settings: GroupingSettings, stack: ExitStack) -> MongoOwnerMetadata | None:
    uri = settings.forgetting.huemn_mongo_uri
    if uri is None:
        return None
    database = open_database(uri.get_secret_value(), "huemn", "HUEMN_MONGO_URI")
    stack.callback(database.client.close)
    return MongoOwnerMetadata(database)


def _clean_index(index: "GalleryIndex", database: MongoDatabase) -> None:
    """Remove what this machine has kept of faces that were erased since."""
    try:
        removed = index.remove_outdated(partial(list_index_erasures, database), INDEX_GRACE_S)
    except (RetryLater, OSError) as error:
        log.warning("files of the gallery index are looked at again in %.0f s: %s", CLEAN_INDEX_EVERY_S, error)
        return
    if removed:
        log.info("files of the gallery index removed, of which faces were erased", extra={"files": len(removed)})


def _open_gallery_index(settings: GroupingSettings) -> "GalleryIndex | None":
    from app.grouping.index import GalleryIndex

    folder = settings.people.gallery_index_dir
    return GalleryIndex(folder, round(settings.people.gallery_index_gb * 1e9)) if folder else None


def make_neighbour_search(settings: SearchSettings) -> "NeighbourSearch":
    """The search that the settings name. Raises BadConfiguration for a GPU or Ray that is not there."""
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


def _make_consumer_context(settings: Settings, service: Service, telemetry: Telemetry) -> ConsumerContext:
    health = Health(service.health_file)
    health.mark_ready()

    def set_busy(busy: bool) -> None:
        health.report_busy(busy)
        service.set_busy(busy)

    def has_room() -> bool:
        if measure_memory_share() < settings.process.face_recognition_memory_threshold:
            return service.has_room()
        log.warning("memory is full: no new message is taken in")
        return False

    return ConsumerContext(health, has_room, set_busy, Breaker(service.probes), service.kill_points, telemetry)


def _make_kill_points(settings: Settings) -> KillPoints:
    return KillPoints(settings.process.chaos_kill_at, settings.stores.aws_endpoint_url)


def _make_probes(database: MongoDatabase, objects: S3Store) -> dict[str, Callable[[], None]]:
    return {"MongoDB": partial(ping, database), "S3": objects.ping}


def _open_queue(settings: Settings, url: str) -> SqsQueue:
    return SqsQueue(url, settings.stores.aws_default_region, settings.messages.message_visibility_timeout)


def _open_results(settings: Settings) -> S3Store:
    return S3Store(settings.stores.face_group_bucket_name, settings.stores.aws_default_region)


def _open_database(settings: Settings, stack: ExitStack) -> MongoDatabase:
    uri = settings.stores.gallery_images_mongo_uri.get_secret_value()
    database = open_database(uri, "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    stack.callback(database.client.close)
    refuse_documentdb(database, "GALLERY_IMAGES_MONGO_URI")
    ensure_indexes(database)
    return database


def _open_packs(settings: Settings) -> PackStore:
    return PackStore(
        models_dir=settings.models.models_dir,
        accept_research_licence=settings.models.accept_research_licence,
        model_source=settings.models.model_source,
        download=make_model_downloader(settings.stores.aws_default_region),
    )


def _make_consumer_options(settings: Settings, threads: int, batch_size: int) -> ConsumerOptions:
    process, messages = settings.process, settings.messages
    is_draining = process.worker_mode == "drain"
    return ConsumerOptions(
        threads=threads,
        batch_size=batch_size,
        visibility_s=messages.message_visibility_timeout,
        wait_s=messages.queue_wait_s,
        deadline_s=process.shutdown_deadline_s,
        stuck_after_s=process.stuck_after_s,
        empty_polls=process.drain_empty_polls if is_draining else None,
        drain_s=process.drain_max_s if is_draining else None,
    )
