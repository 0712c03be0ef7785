"""Does a slow S3 slow the detection service down? Photos a second with and without a delay of each answer of S3.

`python -m benchmarks.latency --images DIR [--pack PACK] [--delay-ms 80] [--photos 120] [--repeat 2]`

One service as a process against the local stand-ins, with the fault proxy before S3, which delays every request: the
photo itself, its crops and its preview. Both ways take turns. One line of JSON; `share` is the delayed throughput over
the other.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from app.errors import WorkerError
from app.local.album import find_photos
from app.local.stack import LocalStackError
from app.messages import DetectImage
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.proxy import Faults
from benchmarks.chaos.storm import put_photos
from benchmarks.chaos.world import World, WorldOptions

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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder with photos; repeated as often as needed")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--delay-ms", type=float, default=80)
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args(arguments)
    delayed = Faults({"delay": 1.0}, delay_s=options.delay_ms / 1000)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    try:
        with tempfile.TemporaryDirectory(prefix="latency-") as home:
            world_options = WorldOptions(Path(home), options.pack, settings=SERVICE)
            with World(world_options) as world, _one_worker(world, Path(home)):
                _measure(world, _photos(options.images, 16), Faults(), "warm-up")
                for turn in range(2 * options.repeat):
                    faults = delayed if turn % 2 else Faults()
                    photos = _photos(options.images, options.photos)
                    seconds[bool(turn % 2)].append(_measure(world, photos, faults, f"turn-{turn}"))
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    plain, slow = (options.photos / statistics.median(seconds[key]) for key in (False, True))
    result = {
        "photos": options.photos,
        "delay_ms": options.delay_ms,
        "photos_per_s": round(plain, 2),
        "photos_per_s_delayed": round(slow, 2),
        "share": round(slow / plain, 3),
    }
    print(json.dumps(result))
    return 0


def _one_worker(world: World, home: Path) -> Fleet:
    return Fleet(world.environment, home / "logs", {"detection": 1}, lambda _slot, _last: {})


def _photos(folder: Path, count: int) -> list[bytes]:
    return [path.read_bytes() for path in islice(cycle(find_photos(folder).values()), count)]


def _measure(world: World, photos: Sequence[bytes], faults: Faults, gallery: str) -> float:
    """Seconds from the first message until the last photo is stored.."""
    named = {(gallery, f"{number:04}"): data for number, data in enumerate(photos)}
    put_photos(world, named)
    world.proxies["s3"].faults = faults
    began = time.monotonic()
    for _, image in named:
        message = DetectImage(gallery_id=gallery, image_id=image, s3_key=f"{gallery}/{image}.jpg")
        world.sqs.send_message(QueueUrl=world.queues["detection"], MessageBody=message.model_dump_json())
    while world.database["images"].count_documents({"gallery_id": gallery}) < len(photos):
        if time.monotonic() - began > PATIENCE_S:
            raise LocalStackError(f"The photos were not done within {PATIENCE_S:.0f} s.")
        time.sleep(0.05)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
