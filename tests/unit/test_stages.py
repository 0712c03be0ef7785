"""The one table of stages, and all that must agree with it."""

import re

import pytest

from app.core.stages import Stage
from app.telemetry.catalogue import STAGE_METRICS, Metric
from local.stack import ROOT

MONITORING = ROOT / "infra" / "terraform" / "modules" / "monitoring"


def test_every_metric_of_a_stage_is_one_of_the_catalogue() -> None:
    assert {stage for stage in Stage if stage.metric} == STAGE_METRICS.keys()
    assert all(stage.meaning in STAGE_METRICS[stage].meaning for stage in STAGE_METRICS)


def test_the_dashboard_shows_the_photo_and_its_stages() -> None:
    text = (MONITORING / "dashboard_work.tf").read_text("utf-8")
    listed = text.partition("photo_seconds = [")[2].partition("]")[0]
    shown = re.findall(r'"([A-Za-z]+)"', listed)
    assert shown == ["PhotoSeconds", *(stage.metric for stage in Stage if stage.metric)]


def test_the_saved_queries_name_stages_that_are_logged() -> None:
    text = (MONITORING / "queries.tf").read_text("utf-8")
    named = set(re.findall(r"seconds\.([a-z_]+)", text))
    assert named
    assert named <= {stage.label for stage in Stage}


@pytest.mark.parametrize("stage", Stage)
def test_the_operators_page_names_every_stage(stage: Stage) -> None:
    assert f"`{stage.label}`" in (ROOT / "docs" / "operations.md").read_text("utf-8")


def test_the_pages_say_how_many_metrics_cloudwatch_charges_for() -> None:
    of = {service: sum(one.where in (service, "all") for one in Metric) for service in ("detection", "grouping")}
    both, operations = sum(of.values()), (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert f"{of['detection']} of detection and {of['grouping']} of grouping" in operations
    # Once by service, and once more for each place that they run in.
    assert f"so {2 * both} on ECS or Batch alone and {3 * both} on both" in operations
    telemetry = " ".join((ROOT / "docs" / "telemetry.md").read_text("utf-8").split())
    assert f"at most {2 * of['detection']} for detection and {2 * of['grouping']} for grouping" in telemetry
