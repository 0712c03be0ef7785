"""A short version of the load test: what is sent is done once, by two processes of the real service."""

import pytest

from benchmarks.speed.load import is_sound, measure

MESSAGES = 200


@pytest.mark.slow
def test_every_message_of_a_load_is_done_once_by_processes_that_end_well() -> None:
    result = measure(MESSAGES, workers=2)
    assert is_sound(result), result
    assert result["messages_per_s"] > 1
    shares = [result[f"{part}_share"] for part in ("workers", "sqs_and_s3", "mongodb", "sender")]
    assert abs(sum(shares) - 1) < 0.01
    assert min(shares[:3]) > 0.02, "each part has its own processes, and none is overlooked"
    assert result["resident_mb_at_end"] > 50
