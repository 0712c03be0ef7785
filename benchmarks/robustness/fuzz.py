"""Does hostile input ever crash or hang a worker? One line of JSON.

Random and mutated message bodies go through both parsers, and mutated image files through the decoder, in child
processes: a crash of native code, or a hang of over 5 s, ends that child and is counted. Every input must be accepted,
or refused with a reason. Of some pictures only the structure is changed: PNG's chunks, TIFF's tags, JPEG's markers,
WebP's chunks and HEIF's boxes. These must give the same pixels as before, or those that another reader sees in the
changed file, or be refused; all else is a wrong picture. Case N of a seed is the same on every machine; findings are
printed on standard error.

`python -m benchmarks fuzz [--messages 100000] [--images 5000] [--structures 5000] [--seed 0]`
"""

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np
import psutil

from app.core.errors import BadPhoto, RejectMessage, RetryLater
from app.core.messages import parse_detection, parse_grouping
from app.core.pictures import PhotoLimits
from app.vision.decode import decode
from benchmarks.robustness.fuzz_inputs import make_image_case, make_message_case
from benchmarks.robustness.fuzz_structures import make_structure_case, read_otherwise

HANG_S = 5.0
IDLE_FACTOR = 4
"""A child that uses no CPU time counts as hung after this many times HANG_S."""
START_TIMEOUT_S = 120.0
LIMITS = PhotoLimits()

Case = tuple[str, int]
"""Kind and number: ("message", 7)."""


