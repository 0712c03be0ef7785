"""Opens everything a service needs, runs it, and closes in reverse order."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from pymongo.database import Database

from app.adapters.aws import client
from app.adapters.models import model_downloader
from app.adapters.mongo import Document, ensure_indexes, open_database
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore, MongoOwnerMetadata, MongoPeopleStore
from app.adapters.s3 import S3Store
from app.adapters.sqs import SqsQueue
from app.config import ServiceType, Settings, load_settings
from app.errors import FatalWorkerError, RetryLater
from app.packs.store import InstalledPack, PackStore
from app.telemetry.logs import Logging
from app.vision.decode import PhotoLimits
from app.vision.faces import load_pack
from app.worker.consumer import Consumer, ConsumerOptions, Handler
from app.worker.memory import memory_share
from app.worker.shutdown import Shutdown

log = logging.getLogger(__name__)

EXIT_UNREACHABLE = 4


def run(service: ServiceType | None = None) -> int:
    """Run one service, by default that of SERVICE_TYPE, until it is stopped.

    Returns the process's exit code; every failure is one clear sentence.
    """
    try:
        settings = load_settings(**({"service_type": service} if service else {}))
        with Logging(settings, lambda: client("logs", settings.aws_default_region)):
            return _run_logged(settings)
    except FatalWorkerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _run_logged(settings: Settings) -> int:
    shutdown = Shutdown()
    try:
        with shutdown.on_signals(), ExitStack() as stack:
            queue, handler = PARTS[settings.service_type](settings, stack)
            log.info("ready", extra={"pack": settings.model_pack, "mode": settings.worker_mode})
            consumer = Consumer(queue, handler, _options(settings), shutdown, memory_share)
            code = consumer.run()
    except FatalWorkerError:
        log.exception("the service can't start")
        raise
    except RetryLater as error:
        log.critical("the service can't start: %s", error)
        return EXIT_UNREACHABLE
    log.info("stopped", extra={"exit_code": code, "unfinished": consumer.unfinished})
    if consumer.unfinished:
        # A thread that didn't end in time can't be stopped, and would keep the process from exiting.
        logging.shutdown()
        os._exit(code)
    return code


def _detection(settings: Settings, stack: ExitStack) -> tuple[SqsQueue, Handler]:
    from app.detection.handle import DetectionParts, handle

    installed = _install(settings)
    pack = load_pack(installed.manifest, installed.weights, settings.execution_provider, settings.inference_threads)
    database = _open_database(settings, stack)
    owner = open_database(settings.huemn_mongo_uri.get_secret_value(), "huemn", "HUEMN_MONGO_URI")
    stack.callback(owner.client.close)
    parts = DetectionParts(
        pack=pack,
        objects=S3Store(settings.face_group_bucket_name, settings.aws_default_region),
        faces=MongoFaceStore(database),
        galleries=MongoGalleryStore(database),
        owner=MongoOwnerMetadata(owner),
        grouping_queue=_queue(settings, settings.group_face_queue_url),
        default_bucket=settings.bucket_name,
        output_bucket=settings.face_group_bucket_name,
        readable_buckets=settings.readable_buckets,
        limits=PhotoLimits(settings.max_photo_bytes, settings.max_photo_pixels),
        preview_side_px=settings.preview_side_px,
        grouping_delay_s=settings.grouping_delay_s,
    )
    return _queue(settings, settings.queue_url), partial(handle, parts=parts)


def _grouping(settings: Settings, stack: ExitStack) -> tuple[SqsQueue, Handler]:
    from app.grouping.handle import GroupingParts, handle

    manifest = _packs(settings).read(settings.model_pack)
    database = _open_database(settings, stack)
    parts = GroupingParts(
        objects=S3Store(settings.face_group_bucket_name, settings.aws_default_region),
        faces=MongoFaceStore(database),
        galleries=MongoGalleryStore(database),
        people=MongoPeopleStore(database),
        model_id=manifest.model_id,
        similarity_threshold=settings.similarity_threshold or manifest.similarity_threshold,
        lease_s=settings.message_visibility_timeout,
    )
    return _queue(settings, settings.group_face_queue_url), partial(handle, parts=parts)


PARTS: dict[ServiceType, Callable[[Settings, ExitStack], tuple[SqsQueue, Handler]]] = {
    "detection": _detection,
    "grouping": _grouping,
}


def _queue(settings: Settings, url: str) -> SqsQueue:
    return SqsQueue(url, settings.aws_default_region, settings.message_visibility_timeout)


def _open_database(settings: Settings, stack: ExitStack) -> Database[Document]:
    uri = settings.gallery_images_mongo_uri.get_secret_value()
    database = open_database(uri, "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    stack.callback(database.client.close)
    ensure_indexes(database)
    return database


def _packs(settings: Settings) -> PackStore:
    return PackStore(
        models_dir=settings.models_dir,
        accept_research_licence=settings.accept_research_licence,
        model_source=settings.model_source,
        download=model_downloader(settings.aws_default_region),
    )


def _install(settings: Settings) -> InstalledPack:
    return _packs(settings).install(settings.model_pack)


def _options(settings: Settings) -> ConsumerOptions:
    one_at_a_time = settings.service_type == "grouping"
    return ConsumerOptions(
        threads=1 if one_at_a_time else settings.max_face_workers,
        batch_size=1 if one_at_a_time else settings.batch_size,
        visibility_s=settings.message_visibility_timeout,
        wait_s=settings.queue_wait_s,
        deadline_s=settings.shutdown_deadline_s,
        memory_threshold=settings.face_recognition_memory_threshold,
        empty_polls=settings.drain_empty_polls if settings.worker_mode == "drain" else None,
    )
