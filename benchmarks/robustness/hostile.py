"""An album of ordinary photos and hostile files through the detection service, under a limit of memory. One JSON line.

`python -m benchmarks hostile [--ordinary 200] [--hostile 40] [--pack PACK] [--limit-mb 2000]`

`restarts` counts how often the service ended by itself, or was ended since its processes held more than the limit;
memory that they share counts once. `ordinary_done` counts photos that were analysed, `hostile_settled` files that are
stored as analysed or with the reason why not. `slowest_cpu_s` is the CPU time of the photo that took most: that of the
processes that decode, and the seconds of the other stages. The exit code is 1 where the service ended, a photo is
missing, the peak is above 80 % of the limit, or a photo took more than 20 s.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from app.config import PhotoSettings
from app.core.errors import WorkerError
from app.core.records import ImageStatus
from app.core.threads import BackgroundThread, repeat
from benchmarks.common.peak import measure_tree
from benchmarks.common.running import run_local_stores
from benchmarks.robustness.hostile_inputs import HOSTILE, write_hostile, write_ordinary
from local.album import Album
from local.stack import ROOT, LocalStack

SAMPLE_EVERY_S = 0.1
PATIENCE_S = 180.0
MOST_RESTARTS = 10
PEAK_SHARE = 0.8
MOST_CPU_S = 20.0
ANALYSED = (ImageStatus.INDEXED.value, ImageStatus.NO_FACES.value, ImageStatus.LOW_QUALITY.value)
DEFAULT_PACK = ROOT / "tests" / "packs" / "shared-insightface.toml"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ordinary", type=int, default=200, help="ordinary photos")
    parser.add_argument("--hostile", type=int, default=len(HOSTILE), help=f"hostile files, {len(HOSTILE)} at most")
    parser.add_argument("--pack", default=str(DEFAULT_PACK))
    parser.add_argument("--limit-mb", type=float, default=2000)
    options = parser.parse_args(arguments)
    try:
        result = measure(options.ordinary, min(options.hostile, len(HOSTILE)), options.pack, options.limit_mb)
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0 if is_sound(result) else 1


def is_sound(result: Mapping[str, Any]) -> bool:
    return bool(
        not result["restarts"]
        and result["ordinary_done"] == result["ordinary"]
        and result["hostile_settled"] == result["hostile"]
        and result["peak_mb"] <= PEAK_SHARE * result["limit_mb"]
        and result["slowest_cpu_s"] <= MOST_CPU_S
    )


def measure(ordinary: int, hostile: int, pack: str, limit_mb: float) -> dict[str, Any]:
    """Send everything at once and wait until all is stored, or nothing advances."""
    limit = round(limit_mb * 1e6)
    # As in a container with this limit.
    picture_bytes = PhotoSettings().choose_picture_bytes(limit)
    settings = {"MODEL_PACK": pack, "ACCEPT_RESEARCH_LICENCE": "true", "PICTURE_MEMORY_MB": str(picture_bytes // 10**6)}
    with tempfile.TemporaryDirectory() as folder, run_local_stores(settings) as stack:
        write_ordinary(Path(folder), ordinary)
        write_hostile(Path(folder), hostile)
        began = time.monotonic()
        with Album(Path(folder), stack.environment, "hostile") as album, ServiceUnderLimit(stack, limit) as service:
            album.send()
            records = _wait_for_records(len(album.photos), stack, service)
        seconds = time.monotonic() - began
        slowest, slowest_cpu_s = _find_slowest((stack.logs / "hostile.log").read_text("utf-8").splitlines())
    hostile_records = {name: status for name, status in records.items() if name.startswith("hostile_")}
    ordinary_records = {name: status for name, status in records.items() if name.startswith("ordinary_")}
    return {
        "ordinary": ordinary,
        "hostile": hostile,
        "restarts": service.restarts,
        "ordinary_done": sum(status in ANALYSED for status, _ in ordinary_records.values()),
        "hostile_settled": sum(status in ANALYSED or bool(reason) for status, reason in hostile_records.values()),
        "peak_mb": round(service.peak / 1e6, 1),
        "limit_mb": limit_mb,
        "slowest_cpu_s": round(slowest_cpu_s, 2),
        "slowest": slowest,
        "seconds": round(seconds, 1),
        "rejected_ordinary": {name: why for name, (status, why) in ordinary_records.items() if status not in ANALYSED},
        "reasons": {name.removeprefix("hostile_"): why or status for name, (status, why) in hostile_records.items()},
    }


class ServiceUnderLimit(BackgroundThread):
    """The detection service as a process, which is ended where its tree holds more than `limit` bytes, and started
    again whenever it has ended. `peak` is the largest sample."""

    def __init__(self, stack: LocalStack, limit: int) -> None:
        self.peak, self.restarts = 0, 0
        self._stack, self._limit = stack, limit
        self._process = self._start()
        super().__init__("memory of the service", repeat_sampling(self))

    def close(self) -> None:
        super().close()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def sample(self) -> None:
        if self._process.poll() is None:
            held = measure_tree(self._process.pid)
            self.peak = max(self.peak, held)
            if held <= self._limit:
                return
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self.restarts += 1
        if self.restarts <= MOST_RESTARTS:
            self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._stack.logs / "hostile.log").open("ab") as log:
            command = [sys.executable, str(ROOT / "run_detection_service.py")]
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._stack.environment, cwd=ROOT
            )


def repeat_sampling(service: ServiceUnderLimit) -> Any:  # noqa: ANN401 - a thread's work
    return lambda closing: repeat(closing, SAMPLE_EVERY_S, service.sample)


def _wait_for_records(photos: int, stack: LocalStack, service: ServiceUnderLimit) -> dict[str, tuple[str, str | None]]:
    """Image id → status and reason, once all are there or nothing has advanced for PATIENCE_S."""
    client: MongoClient[dict[str, Any]] = MongoClient(stack.environment["GALLERY_IMAGES_MONGO_URI"])
    with client:
        images = client.get_default_database("gallery_images")["images"]
        changed_at, count = time.monotonic(), 0
        while count < photos and service.restarts <= MOST_RESTARTS and time.monotonic() - changed_at < PATIENCE_S:
            time.sleep(0.5)
            if (now := images.count_documents({"gallery_id": "hostile"})) != count:
                changed_at, count = time.monotonic(), now
        return {image["image_id"]: (image["status"], image.get("reason")) for image in images.find()}


def _find_slowest(lines: Sequence[str]) -> tuple[str, float]:
    """The photo that took most CPU time, and the seconds."""
    slowest: tuple[float, str] = (0.0, "")
    for line in lines:
        with suppress(ValueError):
            entry = json.loads(line)
            if str(entry.get("message", "")).startswith("photo ") and "seconds" in entry:
                slowest = max(slowest, (_estimate_cpu_s(entry), entry["image"].rpartition("/")[2]))
    return slowest[1], slowest[0]


def _estimate_cpu_s(entry: Mapping[str, Any]) -> float:
    """CPU seconds of a photo by its log line. Stages in the service are counted by the clock, without their waits."""
    seconds, in_child = entry["seconds"], entry.get("decode_cpu_s", 0.0)
    here = sum(seconds.get(stage, 0.0) for stage in ("detect", "embed", "align", "prefilter", "quality"))
    decode = in_child or seconds.get("decode", 0.0)
    return float(decode + max(0.0, here - seconds.get("device_wait", 0.0)))


if __name__ == "__main__":
    sys.exit(main())
