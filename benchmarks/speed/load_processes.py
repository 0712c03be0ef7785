"""The worker processes of `benchmarks load`, and the samples of their and the stores' CPU time and memory."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from benchmarks.chaos.world import World
from local.stack import ROOT, LocalStackError

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
STORES = {"sqs": "aws", "s3": "s3", "mongodb": "mongo"}
PARTS = ("workers", *STORES, "sender")
WARM_UP_SHARE, END_SHARE = 0.2, 0.2
"""Memory is measured once WARM_UP_SHARE of the messages is done; its begin and its end are each END_SHARE of the
samples after that."""


@dataclass(frozen=True)
class Sample:
    """One sample: messages done so far, CPU seconds of each of PARTS so far, resident bytes of each worker."""

    at_s: float
    done: int
    cpu_s: dict[str, float]
    resident_bytes: tuple[int, ...]


class Processes:
    """The worker processes of a world. Entering waits until each is ready."""

    def __init__(
        self, world: World, workers: int, logs: Path, stub: Mapping[str, str] | None = None, *, profiled: bool = False
    ) -> None:
        """`stub` are the environment variables of load_worker.py and settings of the service."""
        self._environment = {**make_environment(world), **(stub or {})}
        self._profiled = profiled
        self._stores = {part: psutil.Process(world.pids[name]) for part, name in STORES.items()}
        self._logs = [logs / f"worker-{number}.log" for number in range(workers)]
        self._workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Processes":
        for log in self._logs:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as output:
                command = [sys.executable, "-m", "benchmarks.speed.load_worker"]
                command += [str(log.with_suffix(".json"))] * self._profiled
                self._workers.append(
                    subprocess.Popen(command, stdout=output, stderr=output, env=self._environment, cwd=ROOT)
                )
        until = time.monotonic() + READY_TIMEOUT_S
        # A worker of several processes is ready when the last of them is.
        self._wait_for_all(until)
        tree = [[one, *one.children(recursive=True)] for one in (psutil.Process(each.pid) for each in self._workers)]
        self._watched = [process for each in tree for process in each]
        return self

    def _wait_for_all(self, until: float) -> None:
        each = int(self._environment.get("WORKER_PROCESSES", "1"))
        while not all(log.read_bytes().count(b'"message": "ready"') >= each for log in self._logs):
            self.check()
            if time.monotonic() > until:
                raise LocalStackError(f"The workers were not ready within {READY_TIMEOUT_S:.0f} s.")
            time.sleep(0.1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()

    @property
    def largest_pid(self) -> int:
        """The largest process: it works on photos, where another one may only supervise."""
        return max(self._watched, key=lambda one: one.memory_info().rss).pid

    def read_ledgers(self) -> Counter[str]:
        """CPU seconds of each stage, of all workers; empty where they aren't profiled."""
        files = [file for log in self._logs for file in log.parent.glob(f"{log.stem}.*.json")]
        return sum((Counter(json.loads(file.read_text("utf-8"))) for file in files), Counter[str]())

    def check(self) -> None:
        """Raises LocalStackError, with the last line of its log, where a worker has ended."""
        for worker, log in zip(self._workers, self._logs, strict=True):
            if worker.poll() is not None:
                words = log.read_text("utf-8", "replace").strip().splitlines() or ["nothing"]
                raise LocalStackError(f"A worker ended with {worker.returncode}; its last log line: {words[-1]}")

    def stop(self) -> None:
        """Stop the workers by SIGTERM. Raises LocalStackError where one doesn't exit with 0."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        codes = [worker.wait(STOP_TIMEOUT_S) for worker in self._workers]
        if any(codes):
            raise LocalStackError(f"The workers ended with {codes} after SIGTERM.")

    def sample(self, done: int) -> Sample:
        cpu_s = {
            "workers": sum(_measure_cpu_s(worker) for worker in self._watched),
            **{part: _measure_cpu_s(store) for part, store in self._stores.items()},
            "sender": _measure_cpu_s(psutil.Process()),
        }
        resident = tuple(worker.memory_info().rss for worker in self._watched)
        return Sample(time.monotonic(), done, cpu_s, resident)


def make_environment(world: World) -> dict[str, str]:
    """The environment with which a worker connects to the stores directly, without the fault proxies."""
    host, port = world.mongo.address or ("127.0.0.1", 0)
    mongo = f"mongodb://{host}:{port}/{{}}?directConnection=true"
    environment = {
        **os.environ,
        **world.straight,
        "SERVICE_TYPE": "detection",
        "QUEUE_URL": world.queues["detection"],
        "GROUP_FACE_QUEUE_URL": world.queues["grouping"],
        "GALLERY_IMAGES_MONGO_URI": mongo.format("gallery_images"),
        "HUEMN_MONGO_URI": mongo.format("huemn"),
    }
    environment.pop("LOG_GROUP", None)
    return environment


def _measure_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def compute_pace(samples: list[Sample], workers: int) -> dict[str, float]:
    """Messages a second, and the CPU time of each part."""
    first, last = samples[0], samples[-1]
    seconds = last.at_s - first.at_s
    spent_s = {part: last.cpu_s[part] - first.cpu_s[part] for part in PARTS}
    all_s = sum(spent_s.values())
    return {
        "seconds": round(seconds, 1),
        "messages_per_s": round(last.done / seconds, 1),
        "messages_per_s_a_worker": round(last.done / seconds / workers, 1),
        "worker_cpu_ms_a_message": round(spent_s["workers"] / last.done * 1000, 2),
        "ceiling_per_s": round(last.done / spent_s["workers"], 1),
        "cores_busy": round(all_s / seconds, 2),
        **{f"{part}_share": round(spent / all_s, 3) for part, spent in spent_s.items()},
    }


def compute_growth(samples: list[Sample]) -> dict[str, float]:
    """Resident memory of a worker (mean of all) after the warm-up and at the end, and the slope between."""
    most = samples[-1].done
    warm = [sample for sample in samples if sample.done >= WARM_UP_SHARE * most]
    mb = [statistics.mean(sample.resident_bytes) / 1e6 for sample in warm]
    done = [sample.done for sample in warm]
    begin = statistics.median(mb[: max(1, round(len(mb) * END_SHARE))])
    end = statistics.median(mb[-max(1, round(len(mb) * END_SHARE)) :])
    slope = statistics.linear_regression(done, mb).slope if len(set(done)) > 1 else 0.0
    return {
        "resident_mb_after_warm_up": round(begin, 1),
        "resident_mb_at_end": round(end, 1),
        "growth": round(end / begin - 1, 4),
        "slope_mb_per_1000": round(slope * 1000, 3),
    }
