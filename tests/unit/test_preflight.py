"""What is said of a machine or an image that doesn't suit, with fakes in place of the driver and the packages."""

import ctypes
import logging
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from app import __main__
from app.config import ServiceType
from app.core.errors import BadConfiguration, DeviceLost, FatalWorkerError
from app.preflight import checks as preflight
from app.preflight import machine
from app.preflight.__main__ import main
from app.preflight.checks import Needs, UnfitMachine, examine, read_needs
from app.preflight.machine import Driver, Gpu, Library, ThisMachine
from local.stack import ROOT

T4, V100 = Gpu("Tesla T4", (7, 5)), Gpu("Tesla V100", (7, 0))
GOOD = Driver("580.178.04", (13, 0), (T4,))
OLD = Driver("550.144.03", (12, 4), (T4,))
ONNX_GPU, ONNX_CPU = Library("onnxruntime-gpu", "1.31.1", 13), Library("onnxruntime", "1.32.0", None)
FAISS_GPU = Library("faiss-gpu", "1.15.1", 12)


class FakeMachine:
    """A g4dn with the image for GPUs on it, unless told otherwise. An error in place of a driver is raised."""

    def __init__(
        self,
        driver: Driver | FatalWorkerError | None = GOOD,
        library: Library = ONNX_GPU,
        trouble: str | None = None,
        packages: Mapping[str, str] | None = None,
    ) -> None:
        self._driver, self._library, self._trouble, self._packages = driver, library, trouble, packages or {}

    def find_version(self, package: str) -> str | None:
        return self._packages.get(package)

    def find_library(self, service: ServiceType) -> Library:
        return self._library

    def find_driver(self) -> Driver | None:
        if isinstance(self._driver, FatalWorkerError):
            raise self._driver
        return self._driver

    def try_gpu(self, service: ServiceType) -> str | None:
        return self._trouble


def needs(service: ServiceType = "detection", **settings: object) -> Needs:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("EXECUTION_PROVIDER", "NEIGHBOURS_DEVICE", "HEALTH_FILE", "GALLERY_INDEX_DIR"):
            environment.delenv(name, raising=False)
        for name, value in settings.items():
            environment.setenv(name.upper(), str(value))
        return read_needs(service)


def device_of(machine: FakeMachine, service_type: ServiceType = "detection", **settings: str) -> preflight.Finding:
    found = examine(needs(service_type, **settings), machine)
    return next(finding for finding in found if finding.check == "device")


def test_a_gpu_that_suits_is_named_with_its_versions() -> None:
    found = device_of(FakeMachine())
    assert found.error is None
    assert found.sentence == "the detection service runs on Tesla T4 (driver 580.178.04, onnxruntime-gpu 1.31.1)."


@pytest.mark.parametrize(
    ("machine", "code", "said"),
    [
        (FakeMachine(OLD), 5, r"driver 550.144.03 runs CUDA 12.4 at most.* built for CUDA 13: .* driver 580 or newer"),
        (FakeMachine(Driver("580.1", (13, 0), (T4, V100))), 5, r"Tesla V100 \(compute capability 7.0\) is too old"),
        (FakeMachine(trouble="libcudnn.so.9 is missing."), 5, r"can't use the Tesla T4 .*libcudnn.so.9 is missing"),
        (FakeMachine(DeviceLost("the driver does not answer")), 20, "does not answer"),
    ],
    ids=["the driver is too old", "the GPU is too old", "the library does not load", "the driver is broken"],
)
def test_a_gpu_that_is_there_and_of_no_use_ends_the_start(machine: FakeMachine, code: int, said: str) -> None:
    found = device_of(machine)
    assert found.error is not None
    assert found.error.exit_code == code
    assert re.search(said, found.sentence), found.sentence


def test_an_old_driver_that_serves_cuda_12_serves_grouping() -> None:
    assert device_of(FakeMachine(OLD, FAISS_GPU), service_type="grouping").error is None


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (FakeMachine(None), "no NVIDIA driver can be seen"),
        (FakeMachine(Driver("580.1", (13, 0), ())), "shows no GPU here"),
        (FakeMachine(GOOD, ONNX_CPU), "onnxruntime 1.32.0 is the build for CPUs"),
    ],
    ids=["no driver", "no GPU", "the build for CPUs"],
)
def test_without_a_gpu_auto_says_why_it_takes_the_cpu_and_cuda_refuses(machine: FakeMachine, why: str) -> None:
    taken = device_of(machine, execution_provider="auto")
    assert taken.error is None
    assert taken.sentence.startswith("the detection service runs on the CPU, for ")
    assert why in taken.sentence
    refused = device_of(machine, execution_provider="cuda")
    assert isinstance(refused.error, BadConfiguration)
    assert refused.sentence.startswith("EXECUTION_PROVIDER=cuda, but ")
    assert why in refused.sentence


@pytest.mark.parametrize(
    "setting", [{"execution_provider": "cpu"}, {"service_type": "grouping", "neighbours_device": "cpu"}]
)
def test_who_asks_for_the_cpu_is_not_bothered_about_the_gpu(setting: dict[str, str]) -> None:
    found = device_of(FakeMachine(DeviceLost("broken")), **setting)
    assert found.error is None
    assert "as " in found.sentence


@pytest.mark.parametrize("pair", preflight.CLASHES)
def test_two_packages_with_the_same_files_are_reported(pair: tuple[str, str]) -> None:
    both = FakeMachine(packages=dict.fromkeys(pair, "1.0"))
    found = examine(needs(), both)[0]
    assert isinstance(found.error, UnfitMachine)
    assert found.sentence.startswith(f"{pair[0]} and {pair[1]} are both installed")
    assert examine(needs(), FakeMachine(packages={pair[0]: "1.0"}))[0].error is None


