"""The cost of telemetry a photo: off, metrics, traces at the default share, and both, in turns in one process.

`python -m benchmarks telemetry [--messages 5000] [--photos 40] [--photo-ms 60] [--rounds 5] [--json]`

The consumer, its leases and deletions, the log lines, and all reports about a photo with three faces (stages, counts
and quality) are the service's own. The queue is in memory, metrics go to /dev/null and to Prometheus's registry, and
traces to a collector in another process. First a photo takes no time, so that the microseconds of CPU that telemetry
adds to a message can be measured. Then it uses `--photo-ms` of CPU, and throughput is measured in photos per second of
CPU, because other programs use the machine, too. A photo of the service takes 60 to 200 ms (docs/benchmarks.md). The
exit code is 1 where both together cost more than 1 % of `--photo-ms`.
"""

import argparse
import contextlib
import multiprocessing
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.config import Settings, load_settings
from app.core.errors import Letter
from app.core.ports import Progress, ReceivedMessage
from app.core.records import FaceRecord, ImageRecord, ImageStatus, PhotoRef, PhotoResult
from app.core.stages import Stage
from app.detection.stage_times import StageTimes, report_metrics
from app.health import Health
from app.telemetry.interface import Telemetry
from app.telemetry.logs import Logging
from app.telemetry.opening import open_telemetry
from app.worker.consumer import Consumer, ConsumerContext, ConsumerOptions, log
from app.worker.message_report import MessageReport
from app.worker.shutdown import Shutdown
from benchmarks.common.command import print_result
from local.ports import find_free_port

FACES = 3
THREADS = 2
MOST_SHARE = 0.01
STAGES = [stage for stage in Stage if stage is not Stage.DEVICE_WAIT]
MODES: Mapping[str, tuple[bool, bool]] = {
    "off": (False, False),
    "control": (False, False),
    "metrics": (True, False),
    "traces": (False, True),
    "both": (True, True),
}
"""Name → whether there are metrics, and traces. The control is off as well: its apparent cost is the noise."""

Round = Callable[[int, float], float]
"""Number of messages, seconds of CPU of a photo → seconds of CPU a message."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks telemetry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--messages", type=int, default=5_000, help="a round, of photos that cost nothing (5000)")
    parser.add_argument("--photos", type=int, default=40, help="a round, of photos that cost --photo-ms (40)")
    parser.add_argument("--photo-ms", type=float, default=60, help="milliseconds of CPU of a photo (60)")
    parser.add_argument("--rounds", type=int, default=5, help="of each mode, in turns (5)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    result = print_result(lambda: measure(options), as_json=options.json)
    return 0 if result and result["both_share_of_photo"] <= MOST_SHARE else 1


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds that each mode adds to a message, as shares of a photo, and the ratio of throughputs.

    `off_us` is the cost of the calls where telemetry is off, `message_us` the consumer's whole time for a message.
    """
    photo_s = options.photo_ms / 1000
    with _run_collector() as endpoint, _open_rounds(endpoint) as rounds:
        free = _run_in_turns(rounds, options.messages, 0.0, options.rounds)
        busy = _run_in_turns(rounds, options.photos, photo_s, options.rounds)
    result = {"message_us": round(median(free["off"]) * 1e6, 1), "off_us": round(_measure_cost_of_silence() * 1e6, 1)}
    for mode in list(MODES)[1:]:
        added_s = median(on - off for on, off in zip(free[mode], free["off"], strict=True))
        ratio = median(off / on for on, off in zip(busy[mode], busy["off"], strict=True))
        result |= {
            f"{mode}_added_us": round(added_s * 1e6, 1),
            f"{mode}_share_of_photo": round(added_s / photo_s, 6),
            f"{mode}_throughput_ratio": round(ratio, 4),
        }
    return {**result, "photo_ms": options.photo_ms, "rounds": options.rounds}


@contextlib.contextmanager
def _open_rounds(endpoint: str) -> Iterator[dict[str, Round]]:
    """Mode → a function that runs a round. All are opened at the same time, so that everything that a service does once
    is done before the measurement."""
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        logs = stack.enter_context(Logging("detection", _make_settings("off", endpoint).telemetry, lambda: None))
        opened = {mode: stack.enter_context(open_telemetry(_make_settings(mode, endpoint))) for mode in MODES}
        yield {mode: partial(_run_round, telemetry, logs) for mode, telemetry in opened.items()}


def _measure_cost_of_silence(times: int = 20_000) -> float:
    """Seconds of the reports about a message and its photo where telemetry is off."""
    message, silent, stages = ReceivedMessage("1", "{}", "1", 1, time.time()), Telemetry(), StageTimes()
    begin = time.thread_time()
    for _ in range(times):
        story = MessageReport(message, 0.0, silent)
        with story.activate():
            silent.tracer.note(image="g/i")
            for stage in STAGES:
                with silent.tracer.stage(stage.label):
                    pass
            report_metrics(RESULT, stages, silent.metrics, kind=None, has_twin=False)
            silent.tracer.traceparent()
        story.end_as("done")
    return (time.thread_time() - begin) / times


