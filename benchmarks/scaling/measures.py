"""The figures of a trace."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scaling.conditions import HOUR_S
from benchmarks.scaling.ways import SAMPLE_S, Trace

GOAL_P95_MIN, GOAL_MOST_MIN = 10.0, 15.0
"""95 of 100 photos are done within 10 minutes after they were sent, all within 15: 3 minutes until a burst is noticed,
at most 5 1/2 until instances have started, 5 to process it (`drain_s`), and some for instances that Spot reclaims."""
SWING, GOAL_TURNS = 3, 2
"""More than two changes of direction within an hour are an oscillation: a burst and the time after it make two. Changes
count from three workers on, because ECS and Batch may each start one worker for the same load."""


@dataclass(frozen=True)
class Figures:
    """The figures of a trace. Ages are minutes from sending to the result."""

    photos: int
    left: int
    age_p50_min: float
    age_p95_min: float
    age_most_min: float
    backlog_most: int
    workers_most: int
    by_batch: float
    """Share of the photos that Batch did."""
    instance_hours: float
    usd_per_1000: float
    """US dollars for 1,000 photos of instance hours."""
    at_work: float
    """Share of the instance hours in which photos were worked on."""
    turns: int
    """The most changes of direction, of the tasks and jobs that are wanted, within an hour."""
    busy_killed: int
    waiting_jobs_most: int

    @property
    def meets_goals(self) -> bool:
        quick = self.age_p95_min <= GOAL_P95_MIN and self.age_most_min <= GOAL_MOST_MIN
        return quick and self.left == 0 and self.turns <= GOAL_TURNS and self.busy_killed == 0


def measure(trace: Trace, seconds_per_photo: float, usd_h: float) -> Figures:
    """`usd_h` is what an instance hour costs."""
    p50, p95, most = np.percentile(trace.ages_s, (50, 95, 100)) / 60
    return Figures(
        photos=trace.sent,
        left=trace.left,
        age_p50_min=float(p50),
        age_p95_min=float(p95),
        age_most_min=float(most),
        backlog_most=max(trace.visible),
        workers_most=max(trace.workers),
        by_batch=trace.done_by_batch / len(trace.ages_s),
        instance_hours=trace.instance_hours,
        usd_per_1000=trace.instance_hours * usd_h * 1000 / trace.sent,
        at_work=len(trace.ages_s) * seconds_per_photo / HOUR_S / trace.instance_hours,
        turns=count_turns(trace.wanted),
        busy_killed=trace.busy_killed,
        waiting_jobs_most=trace.most_waiting_jobs,
    )


def count_turns(wanted: Sequence[int]) -> int:
    """The most changes of direction, by SWING or more, within an hour of samples a minute apart."""
    turned, hour = _find_turning_points(wanted), HOUR_S // SAMPLE_S
    return max((sum(begin <= at < begin + hour for at in turned) for begin in turned), default=0)


def _find_turning_points(values: Sequence[int]) -> list[int]:
    """Indices at which the values have returned by SWING from their last extreme."""
    turned, extreme, direction = [], values[0], 0
    for index, value in enumerate(values):
        if direction * (value - extreme) >= 0 and direction:
            extreme = value
        elif abs(value - extreme) >= SWING:
            if direction:
                turned.append(index)
            extreme, direction = value, 1 if value > extreme else -1
    return turned
