"""ONNX Runtime behind a small port, with the one place that orders execution providers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.errors import BadConfiguration, BadModelPack, DeviceLost, DeviceOutOfMemory

Provider = Literal["auto", "cpu", "cuda"]


class Session(Protocol):
    """A loaded graph."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs in the graph's own order."""

    @property
    def input_names(self) -> Sequence[str]: ...


class OnnxSession:
    """A graph in ONNX Runtime. Safe to call from several threads."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.input_names = [tensor.name for tensor in session.get_inputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return cast(list[NDArray[Any]], self._session.run(None, dict(inputs)))
        except Exception as error:
            raise _device_error(error) from error


OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "cudaerrormemoryallocation", "alloc_failed")
DEVICE_FAILED = ("cuda failure", "cuda error", "cudnn", "cublas", "device-side", "cudaerror", "tensorrt")


def _device_error(error: Exception) -> Exception:
    """ONNX Runtime tells what happened on the device by the text of its errors alone; others stay as they are."""
    text = str(error).lower()
    if any(words in text for words in OUT_OF_MEMORY):
        return DeviceOutOfMemory(f"The networks' memory is used up: {error}")
    if any(words in text for words in DEVICE_FAILED):
        return DeviceLost(f"The GPU failed; this process or machine must be replaced: {error}")
    return error


def execution_providers(provider: Provider) -> list[str]:
    """ONNX Runtime's provider order for a setting; `auto` takes CUDA where the build and the host have it."""
    available = ort.get_available_providers()
    has_cuda = "CUDAExecutionProvider" in available
    if provider == "cuda" and not has_cuda:
        raise BadConfiguration(
            "EXECUTION_PROVIDER=cuda, but this ONNX Runtime build has no CUDA provider; "
            "install the `gpu` extra on a GPU host or set EXECUTION_PROVIDER=cpu."
        )
    use_cuda = has_cuda and provider != "cpu"
    return ["CUDAExecutionProvider", "CPUExecutionProvider"] if use_cuda else ["CPUExecutionProvider"]


def is_gpu(provider: Provider) -> bool:
    """Whether networks run on a GPU under this setting."""
    return execution_providers(provider) != execution_providers("cpu")


def open_session(model: Path | bytes, provider: Provider = "auto", threads: int = 0) -> OnnxSession:
    """Load a graph from a file or from bytes. `threads` 0 takes all cores.

    Raises BadModelPack where the graph can't be loaded.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Photos come in every size: with the arena on, memory grows with each new shape and is never given back.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    providers = execution_providers(provider)
    if "CUDAExecutionProvider" in providers:
        # CUDA and cuDNN are installed as wheels, where the loader does not look by itself.
        ort.preload_dlls()
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = ort.InferenceSession(source, options, providers=providers)
    except Exception as error:
        name = "the graph" if isinstance(model, bytes) else str(model)
        raise BadModelPack(f"{name} can't be loaded by ONNX Runtime: {error}") from error
    return OnnxSession(session)


def float_blob(images: NDArray[np.uint8], mean: Sequence[float], scale: float) -> NDArray[np.float32]:
    """(N,H,W,3) uint8 → (N,3,H,W) float32, (pixel - mean) / scale for each channel, in the order given."""
    count, height, width, _ = images.shape
    blob = np.empty((count, 3, height, width), np.float32)
    # A channel at a time: a tenth of the time of arithmetic on the whole and a transposed copy.
    for channel, offset in enumerate(mean):
        np.subtract(images[..., channel], np.float32(offset), out=blob[:, channel], dtype=np.float32)
    blob /= np.float32(scale)
    return blob