def _run_in_turns(rounds: Mapping[str, Round], messages: int, photo_s: float, times: int) -> dict[str, list[float]]:
    """Mode → seconds of CPU a message of each round. The first round is a warm-up and doesn't count."""
    names = list(rounds)
    seconds: dict[str, list[float]] = {mode: [] for mode in names}
    for number in range(times + 1):
        # Another mode is first in each round.
        turn = number % len(names)
        for mode in names[turn:] + names[:turn]:
            took_s = rounds[mode](messages if number else min(messages, 500), photo_s)
            if number:
                seconds[mode].append(took_s)
    return seconds


def _run_round(telemetry: Telemetry, logs: Logging, messages: int, photo_s: float) -> float:
    """Seconds of CPU a message, of all threads of this process, also those that write and send telemetry."""
    logs.trace_id = telemetry.tracer.trace_id
    handler = partial(_handle, telemetry=telemetry, photo_s=photo_s)
    options = ConsumerOptions(THREADS, 24, 120, 0, 80, 300, empty_polls=1)
    around = ConsumerContext(Health(None), telemetry=telemetry)
    consumer = Consumer(MemoryQueue(messages), handler, options, Shutdown(), around)
    begin = time.process_time()
    consumer.run()
    return (time.process_time() - begin) / messages


def _handle(_body: str, *, progress: Progress, telemetry: Telemetry, photo_s: float, is_last: bool) -> None:
    """Report a photo as the detection service's `handle` does, in the same order."""
    telemetry.tracer.note(image=PHOTO.document_id)
    times = StageTimes(progress, telemetry.tracer)
    for stage in STAGES:
        with times.stage(stage):
            _work(photo_s / len(STAGES))
    times.add(Stage.DEVICE_WAIT, 0.01)
    report_metrics(RESULT, times, telemetry.metrics, kind=None, has_twin=False)
    log.info("photo indexed", extra={"image": PHOTO.document_id, "faces": FACES, "seconds": times.seconds})
    telemetry.tracer.traceparent()


def _work(seconds: float) -> None:
    """Use so many CPU seconds in this thread, mostly without Python's global lock, as decoding and inference do."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        np.linalg.norm(PIXELS @ PIXELS)


class MemoryQueue:
    """A queue of messages in memory."""

    max_receives: int | None = None

    def __init__(self, messages: int) -> None:
        sent_at = time.time()
        self._waiting = deque(ReceivedMessage(str(n), "{}", str(n), 1, sent_at) for n in range(messages))

    def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]:
        if not self._waiting:
            time.sleep(0.05)
        return [self._waiting.popleft() for _ in range(min(10, max_messages, len(self._waiting)))]

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None: ...

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        return []

    def hide(self, message: ReceivedMessage, for_s: float) -> None: ...

    def reject(self, message: ReceivedMessage, letters: Sequence[Letter]) -> None: ...


def _make_settings(mode: str, endpoint: str) -> Settings:
    has_metrics, has_traces = MODES[mode]
    return load_settings(
        service_type="detection",
        aws_default_region="eu-central-1",
        queue_url="http://queue",
        group_face_queue_url="http://queue",
        bucket_name="photos",
        face_group_bucket_name="results",
        gallery_images_mongo_uri="mongodb://nowhere",
        huemn_mongo_uri="mongodb://nowhere",
        log_group=None,
        metrics="emf,prometheus" if has_metrics else "",
        prometheus_port=find_free_port(),
        traces_endpoint=endpoint if has_traces else None,
    )


@contextlib.contextmanager
def _run_collector() -> Iterator[str]:
    """Yields the URL of a process that receives traces and discards them."""
    port = find_free_port()
    process = multiprocessing.get_context("spawn").Process(target=_collect, args=(port,), daemon=True)
    process.start()
    try:
        _await(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.join()


def _collect(port: int) -> None:
    HTTPServer(("127.0.0.1", port), _Forgetful).serve_forever()


class _Forgetful(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...  # noqa: ANN401


def _await(connect: Callable[[], None]) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            connect()
            return
        time.sleep(0.05)
    raise RuntimeError("The collector's process did not answer within 10 s.")


def _make_face(index: int) -> FaceRecord:
    box, landmarks = np.zeros(4, np.float32), np.zeros((5, 2), np.float32)
    embedding = np.zeros(512, np.float32)
    return FaceRecord(str(index), "g", "i", "m", box, landmarks, 0.9, {"unified": 55.0 + index}, embedding, "crop")


PHOTO = PhotoRef("g", "i", "photos", "g/i.jpg")
RESULT = PhotoResult(
    ImageRecord(PHOTO, ImageStatus.INDEXED, face_count=FACES), [_make_face(index) for index in range(FACES)]
)
PIXELS = np.ones((96, 96), np.float32)

if __name__ == "__main__":
    sys.exit(main())
