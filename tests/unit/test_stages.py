"""The one table of stages, and all that must agree with it."""

import re

import pytest

from app.core.stages import Stage
from app.telemetry.catalogue import STAGE_METRICS
from local.stack import ROOT

MONITORING = ROOT / "infra" / "terraform" / "modules" / "monitoring"


def test_every_metric_of_a_stage_is_one_of_the_catalogue() -> None:
    assert {stage for stage in Stage if stage.metric} == STAGE_METRICS.keys()
    assert all(stage.meaning in STAGE_METRICS[stage].meaning for stage in STAGE_METRICS)


def test_the_dashboard_shows_the_photo_and_its_stages() -> None:
    text = (MONITORING / "dashboard_work.tf").read_text("utf-8")
    lists = [re.findall(r'"([A-Za-z]+Seconds)"', line) for line in text.splitlines() if '"FetchSeconds"' in line]
    assert lists
    for shown in lists:
        assert set(shown) == {"PhotoSeconds", *(stage.metric for stage in Stage if stage.metric)}


def test_the_saved_queries_name_stages_that_are_logged() -> None:
    text = (MONITORING / "queries.tf").read_text("utf-8")
    named = set(re.findall(r"seconds\.([a-z_]+)", text))
    assert named
    assert named <= {stage.label for stage in Stage}


@pytest.mark.parametrize("stage", Stage)
def test_the_operators_page_names_every_stage(stage: Stage) -> None:
    assert f"`{stage.label}`" in (ROOT / "docs" / "operations.md").read_text("utf-8")
