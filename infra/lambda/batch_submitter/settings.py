"""The function's environment variables, read once an invocation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from batch_submitter.decision import Limits

JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""Room for a time beside what Batch allows: https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html"""


@dataclass(frozen=True)
class Settings:
    """`job_queue` and `job_definition` are names or ARNs; every job's name begins with `job_name`."""

    queue_url: str
    job_queue: str
    job_definition: str
    job_name: str
    limits: Limits

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """The settings of these variables. Raises ValueError with a sentence that names the wrong one."""
        return cls(
            queue_url=_read_text(environment, "QUEUE_URL"),
            job_queue=_read_text(environment, "JOB_QUEUE"),
            job_definition=_read_text(environment, "JOB_DEFINITION"),
            job_name=_read_job_name(environment),
            limits=Limits(
                messages_per_job=_read_number(environment, "MESSAGES_PER_JOB"),
                max_jobs=_read_number(environment, "MAX_JOBS"),
                traffic_share=_read_number(environment, "TRAFFIC_SHARE"),
            ),
        )


def _read_text(environment: Mapping[str, str], name: str) -> str:
    if not (value := environment.get(name, "").strip()):
        raise ValueError(f"{name} is not set")
    return value


def _read_job_name(environment: Mapping[str, str]) -> str:
    name = _read_text(environment, "JOB_NAME")
    if not JOB_NAME.fullmatch(name):
        raise ValueError(f"JOB_NAME must be at most 100 letters, digits, hyphens and underscores, not {name!r}")
    return name


def _read_number(environment: Mapping[str, str], name: str) -> int:
    value = _read_text(environment, name)
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
