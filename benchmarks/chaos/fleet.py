"""The services as processes. Each is started again at once when it ends, as ECS does it."""

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from local.stack import ROOT, LocalStackError

READY_TIMEOUT_S = 120.0
CRASH_PAUSE_S = 0.5
STOP_TIMEOUT_S = 60.0
FOR_ALL = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT)


@dataclass(frozen=True)
class Exit:
    """How a process ended. `worker` names the slot and its number there, as in `detection-0.3`; `at` is seconds since
    the epoch; `killed_at` is the kill point where it killed itself, according to its log."""

    worker: str
    code: int
    at: float
    was_ready: bool
    killed_at: str | None = None


@dataclass(eq=False)
class Slot:
    """A place for one process of a service at a time; `life` counts its processes."""

    service: str
    number: int
    life: int = -1
    process: subprocess.Popen[bytes] | None = None

    @property
    def worker(self) -> str:
        return f"{self.service}-{self.number}.{self.life}"


ExtraEnvironment = Callable[[Slot, Exit | None], Mapping[str, str]]
"""Slot, and how its last process ended → environment variables for its next one."""

KILLED_AT = re.compile(rb"killed at ([\w-]+), as CHAOS_KILL_AT asks")
"""The log line of app.core.kill_points before it kills the process."""


class Fleet:
    """Supervised processes of both services. Entering waits until each has logged `ready` once."""

    def __init__(
        self, environment: Mapping[str, str], logs: Path, workers: Mapping[str, int], extra: ExtraEnvironment
    ) -> None:
        self.slots = [Slot(service, number) for service, count in workers.items() for number in range(count)]
        self.exits: list[Exit] = []
        self._environment = environment
        self._logs = logs
        self._extra = extra
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._supervise, args=(slot,), daemon=True) for slot in self.slots]

    def __enter__(self) -> "Fleet":
        self._logs.mkdir(parents=True, exist_ok=True)
        for thread in self._threads:
            thread.start()
        until = time.monotonic() + READY_TIMEOUT_S
        while not all(self._was_ready(slot) or slot.life > 0 for slot in self.slots):
            if time.monotonic() > until:
                self.__exit__(None, None, None)
                raise LocalStackError(f"Not every service was ready within {READY_TIMEOUT_S:.0f} s; see {self._logs}.")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for slot in self.slots:
            self.signal(slot, signal.SIGCONT)
            self.signal(slot, signal.SIGTERM)
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)
        for slot in self.slots:
            self.signal(slot, signal.SIGKILL)

    def is_ready(self, slot: Slot) -> bool:
        return slot.process is not None and slot.process.poll() is None and self._was_ready(slot)

    def signal(self, slot: Slot, number: signal.Signals) -> bool:
        """Send a signal to the slot's process, or to all processes of the service what no process can handle, as if
        their machine stopped or went away. False where there is no process."""
        process = slot.process
        if process is None or process.poll() is not None:
            return False
        if number in FOR_ALL:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return True

    def terminate(self, slot: Slot, timeout_s: float) -> float | None:
        """Seconds from SIGTERM to the exit: infinity where it did not exit, None where there was no process."""
        process = slot.process
        began = time.monotonic()
        if process is None or not self.signal(slot, signal.SIGTERM):
            return None
        while time.monotonic() - began < timeout_s:
            if process.poll() is not None:
                return time.monotonic() - began
            time.sleep(0.02)
        self.signal(slot, signal.SIGKILL)
        return math.inf

    def _supervise(self, slot: Slot) -> None:
        last: Exit | None = None
        while not self._closing.is_set():
            slot.life += 1
            began = time.monotonic()
            slot.process = self._spawn(slot, last)
            code = slot.process.wait()
            last = Exit(slot.worker, code, time.time(), self._was_ready(slot), self._killed_at(slot))
            self.exits.append(last)
            if code not in (0, -signal.SIGKILL) and time.monotonic() - began < CRASH_PAUSE_S:
                self._closing.wait(CRASH_PAUSE_S)

    def _spawn(self, slot: Slot, last: Exit | None) -> subprocess.Popen[bytes]:
        # botocore puts the app id into each request, so that the server's journal has the worker's name.
        mine = {"AWS_SDK_UA_APP_ID": slot.worker, **self._extra(slot, last)}
        environment = {**os.environ, **self._environment, **mine}
        environment.pop("LOG_GROUP", None)
        with self._log(slot).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(ROOT / f"run_{slot.service}_service.py")],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )

    def _log(self, slot: Slot) -> Path:
        return self._logs / f"{slot.worker}.log"

    def _was_ready(self, slot: Slot) -> bool:
        path = self._log(slot)
        return path.exists() and b'"message": "ready"' in path.read_bytes()

    def _killed_at(self, slot: Slot) -> str | None:
        found = KILLED_AT.search(self._log(slot).read_bytes())
        return found.group(1).decode() if found else None
