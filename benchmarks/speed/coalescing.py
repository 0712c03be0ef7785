"""How many grouping runs a burst of photos leads to, and whether every photo is grouped in the end.

`python -m benchmarks coalescing [--photos 5000] [--seconds 60] [--delay 5] [--run 8] [--kill] [--json]`

The service's own code runs the queue (on moto's SQS), the gallery's document and lease, the people's store (on
SecantusDB), the consumer, `request_grouping` in three processes in place of detection, and grouping's `handle` in two
workers. A photo is only a document that is counted; reading a gallery's faces takes `--run` seconds and finds none.
With `--kill` the worker of the first run is killed during the run, and replaced.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, cast

from app.adapters.aws import open_client
from app.adapters.mongo import MongoDatabase, ensure_indexes, open_database
from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_people import MongoPeopleStore
from app.adapters.sqs import SqsQueue
from app.clustering.neighbours import NeighbourSearch
from app.core.coalescing import LOOK_EVERY_S, send_overdue
from app.core.ports import FaceReader, ObjectStore, ReceivedMessage
from app.core.records import FaceBatch, ImageRecord
from app.core.roles import QualityBars
from app.core.threads import BackgroundThread, repeat
from app.core.thresholds import Threshold
from app.detection.changes import ChangeParts, request_grouping
from app.grouping.handle import handle
from app.grouping.parts import GroupingParts
from app.health import Health
from app.telemetry.interface import Telemetry
from app.worker.consumer import Consumer, ConsumerContext, ConsumerOptions
from app.worker.shutdown import Shutdown
from benchmarks.common.command import print_result
from benchmarks.common.running import run_local_stores
from local.stack import LocalStackError

GALLERY, MODEL = "gallery", "model-0123456789ab"
SENDERS, WORKERS = 3, 2
VISIBILITY_S = 30
WATCH_EVERY_S = 0.25
PATIENCE_S = 120.0

Processes = list[BaseProcess]


@dataclass(frozen=True)
class Flood:
    """A burst of photos that arrive evenly within `seconds`. `delay_s` is GROUPING_DELAY_S, `run_s` a run's seconds."""

    photos: int
    seconds: float
    delay_s: int
    run_s: float
    kill: bool


@dataclass(frozen=True)
class Place:
    """The addresses that the processes of one measurement need."""

    uri: str
    queue_url: str
    region: str

    def open_database(self) -> MongoDatabase:
        return open_database(self.uri, "gallery_images", "GALLERY_IMAGES_MONGO_URI")

    def open_queue(self) -> "CountingQueue":
        return CountingQueue(self)


