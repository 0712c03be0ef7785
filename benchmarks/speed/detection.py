"""Photos a second of this pipeline against insightface's own loop, on the same photos, models and provider.

`python -m benchmarks detection --pack MANIFEST --images DIR [--repeat N] [--provider cpu|cuda|tensorrt] [--json]`

insightface's loop is `FaceAnalysis.get` as its users write it: cv2.imread, then one photo and one face at a time, at
640 x 640. The pipeline is the service's own, from a file's bytes to embeddings (app.detection.analysis), without queue
and stores. Both run in turns in one process, and may use all cores.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from insightface.app import FaceAnalysis
from numpy.typing import NDArray
from PIL import Image as Pil

from app.config import PhotoSettings
from app.core.arrays import Floats
from app.core.pictures import PhotoLimits
from app.detection.analysis import Analyser, analyse_photo
from app.detection.budget import Budget
from app.detection.decoders import count_decode_bytes
from app.detection.device import open_device
from app.detection.stage_times import StageTimes
from app.host import count_cores, find_memory_limit
from app.packs.store import InstalledPack, PackStore
from app.preflight.machine import ThisMachine
from app.vision.decode import read_header
from app.vision.embedder import Embedder
from app.vision.scrfd import ScrfdDetector
from app.vision.turned import RotationInvariantDetector
from benchmarks.accuracy.same_faces import Found, compare_faces
from benchmarks.common.command import UnusableInput, find_photos, print_result
from benchmarks.common.peak import PeakMemory
from benchmarks.speed.arithmetic import (
    PROVIDERS,
    BusyShare,
    CountedSession,
    compute_fp16_share,
    measure_matmul_macs_per_s,
)
from benchmarks.speed.synthetic import build_pack

INSIGHTFACE_INPUT_PX = 640


@dataclass
class Turns:
    """The result of one pipeline: seconds of each turn, faces by photo."""

    seconds: list[float] = field(default_factory=list)
    found: dict[Path, Found] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    photos: int = 0
    macs: float = 0.0

    @property
    def photos_per_s(self) -> float:
        return self.photos / statistics.median(self.seconds)

    @property
    def faces(self) -> int:
        return sum(len(found.boxes) for found in self.found.values())


def main(arguments: list[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="detection-") as aside:
        return 1 if print_result(lambda: run(options, Path(aside)), as_json=options.json) is None else 0


def run(options: argparse.Namespace, aside: Path) -> dict[str, Any]:
    """Run both pipelines in turns. Returns the result as it is printed."""
    photos = find_photos(options.images, options.limit)
    if options.megapixels:
        photos = enlarge_photos(photos, options.megapixels, aside)
    photos = photos * options.times
    named = str(build_pack(options.synthetic_pack, aside)) if options.synthetic_pack else options.pack
    pack = PackStore(Path("models"), accept_research_licence=True).install(named)
    loop = None if options.alone else make_insightface_loop(pack, options.provider, aside)
    theirs, ours = Turns(), Turns()
    with open_pipeline(pack, options) as pipeline:
        warm = photos[:4]
        run_pipeline(pipeline, warm, Turns())
        if loop is not None:
            run_loop(loop, warm, Turns())
        for _ in range(options.repeat):
            if loop is not None:
                run_loop(loop, photos, theirs)
            with BusyShare() as busy:
                run_pipeline(pipeline, photos, ours)
    return {
        "photos": len(photos),
        "provider": options.provider,
        "cores": count_cores(),
        "images_per_s": round(ours.photos_per_s, 2),
        "faces": ours.faces,
        "faces_per_s": round(ours.photos_per_s * ours.faces / len(ours.found), 2),
        **({} if loop is None else compare_to_insightface(ours, theirs)),
        **measure_arithmetic(ours, options.provider),
        **describe_gpu(ours, busy),
        "stage_ms": {name: round(1000 * seconds, 2) for name, seconds in sorted(ours.stages.items())},
        "peak_mb": round(ours.peak_bytes / 1e6),
    }


def enlarge_photos(photos: Sequence[Path], megapixels: float, folder: Path) -> list[Path]:
    """The photos enlarged and encoded again, as a camera of that resolution would have written them."""
    written = []
    for number, photo in enumerate(photos):
        with Pil.open(photo) as picture:
            scale = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
            size = round(picture.width * scale), round(picture.height * scale)
            path = folder / f"{number:04}.jpg"
            picture.convert("RGB").resize(size, Pil.Resampling.BICUBIC).save(path, quality=90)
            written.append(path)
    return written


def make_insightface_loop(pack: InstalledPack, provider: str, aside: Path) -> FaceAnalysis:
    """insightface's loop on the pack's own files, linked into a folder as insightface expects them."""
    if pack.manifest.detector.kind != "scrfd":
        raise UnusableInput(f"insightface can't run the detector of the pack {pack.manifest.name}.")
    folder = aside / "insightface"
    folder.mkdir()
    for name in pack.manifest.weight_files:
        (folder / name).symlink_to((pack.weights / name).resolve())
    loop = FaceAnalysis(str(folder), providers=PROVIDERS[provider])
    loop.prepare(
        -1 if provider == "cpu" else 0,
        det_thresh=pack.manifest.detector.score_threshold,
        det_size=(INSIGHTFACE_INPUT_PX, INSIGHTFACE_INPUT_PX),
    )
    return loop


def run_loop(loop: FaceAnalysis, photos: Sequence[Path], turns: Turns) -> None:
    began = time.perf_counter()
    found = {photo: loop.get(cv2.imread(str(photo))) for photo in photos}
    turns.seconds.append(time.perf_counter() - began)
    turns.photos = len(photos)
    turns.found = {
        photo: Found(
            _stack_rows([face.bbox for face in faces], 4), _stack_rows([face.normed_embedding for face in faces], 0)
        )
        for photo, faces in found.items()
    }


def _stack_rows(values: Sequence[NDArray[Any]], width: int) -> Floats:
    return np.stack(values).astype(np.float32) if values else np.empty((0, width), np.float32)


@contextmanager
def open_pipeline(pack: InstalledPack, options: argparse.Namespace) -> Iterator["Pipeline"]:
    device = open_device(pack, options.provider, options.threads, options.precision)
    detector, embedder, config = device.pack._detector, device.pack._embedder, pack.manifest.embedder
    if isinstance(detector, RotationInvariantDetector):
        detector = detector.upright
    assert isinstance(detector, ScrfdDetector)
    assert isinstance(embedder, Embedder)
    assert pack.manifest.detector.kind == "scrfd"
    counted = [
        CountedSession(detector._session, pack.weights / pack.manifest.detector.file, INSIGHTFACE_INPUT_PX),
        CountedSession(embedder._session, pack.weights / config.file, config.input_size_px),
    ]
    detector._session, embedder._session = counted
    with device:
        yield Pipeline(Analyser(device, LIMITS), counted)


def _get_default(name: str) -> Any:  # noqa: ANN401 - settings are of several types
    return PhotoSettings.model_fields[name].default


LIMITS = PhotoLimits()


@dataclass(frozen=True)
class Pipeline:
    """The detection service's work on a photo between S3 and MongoDB, with the service's default limits."""

    analyser: Analyser
    counted: Sequence[CountedSession]
    pictures: Budget = field(default_factory=lambda: Budget(PhotoSettings().choose_picture_bytes(find_memory_limit())))

    def __call__(self, photo: Path) -> tuple[Found, StageTimes]:
        times = StageTimes()
        data = photo.read_bytes()
        header = read_header(data, LIMITS)
        with self.pictures.hold(count_decode_bytes(header)):
            analysis = analyse_photo(data, header, self.analyser, times)
        return Found(analysis.detections.boxes, analysis.embeddings), times


def run_pipeline(pipeline: Pipeline, photos: Sequence[Path], turns: Turns) -> None:
    with PeakMemory() as memory, ThreadPoolExecutor(_get_default("max_face_workers")) as pool:
        before = sum(session.macs for session in pipeline.counted)
        began = time.perf_counter()
        results = list(pool.map(pipeline, photos))
        turns.seconds.append(time.perf_counter() - began)
        turns.macs = sum(session.macs for session in pipeline.counted) - before
    turns.photos = len(photos)
    turns.found = {photo: found for photo, (found, _) in zip(photos, results, strict=True)}
    turns.peak_bytes = max(turns.peak_bytes, memory.peak)
    names = {name for _, times in results for name in times.seconds}
    turns.stages = {name: statistics.fmean(times.seconds.get(name, 0.0) for _, times in results) for name in names}


def compare_to_insightface(ours: Turns, theirs: Turns) -> dict[str, Any]:
    return {
        "insightface_images_per_s": round(theirs.photos_per_s, 2),
        "ratio": round(ours.photos_per_s / theirs.photos_per_s, 3),
        "insightface_faces": theirs.faces,
        "insightface_faces_per_s": round(theirs.photos_per_s * theirs.faces / len(theirs.found), 2),
        **compare_faces(ours.found, theirs.found),
    }


def measure_arithmetic(turns: Turns, provider: str) -> dict[str, Any]:
    """Multiply-adds of the networks a second, and their share of what the device reaches in a matrix product."""
    rate = turns.macs / turns.seconds[-1]
    return {
        "gmacs_per_s": round(rate / 1e9, 1),
        "share_of_matmul": round(rate / measure_matmul_macs_per_s(provider), 3),
    }


def describe_gpu(turns: Turns, busy: BusyShare) -> dict[str, Any]:
    """How busy the GPU was, and what it did of what it can do in FP16; nothing where there is none."""
    driver = ThisMachine().find_driver()
    if driver is None or not driver.gpus or busy.share is None:
        return {}
    share = compute_fp16_share(turns.macs / turns.seconds[-1], driver.gpus[0].name)
    return {"gpu": driver.gpus[0].name, "gpu_busy": round(busy.share, 3), "share_of_fp16": share and round(share, 4)}


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks detection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pack = parser.add_mutually_exclusive_group(required=True)
    pack.add_argument("--pack", help="pack name, manifest or InsightFace folder; its detector is SCRFD")
    pack.add_argument("--synthetic-pack", choices=["buffalo_l"], help="random weights of that size, for speed alone")
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--limit", type=int, help="so many photos of the folder, spread evenly")
    parser.add_argument("--megapixels", type=float, help="enlarge the photos to this size first")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each (3)")
    parser.add_argument("--provider", choices=sorted(PROVIDERS), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of one call; 0 as the service does")
    parser.add_argument(
        "--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="of the pipeline's networks"
    )
    parser.add_argument("--alone", action="store_true", help="without insightface's loop, for memory and large sets")
    parser.add_argument("--times", type=int, default=1, help="each photo so often in a turn (1)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
