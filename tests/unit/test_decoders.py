"""Decoding in child processes: the same pictures as here, and nothing that a file does reaches the service."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image as Pil

from app.core.arrays import Image
from app.core.errors import BadPhoto, RetryLater
from app.core.pictures import PhotoLimits
from app.detection import decoders as module
from app.detection.decoders import Decoders
from app.detection.stage_times import StageTimes
from app.vision.decode import PhotoHeader, decode, read_header
from tests import photos

LIMITS = PhotoLimits(10_000_000, 10_000_000)
SMALL = PhotoHeader("PNG", 10, 10, 1_000)
PATIENCE_S = 30.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def pool() -> Iterator[Decoders]:
    with Decoders(2, cpu_s=1) as opened:
        yield opened


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoders]:
    monkeypatch.setattr(module, "_SERVER", "tests.misbehaving_decoder")
    with Decoders(1, cpu_s=1) as opened:
        yield opened


def ask(pool: Decoders, data: bytes | str, times: StageTimes | None = None) -> Image:
    data = data.encode() if isinstance(data, str) else data
    return pool.decode(data, SMALL, LIMITS, None, times or StageTimes())


def ask_pid(pool: Decoders) -> int:
    return int.from_bytes(ask(pool, "pid").tobytes(), "big")


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def picture(file_format: str, **options: object) -> bytes:
    return photos.saved(Pil.fromarray(photos.gradient(320, 240)), file_format, **options)


@pytest.mark.parametrize("data", [picture("PNG"), picture("WEBP"), picture("JPEG", progressive=True), picture("JPEG")])
def test_a_child_gives_the_header_and_the_pixels_that_decoding_here_gives(pool: Decoders, data: bytes) -> None:
    header = pool.read_header(data, LIMITS, StageTimes())
    assert header == read_header(data, LIMITS)
    for enough_px in (None, 100):
        pixels = pool.decode(data, header, LIMITS, enough_px, StageTimes())
        assert np.array_equal(pixels, decode(data, LIMITS, enough_px))
        assert pixels.flags.writeable


def test_plain_jpegs_are_decoded_here_and_no_child_is_asked(pool: Decoders) -> None:
    times = StageTimes()
    plain, progressive = picture("JPEG"), picture("JPEG", progressive=True)
    pool.decode(plain, pool.read_header(plain, LIMITS, times), LIMITS, None, times)
    assert times.decode_cpu_s == 0
    pool.decode(progressive, pool.read_header(progressive, LIMITS, times), LIMITS, None, times)
    assert times.decode_cpu_s > 0


@pytest.mark.parametrize("data", [b"", b"no picture at all", picture("PNG")[:-200], b"x" * 10_000_001])
def test_a_file_that_is_no_photo_has_the_reason_and_kind_that_it_has_here(pool: Decoders, data: bytes) -> None:
    with pytest.raises(BadPhoto) as there:
        pool.read_header(data, LIMITS, StageTimes())
        ask(pool, data)
    with pytest.raises(BadPhoto) as here:
        read_header(data, LIMITS)
        decode(data, LIMITS)
    assert (str(there.value), there.value.kind) == (str(here.value), here.value.kind)


@pytest.mark.parametrize(
    ("file", "reason", "kind"),
    [
        ("spin", r"takes too long to decode \(stopped twice after 1 s\)", "too slow"),
        ("crash", r"crashes its decoder \(SIGSEGV\)", "crash"),
        ("exit", r"crashes its decoder \(exit code 3\)", "crash"),
        ("eat 300000000", r"too large for this worker's memory \(needs more than \d+ MB\)", "too large"),
    ],
)
def test_a_photo_that_is_stopped_twice_is_bad_by_its_reason_and_the_next_one_is_decoded(
    misbehaving: Decoders, file: str, reason: str, kind: str
) -> None:
    with pytest.raises(BadPhoto, match=reason) as raised:
        ask(misbehaving, file)
    assert raised.value.kind == kind
    assert np.array_equal(ask(misbehaving, picture("PNG")), photos.gradient(320, 240))


def test_a_stopped_photo_costs_twice_its_bound_and_is_told_so(misbehaving: Decoders) -> None:
    times = StageTimes()
    with pytest.raises(BadPhoto):
        ask(misbehaving, "spin", times)
    assert 2 <= times.decode_cpu_s <= 4.5


def test_a_photo_that_is_stopped_once_is_tried_again(misbehaving: Decoders, tmp_path: Path) -> None:
    assert ask(misbehaving, f"crash-once {tmp_path / 'tried'}").shape == (1, 1, 3)


def test_a_photo_whose_process_is_killed_from_outside_is_not_to_blame(misbehaving: Decoders) -> None:
    with pytest.raises(RetryLater, match="killed from outside"):
        ask(misbehaving, "killed")
    assert ask_pid(misbehaving)


def test_a_decoder_that_waits_for_ever_is_stopped_and_meanwhile_progress_is_told(
    misbehaving: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WALL_PER_CPU", 0.5)
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    told: list[float] = []
    with pytest.raises(BadPhoto, match="takes too long"):
        ask(misbehaving, "sleep", StageTimes(lambda: told.append(time.monotonic())))
    assert len(told) > 4


def test_a_mistake_in_a_decoder_is_raised_as_one(misbehaving: Decoders) -> None:
    with pytest.raises(RuntimeError, match=r"LookupError.*a mistake in the decoder"):
        ask(misbehaving, "fail")


def test_a_child_that_keeps_much_of_a_photos_memory_is_replaced_and_others_are_kept(misbehaving: Decoders) -> None:
    first = ask_pid(misbehaving)
    ask(misbehaving, "keep 1000000")
    assert ask_pid(misbehaving) == first
    ask(misbehaving, "keep 70000000")
    wait_for(lambda: is_gone(first))
    assert ask_pid(misbehaving) != first


def test_children_see_no_secret_of_the_services_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SERVER", "tests.misbehaving_decoder")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HUEMN_MONGO_URI", "mongodb://secret")
    with Decoders(1) as pool:
        seen = ask(pool, "environment").tobytes().decode().split()
    assert "PATH" in seen
    assert not [name for name in seen if "AWS" in name or "URI" in name]


def test_the_pool_heals_where_its_server_is_killed(misbehaving: Decoders) -> None:
    child = ask_pid(misbehaving)
    assert misbehaving._server
    misbehaving._server[0].kill()
    wait_for(lambda: is_gone(child))
    assert ask_pid(misbehaving) not in (0, child)


def test_a_server_that_does_not_start_is_a_clear_reason_to_try_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SERVER", "app.vision.there_is_no_such_module")
    with Decoders(1) as pool, pytest.raises(RetryLater, match="doesn't start"):
        ask(pool, "pid")


def test_threads_share_the_children_and_each_gets_its_own_picture(pool: Decoders) -> None:
    files = [photos.saved(Pil.new("RGB", (30 + n, 20), (n, 2 * n, 3 * n)), "PNG") for n in range(24)]
    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda data: ask(pool, data), files))
    for number, pixels in enumerate(seen):
        assert pixels.shape == (20, 30 + number, 3)
        assert (pixels == (number, 2 * number, 3 * number)).all()


def test_waiting_for_a_child_is_progress(misbehaving: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    told = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        spinning = threads.submit(ask, misbehaving, "spin")
        wait_for(lambda: misbehaving._idle.empty())
        ask(misbehaving, "pid", StageTimes(told.set))
        with pytest.raises(BadPhoto):
            spinning.result()
    assert told.is_set()


def test_no_descriptor_and_no_child_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SERVER", "tests.misbehaving_decoder")
    before, children = count_descriptors(), len(psutil.Process().children(recursive=True))
    with Decoders(2, cpu_s=1) as pool:
        for file in ("pid", "crash", "killed", "fail"):
            with pytest.raises((BadPhoto, RetryLater, RuntimeError)) if file != "pid" else threading.Lock():
                ask(pool, file)
        pid = ask_pid(pool)
    wait_for(lambda: is_gone(pid))
    assert count_descriptors() == before
    assert len(psutil.Process().children(recursive=True)) == children


PARENT = """
import sys, threading
from app.core.pictures import PhotoLimits
from app.detection import decoders
from app.detection.stage_times import StageTimes
from app.vision.decode import PhotoHeader
decoders._SERVER = "tests.misbehaving_decoder"
def ask(pool, word):
    return pool.decode(word, PhotoHeader("PNG", 10, 10, 1000), PhotoLimits(), None, StageTimes())
with decoders.Decoders(2, cpu_s=600) as pool:
    pid = int.from_bytes(ask(pool, b"pid").tobytes(), "big")
    threading.Thread(target=ask, args=(pool, b"spin")).start()
    print(pid, pool._server[0].pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_its_service_however_that_ends(sent: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout
        child, server = map(int, parent.stdout.readline().split())
        busy = psutil.Process(child)
        wait_for(lambda: sum(busy.cpu_times()[:2]) > 0.3)
        parent.send_signal(sent)
    wait_for(lambda: is_gone(child) and is_gone(server))
