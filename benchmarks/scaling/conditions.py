"""What the simulated world is like: the load of a day, and how long things take."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from infra.cost.inputs import WORKLOAD, Workload, read_table

HOUR_S = 3600
DAY_S = 24 * HOUR_S
POLL_S, DRAIN_POLLS = 20.0, 3
"""QUEUE_WAIT_S and DRAIN_EMPTY_POLLS"""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Burst:
    """So many photos, evenly over `over_s` from `at_s` on."""

    at_s: float
    photos: int
    over_s: float = 300


@dataclass(frozen=True)
class Load:
    """Photos that arrive in `length_s`: galleries uploaded at once, and single photos at `rates`, (hour, a second)."""

    bursts: tuple[Burst, ...]
    rates: tuple[tuple[float, float], ...]
    length_s: int = DAY_S

    def draw(self, rng: np.random.Generator) -> Counts:
        """(length_s,) photos that arrive in each second."""
        seconds = np.arange(self.length_s)
        hours, rates = zip(*self.rates, strict=True)
        expected = np.interp(seconds / HOUR_S, hours, rates)
        for burst in self.bursts:
            inside = (seconds >= burst.at_s) & (seconds < burst.at_s + burst.over_s)
            expected[inside] += burst.photos / burst.over_s
        drawn: Counts = rng.poisson(expected)
        return drawn


DAY = Load(
    bursts=(
        Burst(2.5 * HOUR_S, 500),
        Burst(10 * HOUR_S, 50_000),
        Burst(13 * HOUR_S, 20_000),
        Burst(15.5 * HOUR_S, 5_000),
        Burst(19.5 * HOUR_S, 50_000),
    ),
    rates=((0, 0), (6, 0), (8, 0.5), (17, 1), (19, 20), (20, 35), (21, 20), (23, 0.2), (23.5, 0), (24, 0)),
)
"""An idle night with one small gallery in it, a quiet day with three large ones, and an evening when everybody looks
at their photos and sends more, with a fourth on top. Made up: no company's real day is known."""


@dataclass(frozen=True)
class Wave:
    """At `at_s` Spot asks this share of the instances back."""

    at_s: float
    share: float


@dataclass(frozen=True)
class Conditions:
    """All times in seconds. Where a default comes from is said beside it; infra/workload.toml has the rest."""

    seconds_per_photo: float
    reclaims_per_instance_hour: float
    drain_s: float
    max_instances: int
    batch_linger_s: float
    ecs_linger_s: float = 900
    """Managed scaling takes an instance whose reservation was too low for 15 of 15 minutes:
    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/managed-scaling-behavior.html"""
    start_s: tuple[float, float] = (180, 300)
    """From the order to a machine that takes tasks; assumed."""
    container_s: float = 30
    """From there to the first photo: image from the disk, 5 to 7 s until the networks are loaded (measured)."""
    held: int = 24
    """BATCH_SIZE"""
    poll_s: float = POLL_S
    drain_polls: int = DRAIN_POLLS
    job_s: float = 1_800
    """After which a Batch job takes in nothing new: DRAIN_MAX_S of the job definitions."""
    visibility_s: float = 120
    """MESSAGE_VISIBILITY_TIMEOUT; after it, a killed worker's messages come back."""
    notice_s: float = 120
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html"""
    heeds_stop: bool = True
    """Whether a worker that is asked to stop, by SIGTERM or Spot's notice, gives its messages back."""
    metric_delay_s: float = 60
    """Until CloudWatch shows what SQS and Container Insights report each minute."""
    waves: tuple[Wave, ...] = field(default=(Wave(19.8 * HOUR_S, 0.5),))

    drought: tuple[float, float] = (0, 0)
    """From when to when Spot has no instance to give."""

    @property
    def messages_per_worker(self) -> int:
        """The backlog that a worker is through in `drain_s`: the target of ECS, and of Batch the messages per job."""
        return int(self.drain_s / self.seconds_per_photo)


def conditions() -> Conditions:
    """Those of infra/workload.toml."""
    given = read_table(WORKLOAD, Workload)
    return Conditions(
        seconds_per_photo=given.seconds_per_photo.value,
        reclaims_per_instance_hour=given.reclaims_per_instance_hour.value,
        drain_s=given.drain_s.value,
        max_instances=int(given.max_instances.value),
        batch_linger_s=given.batch_idle_s.value - POLL_S * DRAIN_POLLS,
    )
