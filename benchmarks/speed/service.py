"""Photos a second of the detection service as a process, from the queue to MongoDB. One line of JSON.

`python -m benchmarks service --images DIR [--pack PACK] [--delay-ms 80] [--photos 120] [--repeat 2] [--processes 1]`

It runs with the local stand-ins, which take much of the time, so only the ratios matter. `fresh`: every photo is
analysed. `delayed`: the same while the fault proxy delays every request to S3 (a photo, its crops and its preview one
after the other). `twins`: the same pictures in another gallery. `again`: the same messages once more. All take turns.
`peak_mb`: the memory of the service and of all its processes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from app.core.errors import WorkerError
from app.core.messages import DetectImage
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.proxy import Faults
from benchmarks.chaos.storm import count_messages, put_photos
from benchmarks.chaos.world import World, WorldOptions
from benchmarks.common.peak import PeakMemory, measure_tree
from benchmarks.speed.detection import enlarge_photos
from local.album import find_photos
from local.stack import LocalStackError

# The defaults of a service, in place of those of a storm.
SERVICE = {
    "MESSAGE_VISIBILITY_TIMEOUT": "120",
    "QUEUE_WAIT_S": "20",
    "BATCH_SIZE": "24",
    "MAX_FACE_WORKERS": "16",
    "INFERENCE_THREADS": "0",
    "PREVIEW_SIDE_PX": "1024",
}
PATIENCE_S = 300.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks service", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder with photos; repeated as often as needed")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--delay-ms", type=float, default=80)
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--megapixels", type=float, help="enlarge the photos to this size first")
    parser.add_argument("--processes", type=int, default=1, help="WORKER_PROCESSES (1)")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="service-") as home:
            files = list(find_photos(options.images).values())
            if options.megapixels:
                (aside := Path(home) / "photos").mkdir()
                files = enlarge_photos(files, options.megapixels, aside)
            photos = [path.read_bytes() for path in islice(cycle(files), options.photos)]
            settings = {**SERVICE, "WORKER_PROCESSES": str(options.processes)}
            world_options = WorldOptions(Path(home), options.pack, settings=settings)
            with World(world_options) as world, open_worker(world, Path(home)) as fleet:
                measure(world, photos[:16], "warm-up", force=True)
                pid = next(slot.process.pid for slot in fleet.slots if slot.process)
                with PeakMemory(partial(measure_tree, pid)) as memory:
                    turns = [
                        _measure_turn(world, photos, number, options.delay_ms / 1000)
                        for number in range(options.repeat)
                    ]
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    rates = {way: options.photos / statistics.median(turn[way] for turn in turns) for way in turns[0]}
    result: dict[str, float] = {"photos": options.photos, "delay_ms": options.delay_ms}
    result |= {f"{way}_photos_per_s": round(rate, 2) for way, rate in rates.items()}
    result |= {f"{way}_over_fresh": round(rates[way] / rates["fresh"], 3) for way in rates if way != "fresh"}
    print(json.dumps({**result, "peak_mb": round(memory.peak / 1e6)}))
    return 0


def _measure_turn(world: World, photos: Sequence[bytes], number: int, delay_s: float) -> dict[str, float]:
    """Seconds of each of the four cases."""
    seconds = {"fresh": measure(world, photos, f"fresh-{number}", force=True)}
    world.proxies["s3"].faults = Faults({"delay": 1.0}, delay_s=delay_s)
    seconds["delayed"] = measure(world, photos, f"delayed-{number}", force=True)
    world.proxies["s3"].faults = Faults()
    seconds["twins"] = measure(world, photos, f"twins-{number}", force=False)
    seconds["again"] = measure(world, photos, f"twins-{number}", force=False)
    return seconds


def open_worker(world: World, home: Path) -> Fleet:
    return Fleet(world.environment, home / "logs", {"detection": 1}, lambda _slot, _last: {})


def measure(world: World, photos: Sequence[bytes], gallery: str, *, force: bool) -> float:
    """Seconds from the first message until the queue is empty again."""
    named = {(gallery, f"{number:04}"): data for number, data in enumerate(photos)}
    put_photos(world, named)
    bodies = [
        DetectImage(gallery_id=gallery, image_id=image, s3_key=f"{gallery}/{image}.jpg", force=force).model_dump_json()
        for _, image in named
    ]
    began = time.monotonic()
    for body in bodies:
        world.sqs.send_message(QueueUrl=world.queues["detection"], MessageBody=body)
    while count_messages(world)["detection"]:
        if time.monotonic() - began > PATIENCE_S:
            raise LocalStackError(f"The photos were not done within {PATIENCE_S:.0f} s.")
        time.sleep(0.1)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
