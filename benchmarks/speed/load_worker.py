"""The detection service with a stub for its networks, started by `python -m benchmarks load`.

All other code is the service's own, from its settings to its exit code.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from app import bootstrap
from app.config import DetectionSettings
from app.core.arrays import Floats, Image
from app.detection.analysis import Analyser
from app.detection.device import CPU_FACES, CPU_PHOTOS, Device
from app.detection.prefilter import Prefilter
from app.host import count_cores
from app.packs.manifest import EmbedderConfig, PackManifest, ScrfdConfig, Source
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


class StubDetector:
    """Detects the same FACES faces in every photo, all at one place."""

    view_px = 128

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        faces = Detections(
            FACE_PX.repeat(FACES, axis=0), LANDMARKS_PX.repeat(FACES, axis=0), np.full(FACES, 0.9, np.float32)
        )
        return [faces for _ in images]


class StubEmbedder:
    """Gives every chip the same vector."""

    def compute_vectors(self, chips: Image) -> Floats:
        return np.full((len(chips), DIMENSION), DIMENSION**-0.5, np.float32)


def open_stub_analyser(settings: DetectionSettings, stack: ExitStack, metrics: Metrics) -> Analyser:
    """Replaces the function of app.bootstrap: the same device and limits, with the stub as pack."""
    device = Device(
        FacePack(MANIFEST, StubDetector(), StubEmbedder()),
        count_cores(),
        CPU_PHOTOS,
        CPU_FACES,
        metrics=metrics,
    )
    photos = settings.photos
    return Analyser(stack.enter_context(device), photos.limits, Prefilter(photos.prefilter, photos.thumbnail_key))


if __name__ == "__main__":
    # This is the only place where a pack is opened. A real pack with meaningless weights would fail the golden photo.
    bootstrap._open_analyser = open_stub_analyser
    if sys.argv[1:]:
        ledger = Ledger()
        ledger.wrap_all()
        ledger.write(Path(sys.argv[1]))
    sys.exit(bootstrap.run("detection"))
