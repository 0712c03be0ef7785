import subprocess
import sys

import pytest

from app.core.kill_points import KillPoints

LOCAL = "http://127.0.0.1:4566"


def die(kill_at: str, endpoint: str | None, reached: str = "after-put") -> int:
    code = (
        "from app.core.kill_points import KillPoints\n"
        f"points = KillPoints({kill_at!r}, {endpoint!r})\n"
        f"for number in range(3): points.reach({reached!r}); print(number, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -9), done.stderr
    return len(done.stdout.split()) if done.returncode else -1


@pytest.mark.parametrize(("kill_at", "passed"), [("after-put", 0), ("after-put:1", 0), ("after-put:3", 2)])
def test_the_process_dies_where_it_was_asked_to(kill_at: str, passed: int) -> None:
    assert die(kill_at, LOCAL) == passed


def test_other_points_are_passed() -> None:
    assert die("after-put", LOCAL, reached="after-save") == -1


@pytest.mark.parametrize("endpoint", [None, "https://sqs.eu-west-1.amazonaws.com", "http://10.0.0.7:4566"])
def test_against_real_services_it_is_refused_loudly(endpoint: str | None, caplog: pytest.LogCaptureFixture) -> None:
    KillPoints("after-put", endpoint).reach("after-put")
    assert "CHAOS_KILL_AT is set and ignored" in caplog.text
    assert caplog.records[0].levelname == "ERROR"


@pytest.mark.parametrize("kill_at", ["nowhere", "after-put:soon"])
def test_an_unknown_point_is_named(kill_at: str, caplog: pytest.LogCaptureFixture) -> None:
    KillPoints(kill_at, LOCAL).reach("after-put")
    assert f"CHAOS_KILL_AT={kill_at} is ignored" in caplog.text
