"""The fuzzer itself: it finds what it looks for; and a short run of it over the parser and the decoder."""

import json
import os
import signal
import time

import pytest

from benchmarks.robustness import fuzz as fuzzer
from benchmarks.robustness.fuzz import Case, fuzz, main
from benchmarks.robustness.fuzz_inputs import (
    PNG_START,
    correct_checksums,
    make_image_case,
    make_image_samples,
    make_message_case,
)
from benchmarks.robustness.fuzz_structures import make_structure_case
from tests import photos


def misbehave(case: Case, seed: int) -> str:
    """Stands for a decoder with four faults."""
    match case:
        case ("image", 1):
            os.kill(os.getpid(), signal.SIGSEGV)
        case ("image", 2):
            time.sleep(60)
        case ("image", 3):
            raise KeyError("surprise")
    return f"{case[0]} settled"


@pytest.mark.slow
def test_a_short_run_finds_no_crash_and_no_hang_and_settles_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--messages", "2000", "--images", "60", "--structures", "300"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["crashes"], result["hangs"], result["wrong_pictures"]) == (0, 0, 0)
    assert sum(result["outcomes"].values()) == 2360
    assert {"structure decoded", "structure rejected"} <= result["outcomes"].keys()
    assert {"message accepted", "message rejected", "image decoded", "image rejected"} <= result["outcomes"].keys()


@pytest.mark.slow
def test_native_crashes_hangs_and_surprises_are_counted_named_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    # The child that hangs only waits, so it is given up after this times IDLE_FACTOR.
    monkeypatch.setattr(fuzzer, "HANG_S", 0.3)
    tally = fuzz(3, 6, seed=0, settle=misbehave)
    assert (tally.crashes, tally.hangs) == (2, 1)
    assert tally.outcomes == {"message settled": 3, "image settled": 3, "crash": 2, "hang": 1}
    assert sorted(tally.findings) == [
        f"image 1: crash: the process ended with {-signal.SIGSEGV}",
        "image 2: hang",
        "image 3: crash: KeyError: 'surprise'",
    ]
    assert tally.slowest_s >= 1.0


@pytest.mark.slow
def test_a_finding_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fuzzer, "settle_case", misbehave)
    assert main(["--messages", "0", "--images", "2", "--structures", "0"]) == 1
    assert "image 1: crash" in capsys.readouterr().err


def test_a_case_is_the_same_each_time_and_another_for_another_seed() -> None:
    for make in (make_message_case, make_image_case):
        first = [make(7, number) for number in range(40)]
        assert [make(7, number) for number in range(40)] == first
        assert [make(8, number) for number in range(40)] != first


def test_another_picture_than_its_bytes_say_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    sound, changed = photos.png(), photos.png("L")
    assert fuzzer.settle_structure(sound, sound) == "structure decoded"
    assert fuzzer.settle_structure(sound, changed) == "structure decoded as another reader does"
    assert fuzzer.settle_structure(sound, sound[:60]) == "structure rejected"
    monkeypatch.setattr(fuzzer, "read_otherwise", lambda data: [])
    assert fuzzer.settle_structure(sound, changed).startswith("wrong picture")


def test_every_format_is_changed_and_a_case_is_the_same_each_time() -> None:
    cases = [make_structure_case(3, number) for number in range(60)]
    assert [make_structure_case(3, number) for number in range(60)] == cases
    assert len({sound[:4] for sound, _ in cases}) >= 5
    assert sum(sound != changed for sound, changed in cases) > 50


def test_every_sample_is_damaged_in_some_case() -> None:
    samples = make_image_samples()
    starts = {make_image_case(0, number)[:4] for number in range(400)}
    assert {sample[:4] for sample in samples} <= starts
    assert not {make_image_case(0, number) for number in range(200)} & set(samples)


def test_checksums_are_put_right_as_far_as_the_chunks_can_be_followed() -> None:
    png = next(sample for sample in make_image_samples() if sample.startswith(PNG_START))
    broken = bytearray(png)
    broken[29:33] = b"\0\0\0\0"
    assert correct_checksums(bytes(broken)) == png
    assert correct_checksums(png[:-3]) == png[:-3]
    assert correct_checksums(PNG_START) == PNG_START
