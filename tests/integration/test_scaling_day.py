"""The whole simulated day: what is built meets its goals, and the document shows what the command prints."""

from pathlib import Path

import pytest

from benchmarks.scaling.__main__ import main

DOCS = Path(__file__).parents[2] / "docs"


def test_the_day_meets_its_goals_and_is_the_one_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out in (DOCS / "autoscaling.md").read_text("utf-8")
