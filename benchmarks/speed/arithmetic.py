"""Multiply-adds a second: those of the networks, and those that the device can do."""

import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from app.core.threads import BackgroundThread, repeat
from app.telemetry.catalogue import Metric
from app.telemetry.gpu import Gpus
from app.vision.sessions import Session
from benchmarks.speed.synthetic import count_macs

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
FP16_FLOPS = {"T4": 65e12, "H100": 989e12, "H200": 989e12}
"""What NVIDIA's data sheets give for tensor cores in FP16, without sparsity, by a word of the GPU's name. SCRFD-10G at
640 x 640 is 26.6 GFLOP, so a T4 could look at 2,440 photos a second at most, and R50 with 12.6 GFLOP at 5,160 faces."""
MATMUL_SIDE = {"cpu": 1536, "cuda": 8192, "tensorrt": 8192}


class CountedSession:
    """A session that counts the multiply-adds of its runs; they are in proportion to the pixels of the input."""

    def __init__(self, session: Session, model: Path, side_px: int) -> None:
        self.macs = 0.0
        self.input_names = session.input_names
        self.pixels = getattr(session, "pixels", None)
        self._session = session
        self._macs_a_pixel = count_macs(onnx.load(str(model)), side_px, side_px) / side_px**2
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        (images,) = inputs.values()
        with self._lock:
            # Of three channels, wherever they are.
            self.macs += self._macs_a_pixel * images.size / 3
        return self._session.run(inputs)


class BusyShare(BackgroundThread):
    """Samples how busy the GPUs are; `share` (0 to 1) is the mean, None where there is no GPU."""

    def __init__(self) -> None:
        self._seen: list[float] = []
        super().__init__("busy share", self._sample)

    @property
    def share(self) -> float | None:
        return statistics.fmean(self._seen) / 100 if self._seen else None

    def _sample(self, closing: threading.Event) -> None:
        with Gpus() as gpus:
            repeat(
                closing,
                0.1,
                lambda: self._seen.extend(value for m, value in gpus.read() if m is Metric.GPU_UTILISATION),
            )


def compute_fp16_share(macs_per_s: float, gpu_name: str) -> float | None:
    """The share of what the GPU's tensor cores can do at most; None for a GPU that FP16_FLOPS lacks."""
    return next((2 * macs_per_s / flops for name, flops in FP16_FLOPS.items() if name in gpu_name), None)


def measure_matmul_macs_per_s(provider: str) -> float:
    """Multiply-adds a second of the fastest of some products of square float32 matrices, on all cores or the GPU."""
    side = MATMUL_SIDE[provider]
    factor = onnx.numpy_helper.from_array(np.full((side, side), 1 / side, np.float32), "b")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [side, side]) for name in "ac"]
    nodes = [onnx.helper.make_node("MatMul", ["a", "b"], ["p"]), onnx.helper.make_node("MatMul", ["p", "b"], ["c"])]
    graph = onnx.helper.make_graph(nodes, "product", ends[:1], ends[1:], [factor])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    session = ort.InferenceSession(model.SerializeToString(), providers=PROVIDERS[provider])
    value = {"a": ort.OrtValue.ortvalue_from_numpy(np.ones((side, side), np.float32))}
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        session.run_with_ort_values(["c"], value)
        seconds.append(time.perf_counter() - began)
    return float(len(nodes) * side**3 / min(seconds))
