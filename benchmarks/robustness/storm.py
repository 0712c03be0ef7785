"""Many tiny photos at once: is memory bounded, and is every photo processed once? One line of JSON.

`python -m benchmarks storm [--photos 2000] [--pack PACK] [--bound-mb 600]`

The bound is on the resident memory of the detection service: the networks and libraries, plus what BATCH_SIZE messages
and PICTURE_MEMORY_MB may take. The exit code is 1 where it is exceeded, or where a photo was processed twice.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from app.core.errors import WorkerError
from benchmarks.common.peak import PeakMemory, measure_tree
from benchmarks.common.running import run_local_stack, wait_until_grouped
from local.album import Album
from local.stack import LocalStack

SIDE_PX = 64


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks storm", description=__doc__)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--pack", default="open")
    parser.add_argument("--bound-mb", type=float, default=600)
    options = parser.parse_args(arguments)
    try:
        with run_local_stack(options.pack) as stack, tempfile.TemporaryDirectory() as folder:
            _write_photos(Path(folder), options.photos)
            result = measure(stack, Path(folder), options.bound_mb)
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0 if result["received_once"] and result["peak_mb"] <= result["bound_mb"] else 1


def measure(stack: LocalStack, photos: Path, bound_mb: float) -> dict[str, float | bool]:
    """Send the folder and wait until all is grouped. Returns peak memory, and whether each photo was processed once."""
    begin = time.monotonic()
    with (
        Album(photos, stack.environment, "storm") as album,
        PeakMemory(partial(measure_tree, stack.state.processes["detection"].pid)) as memory,
    ):
        album.send()
        wait_until_grouped(album, stack)
    seconds = time.monotonic() - begin
    times_done = count_done(stack)
    return {
        "photos": len(album.photos),
        "done": len(times_done),
        "received_once": len(times_done) == len(album.photos) and set(times_done.values()) == {1},
        "peak_mb": round(memory.peak / 1e6, 1),
        "bound_mb": bound_mb,
        "photos_per_s": round(len(album.photos) / seconds, 1),
    }


def count_done(stack: LocalStack) -> Counter[str]:
    """Image → how often the detection service finished it, according to its log."""
    lines = (stack.logs / "detection.log").read_text("utf-8").splitlines()
    return Counter(entry["image"] for entry in map(json.loads, lines) if entry["message"].startswith("photo "))


def _write_photos(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG")
        (folder / f"{number:06d}.jpg").write_bytes(data.getvalue())


if __name__ == "__main__":
    sys.exit(main())
