"""The submitter's tick against a Batch whose jobs are in every state, and its settings."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from batch_submitter.decision import Limits
from batch_submitter.handler import make_job_name, run_tick
from batch_submitter.settings import Settings

PAGE = 2
NOW = "workers-20300101T0001Z"
ENVIRONMENT = {
    "QUEUE_URL": "https://sqs/1/photos",
    "JOB_QUEUE": "spot",
    "JOB_DEFINITION": "workers:7",
    "JOB_NAME": "workers",
    "MESSAGES_PER_JOB": "1000",
    "MAX_JOBS": "10",
    "TRAFFIC_SHARE": "100",
}


@dataclass
class FakeSqs:
    visible: int

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        return {"Attributes": {name: str(self.visible) for name in AttributeNames}}


@dataclass
class FakeBatch:
    """Lists as AWS Batch does: pages, RUNNING where no status is asked for, an array as one row that has its size."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, status: str, children: list[str] | None = None) -> None:
        """A job, or an array with the states of its `children`; one that was submitted just now has none yet."""
        job_id = f"job-{len(self.jobs)}"
        array = {} if children is None else {"arrayProperties": {"size": len(children)}}
        self.jobs[job_id] = {"jobId": job_id, "jobName": name, "status": status, **array}
        self.children[job_id] = [] if status == "SUBMITTED" or children is None else children

    def get_paginator(self, operation: str) -> "FakeBatch":
        assert operation == "list_jobs"
        return self

    def paginate(self, **question: Any) -> Iterator[Mapping[str, Any]]:
        rows = list(self._rows(**question))
        for begin in range(0, max(1, len(rows)), PAGE):
            yield {"jobSummaryList": rows[begin : begin + PAGE]}

    def _rows(
        self,
        jobQueue: str | None = None,
        arrayJobId: str | None = None,
        jobStatus: str = "RUNNING",
        filters: list[dict[str, Any]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        assert (jobQueue is None) != (arrayJobId is None)
        if arrayJobId:
            for index, status in enumerate(self.children[arrayJobId]):
                if status == jobStatus:
                    row = {"jobId": f"{arrayJobId}:{index}", "jobName": self.jobs[arrayJobId]["jobName"]}
                    yield {**row, "status": status, "arrayProperties": {"index": index}}
            return
        for job in self.jobs.values():
            if (job["jobName"] in filters[0]["values"]) if filters else (job["status"] == jobStatus):
                yield job

    def submit_job(self, **job: Any) -> dict[str, Any]:
        self.submitted.append(job)
        size = job.get("arrayProperties", {}).get("size")
        self.add(job["jobName"], "SUBMITTED", size and ["PENDING"] * size)
        return {"jobId": list(self.jobs)[-1], "jobName": job["jobName"]}


@pytest.fixture
def batch() -> FakeBatch:
    return FakeBatch()


def run(batch: FakeBatch, visible: int, name: str = NOW) -> dict[str, Any]:
    return run_tick(Settings.read(ENVIRONMENT), name, FakeSqs(visible), batch)


def test_several_jobs_are_one_array(batch: FakeBatch) -> None:
    run(batch, visible=2_500)
    assert batch.submitted == [
        {"jobName": NOW, "jobQueue": "spot", "jobDefinition": "workers:7", "arrayProperties": {"size": 3}}
    ]


def test_one_job_is_no_array(batch: FakeBatch) -> None:
    run(batch, visible=3)
    assert batch.submitted == [{"jobName": NOW, "jobQueue": "spot", "jobDefinition": "workers:7"}]


def test_an_empty_queue_submits_nothing(batch: FakeBatch) -> None:
    assert run(batch, visible=0)["submitted"] == 0
    assert not batch.submitted


@pytest.mark.parametrize("status", ["SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING"])
def test_a_job_that_has_not_ended_is_active(batch: FakeBatch, status: str) -> None:
    batch.add("workers-before", status)
    assert run(batch, visible=1_000)["submitted"] == 0


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED"])
def test_a_job_that_has_ended_is_not(batch: FakeBatch, status: str) -> None:
    batch.add("workers-before", status)
    assert run(batch, visible=1_000)["submitted"] == 1


def test_of_an_array_the_children_that_have_not_ended_are_active(batch: FakeBatch) -> None:
    batch.add("workers-before", "PENDING", ["SUCCEEDED", "FAILED", "RUNNING", "RUNNABLE", "SUCCEEDED"])
    result = run(batch, visible=5_000)
    assert (result["active"], result["submitted"]) == (2, 3)


def test_an_array_without_children_yet_is_active_in_full(batch: FakeBatch) -> None:
    batch.add("workers-before", "SUBMITTED", ["PENDING"] * 5)
    assert run(batch, visible=5_000)["submitted"] == 0


def test_every_page_is_read(batch: FakeBatch) -> None:
    for number in range(3 * PAGE + 1):
        batch.add(f"workers-{number}", "RUNNABLE")
    assert run(batch, visible=100_000)["active"] == 3 * PAGE + 1


def test_jobs_of_another_service_in_the_same_queue_are_not_counted(batch: FakeBatch) -> None:
    batch.add("workers2-before", "RUNNING")
    batch.add("others-before", "RUNNING")
    assert run(batch, visible=1_000)["submitted"] == 1


def test_the_same_tick_again_submits_nothing_though_its_jobs_have_ended(batch: FakeBatch) -> None:
    batch.add(NOW, "SUCCEEDED", ["SUCCEEDED"] * 3)
    result = run(batch, visible=3_000)
    assert (result["submitted"], result["reason"]) == (0, "this tick has submitted its jobs before")


def test_ticks_while_a_backlog_lasts_do_not_pile_up_jobs(batch: FakeBatch) -> None:
    submitted = [run(batch, visible=3_500, name=f"workers-{minute}")["submitted"] for minute in range(60)]
    assert sum(submitted) == submitted[0] == 4


def test_the_counts_and_the_decision_are_one_line_of_json(batch: FakeBatch, capsys: pytest.CaptureFixture[str]) -> None:
    batch.add("workers-before", "RUNNING")
    run(batch, visible=2_500)
    line = json.loads(capsys.readouterr().out)
    seen = {name: line[name] for name in ("visible", "active", "wanted", "submitted", "job_name", "traffic_share")}
    assert seen == {
        "visible": 2_500, "active": 1, "wanted": 3, "submitted": 2, "job_name": NOW, "traffic_share": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("time", "name"),
    [
        ("2030-12-31T23:59:30Z", "workers-20301231T2359Z"),
        ("2031-01-01T01:59:59+02:00", "workers-20301231T2359Z"),
    ],
)
def test_a_name_is_the_minute_that_the_tick_was_scheduled_for(time: str, name: str) -> None:
    assert make_job_name("workers", {"time": time}) == name


def test_an_invocation_by_hand_is_named_by_the_clock() -> None:
    assert len(make_job_name("workers", {})) == len("workers-20301231T2359Z")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("QUEUE_URL", "", "QUEUE_URL is not set"),
        ("MAX_JOBS", "many", "MAX_JOBS must be a whole number, not 'many'"),
        ("TRAFFIC_SHARE", "101", "TRAFFIC_SHARE must be a percentage from 0 to 100, not 101"),
        ("JOB_NAME", "face worker", "JOB_NAME must be at most 100 letters"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Settings.read({**ENVIRONMENT, name: value})


def test_settings_are_read() -> None:
    assert Settings.read(ENVIRONMENT).limits == Limits(1_000, 10, 100)
