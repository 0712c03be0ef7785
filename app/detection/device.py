"""The one place where networks run: photos and chips of all messages in work, in batches."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from app.core.arrays import Floats, Image
from app.detection.batcher import Batcher
from app.detection.stages import StageTimes
from app.host import count_cores
from app.packs.store import InstalledPack
from app.vision.face_pack import FacePack, Precision, load_pack
from app.vision.sessions import Provider, is_gpu
from app.vision.types import Detections

GPU_PHOTOS, GPU_FACES = 32, 64
CPU_PHOTOS, CPU_FACES = 1, 16
"""What one call takes. A core gains nothing by more than one photo at a time, and the others would wait for it."""


class Device:
    """Runs a pack for many threads. On a GPU one call at a time, with as much as fits into it; on a CPU one call a
    core, since one network on one core wastes less than one network on all.

    `photos` and `faces` bound what one call takes. `cpu` is for what else works the cores hard, decoding above all:
    on a CPU it waits in one line with the networks, for threads that share a core only slow each other down.
    """

    def __init__(
        self,
        pack: FacePack,
        calls: int,
        photos: int,
        faces: int,
        *,
        cpu: threading.Semaphore | None = None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.pack = pack
        turn = threading.Semaphore(calls)
        self.cpu = cpu or turn
        self._photos = Batcher("detector", pack.detect, most=photos, threads=calls, turn=turn, on_death=on_death)
        self._chips = Batcher(
            "embedder", pack.compute_vectors, most=faces, weigh=len, threads=calls, turn=turn, on_death=on_death
        )
        self._stack = ExitStack()

    def __enter__(self) -> "Device":
        self._stack.enter_context(self._photos)
        self._stack.enter_context(self._chips)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def detect(self, image: Image, times: StageTimes) -> Detections:
        """(H,W,3) uint8 RGB → its faces in pixels of the image, best first."""
        with times.stage("detect"):
            found, waited_s = self._photos.ask(image)
        times.add("device_wait", waited_s)
        return found

    def embed(self, chips: Image, times: StageTimes) -> Floats:
        """(N,S,S,3) uint8 RGB → (N,D) float32, as the network gives them."""
        with times.stage("embed"):
            embeddings, waited_s = self._chips.ask(chips)
        times.add("device_wait", waited_s)
        return embeddings


def open_device(
    pack: InstalledPack,
    provider: Provider,
    threads: int = 0,
    precision: Precision = "fp32",
    on_death: Callable[[], None] = lambda: None,
) -> Device:
    """A pack on the hardware of this host. `threads` are those of one call on a CPU; 0 lets one core do each call."""
    if is_gpu(provider):
        loaded = load_pack(pack.manifest, pack.weights, provider, threads, precision)
        return Device(loaded, 1, GPU_PHOTOS, GPU_FACES, cpu=threading.Semaphore(count_cores()), on_death=on_death)
    each = threads or 1
    loaded = load_pack(pack.manifest, pack.weights, provider, each, precision)
    return Device(loaded, max(1, count_cores() // each), CPU_PHOTOS, CPU_FACES, on_death=on_death)
