"""A detector and an embedder with everything between them: photo in, faces out."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.packs.manifest import PackManifest
from app.vision import quality
from app.vision.align import align
from app.vision.embedder import open_embedder
from app.vision.mtcnn import MtcnnDetector
from app.vision.scrfd import ScrfdDetector
from app.vision.sessions import Provider, open_session
from app.vision.types import Detections, FaceDetector, FaceEmbedder, Floats, Image


@dataclass(frozen=True)
class Faces:
    """The faces of one photo: detections, a quality record each, and embeddings (N,D) float32 of unit length."""

    detections: Detections
    quality: Sequence[Mapping[str, float]]
    embeddings: Floats


class FacePack:
    """A model pack, loaded. One thread at a time uses the device; more would only share it and its memory."""

    def __init__(self, manifest: PackManifest, detector: FaceDetector, embedder: FaceEmbedder) -> None:
        self.manifest = manifest
        self.model_id = manifest.model_id
        self._detector = detector
        self._embedder = embedder
        self._device = threading.Lock()

    def find_faces(self, image: Image) -> Faces:
        """(H,W,3) uint8 RGB → its faces, best detection first."""
        config = self.manifest.embedder
        with self._device:
            detections = self._detector.detect(image)
            chips = align(image, detections.landmarks, config.alignment, config.input_size_px)
            embeddings = self._embedder.embed(chips)
        return Faces(detections, quality.measure(image, detections, chips), embeddings)


def load_pack(manifest: PackManifest, weights: Path, provider: Provider, threads: int) -> FacePack:
    """Open the networks of a pack whose files are already verified."""
    embedder = open_embedder(weights / manifest.embedder.file, manifest.embedder, provider, threads)
    return FacePack(manifest, _open_detector(manifest, weights, provider, threads), embedder)


def _open_detector(manifest: PackManifest, weights: Path, provider: Provider, threads: int) -> FaceDetector:
    config = manifest.detector
    if config.kind == "scrfd":
        return ScrfdDetector(open_session(weights / config.file, provider, threads), config)
    pnet, rnet, onet = (
        open_session(weights / name, provider, threads) for name in (config.pnet, config.rnet, config.onet)
    )
    return MtcnnDetector(pnet, rnet, onet, config)
