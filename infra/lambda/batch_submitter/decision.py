"""How many jobs to submit. Pure: no AWS, no clock, no environment."""

from dataclasses import dataclass

MAX_ARRAY_SIZE = 10_000
"""https://docs.aws.amazon.com/batch/latest/userguide/array_jobs.html"""


@dataclass(frozen=True)
class Limits:
    """The limits for a queue's jobs. Raises ValueError with a sentence where they make no sense.

    `messages_per_job` is how many waiting messages are worth a job: seconds that a backlog may take, divided by seconds
    a message. `max_jobs` bounds all active jobs together, not those of one submission. `traffic_share` is the
    percentage of new work that Batch gets.
    """

    messages_per_job: int
    max_jobs: int
    traffic_share: int

    def __post_init__(self) -> None:
        if self.messages_per_job < 1:
            raise ValueError(f"MESSAGES_PER_JOB must be 1 or more, not {self.messages_per_job}")
        if not 1 <= self.max_jobs <= MAX_ARRAY_SIZE:
            raise ValueError(f"MAX_JOBS must be from 1 to {MAX_ARRAY_SIZE}, the size of an array job: {self.max_jobs}")
        if not 0 <= self.traffic_share <= 100:
            raise ValueError(f"TRAFFIC_SHARE must be a percentage from 0 to 100, not {self.traffic_share}")


@dataclass(frozen=True)
class Decision:
    """`wanted` jobs should be active for the waiting messages; `submit` of them are missing."""

    wanted: int
    submit: int


def decide(visible: int, active: int, limits: Limits) -> Decision:
    """How many jobs `visible` waiting messages need, and how many of them `active` jobs leave to be submitted.

    Messages that a job already holds are not visible, so a job that works through its share is not counted again.
    However often jobs are submitted by this, active jobs never exceed the larger of `max_jobs` and what was active
    before. Raises ValueError for a negative count.
    """
    if visible < 0 or active < 0:
        raise ValueError(f"counts can't be negative: {visible} visible messages, {active} active jobs")
    # In whole numbers, as 0.07 * 100 is not 7 and would ask for a job too many.
    needed = -(-visible * limits.traffic_share // (100 * limits.messages_per_job))
    wanted = min(needed, limits.max_jobs)
    return Decision(wanted, max(0, wanted - active))
