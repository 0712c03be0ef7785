"""What a header says of the memory that decoding takes is never too little, and not far too much."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pil

from app.core.pictures import PhotoLimits
from app.vision.decode import read_header
from tests import photos

pytestmark = pytest.mark.slow

# In a process of its own, which forks for each file: the high-water mark of this one is that of all tests before. What
# is measured is the growth over what lies in memory once the header was read.
_CHILD = """
import json, os, sys
from app.core.pictures import PhotoLimits
from app.vision.decode import decode, read_header

def read_status(name):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name))

def measure(name):
    with open(name, "rb") as file:
        data = file.read()
    header = read_header(data, PhotoLimits())
    before = read_status("VmRSS")
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")
    decode(data, PhotoLimits())
    print(json.dumps([os.path.basename(name), header.decode_bytes, read_status("VmHWM") - before]), flush=True)

for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        measure(name)
        os._exit(0)
    os.waitpid(child, 0)
"""
WIDTH, HEIGHT = 2_400, 1_600


@cache
def picture() -> Pil.Image:
    """Four megapixels with some noise: smooth areas alone would pack too well."""
    noise = photos.noise(WIDTH // 4, HEIGHT // 4)
    rough = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return Pil.fromarray((photos.gradient(WIDTH, HEIGHT) // 2 + rough // 4).astype(np.uint8))


def saved(file_format: str, mode: str = "RGB", **options: object) -> bytes:
    return photos.saved(picture().convert(mode), file_format, **options)


def translucent(file_format: str, **options: object) -> bytes:
    turned = picture().convert("RGBA")
    turned.putalpha(picture().convert("L"))
    return photos.saved(turned, file_format, **options)


def deep() -> np.ndarray:
    return np.asarray(picture()).astype(np.uint16) * 257


def written(pixels: np.ndarray, **options: object) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, pixels, **options)  # type: ignore[arg-type]
    return file.getvalue()


def animated_webp() -> bytes:
    return saved("WEBP", save_all=True, append_images=[Pil.new("RGB", (WIDTH, HEIGHT))], method=0)


KINDS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved("JPEG", quality=88),
    "grey JPEG": lambda: saved("JPEG", "L"),
    "CMYK JPEG": lambda: saved("JPEG", "CMYK"),
    "progressive JPEG": lambda: saved("JPEG", progressive=True),
    "progressive JPEG, all chroma": lambda: saved("JPEG", progressive=True, subsampling=0),
    "JPEG without end": lambda: saved("JPEG")[:-2],
    "PNG": lambda: saved("PNG", compress_level=1),
    "PNG with alpha": lambda: translucent("PNG", compress_level=1),
    "PNG with a palette": lambda: saved("PNG", "P"),
    "16-bit PNG": lambda: cv2.imencode(".png", deep())[1].tobytes(),
    "WebP": lambda: saved("WEBP", method=0),
    "WebP with alpha": lambda: translucent("WEBP", method=0),
    "lossless WebP": lambda: saved("WEBP", lossless=True, quality=0, method=0),
    "lossless WebP with alpha": lambda: translucent("WEBP", lossless=True, quality=0, method=0),
    "animated WebP": animated_webp,
    "GIF": lambda: saved("GIF", "P"),
    "BMP": lambda: saved("BMP"),
    "HEIC": lambda: photos.heic_grid(30, 30),
    "AVIF": lambda: saved("AVIF", speed=10),
    "AVIF with alpha": lambda: translucent("AVIF", speed=10),
    "10-bit AVIF": lambda: imagecodecs.avif_encode(deep() >> 6, level=60, speed=10, bitspersample=10),
    "TIFF": lambda: written(np.asarray(picture()), photometric="rgb"),
    "16-bit TIFF": lambda: written(deep(), photometric="rgb"),
    "16-bit TIFF in LZW": lambda: written(deep(), photometric="rgb", compression="lzw", predictor=True),
    "tiled TIFF": lambda: written(np.asarray(picture()), photometric="rgb", compression="zlib", tile=(256, 256)),
    "planes of a TIFF": lambda: written(deep().transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
    "JPEG in TIFF": lambda: written(np.asarray(picture()), photometric="rgb", compression="jpeg", tile=(512, 512)),
    "camera raw": lambda: photos.dng(WIDTH, HEIGHT, 6),
}
# Where little is decoded, what every decoder has beside the pixels weighs more.
_SMALL_ALLOWANCE = 12_000_000
_FIRST_TIFF = 45_000_000
"""What the first TIFF of a process adds at most: its libraries. How much of them is resident differs."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for name, make in KINDS.items():
        (folder / name).write_bytes(make())
    return {name: folder / name for name in KINDS}


@pytest.fixture(scope="module")
def measured(files: dict[str, Path]) -> dict[str, tuple[int, int]]:
    """Kind → bytes by the header, and bytes that decoding took."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, files.values())],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: (estimate, real) for name, estimate, real in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_enough_and_not_far_too_much(kind: str, measured: dict[str, tuple[int, int]]) -> None:
    estimate, real = measured[kind]
    libraries = _FIRST_TIFF if "TIFF" in kind else 0
    assert real <= estimate <= 2.3 * real + _SMALL_ALLOWANCE + libraries


ORDINARY: dict[str, Callable[[], bytes]] = {
    "JPEG": photos.jpeg,
    "progressive JPEG": lambda: photos.jpeg(progressive=True),
    "PNG": lambda: photos.png("RGBA"),
    "WebP": photos.webp,
    "WebP with alpha": lambda: photos.webp("RGBA", lossless=True),
    "HEIC": photos.heic,
}


@pytest.mark.parametrize("make", ORDINARY.values(), ids=ORDINARY.keys())
def test_ordinary_photos_of_50_megapixels_need_far_less_than_1_2_gb(make: Callable[[], bytes]) -> None:
    """By what a further pixel needs: the estimates are linear in pixels."""
    header = read_header(make(), PhotoLimits())
    needed = (header.decode_bytes - 8_000_000) / (header.width_px * header.height_px) * 50_000_000
    # The file itself is in the estimate of a PNG and of a WebP, and small files pack badly.
    assert needed < 900_000_000


def test_headers_are_read_without_memory_or_time_whatever_they_claim(files: dict[str, Path], tmp_path: Path) -> None:
    script = """
import resource, sys, time
from app.core.pictures import PhotoLimits
from app.vision.decode import read_header
from tests import photos
files = [open(name, "rb").read() for name in sys.argv[1:]]
read_header(photos.heic(), PhotoLimits())
before, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for data in files:
    print(read_header(data, PhotoLimits()).format, end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start_s)
"""
    names = [str(file) for file in files.values()]
    (tmp_path / "bomb").write_bytes(photos.png_bomb(12_000, 12_000))
    done = subprocess.run(
        [sys.executable, "-c", script, *names, str(tmp_path / "bomb")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    grown_kib, elapsed_s = done.stdout.split()[-2:]
    assert len(done.stdout.split()) > len(names)
    assert int(grown_kib) < 40_000
    assert float(elapsed_s) < 0.5
