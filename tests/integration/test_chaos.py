"""A short round of each workload of the chaos benchmark, on one database each; `make chaos` runs longer ones."""

import json
import subprocess
import sys
from typing import Any

import pytest

from local.stack import ROOT
from tests.servers import find_mongod_or_skip

ZERO = ("lost", "duplicated", "fence_violations", "orphans", "ungrouped")
REAL_ZERO = (*ZERO, "swapped", "revived", "misplaced")


def run_round(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "chaos", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["violations"] == []
    assert done.returncode == 0
    assert min(result["faults"], result["stops"], result["sigterms"]) > 0, "no storm, so nothing was shown"
    return result


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_photo_is_lost_swapped_or_revived_whatever_is_uploaded_while_workers_die() -> None:
    small = ["--messages", "60", "--kills", "3", "--seconds", "12", "--max-receives", "3", "--seed", "7", "--strict"]
    result = run_round("--workload", "real", *small, "--database", "secantus")
    assert dict.fromkeys(REAL_ZERO, 0) == {name: result[name] for name in REAL_ZERO}
    assert result["stored"] == result["files"] > 20
    assert min(result["faces"], result["words_left"], result["dead_lettered"]) > 0, "too little to show anything"
    assert result["kills"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_lost_or_done_twice_while_workers_die_and_networks_lie() -> None:
    find_mongod_or_skip()
    small = ["--messages", "24", "--kills", "3", "--seconds", "10", "--max-receives", "2", "--seed", "7", "--strict"]
    result = run_round("--workload", "simple", *small, "--database", "mongod")
    assert (result["stored"], result["dead_lettered"]) == (22, 2)
    assert dict.fromkeys(ZERO, 0) == {name: result[name] for name in ZERO}
    assert result["kills"] >= 3
