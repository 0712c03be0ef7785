"""The jobs of one worker in a Batch job queue: how many are active, and submitting more."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# boto3 makes its clients at run time, so they have no static types.
AwsClient = Any

ACTIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")
"""In the order in which a job goes through them, so that a job that moves on while they are listed is not missed."""
ENDED = ("SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Jobs:
    """The jobs in `queue` whose names begin with `name`. Botocore's errors are not translated."""

    batch: AwsClient
    queue: str
    name: str

    def count_active(self) -> int:
        """The number of jobs that run or will run, each child of an array counted.

        An array is one row of the queue, and PENDING until its last child has ended, so its size is the number of all
        its children. The children of an array that was submitted a moment ago do not exist yet. So the children that
        have ended are subtracted, instead of counting those that run.
        """
        rows = {row["jobId"]: row for status in ACTIVE for row in self._list_own(jobStatus=status)}
        return sum(self._count_unfinished(row) for row in rows.values())

    def was_submitted(self, job_name: str) -> bool:
        """Whether a job of exactly this name is known, in whatever state (Batch keeps ended ones for days)."""
        filters = [{"name": "JOB_NAME", "values": [job_name]}]
        return any(row["jobName"] == job_name for row in self._list_own(filters=filters))

    def submit(self, job_name: str, definition: str, count: int) -> str:
        """Submit one job, or an array of `count`. Returns its id."""
        array = {"arrayProperties": {"size": count}} if count > 1 else {}
        answer = self.batch.submit_job(jobName=job_name, jobQueue=self.queue, jobDefinition=definition, **array)
        return str(answer["jobId"])

    def _count_unfinished(self, row: Mapping[str, Any]) -> int:
        size = row.get("arrayProperties", {}).get("size")
        if not size:
            return 1
        ended = sum(1 for status in ENDED for _ in self._list(arrayJobId=row["jobId"], jobStatus=status))
        return max(0, int(size) - ended)

    def _list_own(self, **question: object) -> Iterator[Mapping[str, Any]]:
        """The queue's rows of this worker, without the children of arrays."""
        for row in self._list(jobQueue=self.queue, **question):
            if row["jobName"].startswith(f"{self.name}-") and "index" not in row.get("arrayProperties", {}):
                yield row

    def _list(self, **question: object) -> Iterator[Mapping[str, Any]]:
        for page in self.batch.get_paginator("list_jobs").paginate(**question):
            yield from page["jobSummaryList"]
