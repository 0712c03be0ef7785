"""The detection service with a stub for its networks, started by `python -m benchmarks load`.

All other code is the service's own, from its settings to its exit code.
"""

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from app import bootstrap
from app.config import DetectionSettings
from app.core.arrays import Floats, Image
from app.core.threads import Slots
from app.detection.analysis import Analyser
from app.detection.device import CPU_FACES, CPU_PHOTOS, GPU_FACES, GPU_PHOTOS, Device
from app.detection.prefilter import Prefilter
from app.host import count_cores
from app.packs.manifest import EmbedderConfig, PackManifest, ScrfdConfig, Source
from app.packs.store import PackStore
from app.telemetry.interface import Metrics
from app.vision.face_pack import FacePack
from app.vision.types import Detections
from benchmarks.speed.load_ledger import Ledger

DIMENSION = 128
FACE_PX = np.array([[16, 8, 80, 88]], np.float32)
LANDMARKS_PX = np.array([[(36, 38), (60, 38), (48, 52), (38, 66), (58, 66)]], np.float32)
MANIFEST = PackManifest(
    name="stub",
    licence="public domain",
    commercial_use=True,
    files={"detector.onnx": "0" * 64, "embedder.onnx": "1" * 64},
    detector=ScrfdConfig(kind="scrfd", file="detector.onnx"),
    embedder=EmbedderConfig(file="embedder.onnx", dimension=DIMENSION),
    similarity_threshold=0.5,
    source=Source(kind="directory", path="."),
)


FACES = int(os.environ.get("STUB_FACES", "1"))
GPU = Path(tempfile.gettempdir()) / f"stub-gpu-{os.getuid()}"
NETWORK_S = float(os.environ.get("STUB_NETWORK_MS", "0")) / 1000
"""How long the networks take for a photo. Photos of all processes of the machine take it one after the other, as they
would on one GPU."""


class StubDetector:
    """Detects the same FACES faces in every photo, all at one place."""

    view_px = 128

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        faces = Detections(
            FACE_PX.repeat(FACES, axis=0), LANDMARKS_PX.repeat(FACES, axis=0), np.full(FACES, 0.9, np.float32)
        )
        if NETWORK_S:
            with GPU.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                time.sleep(NETWORK_S * len(images))
        return [faces for _ in images]


class StubEmbedder:
    """Gives every chip the same vector."""

    def compute_vectors(self, chips: Image) -> Floats:
        return np.full((len(chips), DIMENSION), DIMENSION**-0.5, np.float32)


def open_stub_analyser(
    settings: DetectionSettings, stack: ExitStack, metrics: Metrics, part: bootstrap.Part = bootstrap.ALONE
) -> Analyser:
    """Replaces the function of app.bootstrap: the same device and limits, with the stub as pack."""
    pack = FacePack(MANIFEST, StubDetector(), StubEmbedder())
    cores = part.share(count_cores())
    if NETWORK_S:
        device = Device(pack, 1, GPU_PHOTOS, GPU_FACES, cpu=Slots(cores), own_threads=True, metrics=metrics)
    else:
        device = Device(pack, cores, CPU_PHOTOS, CPU_FACES, metrics=metrics)
    photos = settings.photos
    return Analyser(stack.enter_context(device), photos.limits, Prefilter(photos.prefilter, photos.thumbnail_key))


# The only places where a pack is opened. A real pack with meaningless weights would fail the golden photo. Further
# processes of the service import this module too, by another name.
bootstrap._open_analyser = open_stub_analyser
PackStore.install = lambda *_: None  # type: ignore[assignment, method-assign]
if sys.argv[1:]:
    ledger = Ledger()
    ledger.wrap_all()
    ledger.write(Path(sys.argv[1]).with_suffix(f".{os.getpid()}.json"))


if __name__ == "__main__":
    sys.exit(bootstrap.run("detection"))