class CountingQueue(SqsQueue):
    """A queue that records each message that is sent or received in MongoDB."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.queue_url, place.region, VISIBILITY_S)
        self._notes = place.open_database()

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None:
        super().send(body, delay_s, traceparent)
        self._notes["sent"].insert_one({"body": body})

    def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]:
        messages = super().receive(max_messages, wait_s)
        for message in messages:
            self._notes["received"].insert_one({"message": message.message_id, "count": message.receive_count})
        return messages


class SlowGallery:
    """A face store whose gallery has no faces but takes `run_s` to read, and an object store that stores nothing."""

    def __init__(self, database: MongoDatabase, run_s: float) -> None:
        self._database = database
        self._run_s = run_s

    def read_faces(self, _gallery_id: str, _model_id: str, *, with_embeddings: bool) -> Iterator[FaceBatch]:
        photos = self._database["arrived"].estimated_document_count()
        self._database["runs"].insert_one({"photos": photos, "pid": os.getpid()})
        time.sleep(self._run_s)
        return iter(())

    def find_other_model(self, _gallery_id: str, _model_id: str) -> None:
        return None

    def read_images(self, _gallery_id: str) -> Iterator[ImageRecord]:
        return iter(())

    def replace(self, key: str, data: bytes, content_type: str, fence: int) -> None: ...


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks coalescing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=60, help="within which they arrive (60)")
    parser.add_argument("--delay", type=int, default=5, help="GROUPING_DELAY_S (5)")
    parser.add_argument("--run", type=float, default=8, help="seconds that a run takes (8)")
    parser.add_argument("--kill", action="store_true", help="kill the worker of the first run")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    flood = Flood(options.photos, options.seconds, options.delay, options.run, options.kill)
    result = print_result(lambda: measure(flood), as_json=options.json)
    return 0 if result and result["lost"] == 0 and result["dead_letters"] == 0 else 1


def measure(flood: Flood) -> dict[str, float]:
    """The figures of a burst. Raises LocalStackError where the gallery is not grouped within PATIENCE_S after it."""
    with run_local_stores() as stack:
        environment = stack.environment
        place = Place(
            environment["GALLERY_IMAGES_MONGO_URI"],
            environment["GROUP_FACE_QUEUE_URL"],
            environment["AWS_DEFAULT_REGION"],
        )
        database = place.open_database()
        with database.client:
            ensure_indexes(database)
            processes: Processes = []
            try:
                begin = time.monotonic()
                most_waiting = _watch(flood, place, database, processes)
                seconds = time.monotonic() - begin
                dead = sum(_count_messages(open_client("sqs", place.region), f"{place.queue_url}-dead-letters"))
            finally:
                for process in processes:
                    process.kill()
                    process.join()
            return {
                **_make_figures(flood, database),
                "messages_at_once_at_most": most_waiting,
                "dead_letters": dead,
                "seconds": round(seconds, 1),
            }


def _watch(flood: Flood, place: Place, database: MongoDatabase, processes: Processes) -> int:
    """Start all processes, and wait until all is grouped and the queue is empty. Returns the most messages in it."""
    workers = [_start_process(_group, place, flood) for _ in range(WORKERS)]
    senders = [_start_process(_store_photos, place, flood, number) for number in range(SENDERS)]
    processes += [*workers, *senders]
    sqs = open_client("sqs", place.region)
    galleries = MongoGalleryStore(database)
    most, killed = 0, not flood.kill
    until = time.monotonic() + flood.seconds + PATIENCE_S
    while time.monotonic() < until:
        counts = _count_messages(sqs, place.queue_url)
        most = max(most, sum(counts))
        if not killed and (owner := _find_owner_of_first_run(database, workers)):
            owner.kill()
            processes.append(_start_process(_group, place, flood))
            killed = True
        state = galleries.find_gallery(GALLERY)
        done = state is not None and state.last_run is not None and state.last_run["revision"] == state.revision
        if done and not any(counts) and not any(sender.is_alive() for sender in senders):
            return most
        time.sleep(WATCH_EVERY_S)
    sending = sum(sender.is_alive() for sender in senders)
    raise LocalStackError(
        f"The gallery was not grouped within {PATIENCE_S:.0f} s after the time of its last photo: {state}; "
        f"messages that are visible, in flight and delayed: {counts}; {sending} senders are not done."
    )


def _find_owner_of_first_run(database: MongoDatabase, workers: Processes) -> BaseProcess | None:
    run = database["runs"].find_one()
    return next((worker for worker in workers if run and worker.pid == run["pid"]), None)


def _make_figures(flood: Flood, database: MongoDatabase) -> dict[str, float]:
    runs = [run["photos"] for run in database["runs"].find()]
    receives = [note["count"] for note in database["received"].find()]
    return {
        "photos": flood.photos,
        "runs": len(runs),
        "messages_sent": database["sent"].count_documents({}),
        "messages_received": len(receives),
        "receives_of_one_at_most": max(receives),
        "lost": flood.photos - runs[-1],
    }


def _count_messages(sqs: Any, url: str) -> tuple[int, ...]:  # noqa: ANN401 - boto3 clients are made at run time
    """The number of messages that are visible, in flight, and delayed."""
    names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
    return tuple(int(answer["Attributes"][name]) for name in names)


def _start_process(target: Any, *arguments: object) -> BaseProcess:  # noqa: ANN401 - any function of a module
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _store_photos(place: Place, flood: Flood, number: int) -> None:
    """Store the photos of one sender process, and after each one call `request_grouping`, as detection does."""
    database = place.open_database()
    parts = ChangeParts(MongoGalleryStore(database), place.open_queue(), flood.delay_s, MODEL, Telemetry())
    begin = time.monotonic()
    for photo in range(number, flood.photos, SENDERS):
        time.sleep(max(0.0, begin + flood.seconds * photo / flood.photos - time.monotonic()))
        database["arrived"].insert_one({"_id": photo})
        request_grouping(GALLERY, parts)


def _group(place: Place, flood: Flood) -> None:
    """Run a grouping worker until it is killed."""
    database, queue = place.open_database(), place.open_queue()
    slow = SlowGallery(database, flood.run_s)
    parts = GroupingParts(
        queue=queue,
        objects=cast(ObjectStore, slow),
        faces=cast(FaceReader, slow),
        galleries=MongoGalleryStore(database),
        people=MongoPeopleStore(database),
        editor=MongoPeopleEditor(database),
        journal=MongoEditJournal(database),
        model_id=MODEL,
        threshold=Threshold(0.5),
        quality=QualityBars(),
        uses_quality=True,
        grouping_delay_s=flood.delay_s,
        lease_s=VISIBILITY_S / 2,
        search=NeighbourSearch(),
    )

    def work(body: str, *, progress: Callable[[], None], is_last: bool) -> None:
        handle(body, parts, progress)

    options = ConsumerOptions(
        threads=1, batch_size=1, visibility_s=VISIBILITY_S, wait_s=1, deadline_s=20, stuck_after_s=300
    )
    look = partial(send_overdue, parts.galleries, queue, flood.delay_s)
    with BackgroundThread("owed messages", partial(repeat, every_s=LOOK_EVERY_S, action=look)):
        Consumer(queue, work, options, Shutdown(), ConsumerContext(Health(None))).run()


if __name__ == "__main__":
    sys.exit(main())
