"""Sessions of ONNX Runtime behind a small interface, and the choice of execution providers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from app.core.errors import BadConfiguration, BadModelPack, DeviceLost, DeviceOutOfMemory

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
ProviderChain = list[tuple[str, dict[str, str]]]
"""Execution providers and the options of each, in the order in which ONNX Runtime tries them."""

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True)
class ShapeProfile:
    """The least, the usual and the largest shape of an input: TensorRT builds an engine for what lies between."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True)
class GpuOptions:
    """`memory_bytes` bounds the CUDA arena of a session; None leaves it all of the device.

    `engine_cache` is where TensorRT keeps its engines, `profiles` the shapes of each input that they are built for.
    Without profiles it builds another engine whenever a shape leaves what it has seen, which takes minutes.
    """

    memory_bytes: int | None = None
    engine_cache: Path | None = None
    profiles: Mapping[str, ShapeProfile] = field(default_factory=dict)


NO_OPTIONS = GpuOptions()


@dataclass(frozen=True)
class PixelInput:
    """What a network expects of pixels: (pixel - mean) / scale for each channel, in the order given."""

    mean: tuple[float, float, float]
    scale: float


class Session(Protocol):
    """A loaded graph."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs in the graph's own order."""

    @property
    def input_names(self) -> Sequence[str]: ...


