"""How many more faces the closer look detects in group photos, and what it costs. One line of JSON.

`python -m benchmarks small_faces --pack MANIFEST --images DIR [--pages 12]`

Faces cut from the photos of DIR (one in the middle of each) are pasted at known sizes into pages of 12 megapixels; each
page has faces of one size only. `found` is the share that is detected without and with the closer look, by the height
of the pasted face in px of the page; `false_faces` are boxes on none of them.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from app.core.arrays import Floats, Image
from app.core.pictures import PhotoLimits
from app.packs.store import PackStore
from app.vision.decode import decode
from app.vision.scrfd import ScrfdDetector, open_scrfd
from benchmarks.common.command import UnusableInput, find_photos, print_result

PAGE = (4000, 3000)
ROWS, COLUMNS = 3, 5
SIZES_PX = (24, 32, 40, 48, 64, 96, 128)
MIDDLE = 0.44
"""The height of the face as a share of a 250 px photo of the Labeled Faces in the Wild."""
BACKGROUND = (118, 112, 105)
LIMITS = PhotoLimits()


@dataclass(frozen=True)
class Page:
    """A JPEG, and the centres (N,2) of its faces in px."""

    data: bytes
    centres: Floats


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks small_faces", description=__doc__)
    parser.add_argument("--pack", required=True, help="a pack whose detector is SCRFD")
    parser.add_argument("--images", type=Path, required=True, help="photos with one face in the middle")
    parser.add_argument("--pages", type=int, default=12, help="pages of each size (12)")
    options = parser.parse_args(arguments)
    return 1 if print_result(lambda: measure(options), as_json=True) is None else 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    config = pack.manifest.detector
    if config.kind != "scrfd":
        raise UnusableInput("Only the detector SCRFD has the closer look; name a pack with it.")
    model = pack.weights / config.file
    with_look = open_scrfd(model, config, "cpu", 1)
    without = open_scrfd(model, config.model_copy(update={"closer_look_px": 0}), "cpu", 1)
    photos = find_photos(options.images, options.pages * ROWS * COLUMNS)
    result: dict[str, Any] = {"pages_per_size": options.pages, "faces_per_page": ROWS * COLUMNS, "found": {}}
    seconds = {"without": 0.0, "with": 0.0}
    false = {"without": 0, "with": 0}
    for size_px in SIZES_PX:
        pages = make_pages(photos, size_px, options.pages)
        shares = {}
        for name, detector in (("without", without), ("with", with_look)):
            found, wrong, spent_s = detect_faces(pages, detector)
            shares[name] = round(found / sum(len(page.centres) for page in pages), 3)
            seconds[name] += spent_s
            false[name] += wrong
        result["found"][size_px] = shares
    pages_in_all = options.pages * len(SIZES_PX)
    milliseconds = {name: round(1000 * spent_s / pages_in_all, 1) for name, spent_s in seconds.items()}
    return {**result, "false_faces": false, "detect_ms": milliseconds}


def make_pages(photos: Sequence[Path], size_px: int, count: int) -> list[Page]:
    chance = random.Random(size_px)  # noqa: S311 - a fixed order, not a secret
    return [_make_page(chance.sample(photos, ROWS * COLUMNS), size_px, chance) for _ in range(count)]


def _make_page(photos: Sequence[Path], size_px: int, chance: random.Random) -> Page:
    page = np.empty((PAGE[1], PAGE[0], 3), np.uint8)
    page[:] = BACKGROUND
    centres = []
    side = round(size_px / MIDDLE)
    for number, photo in enumerate(photos):
        cell = PAGE[0] // COLUMNS, PAGE[1] // ROWS
        x = number % COLUMNS * cell[0] + chance.randrange(cell[0] - side)
        y = number // COLUMNS * cell[1] + chance.randrange(cell[1] - side)
        picture = cv2.resize(_read(photo), (side, side), interpolation=cv2.INTER_AREA)
        page[y : y + side, x : x + side] = picture
        centres.append((x + side / 2, y + side / 2))
    _, data = cv2.imencode(".jpg", page[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return Page(data.tobytes(), np.array(centres, np.float32))


def _read(photo: Path) -> Image:
    return decode(photo.read_bytes(), LIMITS)


def detect_faces(pages: Sequence[Page], detector: ScrfdDetector) -> tuple[int, int, float]:
    """The number of detected faces, the number of boxes on no face, and the seconds of detection alone."""
    found, wrong, spent_s = 0, 0, 0.0
    for page in pages:
        image = decode(page.data, LIMITS, detector.view_px)
        began = time.perf_counter()
        (faces,) = detector.detect([image])
        spent_s += time.perf_counter() - began
        boxes = faces.boxes * PAGE[0] / image.shape[1]
        inside = (boxes[:, None, :2] <= page.centres) & (page.centres <= boxes[:, None, 2:])
        hits = inside.all(axis=2)
        found += int(hits.any(axis=0).sum())
        wrong += int((~hits.any(axis=1)).sum())
    return found, wrong, spent_s


if __name__ == "__main__":
    sys.exit(main())
