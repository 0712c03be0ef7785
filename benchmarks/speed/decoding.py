"""What it costs that untrusted pictures are decoded in child processes, as ratios of times within one run.

`python -m benchmarks decoding --images DIR [--pack PACK] [--turns 9] [--json]`

Each photo of the folder, and a drawn one of 12 megapixels as JPEG, is decoded by turns in the thread, as the service
does it (plain JPEGs in the thread, all else in a child), and always in a child. `decode_ratio` is the service's time by
that of the thread, `child_ratio` that of a child, over the fastest turns of all photos; `whole_ratio` is that of the
whole analysis of a photo. `others` has the service's ratio for the drawn photo in formats that always go to a child.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pil

from app.core.pictures import PhotoLimits
from app.detection.analysis import Analyser, analyse_photo
from app.detection.decoders import DecodeHere, Decoder, Decoders
from app.detection.device import open_device
from app.detection.stage_times import StageTimes
from app.packs.store import PackStore
from app.vision.decode import read_header
from benchmarks.common.command import find_photos, print_result
from tests import photos

LIMITS = PhotoLimits()
SIZE_PX = 4000, 3000
OTHERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "progressive": ("JPEG", {"quality": 88, "progressive": True}),
    "png": ("PNG", {"compress_level": 1}),
    "webp": ("WEBP", {"quality": 80, "method": 0}),
    "avif": ("AVIF", {"quality": 70, "speed": 10}),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks decoding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with photos")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--turns", type=int, default=9, help="times that each photo is decoded in each way")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    return 0 if print_result(lambda: measure(options), as_json=options.json) else 1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    album = [photo.read_bytes() for photo in find_photos(options.images, None)]
    drawn = draw_photo()
    large = photos.saved(drawn, "JPEG", quality=88)
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    with open_device(pack, "cpu") as device, Decoders(1) as pool:

        def decode(decode_by: Callable[..., object]) -> Callable[[bytes], object]:
            def run(data: bytes) -> object:
                header = read_header(data, LIMITS)
                enough_px = device.pack.choose_view_px(header.width_px, header.height_px)
                return decode_by(data, header, LIMITS, enough_px, StageTimes())

            return run

        def analyse(decoder: Decoder) -> Callable[[bytes], object]:
            analyser = Analyser(device, LIMITS, decoder=decoder)
            return lambda data: analyse_photo(data, read_header(data, LIMITS), analyser, StageTimes())

        ways = [decode(DecodeHere().decode), decode(pool.decode), decode(pool.decode_in_child)]
        result: dict[str, Any] = {"photos": len(album)}
        for name, files in (("album", album), ("12mp", [large])):
            here, service, child = compare(ways, files, options.turns)
            whole = compare([analyse(DecodeHere()), analyse(pool)], files, max(2, options.turns // 2))
            result[name] = {
                "decode_ratio": round(service / here, 3),
                "child_ratio": round(child / here, 3),
                "whole_ratio": round(whole[1] / whole[0], 3),
                "decode_ms": round(here * 1e3, 2),
                "whole_ms": round(whole[0] * 1e3, 1),
            }
        others = {name: photos.saved(drawn, kind, **how) for name, (kind, how) in OTHERS.items()}
        seconds = {name: compare(ways[:2], [data], max(2, options.turns // 3)) for name, data in others.items()}
        result["others"] = {name: round(service / here, 3) for name, (here, service) in seconds.items()}
        return result


def compare(ways: Sequence[Callable[[bytes], object]], files: Sequence[bytes], turns: int) -> list[float]:
    """The mean over files of the least seconds that each way takes: other load only adds. The ways take turns."""
    sums = [0.0] * len(ways)
    for data in files:
        seconds: list[list[float]] = [[] for _ in ways]
        for turn in range(turns + 1):
            for number in range(len(ways)):
                way = (number + turn) % len(ways)
                began = time.perf_counter()
                ways[way](data)
                if turn:  # the first one is to warm up
                    seconds[way].append(time.perf_counter() - began)
        sums = [total + min(each) for total, each in zip(sums, seconds, strict=True)]
    return [total / len(files) for total in sums]


def draw_photo() -> Pil.Image:
    """Smooth colours with noise as of a sensor: a JPEG of it has the bytes of a real photo."""
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.integers(0, 256, (300, 400, 3), np.uint8), SIZE_PX, interpolation=cv2.INTER_CUBIC)
    noisy = smooth.astype(np.int16) + random.integers(-6, 7, smooth.shape, np.int16)
    return Pil.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
