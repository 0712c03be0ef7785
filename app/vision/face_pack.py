"""A loaded model pack: its detector, its embedder, and the quality model for that embedder."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from app.core.arrays import Floats, Image
from app.packs import variants
from app.packs.manifest import PackManifest
from app.vision.align import align_faces, compute_detail_needed
from app.vision.embedder import normalise, open_embedder
from app.vision.light import brighten
from app.vision.mtcnn import MtcnnDetector
from app.vision.quality.fitted import load_quality_model
from app.vision.quality.inputs import CHIP_PX
from app.vision.scrfd import open_scrfd
from app.vision.sessions import Provider, is_gpu, list_execution_providers, open_session
from app.vision.turned import RotationInvariantDetector, TurnableDetector
from app.vision.types import Detections, FaceDetector, FaceEmbedder
from app.vision.yunet import open_yunet

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "fp16", "int8"]


class FacePack:
    """Detector and embedder of a pack. The methods take batches, and are as safe for threads as the sessions are."""

    def __init__(self, manifest: PackManifest, detector: FaceDetector, embedder: FaceEmbedder) -> None:
        self.manifest = manifest
        self.model_id = manifest.model_id
        self.view_px = detector.view_px
        self._detector = detector
        self._embedder = embedder
        self.quality = load_quality_model(manifest.files.get(manifest.embedder.file))

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """N times (H,W,3) uint8 RGB → the faces of each in pixels of its image, best first."""
        return self._detector.detect(images)

    def embed(self, chips: Sequence[Image], *, brighten_dark: bool = True) -> list[Floats]:
        """For each of N photos (F,S,S,3) uint8 chips → (F,D) float32 of unit length, all in as few runs as may be.

        Dark faces are brightened first, unless `brighten_dark` is False.
        """
        return [normalise(vectors) for vectors in self.compute_vectors(chips, brighten_dark=brighten_dark)]

    def compute_vectors(self, chips: Sequence[Image], *, brighten_dark: bool = True) -> list[Floats]:
        """As `embed`, without the normalisation to unit length: a vector's length measures the face's quality."""
        ends = np.cumsum([len(some) for some in chips])
        together = np.concatenate(chips)
        return np.split(self._embedder.compute_vectors(brighten(together) if brighten_dark else together), ends[:-1])

    def compute_detail_needed(self, landmarks: Floats) -> float:
        """(N,5,2) px → the scale from photo to chip pixels of the smallest face; above 1, the photo is too small."""
        config = self.manifest.embedder
        return compute_detail_needed(landmarks, config.alignment, config.input_size_px)

    def cut_chips(self, image: Image, landmarks: Floats) -> Image:
        """(H,W,3) uint8 RGB, (N,5,2) px → (N,S,S,3) uint8, the aligned chips that the embedder takes."""
        config = self.manifest.embedder
        return align_faces(image, landmarks, config.alignment, config.input_size_px)

    def cut_quality_chips(self, image: Image, landmarks: Floats, chips: Image) -> Image:
        """(H,W,3), (N,5,2) px, the embedder's chips → (N,112,112,3), the chips that the quality measures take.

        They are the embedder's own where those have the right template and size.
        """
        config = self.manifest.embedder
        if (config.alignment, config.input_size_px) == ("arcface", CHIP_PX):
            return chips
        return align_faces(image, landmarks, "arcface", CHIP_PX)


def load_pack(
    manifest: PackManifest, weights: Path, provider: Provider, threads: int, precision: Precision = "fp32"
) -> FacePack:
    """Open the networks of a pack whose files are already verified, or accepted variants of them."""

    def path_of(network: str) -> Path:
        path = _find_variant(manifest, weights, network, provider, precision) or weights / network
        log.info("network %s", path.name, extra={"provider": list_execution_providers(provider)[0][0]})
        return path

    config = manifest.embedder
    embedder = open_embedder(path_of(config.file), config, provider, threads)
    detector = _open_detector(manifest, path_of, provider, threads)
    least, sure = manifest.detector.score_threshold, manifest.detector.sure_score
    return FacePack(manifest, RotationInvariantDetector(detector, least, sure) if sure else detector, embedder)


def _open_detector(
    manifest: PackManifest, path_of: Callable[[str], Path], provider: Provider, threads: int
) -> TurnableDetector:
    config = manifest.detector
    if config.kind == "scrfd":
        return open_scrfd(path_of(config.file), config, provider, threads)
    if config.kind == "yunet":
        return open_yunet(path_of(config.file), config, provider, threads)
    pnet, rnet, onet = (
        open_session(path_of(name), provider, threads) for name in (config.pnet, config.rnet, config.onet)
    )
    return MtcnnDetector(pnet, rnet, onet, config)


def _find_variant(
    manifest: PackManifest, weights: Path, network: str, provider: Provider, precision: Precision
) -> Path | None:
    """The file of the variant; None where the original is to be used.

    `auto` chooses the precision for the device, and the original where the pack has no folder of variants.
    """
    folder = weights / variants.FOLDER
    if precision == "auto":
        if not folder.is_dir():
            return None
        precision = "fp16" if is_gpu(provider) else "int8"
    return None if precision == "fp32" else variants.find_variant(folder, network, manifest.files[network], precision)
