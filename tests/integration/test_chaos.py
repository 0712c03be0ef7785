"""A short round of the chaos benchmark; `make chaos` and CI run longer ones."""

import json
import subprocess
import sys

import pytest

from local.database import DATABASE_NAMES, DatabaseName
from local.stack import ROOT
from tests.servers import find_mongod_or_skip


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", DATABASE_NAMES)
def test_nothing_is_lost_or_done_twice_while_workers_die_and_networks_lie(database: DatabaseName) -> None:
    if database == "mongod":
        find_mongod_or_skip()
    small = ["--messages", "24", "--kills", "3", "--seconds", "10", "--max-receives", "2", "--seed", "7", "--strict"]
    command = [sys.executable, "-m", "benchmarks", "chaos", *small, "--database", database]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["violations"] == []
    assert result["database"] == database
    assert done.returncode == 0
    assert (result["stored"], result["dead_lettered"]) == (22, 2)
    assert (result["lost"], result["duplicated"], result["fence_violations"], result["orphans"]) == (0, 0, 0, 0)
    assert result["kills"] >= 3
    assert min(result["faults"], result["stops"], result["sigterms"]) > 0, "no storm, so nothing was shown"
