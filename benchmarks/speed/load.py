"""20,000 messages processed by workers with a stub for the networks: speed, memory, and whether any is lost or
repeated.

`python -m benchmarks load [--messages 20000] [--workers 2] [--processes 1] [--faces 1] [--network-ms 0] [--profile]
[--database NAME] [--json]`

The workers are the detection service with a stub in place of the networks (load_worker.py); SQS and S3 are moto's,
MongoDB is a mongod or SecantusDB. Every photo has other content. Few more messages are in the queue than the workers
can hold, because moto goes through all of them at every call, and again for each message that it returns.

CPU seconds are given for each part: where all cores are busy, a part's share of them is its share of the time.
`ceiling_per_s` is how many messages one core would process if a worker had it alone and the stores took no time;
`consumer_alone_per_s` is the consumer's loop with a queue in memory and a handler that does nothing. `--profile` adds
milliseconds a message by stage: CPU time, of all workers, and time under Python's lock, of the first one. The profile
itself takes some CPU time.

The exit code is 1 where a message was lost or processed twice, or received again though no worker had put it back (as
happens with a store that is too slow), or where memory grew (judged from 5,000 messages on).
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.core.messages import DetectImage
from benchmarks.chaos.journal import JournalReader
from benchmarks.chaos.world import SETTINGS, World, WorldOptions
from benchmarks.common.command import add_database_option, print_result
from benchmarks.speed.load_consumer import SQS_BATCH, measure_consumer_alone
from benchmarks.speed.load_processes import Processes, Sample, compute_growth, compute_pace
from benchmarks.speed.load_profile import LockProfiler, divide_cpu
from local.database import DatabaseName
from local.stack import LocalStackError

THREADS, BATCH = 16, 24
PRODUCTION = {
    "MESSAGE_VISIBILITY_TIMEOUT": "120",
    "QUEUE_WAIT_S": "2",
    "BATCH_SIZE": str(BATCH),
    "MAX_FACE_WORKERS": str(THREADS),
    "GROUPING_DELAY_S": "30",
    "PREVIEW_SIDE_PX": "1024",
}
"""The defaults of a service, in place of those of a storm. Only polls are short: the benchmark waits for the last
one."""
PHOTO_PX = (128, 96)
PHOTOS_A_GALLERY = 1_000
WAITING_FOR_EACH_HELD = 1
SENDERS = 4
LOOK_EVERY_S = 1.0
SHOWN_TROUBLES = 5
POLL_EVERY_S = 0.1
STALLED_AFTER_S = 120.0
PROFILE_S = 20.0
GROWTH_BOUND = 0.05
"""Resident memory varies by 1 to 4 % (decision 16)."""
JUDGED_FROM = 5_000
"""Growth is judged from so many messages on; before that, threads and caches still take more memory."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2, help="services (2)")
    parser.add_argument("--processes", type=int, default=1, help="WORKER_PROCESSES of each worker (1)")
    parser.add_argument("--network-ms", type=float, default=0, help="time of the stub for a photo, as of one GPU (0)")
    parser.add_argument("--faces", type=int, default=1, help="faces of each photo (1)")
    parser.add_argument("--profile", action="store_true", help="sample where a worker's time goes")
    add_database_option(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    result = print_result(
        lambda: measure(
            options.messages,
            options.workers,
            options.database,
            Stub(options.faces, options.processes, options.network_ms),
            profiled=options.profile,
        ),
        as_json=options.json,
    )
    return 0 if result and is_sound(result) else 1


def is_sound(result: Mapping[str, Any]) -> bool:
    """Whether no message was lost or repeated, only those put back were received again, and memory did not grow."""
    grew = result["messages"] >= JUDGED_FROM and result["growth"] > GROWTH_BOUND
    unexplained = result["received_again"] > result["put_back"]
    return not (result["lost"] or result["done_twice"] or unexplained or grew)


@dataclass(frozen=True)
class Stub:
    """What each worker is: faces of a photo, its processes, and how long the networks take for a photo."""

    faces: int = 1
    processes: int = 1
    network_ms: float = 0

    @property
    def environment(self) -> dict[str, str]:
        return {
            "STUB_FACES": str(self.faces),
            "WORKER_PROCESSES": str(self.processes),
            "STUB_NETWORK_MS": str(self.network_ms),
        }


def measure(
    messages: int,
    workers: int,
    database: DatabaseName | None = None,
    stub: Stub | None = None,
    *,
    profiled: bool = False,
) -> dict[str, Any]:
    """All figures. Raises LocalStackError where the queue stops getting shorter, and NoMongod where none starts."""
    stub = stub or Stub()
    alone = measure_consumer_alone(messages, THREADS, BATCH)
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        home = Path(folder)
        with World(WorldOptions(home, settings=PRODUCTION, database=database, own_s3=True)) as world:
            server = world.server.name
            put_photos(world, messages)
            with (
                Processes(world, workers, home / "logs", stub.environment, profiled=profiled) as processes,
                ExitStack() as stack,
            ):
                profiler = stack.enter_context(LockProfiler(processes.largest_pid, PROFILE_S)) if profiled else None
                held = workers * stub.processes * BATCH
                samples = run(world, processes, messages, held * (1 + WAITING_FOR_EACH_HELD))
                stack.close()
                spent = processes.read_ledgers()
                processes.stop()
            counts = count(world, home / "logs", messages, stub.faces)
    pace: dict[str, Any] = {**compute_pace(samples, workers)}
    if profiler:
        pace["cpu_ms_by_stage"] = divide_cpu(spent, pace["worker_cpu_ms_a_message"], messages)
        pace["lock_ms_by_stage"] = profiler.describe(samples)
    return {
        "messages": messages,
        "workers": workers,
        **asdict(stub),
        "database": server,
        **pace,
        **compute_growth(samples),
        "consumer_alone_per_s": round(alone),
        **counts,
    }


def put_photos(world: World, messages: int) -> None:
    """Store a picture for each message: the same one with another comment, so that none is a twin of another."""
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTO_PX[1], PHOTO_PX[0], 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    start, rest = data.getvalue()[:2], data.getvalue()[2:]

    def put(number: int) -> None:
        comment = f"{number:08}".encode()
        # https://www.w3.org/Graphics/JPEG/itu-t81.pdf, B.2.4.5: the length includes its own two bytes.
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        request = make_request(number)
        world.s3.put_object(Bucket=SETTINGS["BUCKET_NAME"], Key=request.s3_key, Body=start + segment + rest)

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(put, range(messages)))


