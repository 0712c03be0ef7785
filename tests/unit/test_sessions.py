from typing import Any

import numpy as np
import pytest

from app.errors import BadConfiguration, BadModelPack, DeviceLost, DeviceOutOfMemory
from app.vision.sessions import OnnxSession, execution_providers, open_session


class FailingRuntime:
    """As onnxruntime.InferenceSession, with an error of its text alone."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_inputs(self) -> list[Any]:
        return []

    def run(self, *_: object) -> None:
        raise RuntimeError(self.text)


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
def test_what_happened_on_the_device_is_told_by_the_class_of_the_error(text: str, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        OnnxSession(FailingRuntime(text)).run({"image": np.zeros(1, np.float32)})


def test_a_lost_device_asks_to_be_replaced() -> None:
    assert DeviceLost.exit_code == 20


def test_bytes_that_are_no_graph_are_a_bad_pack() -> None:
    with pytest.raises(BadModelPack, match="can't be loaded"):
        open_session(b"no graph", "cpu")


def test_cuda_where_there_is_none_is_a_wrong_setting() -> None:
    if "CUDAExecutionProvider" in execution_providers("auto"):
        pytest.skip("this build of ONNX Runtime has CUDA")
    with pytest.raises(BadConfiguration, match="EXECUTION_PROVIDER=cuda"):
        execution_providers("cuda")
