"""A short version of the load test: what is sent is done once, by two processes of the real service."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.chaos.world import World
from benchmarks.speed import load

MESSAGES = 200


@pytest.fixture(autouse=True)
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A child of this process that is no store, started after the stores, as servers of other tests may be."""
    put_photos, strangers = load.put_photos, list[subprocess.Popen[bytes]]()

    def put(world: World, messages: int) -> None:
        strangers.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        put_photos(world, messages)

    monkeypatch.setattr(load, "put_photos", put)
    yield
    for child in strangers:
        child.kill()
        child.wait()


@pytest.mark.slow
def test_every_message_of_a_load_is_done_once_by_processes_that_end_well() -> None:
    result = load.measure(MESSAGES, workers=2)
    assert load.is_sound(result), result
    assert result["messages_per_s"] > 1
    shares = [result[f"{part}_share"] for part in ("workers", "sqs", "s3", "mongodb", "sender")]
    assert abs(sum(shares) - 1) < 0.01
    assert min(shares[:3]) > 0.02, "each part has its own processes, and none is overlooked"
    assert result["resident_mb_at_end"] > 50
