"""How much time and traffic the pre-filter saves a detection service, if some photos are unusable. One line of JSON.

`python -m benchmarks prefilter_savings --images DIR [--pack PACK] [--photos 60] [--megapixels 12] [--bad 0.2]`

The photos are enlarged to a camera's size, and some are so blurred or dark that they are unusable. A service process
analyses them with PREFILTER=off, with enforce, and with enforce and thumbnails; `*_mb` is what it read from S3, counted
by a proxy.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pil

from app.core.arrays import Image
from app.core.errors import WorkerError
from app.core.pictures import PhotoLimits
from app.vision.decode import decode
from benchmarks.chaos.world import SETTINGS, World, WorldOptions
from benchmarks.speed.service import SERVICE, measure, open_worker
from local.album import find_photos

LIMITS = PhotoLimits()
THUMBNAIL_PX = 320
BLUR = 0.05
"""The blur's sigma as a part of the photo's longer side: a photo that is entirely out of focus."""
LIGHT = 0.04
"""The factor of brightness of a photo without the flash that it needed."""
WAYS = {
    "off": {"PREFILTER": "off"},
    "enforce": {"PREFILTER": "enforce"},
    "thumbnails": {"PREFILTER": "enforce", "THUMBNAIL_KEY": "thumbnails/{key}"},
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks prefilter_savings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with photos; repeated as often as needed")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--bad", type=float, default=0.2, help="share of the photos that can't be used (0.2)")
    options = parser.parse_args(arguments)
    files = islice(cycle(find_photos(options.images).values()), options.photos)
    photos = make_camera_photos(files, options.megapixels, options.bad)
    result: dict[str, float] = {"photos": len(photos), "bad": options.bad, "megapixels": options.megapixels}
    try:
        for way, settings in WAYS.items():
            result |= {f"{way}_{name}": value for name, value in _run_service(photos, options.pack, settings).items()}
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    for way in ("enforce", "thumbnails"):
        for name in ("seconds", "mb"):
            result[f"{way}_{name}_saved"] = round(1 - result[f"{way}_{name}"] / result[f"off_{name}"], 3)
    print(json.dumps(result))
    return 0


def make_camera_photos(files: Iterable[Path], megapixels: float, bad: float) -> list[tuple[bytes, bytes]]:
    """Photos and their thumbnails as JPEGs. Bad ones, half blurred and half dark, are spread evenly among the
    others."""
    made = []
    for number, file in enumerate(files):
        picture = decode(file.read_bytes(), LIMITS)
        scale = (megapixels * 1e6 / (picture.shape[0] * picture.shape[1])) ** 0.5
        picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
        count = int((number + 1) * bad)
        if count > int(number * bad):
            picture = _spoil(picture, dark=count % 2 == 0)
        thumbnail_scale = THUMBNAIL_PX / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=thumbnail_scale, fy=thumbnail_scale, interpolation=cv2.INTER_AREA)
        made.append((_encode_jpeg(picture), _encode_jpeg(np.asarray(small, np.uint8))))
    return made


def _spoil(picture: Image, *, dark: bool) -> Image:
    if dark:
        return np.asarray(picture * LIGHT, np.uint8)
    # The photo is blurred at a small size, because a kernel of hundreds of pixels takes seconds.
    height, width = picture.shape[:2]
    small = cv2.resize(picture, None, fx=0.1, fy=0.1, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), BLUR * max(small.shape[:2]))
    return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _encode_jpeg(picture: Image) -> bytes:
    file = BytesIO()
    Pil.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()


def _run_service(photos: list[tuple[bytes, bytes]], pack: str, settings: dict[str, str]) -> dict[str, float]:
    """Seconds, megabytes read from S3, and how many photos were stored as `low_quality`."""
    with tempfile.TemporaryDirectory(prefix="prefilter-") as home:
        options = WorldOptions(Path(home), pack, settings={**SERVICE, **settings})
        with World(options) as world, open_worker(world, Path(home)):
            originals = [photo for photo, _ in photos]
            measure(world, originals[:4], "warm-up", force=True)
            for number, (_, thumbnail) in enumerate(photos):
                world.s3.put_object(Bucket=SETTINGS["BUCKET_NAME"], Key=f"thumbnails/g/{number:04}.jpg", Body=thumbnail)
            before = world.proxies["s3"].answered_bytes
            seconds = measure(world, originals, "g", force=True)
            fetched = world.proxies["s3"].answered_bytes - before
            low = world.database["images"].count_documents({"gallery_id": "g", "status": "low_quality"})
    return {"seconds": round(seconds, 2), "mb": round(fetched / 1e6, 1), "low_quality": low}


if __name__ == "__main__":
    sys.exit(main())
