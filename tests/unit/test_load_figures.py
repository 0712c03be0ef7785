import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.speed.load import is_sound
from benchmarks.speed.load_consumer import measure_consumer_alone
from benchmarks.speed.load_ledger import Ledger
from benchmarks.speed.load_processes import PARTS, Sample, compute_growth, compute_pace
from benchmarks.speed.load_profile import count_stages, divide_cpu

SOUND = {"messages": 20_000, "lost": 0, "done_twice": 0, "received_again": 0, "put_back": 0, "growth": 0.01}


def samples(mb_at_start: float, mb_a_sample: float, warm_up_mb: float = 0.0) -> list[Sample]:
    """A look at every 100 of 10,000 messages, one a second; memory is `warm_up_mb` lower in the first tenth."""
    return [
        Sample(
            at_s=float(number),
            done=100 * number,
            cpu_s={part: number * share for part, share in zip(PARTS, (0.5, 0.15, 0.1, 0.2, 0.05), strict=True)},
            resident_bytes=(round((mb_at_start + mb_a_sample * number - (number < 10) * warm_up_mb) * 1e6),) * 2,
        )
        for number in range(101)
    ]


def test_memory_that_comes_with_the_warm_up_is_no_growth() -> None:
    found = compute_growth(samples(200, 0, warm_up_mb=100))
    assert found["growth"] == 0
    assert found["resident_mb_after_warm_up"] == found["resident_mb_at_end"] == 200


def test_memory_that_goes_on_growing_is_found_with_its_slope() -> None:
    found = compute_growth(samples(200, 1.0))
    assert round(found["slope_mb_per_1000"], 3) == 10
    assert found["growth"] > 0.2
    assert not is_sound({**SOUND, **found})
    assert is_sound({**SOUND, **found, "messages": 300}), "a short run has not warmed up"


def test_pace_and_shares_come_from_the_clock_and_from_cpu_time() -> None:
    found = compute_pace(samples(200, 0), workers=2)
    assert (found["messages_per_s"], found["messages_per_s_a_worker"]) == (100, 50)
    assert (found["worker_cpu_ms_a_message"], found["ceiling_per_s"]) == (5, 200)
    assert (found["workers_share"], found["mongodb_share"], found["cores_busy"]) == (0.5, 0.2, 1)


def test_any_message_lost_or_done_twice_is_unsound() -> None:
    assert is_sound(SOUND)
    for name in ("lost", "done_twice", "received_again"):
        assert not is_sound({**SOUND, name: 1})
    assert is_sound({**SOUND, "received_again": 1, "put_back": 1})


def test_the_consumer_alone_settles_every_message_and_tells_its_pace() -> None:
    assert measure_consumer_alone(500, threads=4, batch_size=8) > 100


def test_a_stack_counts_for_the_innermost_stage_that_it_names() -> None:
    lines = [
        "run (app/worker/consumer.py:1);save (app/adapters/mongo_photos.py:9);encode (bson/__init__.py:2) 3",
        "run (app/worker/consumer.py:1);report (app/telemetry/emf.py:4) 2",
        "run (app/worker/consumer.py:1);wait (threading.py:3) 1",
    ]
    assert count_stages(lines) == {"MongoDB": 3, "telemetry": 2, "other": 1}


def test_what_no_stage_has_is_other_and_all_adds_up() -> None:
    assert divide_cpu({"S3": 0.6, "decode": 0.2}, 10.0, 100) == {"all": 10.0, "S3": 6.0, "decode": 2.0, "other": 2.0}


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_stage_has_what_its_functions_compute_without_other_stages_and_without_waiting(tmp_path: Path) -> None:
    ledger = Ledger()
    inner = ledger.wrap("S3", lambda: spin(0.1))

    def work() -> None:
        spin(0.1)
        inner()
        time.sleep(0.3)
        spin(0.05)

    ledger.wrap("encode", work)()
    spin(0.1)
    ledger.write(tmp_path / "ledger.json")
    until = time.monotonic() + 10
    while not (tmp_path / "ledger.json").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    spent = json.loads((tmp_path / "ledger.json").read_text())
    assert spent == {"encode": pytest.approx(0.15, abs=0.04), "S3": pytest.approx(0.1, abs=0.04)}


def test_what_a_context_computes_as_it_is_entered_and_left_counts_and_its_body_does_not() -> None:
    ledger = Ledger()

    @contextmanager
    def hold() -> Iterator[int]:
        spin(0.1)
        yield 7
        spin(0.1)

    with ledger.wrap("S3", hold)() as number:
        spin(0.3)
    assert number == 7
    assert ledger._spent["S3"] == pytest.approx(0.2, abs=0.05)
