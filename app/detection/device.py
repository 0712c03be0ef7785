"""The one place where networks run: on photos and chips of all messages that are worked on, in batches."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any

import numpy as np

from app.core.arrays import Floats, Image
from app.core.stages import Stage
from app.core.threads import Slots
from app.detection.batcher import Batcher
from app.detection.stage_times import StageTimes
from app.host import count_cores
from app.packs.store import InstalledPack
from app.telemetry.catalogue import Metric
from app.telemetry.interface import NO_METRICS, Metrics
from app.vision.face_pack import FacePack, Precision, load_pack
from app.vision.quality.inputs import FaceColumns
from app.vision.quality.measures import measure_quality, split_into_rows
from app.vision.sessions import Provider, is_gpu
from app.vision.types import Detections

GPU_PHOTOS, GPU_FACES = 32, 64
CPU_PHOTOS, CPU_FACES = 1, 16
"""What one call takes. On a core, several photos in one call take as long as one after the other."""


class Device:
    """Runs a model pack for many threads. On a GPU one call runs at a time, with a large batch. On a CPU one call runs
    on each core, since a network on one core wastes less time than a network on all cores.

    `photos` and `faces` bound the batch of one call. `cpu` are slots for other work that keeps a core busy, such
    as decoding. On a CPU they are the networks' own, since threads that share a core slow each other down. With
    `own_threads` all calls are made by threads of the device, else by those that ask: a GPU's libraries keep memory for
    each thread that calls them.
    """

    def __init__(  # noqa: PLR0913 - what runs, how much at a time, and who hears of it
        self,
        pack: FacePack,
        calls: int,
        photos: int,
        faces: int,
        *,
        cpu: Slots | None = None,
        own_threads: bool = False,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self.pack = pack
        turn = Slots(calls)
        self.cpu = cpu or turn
        self._pool = ThreadPoolExecutor(calls, "device") if own_threads else None
        batcher = partial(Batcher[Any, Any], calls=calls, turn=turn, metrics=metrics)
        self._photos: Batcher[Image, Detections] = batcher(
            "detector",
            partial(self._call, pack.detect),
            most=photos,
            sizes=(Metric.DETECTOR_BATCH, Metric.DETECTOR_QUEUE),
        )
        self._chips: Batcher[Image, Floats] = batcher(
            "embedder",
            partial(self._call, pack.compute_vectors),
            most=faces,
            weigh=len,
            sizes=(Metric.EMBEDDER_BATCH, Metric.EMBEDDER_QUEUE),
        )
        # Of several faces at once it takes a third of the time.
        self._quality: Batcher[tuple[FaceColumns, Floats], list[dict[str, float]]] = Batcher(
            "quality", self._measure_all, most=faces, weigh=lambda item: len(item[0]), calls=calls, turn=self.cpu
        )

    def __enter__(self) -> "Device":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(wait=False)

    def _call(self, function: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Any:  # noqa: ANN401 - of both
        return self._pool.submit(function, items).result() if self._pool else function(items)

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

    def measure_quality(self, faces: FaceColumns, vectors: Floats, times: StageTimes) -> list[dict[str, float]]:
        """Faces and their vectors (N,D), as the network gives them → N times measure → value, as they are stored."""
        with times.stage(Stage.QUALITY):
            measured, _ = self._quality.ask((faces, vectors))
        return measured

    def _measure_all(self, items: Sequence[tuple[FaceColumns, Floats]]) -> list[list[dict[str, float]]]:
        faces, vectors = zip(*items, strict=True)
        columns = measure_quality(FaceColumns.concatenate(faces), self.pack.quality, np.concatenate(vectors))
        rows = iter(split_into_rows(columns))
        return [list(islice(rows, len(some))) for some in faces]


def open_device(
    pack: InstalledPack,
    provider: Provider,
    threads: int = 0,
    precision: Precision = "fp32",
    metrics: Metrics = NO_METRICS,
    processes: int = 1,
) -> Device:
    """A pack on the hardware of this host. `threads` are those of one call on a CPU; 0 lets one core do each call.
    It is one of so many `processes` that share the cores and the GPU's memory."""
    cores = max(1, count_cores() // processes)
    on_gpu, each = is_gpu(provider), threads or 1
    loaded = load_pack(pack, provider, threads if on_gpu else each, precision)
    if on_gpu:
        cpu = Slots(cores)
        photos, faces = GPU_PHOTOS // processes or 1, GPU_FACES // processes or 1
        return Device(loaded, 1, photos, faces, cpu=cpu, own_threads=True, metrics=metrics)
    return Device(loaded, max(1, cores // each), CPU_PHOTOS, CPU_FACES, metrics=metrics)
