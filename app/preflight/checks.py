"""Checks whether this machine suits the service: `python -m app` runs them at its start, `python -m app.preflight` by
hand.

A service that can't use the GPU of its machine costs as much as one that can, and does less. A driver that is too old,
or a package that overwrote the files of another one, shows as an error deep in a library, or not at all. Here each
problem is one sentence that says what to do, and the process ends with an exit code of docs/operations.md.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.config import DeviceSettings, PeopleSettings, ProcessSettings, SearchSettings, ServiceType, WantedDevice
from app.core.errors import BadConfiguration, FatalWorkerError
from app.preflight.machine import Driver, Library, ThisMachine

log = logging.getLogger(__name__)

# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
LEAST_DRIVER = {12: 525, 13: 580}
# https://docs.nvidia.com/cuda/archive/13.0.1/cuda-toolkit-release-notes: Maxwell, Pascal and Volta are gone since 13.
LEAST_CAPABILITY = {12: (5, 0), 13: (7, 5)}
"""By the CUDA version that a wheel is built for; another one must be looked up before it is shipped."""

CLASHES = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("faiss-cpu", "faiss-gpu"),
    ("opencv-python", "opencv-python-headless"),
)
"""Packages that install the same files: the one installed last overwrites some of the other's."""


class UnfitMachine(FatalWorkerError):
    """This image can't work on this machine, or was put together wrongly; restarting won't help."""

    exit_code = 5


class Machine(Protocol):
    """What the checks read of the machine; app.preflight.machine.ThisMachine reads the real one."""

    def find_version(self, package: str) -> str | None: ...
    def find_library(self, service: ServiceType) -> Library: ...
    def find_driver(self) -> Driver | None: ...
    def try_gpu(self, service: ServiceType) -> str | None: ...


@dataclass(frozen=True)
class Finding:
    """The result of one check. `error` is that with which the service would end; None where it may start."""

    check: str
    sentence: str
    error: FatalWorkerError | None = None


@dataclass(frozen=True)
class Needs:
    """What a service asks of its machine: where it computes (`device`, as `setting` says), and the folders that it
    writes to, each with who needs it."""

    service: ServiceType
    setting: str
    device: WantedDevice
    folders: Sequence[tuple[str, Path]]


def read_needs(service: ServiceType) -> Needs:
    """By the few settings that count here, so that a machine can be examined before the others are known."""
    health_file, index_dir = ProcessSettings().health_file, PeopleSettings().gallery_index_dir
    # It is what the image promises to its libraries.
    folders = [("The worker", Path("/tmp"))]  # noqa: S108
    if health_file:
        folders.append(("HEALTH_FILE", health_file.parent))
    if service == "grouping":
        if index_dir:
            folders.append(("GALLERY_INDEX_DIR", index_dir))
        search = SearchSettings()
        return Needs(service, f"NEIGHBOURS_DEVICE={search.neighbours_device}", search.neighbours_device, folders)
    device = DeviceSettings()
    return Needs(service, f"EXECUTION_PROVIDER={device.execution_provider}", device.wanted, folders)


def refuse(service: ServiceType, machine: Machine | None = None) -> None:
    """Log what was found. Raises the first FatalWorkerError where the service must not start."""
    findings = examine(read_needs(service), machine or ThisMachine())
    for finding in findings:
        if finding.error is None:
            log.info("preflight: %s", finding.sentence, extra={"check": finding.check})
        else:
            log.critical("preflight: %s", finding.sentence, extra={"check": finding.check})
    errors = [finding.error for finding in findings if finding.error]
    if errors:
        raise errors[0]


def examine(needs: Needs, machine: Machine) -> list[Finding]:
    """Every check's finding, in an order in which the first error is the cause of those that follow."""
    checks: Sequence[tuple[str, Callable[[], str]]] = (
        ("packages", lambda: _check_packages(machine)),
        ("device", lambda: _check_device(needs, machine)),
        ("paths", lambda: _check_paths(needs)),
    )
    return [_run_check(name, check) for name, check in checks]


def _run_check(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, check())
    except FatalWorkerError as error:
        return Finding(name, str(error), error)


def _check_packages(machine: Machine) -> str:
    for one, other in CLASHES:
        if machine.find_version(one) and machine.find_version(other):
            raise UnfitMachine(
                f"{one} and {other} are both installed and overwrite each other's files: build the environment anew "
                "with `uv sync` and one of the extras `gpu` and `cpu`."
            )
    return "no two packages overwrite each other's files."


def _check_device(needs: Needs, machine: Machine) -> str:
    """Where the service will compute, and why there."""
    setting, wanted = needs.setting, needs.device
    if wanted == "cpu":
        return f"the {needs.service} service runs on the CPU, as {setting} asks."
    library = machine.find_library(needs.service)
    driver = machine.find_driver() if library.cuda else None
    why_not = _explain_no_gpu(library, driver)
    if driver is None or why_not:
        if wanted == "gpu":
            raise BadConfiguration(f"{setting}, but {why_not}; or set auto to run on the CPU.")
        return f"the {needs.service} service runs on the CPU, for {why_not}."
    _check_gpu(library, driver)
    trouble = machine.try_gpu(needs.service)
    if trouble:
        raise UnfitMachine(
            f"{library.name} {library.version} can't use the {driver.gpus[0].name} that the driver {driver.version} "
            f"offers ({trouble}) Build the image anew from uv.lock, or set {setting.split('=')[0]}=cpu."
        )
    names = ", ".join(gpu.name for gpu in driver.gpus)
    versions = f"driver {driver.version}, {library.name} {library.version}"
    return f"the {needs.service} service runs on {names} ({versions})."


def _explain_no_gpu(library: Library, driver: Driver | None) -> str | None:
    if library.cuda is None:
        return f"{library.name} {library.version} is the build for CPUs: install the extra `gpu` in its place"
    if driver is None:
        return "no NVIDIA driver can be seen here: on a GPU host, give the container a GPU (--gpus all, or GPU in ECS)"
    if not driver.gpus:
        return f"the NVIDIA driver {driver.version} shows no GPU here: give the container one (--gpus all, GPU in ECS)"
    return None


def _check_gpu(library: Library, driver: Driver) -> None:
    """Raises UnfitMachine where the driver, or a GPU, is too old for what the library was built for."""
    needed = library.cuda or 0
    if driver.cuda[0] < needed:
        raise UnfitMachine(
            f"The NVIDIA driver {driver.version} runs CUDA {_format_version(driver.cuda)} at most, but {library.name} "
            f"{library.version} is built for CUDA {needed}: take a machine image with driver "
            f"{LEAST_DRIVER[needed]} or newer, such as the ECS-optimized Amazon Linux 2023 GPU AMI."
        )
    least = LEAST_CAPABILITY[needed]
    for gpu in driver.gpus:
        if gpu.capability < least:
            raise UnfitMachine(
                f"The {gpu.name} (compute capability {_format_version(gpu.capability)}) is too old for CUDA {needed}, "
                f"which asks for {_format_version(least)}: take instances of g4dn, g5 or newer."
            )


def _format_version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _check_paths(needs: Needs) -> str:
    """The image's root is read-only, so each of these must be a tmpfs or a volume."""
    for name, folder in needs.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UnfitMachine(
                f"{name} needs {folder} to be writable, which it is not ({error.strerror}): mount a tmpfs or a volume "
                f"there that user {os.getuid()} may write to."
            ) from error
    return f"{', '.join(sorted({str(folder) for _, folder in needs.folders}))} can be written to."