class OnnxSession:
    """A graph in ONNX Runtime. Safe to call from several threads."""

    def __init__(self, session: ort.InferenceSession, pixels: PixelInput | None = None) -> None:
        """`pixels`: the graph takes pixels as they are, (N,H,W,3) uint8, and does this with them."""
        self.pixels = pixels
        self._session = session
        self.input_names = [tensor.name for tensor in session.get_inputs()]
        self.output_names = [tensor.name for tensor in session.get_outputs()]
        self._run = self._run_plain if session.get_providers() == [CPU] else self._run_bound

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return self._run(inputs)
        except Exception as error:
            raise _translate_device_error(error) from error

    def _run_plain(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return cast(list[NDArray[Any]], self._session.run(None, dict(inputs)))

    def _run_bound(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """By an I/O binding, which names the place of every tensor beforehand: each output is copied once.

        Each call has its own binding, since a binding holds tensors and calls come from several threads.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            # A view, such as one with reversed channels, would be read as if its bytes were contiguous.
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for output in self._session.get_outputs():
            binding.bind_output(output.name, "cpu")
        self._session.run_with_iobinding(binding)
        return cast(list[NDArray[Any]], binding.copy_outputs_to_cpu())


OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "cudaerrormemoryallocation", "alloc_failed")
DEVICE_FAILED = ("cuda failure", "cuda error", "cudnn", "cublas", "device-side", "cudaerror", "tensorrt")


def _translate_device_error(error: Exception) -> Exception:
    """A failure of the device as an error of this system; other errors unchanged. Only their text tells them apart."""
    text = str(error).lower()
    if any(words in text for words in OUT_OF_MEMORY):
        return DeviceOutOfMemory(f"The networks' memory is used up: {error}")
    if any(words in text for words in DEVICE_FAILED):
        return DeviceLost(f"The GPU failed; this process or machine must be replaced: {error}")
    return error


def list_execution_providers(provider: Provider, gpu: GpuOptions = NO_OPTIONS) -> ProviderChain:
    """ONNX Runtime's providers for a setting, in order, with their options.

    `auto` takes CUDA where this build has it. TensorRT, whose engines take minutes to build, is taken only by name;
    CUDA then runs what TensorRT can't. Raises BadConfiguration where the build lacks the provider.
    """
    available = ort.get_available_providers()
    if provider == "auto":
        provider = "cuda" if CUDA in available else "cpu"
    wanted: dict[Provider, ProviderChain] = {
        "cpu": [(CPU, {})],
        "cuda": [(CUDA, _make_cuda_options(gpu)), (CPU, {})],
        "tensorrt": [(TENSORRT, _make_tensorrt_options(gpu)), (CUDA, _make_cuda_options(gpu)), (CPU, {})],
    }
    missing = [name for name, _ in wanted[provider] if name not in available]
    if missing:
        raise BadConfiguration(
            f"EXECUTION_PROVIDER={provider}, but this ONNX Runtime build has no {missing[0]}; "
            "install the `gpu` extra on a GPU host or set EXECUTION_PROVIDER=cpu."
        )
    return wanted[provider]


def is_gpu(provider: Provider) -> bool:
    """Whether networks run on a GPU under this setting."""
    return list_execution_providers(provider) != list_execution_providers("cpu")


def _make_cuda_options(gpu: GpuOptions) -> dict[str, str]:
    options = {
        # By default the arena grows by powers of two: it takes up to twice what a batch needs, and never gives it back.
        "arena_extend_strategy": "kSameAsRequested",
        # Trying every algorithm costs seconds at each new shape, and photos come in every size.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Copies on a separate stream need synchronisation, and one call of one network has nothing to overlap with
        # them.
        "do_copy_in_default_stream": "1",
    }
    return options if gpu.memory_bytes is None else {**options, "gpu_mem_limit": str(gpu.memory_bytes)}


def _make_tensorrt_options(gpu: GpuOptions) -> dict[str, str]:
    options = {"trt_fp16_enable": "True"}
    if gpu.engine_cache is not None:
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(gpu.engine_cache),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(gpu.engine_cache),
        }
    shapes = {"min": "least", "opt": "usual", "max": "most"} if gpu.profiles else {}
    for end, part in shapes.items():
        options[f"trt_profile_{end}_shapes"] = ",".join(
            f"{name}:{'x'.join(map(str, getattr(profile, part)))}" for name, profile in gpu.profiles.items()
        )
    return options


def open_session(
    model: Path | bytes,
    provider: Provider = "auto",
    threads: int = 0,
    *,
    gpu: GpuOptions = NO_OPTIONS,
    pixels: PixelInput | None = None,
) -> OnnxSession:
    """Load a graph from a file or from bytes. `threads` 0 takes all cores. What `run_pixels` does before a graph, CUDA
    does in the graph where `pixels` say what that is: a quarter of the bytes go to the GPU, and no core is needed.

    Raises BadModelPack where the graph can't be loaded, BadConfiguration where the device that was asked for by name
    can't be used.
    """
    providers = list_execution_providers(provider, gpu)
    if len(providers) > 1:
        # CUDA and cuDNN are installed as wheels, in folders that the loader does not search by itself.
        ort.preload_dlls()
    source = model if isinstance(model, bytes) else str(model)
    if pixels and providers[0][0] == CUDA:
        source = take_pixels(model, pixels)
    else:
        pixels = None
    try:
        session = ort.InferenceSession(source, _make_session_options(threads), providers=providers)
    except Exception as error:
        name = "the graph" if isinstance(model, bytes) else str(model)
        raise BadModelPack(f"{name} can't be loaded by ONNX Runtime: {error}") from error
    first = providers[0][0]
    if provider != "auto" and first not in session.get_providers():
        # ONNX Runtime falls back to the CPU and only logs that: a user who asked for a GPU would not notice.
        raise BadConfiguration(
            f"EXECUTION_PROVIDER={provider}, but {first} can't be used on this host: is there a GPU, and are its "
            "driver and libraries in place? Set EXECUTION_PROVIDER=auto to run on the CPU instead."
        )
    return OnnxSession(session, pixels)


def _make_session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Photos come in every size: with the arena on, memory grows with each new shape and is never given back.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return options


def run_pixels(session: Session, images: NDArray[np.uint8], pixels: PixelInput) -> list[NDArray[Any]]:
    """(N,H,W,3) uint8 → the outputs of a graph of one input."""
    if getattr(session, "pixels", None) is not None:
        return session.run({session.input_names[0]: images})
    return session.run({session.input_names[0]: make_blob(images, pixels.mean, pixels.scale)})


def take_pixels(model: Path | bytes, pixels: PixelInput) -> bytes:
    """The graph with an input (N,H,W,3) uint8, which it turns into what its first input was.

    Raises BadModelPack for what is no graph.
    """
    graph = _read_graph(model)
    former = graph.graph.input[0]
    kind = former.type.tensor_type
    count, _, height, width = (dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    shape = [count or "N", height or "H", width or "W", 3]
    mean = np.asarray(pixels.mean, np.float32).reshape(1, 3, 1, 1)
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["pixels_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["pixels_planes"], ["pixels_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels_float", "pixels_mean"], ["pixels_centred"]),
        helper.make_node("Div", ["pixels_centred", "pixels_scale"], ["pixels_normal"]),
        helper.make_node("Cast", ["pixels_normal"], [former.name], to=kind.elem_type),
    ]
    graph.graph.initializer.extend(
        [
            numpy_helper.from_array(mean, "pixels_mean"),
            numpy_helper.from_array(np.array(pixels.scale, np.float32), "pixels_scale"),
        ]
    )
    for place, node in enumerate(nodes):
        graph.graph.node.insert(place, node)
    former.CopyFrom(helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, shape))
    return bytes(graph.SerializeToString())


def _read_graph(model: Path | bytes) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    except (DecodeError, OSError) as error:
        name = "what was read" if isinstance(model, bytes) else str(model)
        raise BadModelPack(f"{name} is not an ONNX graph: {error}") from error


def make_blob(images: NDArray[np.uint8], mean: Sequence[float], scale: float) -> NDArray[np.float32]:
    """(N,H,W,3) uint8 → (N,3,H,W) float32, (pixel - mean) / scale for each channel, in the order given."""
    count, height, width, _ = images.shape
    blob = np.empty((count, 3, height, width), np.float32)
    # A channel at a time: a tenth of the time of arithmetic on the whole and a transposed copy.
    for channel, offset in enumerate(mean):
        np.subtract(images[..., channel], np.float32(offset), out=blob[:, channel], dtype=np.float32)
    blob /= np.float32(scale)
    return blob


def free_batch_dimension(model: Path) -> bytes:
    """The graph with a symbolic first input dimension, and without the shapes derived from the fixed one.

    Whether batches then give the same results as single runs, the caller must check. Raises BadModelPack for what is no
    graph.
    """
    return free_dimensions(model, {0: "N"})


def free_dimensions(model: Path, names: Mapping[int, str]) -> bytes:
    """As `free_batch_dimension`, for any dimensions of the input: their place → their name."""
    graph = _read_graph(model)
    for place, name in names.items():
        graph.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph.graph.ClearField("value_info")
    return bytes(graph.SerializeToString())
