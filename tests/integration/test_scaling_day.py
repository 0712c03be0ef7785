"""The whole simulated day: what is built meets its goals, and the document shows what the command prints."""

import os
import subprocess
import sys

import pytest

from local.stack import ROOT


@pytest.mark.slow
def test_the_day_meets_its_goals_and_is_the_one_in_the_document() -> None:
    # In a process without coverage, which measures nothing in benchmarks and would double the time.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-m", "benchmarks", "scaling"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert done.stdout in (ROOT / "docs" / "autoscaling.md").read_text("utf-8")
