"""The conditions of the simulation: the load of a day, and how long each step takes."""

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
    """So many photos that arrive evenly within `over_s` from `at_s` on."""

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
"""An idle night with one small gallery, a quiet day with three large ones, and an evening in which many people send
single photos, with a fourth large gallery. The figures are assumed: no company's real day is known."""


@dataclass(frozen=True)
class Wave:
    """At `at_s` Spot reclaims this share of the instances."""

    at_s: float
    share: float


@dataclass(frozen=True)
class Conditions:
    """All times are seconds. The source of each default is given with it; the other values are in
    infra/workload.toml."""

    seconds_per_photo: float
    reclaims_per_instance_hour: float
    drain_s: float
    max_instances: int
    batch_linger_s: float
    ecs_linger_s: float = 900
    """Managed scaling ends an instance whose reservation was too low for 15 of 15 minutes:
    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/managed-scaling-behavior.html"""
    start_s: tuple[float, float] = (180, 300)
    """From the launch of an instance until it accepts tasks; assumed."""
    container_s: float = 30
    """From there to the first photo: the image is read from the disk, and the networks load in 5 to 7 s (measured)."""
    held: int = 24
    """BATCH_SIZE"""
    poll_s: float = POLL_S
    drain_polls: int = DRAIN_POLLS
    job_s: float = 1_800
    """After this time a Batch job receives no more messages: DRAIN_MAX_S of the job definitions."""
    visibility_s: float = 120
    """MESSAGE_VISIBILITY_TIMEOUT, after which a killed worker's messages are visible again."""
    notice_s: float = 120
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html"""
    heeds_stop: bool = True
    """Whether a worker finishes or gives back its messages at SIGTERM or Spot's notice."""
    metric_delay_s: float = 60
    """The delay after which CloudWatch shows what SQS and Container Insights report each minute."""
    waves: tuple[Wave, ...] = field(default=(Wave(19.8 * HOUR_S, 0.5),))

    drought: tuple[float, float] = (0, 0)
    """The begin and the end of a time in which Spot has no instances."""

    @property
    def messages_per_worker(self) -> int:
        """The messages that a worker processes in `drain_s`: the target of ECS, and the messages per job of Batch."""
        return int(self.drain_s / self.seconds_per_photo)


def read_conditions() -> Conditions:
    """The conditions with the values of infra/workload.toml."""
    given = read_table(WORKLOAD, Workload)
    return Conditions(
        seconds_per_photo=given.seconds_per_photo.value,
        reclaims_per_instance_hour=given.reclaims_per_instance_hour.value,
        drain_s=given.drain_s.value,
        max_instances=int(given.max_instances.value),
        batch_linger_s=given.batch_idle_s.value - POLL_S * DRAIN_POLLS,
    )