def make_request(number: int) -> DetectImage:
    gallery, image = f"gallery-{number // PHOTOS_A_GALLERY}", f"{number:08}"
    return DetectImage(gallery_id=gallery, image_id=image, s3_key=f"{gallery}/{image}.jpg")


def run(world: World, processes: Processes, messages: int, most_at_once: int) -> list[Sample]:
    """Send all messages, at most so many at once, and sample the processes every second until all are settled."""
    journal, seen, sent, done = JournalReader(world.journal_path), 0, 0, 0
    samples = [processes.sample(0)]
    progressed_at = time.monotonic()
    while done < messages:
        while sent < min(messages, done + most_at_once):
            sent += _send(world, range(sent, min(sent + SQS_BATCH, messages)))
        new = journal.read()[seen:]
        seen += len(new)
        settled = sum(event.event == "delete" for event in new)
        done += settled
        progressed_at = time.monotonic() if settled else progressed_at
        if time.monotonic() - progressed_at > STALLED_AFTER_S:
            raise LocalStackError(f"{messages - done} messages are left; none was done for {STALLED_AFTER_S:.0f} s.")
        if time.monotonic() - samples[-1].at_s > LOOK_EVERY_S or done == messages:
            processes.check()
            samples.append(processes.sample(done))
        time.sleep(POLL_EVERY_S)
    return samples


def _send(world: World, numbers: Sequence[int]) -> int:
    entries = [{"Id": str(number), "MessageBody": make_request(number).model_dump_json()} for number in numbers]
    answer = world.sqs.send_message_batch(QueueUrl=world.queues["detection"], Entries=entries)
    if answer.get("Failed"):
        raise LocalStackError(f"SQS did not take a message: {answer['Failed'][0]}")
    return len(entries)


def count(world: World, logs: Path, messages: int, each: int = 1) -> dict[str, int]:
    """How many messages were lost, done twice, received again or put back, by the stores, the journal and the logs."""
    received, settled = Counter[str](), Counter[str]()
    for event in JournalReader(world.journal_path).read():
        if event.queue == "detection":
            received[event.message] += event.event == "receive"
            settled[event.message] += event.event == "delete"
    done, put_back = Counter[str](), 0
    for log in logs.glob("*.log"):
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        done.update(line["image"] for line in lines if line["message"] == "photo indexed")
        troubles = [line["message"] for line in lines if line["message"].startswith("message put back")]
        put_back += len(troubles)
        for trouble in troubles[:SHOWN_TROUBLES]:
            print(f"{log.stem}: {trouble}", file=sys.stderr)
    wanted = {f"{request.gallery_id}/{request.image_id}" for request in map(make_request, range(messages))}
    stored = {image["_id"] for image in world.database["images"].find({"status": "indexed"}, {"_id": 1})}
    faces = world.database["faces"].count_documents({})
    return {
        "lost": len(wanted - stored)
        + sum(number == 0 for number in settled.values())
        + max(0, messages * each - faces),
        "done_twice": sum(number > 1 for number in done.values())
        + max(0, faces - messages * each)
        + len(stored - wanted),
        "received_again": sum(number - 1 for number in received.values() if number > 1),
        "put_back": put_back,
    }


if __name__ == "__main__":
    sys.exit(main())
