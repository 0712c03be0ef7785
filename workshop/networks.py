"""A pack whose networks record their inputs and their CPU time."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from app.core.errors import BadConfiguration
from app.packs.manifest import PackManifest
from app.packs.store import InstalledPack
from app.vision.centerface import CenterfaceDetector
from app.vision.embedder import Embedder
from app.vision.face_pack import FacePack, open_whitening
from app.vision.mtcnn import MtcnnDetector
from app.vision.scrfd import ScrfdDetector
from app.vision.sessions import OnnxSession, Session, free_batch_dimension, open_session
from app.vision.types import FaceDetector

Inputs = Mapping[str, NDArray[Any]]


class WatchedSession:
    """A session that sums up its CPU time, and keeps its inputs while `keeps_inputs` is set."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.input_names = session.input_names
        self.spent_s = 0.0
        self.keeps_inputs = False
        self._kept: list[Inputs] = []

    def run(self, inputs: Inputs) -> list[NDArray[Any]]:
        if self.keeps_inputs:
            self._kept.append(inputs)
        # With one thread the network runs on this one; its CPU time is the same however busy the host is.
        start_s = time.thread_time()
        outputs = self._session.run(inputs)
        self.spent_s += time.thread_time() - start_s
        return outputs

    def take_inputs(self) -> list[Inputs]:
        """The inputs since the last call."""
        kept, self._kept = self._kept, []
        return kept


class WatchedPack:
    """A pack of WatchedSessions, which runs each photo and each face by itself.

    `sessions` has the session of each network, by its name in the manifest.
    """

    def __init__(self, pack: InstalledPack, sessions: Mapping[str, Session]) -> None:
        self.manifest = manifest = pack.manifest
        self.networks = {name: WatchedSession(session) for name, session in sessions.items()}
        embedder = Embedder(self.networks[manifest.embedder.file], manifest.embedder, max_batch=1)
        self.pack = FacePack(manifest, _open_detector(manifest, self.networks), embedder, open_whitening(pack))

    def get_spent_s(self, names: frozenset[str]) -> float:
        """CPU time of these networks so far."""
        return sum(self.networks[name].spent_s for name in names)

    def record_inputs(self, name: str, steps: Iterator[Callable[[FacePack], object]]) -> Iterator[Inputs]:
        """The inputs of one network while the pack does some steps."""
        network = self.networks[name]
        network.keeps_inputs = True
        try:
            for step in steps:
                step(self.pack)
                yield from network.take_inputs()
        finally:
            network.keeps_inputs = False


def open_on_cpu(model: Path) -> OnnxSession:
    """A network with its batch dimension freed, on one CPU thread."""
    return open_session(free_batch_dimension(model), "cpu", threads=1)


def _open_detector(manifest: PackManifest, networks: Mapping[str, Session]) -> FaceDetector:
    config = manifest.detector
    if config.kind == "scrfd":
        return ScrfdDetector(networks[config.file], config, max_batch=1)
    if config.kind == "centerface":
        return CenterfaceDetector(networks[config.file], config, max_batch=1)
    if config.kind == "yunet":
        raise BadConfiguration("There are no variants of a YuNet detector: it is small, and runs as it is.")
    return MtcnnDetector(networks[config.pnet], networks[config.rnet], networks[config.onet], config)
