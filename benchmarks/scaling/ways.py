"""The ways of scaling that are compared, each simulated with the same load."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import simpy

from batch_submitter.decision import Limits, decide
from benchmarks.scaling.batch import Jobs, Submit
from benchmarks.scaling.conditions import HOUR_S, Conditions, Load
from benchmarks.scaling.ecs import (
    Metric,
    Policy,
    Service,
    compute_backlog_per_running_task,
    compute_work_per_desired_task,
    get_depth,
)
from benchmarks.scaling.world import Fleet, Queue, Steps, Worker

SAMPLE_S = 60
AFTER_S = 2 * HOUR_S
"""How long the simulation goes on after the load, for the remaining messages."""
PLANNED_VISIBILITY_S = 900
"""The plan had 15 to 30 minutes."""
PLANNED_JOB_S = 14_400
"""The plan had a limit of four hours on an attempt; before that, only an empty queue ended a job."""


@dataclass(frozen=True)
class Way:
    """A way of scaling. `share` is the percentage of new work that Batch gets; `planned` ways were planned first."""

    name: str
    share: int
    metric: Metric = compute_work_per_desired_task
    job_s: float | None = None
    """After this time a Batch job receives no more messages; None: as in `Conditions`."""
    planned: bool = False


WAYS = (
    Way("ECS", 0),
    Way("Batch", 100),
    Way("ECS and Batch, half each", 50),
    Way("ECS, by the backlog of running tasks alone", 0, compute_backlog_per_running_task),
    Way("Batch, jobs last as long as the queue has any", 100, job_s=PLANNED_JOB_S),
    Way("planned: ECS at one message a task", 0, get_depth, planned=True),
    Way("planned: a Batch job every minute", 100, planned=True),
)


@dataclass
class Trace:
    """The values of each minute, and totals."""

    visible: list[int] = field(default_factory=list)
    oldest_age_s: list[float] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """Desired tasks of ECS plus active jobs."""
    instances: list[int] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    sent: int = 0
    left: int = 0
    done_by_batch: int = 0
    instance_hours: float = 0.0
    busy_killed: int = 0
    most_waiting_jobs: int = 0
    jobs: int = 0


def simulate(way: Way, load: Load, given: Conditions, seed: int = 0) -> Trace:
    """Simulate the load with one way. A seed gives the same arrivals for each way, and always the same trace."""
    arrivals = load.draw(np.random.default_rng(seed))
    given = _adapt_conditions(way, given)
    env = simpy.Environment()
    queue = Queue(env)
    ecs = Fleet(env, given, np.random.default_rng((seed, 1)), given.ecs_linger_s)
    batch = Fleet(env, given, np.random.default_rng((seed, 2)), given.batch_linger_s)
    service = Service(env, queue, ecs, _make_policy(way, given), given.metric_delay_s)
    jobs = Jobs(env, queue, batch)
    if way.share < 100:
        service.run(given.max_instances, lambda: Worker(env, queue, given, drains=False))
    if way.share > 0:
        jobs.run(_make_submit(way, given), lambda: Worker(env, queue, given, drains=True))
    env.process(queue.fill(arrivals))
    trace = Trace()
    env.process(_watch(env, trace, queue, (ecs, batch), lambda: service.desired + jobs.active))
    env.run(load.length_s + AFTER_S)
    trace.sent, trace.left, trace.ages_s = queue.sent, queue.visible + queue.held, queue.ages_s
    trace.done_by_batch = queue.done_draining
    trace.instance_hours = ecs.hours + batch.hours
    trace.busy_killed = ecs.busy_killed + batch.busy_killed
    trace.most_waiting_jobs, trace.jobs = jobs.most_waiting, jobs.submitted
    return trace


def _adapt_conditions(way: Way, given: Conditions) -> Conditions:
    if way.planned:
        return replace(given, heeds_stop=False, visibility_s=PLANNED_VISIBILITY_S, job_s=PLANNED_JOB_S)
    return given if way.job_s is None else replace(given, job_s=way.job_s)


def _make_policy(way: Way, given: Conditions) -> Policy:
    part = (100 - way.share) / 100
    target = 1 if way.planned else given.messages_per_worker
    return Policy(lambda point: part * way.metric(point, given.drain_s), target, protects=not way.planned)


def _make_submit(way: Way, given: Conditions) -> Submit:
    if way.planned:
        return lambda visible, _active: 1 if visible else 0
    limits = Limits(given.messages_per_worker, given.max_instances, way.share)
    return lambda visible, active: decide(visible, active, limits).submit


def _watch(
    env: simpy.Environment, trace: Trace, queue: Queue, fleets: Sequence[Fleet], wanted: Callable[[], int]
) -> Steps:
    while True:
        yield env.timeout(SAMPLE_S)
        trace.visible.append(queue.visible)
        trace.oldest_age_s.append(queue.oldest_age_s)
        trace.workers.append(sum(worker.alive for fleet in fleets for worker in fleet.workers))
        trace.wanted.append(wanted())
        trace.instances.append(sum(len(fleet.instances) for fleet in fleets))
