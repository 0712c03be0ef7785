from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx.helper import make_node

from app.core.errors import BadConfiguration, BadModelPack, DeviceLost, DeviceOutOfMemory
from app.vision.sessions import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    OnnxSession,
    PixelInput,
    ShapeProfile,
    is_gpu,
    list_execution_providers,
    open_session,
    run_pixels,
    take_pixels,
)
from tests.toy_networks import toy_detector
from tests.toy_pack import onnx_graph

DOUBLING = onnx_graph([make_node("Add", ["image", "image"], ["out"])], {}, ["N", 2])


class FailingRuntime:
    """As onnxruntime.InferenceSession, with an error of its text alone."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_inputs(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return []

    def get_providers(self) -> list[str]:
        return [CPU]

    def run(self, *_: object) -> None:
        raise RuntimeError(self.text)


class GpuRuntime:
    """As onnxruntime.InferenceSession on a GPU: it only takes tensors whose place is said, and doubles them."""

    def __init__(self) -> None:
        self.outputs_on: list[tuple[str, str]] = []
        self.bindings = 0

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="out"), SimpleNamespace(name="same")]

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def io_binding(self) -> Any:
        self.bindings += 1
        held: dict[str, np.ndarray] = {}
        return SimpleNamespace(
            held=held,
            bind_cpu_input=lambda name, array: held.update({name: array}),
            bind_output=lambda name, device: self.outputs_on.append((name, device)),
            copy_outputs_to_cpu=lambda: [2 * held["image"], held["image"]],
        )

    def run_with_iobinding(self, binding: Any) -> None:
        # ONNX Runtime reads the memory from its start on, whatever the array's strides say.
        assert binding.held["image"].flags.c_contiguous


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a build for GPUs says it has."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 8388608", DeviceOutOfMemory),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=worker", DeviceOutOfMemory),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", DeviceOutOfMemory),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", DeviceLost),
        ("CUDNN_STATUS_EXECUTION_FAILED", DeviceLost),
        ("CUDA error: an illegal memory access was encountered", DeviceLost),
        ("Invalid rank for input: image Got: 3 Expected: 4", RuntimeError),
    ],
)
def test_what_happened_on_the_device_is_the_class_of_the_error(text: str, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        OnnxSession(FailingRuntime(text)).run({"image": np.zeros(1, np.float32)})


def test_a_lost_device_asks_to_be_replaced() -> None:
    assert DeviceLost.exit_code == 20


def test_bytes_that_are_no_graph_are_a_bad_pack() -> None:
    with pytest.raises(BadModelPack, match="can't be loaded"):
        open_session(b"no graph", "cpu")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_the_build_lacks_is_a_wrong_setting(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(BadConfiguration, match=f"EXECUTION_PROVIDER={provider}, but this .* no (CUDA|Tensorrt)"):
        list_execution_providers(provider)


@pytest.mark.usefixtures("gpu_build")
@pytest.mark.parametrize(
    ("provider", "expected"),
    [("cpu", [CPU]), ("cuda", [CUDA, CPU]), ("auto", [CUDA, CPU]), ("tensorrt", [TENSORRT, CUDA, CPU])],
)
def test_the_cpu_comes_last_and_takes_what_the_others_leave(provider: Any, expected: list[str]) -> None:
    assert [name for name, _ in list_execution_providers(provider)] == expected
    assert is_gpu(provider) == (len(expected) > 1)


def test_auto_is_the_cpu_where_the_build_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider", CPU])
    assert list_execution_providers("auto") == [(CPU, {})]
    assert not is_gpu("auto")


@pytest.mark.usefixtures("gpu_build")
def test_cuda_grows_by_what_is_asked_and_within_a_limit_where_one_is_set() -> None:
    (_, options), _ = list_execution_providers("cuda")
    assert options == {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
    }
    (_, limited), _ = list_execution_providers("cuda", GpuOptions(memory_bytes=3 << 30))
    assert limited == {**options, "gpu_mem_limit": str(3 << 30)}


@pytest.mark.usefixtures("gpu_build")
def test_tensorrt_keeps_its_engines_where_it_is_told_and_builds_them_for_the_shapes_it_is_given() -> None:
    (_, bare), _, _ = list_execution_providers("tensorrt")
    assert bare == {"trt_fp16_enable": "True"}
    profile = ShapeProfile((1, 3, 32, 32), (4, 3, 448, 640), (32, 3, 1280, 1280))
    options = GpuOptions(engine_cache=Path("/cache"), profiles={"input.1": profile})
    (_, full), _, _ = list_execution_providers("tensorrt", options)
    assert full == {
        "trt_fp16_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "/cache",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/cache",
        "trt_profile_min_shapes": "input.1:1x3x32x32",
        "trt_profile_opt_shapes": "input.1:4x3x448x640",
        "trt_profile_max_shapes": "input.1:32x3x1280x1280",
    }


@pytest.mark.usefixtures("gpu_build")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_was_asked_for_by_name_is_never_silently_replaced_by_the_cpu(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_only = SimpleNamespace(get_providers=lambda: [CPU], get_inputs=lambda: [], get_outputs=lambda: [])
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: cpu_only)
    with pytest.raises(BadConfiguration, match="can't be used on this host"):
        open_session(DOUBLING, provider)
    assert open_session(DOUBLING, "auto").input_names == []


@pytest.mark.usefixtures("gpu_build")
def test_a_session_is_opened_with_the_options_of_every_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def opened(*_: object, providers: Any) -> GpuRuntime:
        asked.extend(providers)
        return GpuRuntime()

    monkeypatch.setattr(ort, "InferenceSession", opened)
    options = GpuOptions(memory_bytes=1 << 30)
    open_session(DOUBLING, "cuda", gpu=options)
    assert asked == list_execution_providers("cuda", options)


def test_on_a_gpu_every_output_is_bound_to_the_cpu_and_every_call_has_a_binding_of_its_own() -> None:
    runtime = GpuRuntime()
    session = OnnxSession(runtime)
    for value in (1, 5):
        doubled, same = session.run({"image": np.full((2, 2), value, np.float32)})
        assert doubled.tolist() == [[2 * value] * 2] * 2
        assert same.tolist() == [[value] * 2] * 2
    assert runtime.outputs_on == [("out", "cpu"), ("same", "cpu")] * 2
    assert runtime.bindings == 2


def test_a_view_is_bound_as_what_it_shows_not_as_the_memory_behind_it() -> None:
    view = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    doubled, _ = OnnxSession(GpuRuntime()).run({"image": view})
    assert doubled.tolist() == [[4, 2, 0], [10, 8, 6]]


@pytest.mark.parametrize("scale", [1.0, 128.0])
def test_a_graph_that_takes_pixels_gives_what_it_gives_for_normalised_ones(scale: float) -> None:
    pixels = PixelInput((127.5, 100.0, 0.0), scale)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    plain = open_session(toy_detector().SerializeToString(), "cpu", 1)
    ready = OnnxSession(
        ort.InferenceSession(take_pixels(toy_detector().SerializeToString(), pixels), providers=[CPU]), pixels
    )
    assert ready.input_names == ["pixels"]
    for row in (images[:1], images[:1, :, ::-1]):
        for one, other in zip(run_pixels(plain, row, pixels), run_pixels(ready, row, pixels), strict=True):
            assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.usefixtures("gpu_build")
def test_cuda_gets_pixels_as_they_are_and_others_get_them_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []

    def opened(graph: Any, *_: object, **__: object) -> GpuRuntime:
        graphs.append(graph)
        return GpuRuntime()

    monkeypatch.setattr(ort, "InferenceSession", opened)
    graph, pixels = toy_detector().SerializeToString(), PixelInput((0, 0, 0), 1)
    assert open_session(graph, "cuda", pixels=pixels).pixels == pixels
    assert open_session(graph, "cpu", pixels=pixels).pixels is None
    assert graphs == [take_pixels(graph, pixels), graph]


def test_bytes_that_are_no_graph_take_no_pixels() -> None:
    with pytest.raises(BadModelPack, match="is not an ONNX graph"):
        take_pixels(b"no graph", PixelInput((0, 0, 0), 1))


def test_on_a_cpu_a_graph_runs_as_it_is() -> None:
    session = open_session(DOUBLING, "cpu", 1)
    assert session.input_names == ["image"]
    assert session.run({"image": np.array([[1, 2]], np.float32)})[0].tolist() == [[2, 4]]
