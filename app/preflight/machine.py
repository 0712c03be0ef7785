"""Reads what this process can use of its machine and image: NVIDIA's driver, GPUs, and the libraries for them."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata

import pynvml

from app.config import ServiceType
from app.core.errors import BadConfiguration, BadModelPack, DeviceLost

CUDA_SUFFIX = re.compile(r"^nvidia-[\w-]+-cu(\d+)\b")
"""Names of NVIDIA's wheels end in their CUDA version, so a wheel that requires one shows what it was built for."""
NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
BUILDS: dict[ServiceType, tuple[str, str]] = {
    "detection": ("onnxruntime-gpu", "onnxruntime"),
    "grouping": ("faiss-gpu", "faiss-cpu"),
}
"""What each service computes with: the package for GPUs, and the one for CPUs."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by name and CUDA compute capability, such as (7, 5) of the T4."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver, the highest CUDA version that it runs (major, minor), and the GPUs that this process may see."""

    version: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Library:
    """A library that networks or searches run in. `cuda` is the major version it was built for; None: for CPUs only."""

    name: str
    version: str
    cuda: int | None


class ThisMachine:
    """The machine that this process runs on, for app.preflight.checks."""

    def find_version(self, package: str) -> str | None:
        """The version of a package of this environment; None where it is not installed."""
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    def find_library(self, service: ServiceType) -> Library:
        """The library that the service computes with. Raises BadConfiguration where neither build is installed."""
        for package in BUILDS[service]:
            if version := self.find_version(package):
                return Library(package, version, _read_cuda_major(package))
        raise BadConfiguration(
            f"Neither {' nor '.join(BUILDS[service])} is installed: install the extra `gpu` or `cpu` of this project."
        )

    def find_driver(self) -> Driver | None:
        """NVIDIA's driver; None where there is none. Raises DeviceLost where there is one that does not work."""
        with _open_nvml() as is_open:
            if not is_open:
                return None
            cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
            return Driver(pynvml.nvmlSystemGetDriverVersion(), (cuda // 1000, cuda % 1000 // 10), tuple(_list_gpus()))

    def try_gpu(self, service: ServiceType) -> str | None:
        """Have the service's library use the GPU. Returns what is wrong, None where it works.

        Raises DeviceLost where not even CUDA's first call does, whatever the library.
        """
        _start_cuda()
        return _try_networks() if service == "detection" else _try_search()


def _read_cuda_major(package: str) -> int | None:
    matches = (CUDA_SUFFIX.match(requirement) for requirement in metadata.requires(package) or ())
    return next((int(match.group(1)) for match in matches if match), None)


@contextmanager
def _open_nvml() -> Iterator[bool]:
    """NVIDIA's management library while inside; False where there is no driver. Raises DeviceLost where it fails."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value not in NO_DRIVER:
            raise DeviceLost(_describe_broken_driver(error)) from error
        yield False
        return
    try:
        yield True
    except pynvml.NVMLError as error:
        raise DeviceLost(_describe_broken_driver(error)) from error
    finally:
        pynvml.nvmlShutdown()


def _describe_broken_driver(error: Exception) -> str:
    return f"The NVIDIA driver is there but does not answer ({error}): restart this machine, or replace it."


def _list_gpus() -> Iterator[Gpu]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        yield Gpu(pynvml.nvmlDeviceGetName(handle), (major, minor))


def _start_cuda() -> None:
    """cuInit, which every CUDA library calls first; NVML answers without it even where it fails."""
    try:
        code = ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError as error:
        raise BadConfiguration(
            f"The container sees GPUs but not CUDA's driver library ({error}): set NVIDIA_DRIVER_CAPABILITIES to "
            "compute,utility, as the image does."
        ) from error
    if code:
        raise DeviceLost(
            f"The NVIDIA driver answers, but CUDA does not start (cuInit returned {code}): restart this machine, or "
            "replace it."
        )


def _try_networks() -> str | None:
    # Imported here, since grouping has no use for it.
    from onnx import TensorProto, helper

    from app.vision.sessions import open_session

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "trial", tensors[:1], tensors[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    try:
        open_session(model.SerializeToString(), "cuda", threads=1)
    except (BadConfiguration, BadModelPack) as error:
        return str(error)
    return None


def _try_search() -> str | None:
    from app.clustering.candidates import has_gpu

    return None if has_gpu() else "FAISS sees none."