@dataclass
class Tally:
    """`outcomes` counts the inputs by their outcome; `findings` has a line for each crash or hang.

    `slowest_s` is the most CPU time that one input took; for one that hung, the time that was waited.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    crashes: int = 0
    hangs: int = 0
    wrong_pictures: int = 0
    slowest_s: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--structures", type=int, default=5_000, help="pictures whose structure alone is changed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    tally = fuzz(options.messages, options.images, options.seed, structures=options.structures)
    for finding in tally.findings:
        print(finding, file=sys.stderr)
    result = {
        "messages": options.messages,
        "images": options.images,
        "structures": options.structures,
        "crashes": tally.crashes,
        "hangs": tally.hangs,
        "wrong_pictures": tally.wrong_pictures,
        "slowest_s": round(tally.slowest_s, 3),
        "outcomes": dict(sorted(tally.outcomes.items())),
    }
    print(json.dumps(result))
    return 1 if tally.crashes or tally.hangs or tally.wrong_pictures else 0


def fuzz(
    messages: int, images: int, seed: int, settle: Callable[[Case, int], str] | None = None, structures: int = 0
) -> Tally:
    """Run `settle` (tests have their own) on all cases, in as many children as there are cores."""
    # Several threads may take items from the iterator of a list.
    counts = {"message": messages, "image": images, "structure": structures}
    cases: Iterator[Case] = iter([(kind, number) for kind, count in counts.items() for number in range(count)])
    tally, lock = Tally(), threading.Lock()

    def work() -> None:
        with Child(settle or settle_case, seed) as child:
            for case in cases:
                outcome, seconds = child.ask(case)
                with lock:
                    _count(tally, case, outcome, seconds)

    threads = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if tally.outcomes.total() != sum(counts.values()):
        raise RuntimeError("a thread of the fuzzer died; see its traceback above")
    return tally


def settle_case(case: Case, seed: int) -> str:
    """The outcome of one input. Raises what a worker would not have expected."""
    kind, number = case
    if kind == "image":
        return f"image {settle_image(make_image_case(seed, number))}"
    if kind == "structure":
        return settle_structure(*make_structure_case(seed, number))
    return f"message {settle_message(make_message_case(seed, number))}"


def settle_message(body: str) -> str:
    accepted = 0
    for parse in (_parse_work, parse_grouping):
        try:
            parse(body)
        except RejectMessage as error:
            _require_reason(error)
            continue
        accepted += 1
    return "accepted" if accepted else "rejected"


def _parse_work(body: str) -> None:
    """Each part of a message that is refused goes to the dead letters as a message of its own, and is refused again."""
    for letter in parse_detection(body, "photos").letters:
        again = parse_detection(letter.body, "photos")
        if again.requests or not again.letters:
            raise AssertionError(f"A refused part was accepted: {letter.body[:200]}")


def settle_image(data: bytes) -> str:
    try:
        image = decode(data, LIMITS)
    except (BadPhoto, RetryLater) as error:
        _require_reason(error)
        return "rejected" if isinstance(error, BadPhoto) else "put back"
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise TypeError(f"decoded to {image.dtype} {image.shape}")
    return "decoded"


def settle_structure(sound: bytes, changed: bytes) -> str:
    """`changed` is `sound` with another structure. A different picture is a finding, unless its bytes do say so."""
    try:
        pixels = decode(changed, LIMITS)
    except (BadPhoto, RetryLater) as error:
        _require_reason(error)
        return "structure rejected"
    if np.array_equal(pixels, decode(sound, LIMITS)):
        return "structure decoded"
    others = [other for other in read_otherwise(changed) if other.shape == pixels.shape]
    if any(np.abs(pixels.astype(int) - other).max() <= 1 for other in others):
        return "structure decoded as another reader does"
    return f"wrong picture: {changed[:4]!r}"


def _require_reason(error: Exception) -> None:
    if not str(error).strip():
        raise ValueError(f"{type(error).__name__} has no reason")


class Child:
    """A process that settles cases. It is replaced by a new one when it crashes or hangs."""

    def __init__(self, settle: Callable[[Case, int], str], seed: int) -> None:
        self._settle = settle
        self._seed = seed
        self._start()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, case: Case) -> tuple[str, float]:
        """The case's outcome (or `crash: …` or `hang`), and the seconds that it took."""
        begin = time.monotonic()
        try:
            if self._has_answer(case):
                outcome, seconds = self._pipe.recv()
                return str(outcome), float(seconds)
            outcome = "hang"
        except (EOFError, OSError):
            self._process.join()
            outcome = f"crash: the process ended with {self._process.exitcode}"
        self._end()
        self._start()
        return outcome, time.monotonic() - begin

    def _has_answer(self, case: Case) -> bool:
        """Whether the child answers. Large pictures take long on a busy machine, so its CPU time counts, too."""
        begin_s, until = self._measure_cpu_s(), time.monotonic() + HANG_S * IDLE_FACTOR
        self._pipe.send(case)
        answered = self._pipe.poll(HANG_S)
        while not answered and self._measure_cpu_s() - begin_s < HANG_S and time.monotonic() < until:
            answered = self._pipe.poll(HANG_S / 10)
        return answered

    def _measure_cpu_s(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)

    def _start(self) -> None:
        # Spawned, not forked: a child must not inherit what another thread has half done.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._settle, self._seed), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_TIMEOUT_S) or self._pipe.recv() != "ready":
            raise RuntimeError("a child of the fuzzer does not start")

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, settle: Callable[[Case, int], str], seed: int) -> None:
    warnings.simplefilter("ignore")
    # Decoders print warnings about such files to standard error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send("ready")
    while True:
        try:
            case: Case = pipe.recv()
        except EOFError:
            return
        begin = time.process_time()
        try:
            outcome = settle(case, seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            outcome = f"crash: {type(error).__name__}: {error!s:.200}"
        pipe.send((outcome, time.process_time() - begin))


def _count(tally: Tally, case: Case, outcome: str, seconds: float) -> None:
    kind = outcome.partition(":")[0]
    tally.slowest_s = max(tally.slowest_s, seconds)
    tally.crashes += kind == "crash"
    tally.hangs += kind == "hang"
    tally.wrong_pictures += kind == "wrong picture"
    tally.outcomes[kind] += 1
    if kind in ("crash", "hang", "wrong picture"):
        tally.findings.append(f"{case[0]} {case[1]}: {outcome}")


if __name__ == "__main__":
    sys.exit(main())
