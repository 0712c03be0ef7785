"""An ECS service that is scaled by the queue's metrics, as Application Auto Scaling and ECS do it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import simpy

from benchmarks.scaling.world import Fleet, Queue, Steps, Worker

MINUTE_S = 60
RECONCILE_S = 10
"""How often ECS compares the tasks that run with those that are desired; assumed."""
OUT_POINTS, IN_POINTS, IN_SHARE = 3, 15, 0.9
"""Target tracking scales out after OUT_POINTS minutes above the target, and in after IN_POINTS minutes below IN_SHARE
of it. These figures are in the alarms that AWS creates; AWS may change them."""


@dataclass(frozen=True)
class Point:
    """The metrics of one minute: messages that are visible or in flight, messages sent in it, and tasks."""

    backlog: int
    sent: int
    running: int
    desired: int


Metric = Callable[[Point, float], float]
"""The metrics of a minute, and the seconds in which a task must process its share → messages a task."""


def compute_work_per_desired_task(point: Point, drain_s: float) -> float:
    """IF(FILL(desired,0)>0, m1/desired, m1), where m1 = backlog + messages sent a minute * drain_s/60.

    Messages that will be sent while the backlog is processed are work as well: without them, a service that keeps up
    would seem to have nothing to do. The work is divided by the desired tasks, because these will start soon: divided
    by the running ones, a backlog would lead to more tasks every minute until the first of them have started.
    """
    work = point.backlog + point.sent * drain_s / MINUTE_S
    return work / point.desired if point.desired > 0 else work


def compute_backlog_per_running_task(point: Point, _drain_s: float) -> float:
    """IF(FILL(running,0)>0, backlog/running, backlog)"""
    return point.backlog / point.running if point.running > 0 else point.backlog


def get_depth(point: Point, _drain_s: float) -> float:
    return point.backlog


@dataclass(frozen=True)
class Policy:
    """`metric` is tracked at `target`; cooldowns are seconds. `protects`: scaling in does not end busy tasks."""

    metric: Callable[[Point], float]
    target: float
    protects: bool
    out_cooldown_s: float = 60
    in_cooldown_s: float = 300


class Service:
    """An ECS service on a fleet of its own."""

    def __init__(self, env: simpy.Environment, queue: Queue, fleet: Fleet, policy: Policy, delay_s: float) -> None:
        self._env, self._queue, self._fleet, self._policy = env, queue, fleet, policy
        self._points: deque[Point] = deque(maxlen=IN_POINTS)
        self._late: deque[Point] = deque([Point(0, 0, 0, 0)] * int(delay_s / MINUTE_S))
        self._scaled_s = -1e9
        self._sent = 0
        self.desired = 0

    def run(self, most: int, make: Callable[[], Worker]) -> None:
        self._env.process(self._scale(most))
        self._env.process(self._reconcile(make))

    def _scale(self, most: int) -> Steps:
        while True:
            yield self._env.timeout(MINUTE_S)
            self._late.append(
                Point(
                    self._queue.visible + self._queue.held, self._count_sent(), len(self._fleet.workers), self.desired
                )
            )
            self._points.append(self._late.popleft())
            wanted = min(most, self._choose_desired())
            if wanted != self.desired:
                self.desired, self._scaled_s = wanted, self._env.now

    def _count_sent(self) -> int:
        before, self._sent = self._sent, self._queue.sent
        return self._sent - before

    def _choose_desired(self) -> int:
        now, target = self._points[-1], self._policy.target
        # A separate alarm starts the first task: target tracking would not for a backlog below the target.
        if self.desired == 0:
            return 1 if self._policy.metric(now) > 0 else 0
        values = [self._policy.metric(point) for point in self._points]
        since_s = self._env.now - self._scaled_s
        # In proportion to the tasks that are desired now; AWS does not document that.
        fitting = ceil(self.desired * values[-1] / target)
        if len(values) >= OUT_POINTS and min(values[-OUT_POINTS:]) > target and since_s >= self._policy.out_cooldown_s:
            return max(self.desired, fitting)
        if len(values) == IN_POINTS and max(values) < IN_SHARE * target and since_s >= self._policy.in_cooldown_s:
            return min(self.desired, fitting)
        return self.desired

    def _reconcile(self, make: Callable[[], Worker]) -> Steps:
        while True:
            yield self._env.timeout(RECONCILE_S)
            self._fleet.end_idle_instances()
            tasks = [worker for worker in self._fleet.workers if not worker.stopping]
            if len(tasks) < self.desired:
                self._fleet.start_workers(self.desired - len(tasks), make)
            surplus = max(0, len(tasks) - self.desired)
            for task in [task for task in tasks if not (self._policy.protects and task.busy)][:surplus]:
                self._fleet.stop(task)
