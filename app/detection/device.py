"""The one place where networks run: on photos and chips of all messages that are worked on, in batches."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

from app.core.arrays import Floats, Image
from app.core.stages import Stage
from app.detection.batcher import Batcher
from app.detection.stage_times import StageTimes
from app.host import count_cores
from app.packs.store import InstalledPack
from app.telemetry.catalogue import Metric
from app.telemetry.interface import NO_METRICS, Metrics
from app.vision.face_pack import FacePack, Precision, load_pack
from app.vision.sessions import Provider, is_gpu
from app.vision.types import Detections

GPU_PHOTOS, GPU_FACES = 32, 64
CPU_PHOTOS, CPU_FACES = 1, 16
"""What one call takes. On a core, several photos in one call take as long as one after the other."""


class Device:
    """Runs a model pack for many threads. On a GPU one call runs at a time, with a large batch. On a CPU one call runs
    on each core, since a network on one core wastes less time than a network on all cores.

    `photos` and `faces` bound the batch of one call. `cpu` is a semaphore for other work that keeps a core busy, such
    as decoding. On a CPU it is the networks' own, since threads that share a core slow each other down.
    """

    def __init__(  # noqa: PLR0913 - what runs, how much at a time, and who hears of it
        self,
        pack: FacePack,
        calls: int,
        photos: int,
        faces: int,
        *,
        cpu: threading.Semaphore | None = None,
        metrics: Metrics = NO_METRICS,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.pack = pack
        turn = threading.Semaphore(calls)
        self.cpu = cpu or turn
        batcher = partial(Batcher[Any, Any], threads=calls, turn=turn, metrics=metrics, on_death=on_death)
        self._photos: Batcher[Image, Detections] = batcher(
            "detector", pack.detect, most=photos, sizes=(Metric.DETECTOR_BATCH, Metric.DETECTOR_QUEUE)
        )
        self._chips: Batcher[Image, Floats] = batcher(
            "embedder",
            pack.compute_vectors,
            most=faces,
            weigh=len,
            sizes=(Metric.EMBEDDER_BATCH, Metric.EMBEDDER_QUEUE),
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
        with times.stage(Stage.DETECT):
            found, waited_s = self._photos.ask(image)
        times.add(Stage.DEVICE_WAIT, waited_s)
        return found

    def embed(self, chips: Image, times: StageTimes) -> Floats:
        """(N,S,S,3) uint8 RGB → (N,D) float32, as the network gives them."""
        with times.stage(Stage.EMBED):
            embeddings, waited_s = self._chips.ask(chips)
        times.add(Stage.DEVICE_WAIT, waited_s)
        return embeddings


def open_device(
    pack: InstalledPack,
    provider: Provider,
    threads: int = 0,
    precision: Precision = "fp32",
    metrics: Metrics = NO_METRICS,
    on_death: Callable[[], None] = lambda: None,
) -> Device:
    """A pack on the hardware of this host. `threads` are those of one call on a CPU; 0 lets one core do each call."""
    on_gpu, each = is_gpu(provider), threads or 1
    loaded = load_pack(pack, provider, threads if on_gpu else each, precision)
    make_device = partial(Device, loaded, metrics=metrics, on_death=on_death)
    if on_gpu:
        return make_device(1, GPU_PHOTOS, GPU_FACES, cpu=threading.Semaphore(count_cores()))
    return make_device(max(1, count_cores() // each), CPU_PHOTOS, CPU_FACES)
