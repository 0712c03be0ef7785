"""Photos are decoded in processes of their own, where a photo that takes too much can be stopped."""

import fcntl
import json
import logging
import math
import mmap
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from app.core.arrays import Image
from app.core.errors import BadPhoto, RetryLater
from app.core.pictures import PhotoLimits
from app.detection.stage_times import StageTimes
from app.vision import decode as here
from app.vision.decode import PhotoHeader
from app.vision.plain_jpeg import is_plain_jpeg

log = logging.getLogger(__name__)

DECODE_CPU_S = 8.0
CHANNELS = 3
_ROOT = Path(__file__).parents[2]
_SERVER = "app.vision.decode_server"
_MESSAGE_BYTES = 65_536
_START_S = 60.0
_POLL_S = 1.0
_WALL_PER_CPU = 15
"""Seconds on the clock for each second of CPU time, after which a photo is stopped too: cores may be shared."""
_KEPT_FILE_BYTES = 16_000_000
_SLACK_BYTES = 96_000_000
"""Addresses for the stacks of a decoder's threads and for what a library loads at its first photo.

The kernel bounds addresses, of which decoders reserve more than they use: half as much again as they hold."""
_HEADER_BYTES = 64_000_000


def count_decode_bytes(header: PhotoHeader) -> int:
    """Upper bound of the memory that decoding takes: the decoder's own, or the picture and its copy for the service."""
    return max(header.decode_bytes, 2 * CHANNELS * header.width_px * header.height_px)


class Decoder(Protocol):
    """Reads and decodes photos from untrusted bytes. `times` is notified of progress, and of the CPU time it took."""

    def read_header(self, data: bytes, limits: PhotoLimits, times: StageTimes) -> PhotoHeader:
        """As app.vision.decode.read_header."""

    def decode(
        self, data: bytes, header: PhotoHeader, limits: PhotoLimits, enough_px: int | None, times: StageTimes
    ) -> Image:
        """As app.vision.decode.decode."""


class DecodeHere:
    """Decodes in the thread that calls: for photos that are trusted."""

    def read_header(self, data: bytes, limits: PhotoLimits, times: StageTimes) -> PhotoHeader:
        return here.read_header(data, limits)

    def decode(
        self, data: bytes, header: PhotoHeader, limits: PhotoLimits, enough_px: int | None, times: StageTimes
    ) -> Image:
        return here.decode(data, limits, enough_px)


class _Stopped(Exception):
    """A child ended while it had a photo, or was stopped. `bad` is how the photo is stored where that comes again."""

    def __init__(self, cause: str, bad: BadPhoto | RetryLater) -> None:
        super().__init__(cause)
        self.bad = bad


@dataclass
class _Child:
    """A process that decodes: its connection, and the memory that it reads files from."""

    connection: socket.socket
    file: int
    pid: int
    cpu_s: float = 0.0

    def close(self) -> None:
        self.connection.close()
        os.close(self.file)


