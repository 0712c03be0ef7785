"""A short round of the erasure benchmark, with real processes that are really killed."""

import json

import pytest

from benchmarks.robustness.erasure import main

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1200)
def test_what_is_forgotten_is_gone_and_stays_gone_while_workers_die(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--databases", "secantus", "--photos", "3", "--kills", "2"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    assert (result["left"], result["revived"], result["neighbours_changed"]) == (0, 0, 0)
    (only,) = result["databases"].values()
    assert only["kills"] >= 4, "hardly anybody was killed, so little was shown"
    assert only["requests"] == 3
    assert only["faces_of_others"] > 0
    assert only["dead_letters"] == []