def test_paths_that_can_not_be_written_to_are_reported_with_their_setting(tmp_path: Path) -> None:
    # A file where a folder should be: root, who may run the tests, can write into any folder.
    (tmp_path / "file").write_text("")
    wanted = needs("grouping", gallery_index_dir=tmp_path / "file" / "index")
    found = examine(wanted, FakeMachine(library=FAISS_GPU))[-1]
    assert isinstance(found.error, UnfitMachine)
    assert found.sentence.startswith(f"GALLERY_INDEX_DIR needs {tmp_path}/file/index to be writable")
    fine = needs(health_file=tmp_path / "health.json", gallery_index_dir=tmp_path / "file" / "index")
    assert examine(fine, FakeMachine())[-1].error is None, "detection keeps no index"


def test_by_hand_there_is_a_line_a_check_and_the_exit_code_of_the_first_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECUTION_PROVIDER", "auto")
    assert main([], FakeMachine()) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["ok", "packages"],
        ["ok", "device"],
        ["ok", "paths"],
    ]
    assert main(["--service", "detection"], FakeMachine(OLD)) == 5
    assert "wrong device" in capsys.readouterr().out
    monkeypatch.setenv("EXECUTION_PROVIDER", "cudaa")
    assert main([], FakeMachine()) == 2
    assert "EXECUTION_PROVIDER" in capsys.readouterr().err


def test_the_cuda_of_each_locked_wheel_is_in_the_tables() -> None:
    """A newer wheel may come for another CUDA, whose driver must be known before it is shipped."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    locked = {int(match.group(1)) for line in lines if (match := machine.CUDA_SUFFIX.match(line))}
    assert locked == {12, 13}
    assert locked <= preflight.LEAST_DRIVER.keys() & preflight.LEAST_CAPABILITY.keys()


def test_the_cuda_of_a_wheel_is_read_from_what_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy<3.0", "nvidia-cublas~=13.0; extra == 'cuda'", "nvidia-cudnn-cu13~=9.0; extra == 'cudnn'"]
    monkeypatch.setattr(machine, "metadata", SimpleNamespace(version=lambda _: "1.31.1", requires=lambda _: asked))
    monkeypatch.setattr(machine.metadata, "PackageNotFoundError", LookupError, raising=False)
    assert ThisMachine().find_library("detection") == ONNX_GPU


@pytest.mark.parametrize(
    ("error", "lost"),
    [(pynvml.NVML_ERROR_DRIVER_NOT_LOADED, False), (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, True)],
)
def test_a_driver_that_is_absent_is_told_from_one_that_fails(
    error: int, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init() -> None:
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    if lost:
        with pytest.raises(DeviceLost, match="restart this machine, or replace it"):
            ThisMachine().find_driver()
    else:
        assert ThisMachine().find_driver() is None


def test_what_the_driver_says_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13010,
        "nvmlSystemGetDriverVersion": lambda: "580.178.04",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetCudaComputeCapability": lambda _: [7, 5],
        "nvmlDeviceGetName": lambda _: "Tesla T4",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert ThisMachine().find_driver() == Driver("580.178.04", (13, 1), (T4,))


def test_cuda_that_does_not_start_is_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(cuInit=lambda _: 999))
    with pytest.raises(DeviceLost, match="cuInit returned 999"):
        ThisMachine().try_gpu("grouping")


def test_a_gpu_that_onnx_runtime_can_not_use_is_reported_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """This environment has the build for CPUs, so its answer to a wish for CUDA is a real one."""
    if ThisMachine().find_library("detection").cuda:
        pytest.skip("this environment has the build for GPUs")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(cuInit=lambda _: 0))
    assert "has no CUDAExecutionProvider" in (ThisMachine().try_gpu("detection") or "")
    assert ThisMachine().try_gpu("grouping") == "FAISS sees none."


def test_the_image_s_command_refuses_before_it_opens_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "SERVICE_TYPE": "detection",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "QUEUE_URL": "http://127.0.0.1:9/1/detection",
        "GROUP_FACE_QUEUE_URL": "http://127.0.0.1:9/1/grouping",
        "BUCKET_NAME": "photos",
        "FACE_GROUP_BUCKET_NAME": "results",
        "GALLERY_IMAGES_MONGO_URI": "mongodb://127.0.0.1:9/",
        "HUEMN_MONGO_URI": "mongodb://127.0.0.1:9/",
        "LOG_GROUP": "face-worker",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(preflight, "ThisMachine", lambda: FakeMachine(OLD))
    monkeypatch.setattr(__main__, "run", lambda: pytest.fail("the service was started"))
    level = logging.getLogger().level
    try:
        assert __main__.main() == 5
    finally:
        logging.getLogger().setLevel(level)
    said = capsys.readouterr()
    assert "driver 580 or newer" in said.err
    assert '"level": "CRITICAL"' in said.out


def test_this_machine_passes_by_hand() -> None:
    command = [sys.executable, "-m", "app.preflight", "--service", "grouping"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "the grouping service runs on" in done.stdout


@pytest.mark.parametrize("service", ["detection", "grouping"])
def test_a_start_on_the_cpu_is_hardly_longer(service: ServiceType) -> None:
    if ThisMachine().find_library(service).cuda:
        pytest.skip("this environment has the build for GPUs, whose start the service's own first call shares")
    began_s = time.process_time()
    examine(needs(service), ThisMachine())
    assert time.process_time() - began_s < 0.3