class Decoders:
    """Decodes in child processes, `processes` at the same time, each photo within `cpu_s` seconds of CPU time and the
    memory that its header asks for.

    A photo whose decoding is stopped is tried once more, in a new process. Then BadPhoto is raised with the reason, or
    RetryLater where it was not the photo's fault.
    """

    def __init__(self, processes: int, cpu_s: float = DECODE_CPU_S) -> None:
        self._cpu_s = cpu_s
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> "Decoders":
        with self._lock:
            self._start_server()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            self._end_server()
        with suppress(queue.Empty):
            while True:
                if child := self._idle.get_nowait():
                    child.close()

    def read_header(self, data: bytes, limits: PhotoLimits, times: StageTimes) -> PhotoHeader:
        if is_plain_jpeg(data):
            return here.read_header(data, limits)
        answer, _ = self._ask({"wants": "header"}, data, limits, _HEADER_BYTES, times)
        return PhotoHeader(**answer["header"])

    def decode(
        self, data: bytes, header: PhotoHeader, limits: PhotoLimits, enough_px: int | None, times: StageTimes
    ) -> Image:
        if is_plain_jpeg(data):
            return here.decode(data, limits, enough_px)
        return self.decode_in_child(data, header, limits, enough_px, times)

    def decode_in_child(
        self, data: bytes, header: PhotoHeader, limits: PhotoLimits, enough_px: int | None, times: StageTimes
    ) -> Image:
        """As `decode`, also for files that it decodes in the thread."""
        memory = count_decode_bytes(header)
        answer, file = self._ask({"wants": "image", "enough_px": enough_px}, data, limits, memory, times)
        return _map(file, answer["shape"])

    def _ask(
        self, request: dict[str, Any], data: bytes, limits: PhotoLimits, memory: int, times: StageTimes
    ) -> tuple[dict[str, Any], int]:
        request |= {
            "bytes": len(data),
            "limits": [limits.max_bytes, limits.max_pixels],
            "cpu_s": self._cpu_s,
            "memory_bytes": memory + memory // 2 + 2 * len(data) + _SLACK_BYTES,
        }
        try:
            return self._try(request, data, times)
        except _Stopped as stopped:
            log.warning("decoding is tried once more: %s", stopped)
        try:
            return self._try(request, data, times)
        except _Stopped as stopped:
            raise stopped.bad from None

    def _try(self, request: dict[str, Any], data: bytes, times: StageTimes) -> tuple[dict[str, Any], int]:
        child = self._take(times)
        keep = False
        try:
            answer, file = self._talk(child, request, data, times)
            keep = not (answer["last"] or "too_little" in answer)
        finally:
            if not keep:
                child.close()
            self._idle.put(child if keep else None)
        if "bad" in answer:
            raise BadPhoto(*answer["bad"])
        if "too_little" in answer:
            needed = math.ceil(request["memory_bytes"] / 1e6)
            reason = f"The picture is too large for this worker's memory (needs more than {needed} MB)."
            raise _Stopped(f"it takes more than {needed} MB", BadPhoto(reason, "too large"))
        if "error" in answer:
            raise RuntimeError(f"the decoder failed: {answer['error']}")
        return answer, file

    def _take(self, times: StageTimes) -> _Child:
        while True:
            with suppress(queue.Empty):
                child = self._idle.get(timeout=_POLL_S)
                break
            times.progress()
        if child is not None:
            return child
        try:
            return self._start_child()
        except BaseException:
            self._idle.put(None)
            raise

    def _talk(
        self, child: _Child, request: dict[str, Any], data: bytes, times: StageTimes
    ) -> tuple[dict[str, Any], int]:
        """Send a request. Returns the answer, and the descriptor of the pixels or -1. Raises _Stopped."""
        _write(child.file, data)
        with suppress(OSError):  # a child that has died is reported by the answer
            child.connection.send(json.dumps(request).encode())
        until = time.monotonic() + self._cpu_s * _WALL_PER_CPU
        stopped = False
        while not select.select([child.connection], [], [], _POLL_S)[0]:
            times.progress()
            if not stopped and time.monotonic() > until:
                stopped = True
                os.kill(child.pid, signal.SIGKILL)
        message, descriptors, *_ = socket.recv_fds(child.connection, _MESSAGE_BYTES, 1)
        if len(data) > _KEPT_FILE_BYTES:
            os.ftruncate(child.file, 0)
        answer = json.loads(message or b'{"died": -9}')
        times.decode_cpu_s += max(0.0, answer.get("cpu_s", 0.0) - child.cpu_s)
        child.cpu_s = answer.get("cpu_s", 0.0)
        if "died" in answer:
            raise self._explain_death(-signal.SIGXCPU if stopped else answer["died"])
        return answer, descriptors[0] if descriptors else -1

    def _explain_death(self, code: int) -> _Stopped:
        if code == -signal.SIGXCPU:
            reason = f"The picture takes too long to decode (stopped twice after {self._cpu_s:.0f} s)."
            return _Stopped("it took too long", BadPhoto(reason, "too slow"))
        if code == -signal.SIGKILL:
            reason = "A process that decodes was killed from outside, most likely for want of memory in the container."
            return _Stopped("its process was killed", RetryLater(reason))
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = f"The picture crashes its decoder ({name})."
        return _Stopped(f"it ended its process ({name})", BadPhoto(reason, "crash"))

    def _start_child(self) -> _Child:
        """A new child, of a new server where the server is gone. Raises RetryLater where that fails too."""
        for _ in range(2):
            with self._lock:
                if self._closed:
                    raise RetryLater("This worker is ending.", 0)
                control = self._start_server()
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                file = os.memfd_create("photo")
                with theirs, suppress(OSError):
                    socket.send_fds(control, [b"child"], [theirs.fileno(), file])
            child = _Child(ours, file, 0)
            if select.select([ours], [], [], _START_S)[0] and (hello := ours.recv(_MESSAGE_BYTES)):
                child.pid = json.loads(hello)["pid"]
                return child
            child.close()
            with self._lock:
                self._end_server()
        raise RetryLater("The process that decodes photos doesn't start; its error is in this service's output.")

    def _start_server(self) -> socket.socket:
        """The connection to the server, which is started where it doesn't run. Call it under the lock."""
        if self._server and self._server[0].poll() is None:
            return self._server[1]
        self._end_server()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # No secret of the service's environment. One thread, since the server forks.
            kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
            alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
            process = subprocess.Popen(
                [sys.executable, "-m", _SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=_ROOT,
                env=kept | alone,
                start_new_session=True,  # Ctrl-C is for the service alone, which lets started photos end
            )
        self._server = process, ours
        return ours

    def _end_server(self) -> None:
        if self._server:
            process, control = self._server
            control.close()
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._server = None


def _write(file: int, data: bytes) -> None:
    left, offset = memoryview(data), 0
    while offset < len(left):
        offset += os.pwrite(file, left[offset:], offset)


def _map(file: int, shape: list[int]) -> Image:
    """(H,W,3) uint8 in the memory that a child has left them in. It is freed with the array."""
    try:
        # So that no access can fail: without it, a child could make the memory shorter than what is mapped.
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        memory = mmap.mmap(file, math.prod(shape), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(file)
    return np.frombuffer(memory, np.uint8).reshape(shape)
