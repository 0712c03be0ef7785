"""Does the memory of the detection service grow? Resident memory after every 50 of 500 photos, as one line of JSON.

`python -m benchmarks memory --images DIR [--pack PACK] [--first 50] [--last 500]`
"""

import argparse
import json
import sys
import tempfile
from itertools import cycle
from pathlib import Path

import psutil

from app.core.errors import WorkerError
from benchmarks.common.running import run_local_stack, wait_until_grouped
from local.album import Album, find_photos
from local.stack import LocalStack


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder with photos; repeated as often as needed")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--first", type=int, default=50, help="photos between two readings")
    parser.add_argument("--last", type=int, default=500)
    options = parser.parse_args(arguments)
    try:
        with run_local_stack(options.pack) as stack:
            steps = range(options.first, options.last + 1, options.first)
            resident = [_measure_after(stack, options.images, options.first, f"until-{step}") for step in steps]
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    result = {
        "photos": list(steps),
        "resident_mb": [round(size / 1e6, 1) for size in resident],
        "growth": round(resident[-1] / resident[0] - 1, 4),
    }
    print(json.dumps(result))
    return 0


def _measure_after(stack: LocalStack, images: Path, count: int, gallery_id: str) -> int:
    """Resident bytes of the service after `count` more photos."""
    with tempfile.TemporaryDirectory() as aside:
        for number, photo in zip(range(count), cycle(find_photos(images).values()), strict=False):
            (Path(aside) / f"{number:06d}{photo.suffix}").symlink_to(photo.resolve())
        with Album(Path(aside), stack.environment, gallery_id) as album:
            album.send()
            wait_until_grouped(album, stack)
    return int(psutil.Process(stack.state.processes["detection"].pid).memory_info().rss)


if __name__ == "__main__":
    sys.exit(main())
