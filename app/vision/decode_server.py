"""The processes that decode photos: `python -m app.vision.decode_server FD`, started by app.detection.decoders.

The server imports what decodes, and nothing else. It runs one thread, and forks a child for each connection that it is
sent: a child then starts within milliseconds and shares the libraries' memory with the others. A child answers
requests one after the other, each within its own bounds of CPU time and memory. The server reports a child's death.
All end with the process that started the server, however that ends.
"""

import ctypes
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.core.errors import BadPhoto, RetryLater
from app.core.pictures import PhotoLimits
from app.vision.decode import decode, read_header

MESSAGE_BYTES = 65_536
_PR_SET_PDEATHSIG = 1  # prctl(2)
_KEPT_BYTES = 64_000_000
"""A child that keeps more than this of its photos' memory is replaced."""
_PAGE = resource.getpagesize()


def main(control: socket.socket) -> None:
    """Fork a child for each pair of descriptors that arrives: its connection, and the memory that files are put in."""
    children: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    gc.freeze()
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            woken.recv(MESSAGE_BYTES)
            _report_deaths(children)
        if control in ready:
            message, descriptors, *_ = socket.recv_fds(control, MESSAGE_BYTES, 2)
            if not message:
                os._exit(0)
            connection, file = socket.socket(fileno=descriptors[0]), descriptors[1]
            if pid := os.fork():
                children[pid] = connection
                _send(connection, {"pid": pid})
                os.close(file)
            else:
                _become_child([control, woken, wake, *children.values()])
                _serve(connection, file)


def _report_deaths(children: dict[int, socket.socket]) -> None:
    """Send the last message on the connection of each child that has died: its exit code, or minus its signal."""
    while children:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as connection:
            _send(connection, {"died": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime})


def _become_child(others: list[socket.socket]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(0)
    # Where the container's memory is used up after all, the kernel ends this process and not the service.
    Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for other in others:
        other.close()


def _serve(connection: socket.socket, file: int) -> None:
    resident = _read_bytes("resident")
    while request := connection.recv(MESSAGE_BYTES):
        answer, image = _answer(json.loads(request), file)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        about = {"cpu_s": usage.ru_utime + usage.ru_stime, "last": _read_bytes("resident") - resident > _KEPT_BYTES}
        _send(connection, {**answer, **about}, image)
        if image is not None:
            os.close(image)
    os._exit(0)


def _answer(request: dict[str, Any], file: int) -> tuple[dict[str, Any], int | None]:
    """The answer to a request, and the descriptor of the memory with the decoded pixels."""
    _set_bounds(request["cpu_s"], request["memory_bytes"])
    limits = PhotoLimits(*request["limits"])
    try:
        data = os.pread(file, request["bytes"], 0)
        if request["wants"] == "header":
            return {"header": asdict(read_header(data, limits))}, None
        image = decode(data, limits, request["enough_px"])
        return {"shape": image.shape}, _share(image.data)
    except BadPhoto as bad:
        return {"bad": [str(bad), bad.kind]}, None
    except (MemoryError, RetryLater):
        return {"too_little": "memory"}, None
    except Exception as error:  # noqa: BLE001 - it is raised in the service
        return {"error": repr(error)[:500]}, None


def _set_bounds(cpu_s: float, memory_bytes: int) -> None:
    """Bounds on what this request may take besides what this process has used and holds already."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    end_s = math.ceil(usage.ru_utime + usage.ru_stime + cpu_s)
    resource.setrlimit(resource.RLIMIT_CPU, (end_s, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (_read_bytes("size") + memory_bytes, resource.RLIM_INFINITY))


def _share(pixels: memoryview) -> int:
    """A descriptor of memory that outlives this process and holds a copy of the pixels."""
    file = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = pixels.cast("B")
    while left:
        left = left[os.write(file, left) :]
    return file


def _read_bytes(what: str) -> int:
    """This process's memory in bytes: its `size` in addresses, or what is `resident` of it (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_bytes().split()[["size", "resident"].index(what)]) * _PAGE


def _send(connection: socket.socket, message: dict[str, Any], file: int | None = None) -> None:
    with suppress(OSError):  # nobody waits for it any more
        socket.send_fds(connection, [json.dumps(message).encode()], [] if file is None else [file])


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
