"""A loaded model pack: its detector, its embedder, and the quality model for that embedder."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from app.core.arrays import Floats, Image
from app.packs import variants
from app.packs.manifest import PackManifest
from app.packs.store import InstalledPack
from app.vision.align import align_faces, compute_detail_needed
from app.vision.centerface import open_centerface
from app.vision.embedder import normalise, open_embedder
from app.vision.light import brighten
from app.vision.mtcnn import MtcnnDetector
from app.vision.quality.fitted import load_quality_model
from app.vision.quality.inputs import CHIP_PX
from app.vision.scrfd import open_scrfd
from app.vision.sessions import Provider, is_gpu, list_execution_providers, open_session
from app.vision.turned import RotationInvariantDetector, TurnableDetector
from app.vision.types import Detections, FaceDetector, FaceEmbedder
from app.vision.whitening import Whitening, read_whitening
from app.vision.wide import choose_view_px, detect_everywhere
from app.vision.yunet import open_yunet

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "fp16", "int8"]


class FacePack:
    """Detector and embedder of a pack. The methods take batches, and are as safe for threads as the sessions are."""

    def __init__(
        self,
        manifest: PackManifest,
        detector: FaceDetector,
        embedder: FaceEmbedder,
        whitening: Whitening | None = None,
    ) -> None:
        self.manifest = manifest
        self.model_id = manifest.model_id
        self.view_px = detector.view_px
        self._detector = detector
        self._embedder = embedder
        self._whitening = whitening
        self.dimension = whitening.dimension if whitening else manifest.embedder.dimension
        self.quality = load_quality_model(manifest.files.get(manifest.embedder.file))

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """N times (H,W,3) uint8 RGB → the faces of each in pixels of its image, best first."""
        return detect_everywhere(self._detector, images)

    def choose_view_px(self, width_px: int, height_px: int) -> int:
        """The longer side beyond which a photo of this size needs no more pixels for detection."""
        return choose_view_px(self.view_px, width_px, height_px)

    def embed(self, chips: Sequence[Image], *, brighten_dark: bool = True) -> list[Floats]:
        """For each of N photos (F,S,S,3) uint8 chips → (F,D) float32 of unit length, all in as few runs as may be.

        Dark faces are brightened first, unless `brighten_dark` is False.
        """
        return [self.make_embeddings(some) for some in self.compute_vectors(chips, brighten_dark=brighten_dark)]

    def compute_vectors(self, chips: Sequence[Image], *, brighten_dark: bool = True) -> list[Floats]:
        """The vectors of `embed` as the network gives them: their length measures the quality of the face."""
        ends = np.cumsum([len(some) for some in chips])
        together = np.concatenate(chips)
        return np.split(self._embedder.compute_vectors(brighten(together) if brighten_dark else together), ends[:-1])

    def make_embeddings(self, vectors: Floats) -> Floats:
        """(N,D) vectors as the network gives them → (N,K) float32 of unit length, whitened if the pack has a
        whitening."""
        return self._whitening.whiten(vectors) if self._whitening else normalise(vectors)

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


def load_pack(pack: InstalledPack, provider: Provider, threads: int, precision: Precision = "fp32") -> FacePack:
    """Open the networks of a pack, or accepted variants of them."""
    manifest, weights = pack.manifest, pack.weights

    def path_of(network: str) -> Path:
        path = _find_variant(manifest, weights, network, provider, precision) or weights / network
        log.info("network %s", path.name, extra={"provider": list_execution_providers(provider)[0][0]})
        return path

    config = manifest.embedder
    embedder = open_embedder(path_of(config.file), config, provider, threads)
    detector = _open_detector(manifest, path_of, provider, threads)
    least, sure = manifest.detector.score_threshold, manifest.detector.sure_score
    rotation_invariant = RotationInvariantDetector(detector, least, sure) if sure else detector
    whitening = open_whitening(pack)
    if whitening is None:
        log.info("the pack %s has no whitening: children and some groups are told apart less well", manifest.name)
    return FacePack(manifest, rotation_invariant, embedder, whitening)


def open_whitening(pack: InstalledPack) -> Whitening | None:
    """The whitening of a pack that has one. Raises BadModelPack where it is of another embedder."""
    return read_whitening(pack.whitening, pack.manifest.embedder.dimension) if pack.whitening else None


def _open_detector(
    manifest: PackManifest, path_of: Callable[[str], Path], provider: Provider, threads: int
) -> TurnableDetector:
    config = manifest.detector
    if config.kind == "scrfd":
        return open_scrfd(path_of(config.file), config, provider, threads)
    if config.kind == "centerface":
        return open_centerface(path_of(config.file), config, provider, threads)
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
