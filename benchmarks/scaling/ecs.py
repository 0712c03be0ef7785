"""An ECS service with scaling: what Application Auto Scaling and ECS make of the queue's metrics."""

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
"""Minutes in a row, and the share of the target, at which target tracking's two alarms go off. AWS shows them in the
alarms that it creates, and keeps the right to change them."""


@dataclass(frozen=True)
class Point:
    """What was reported of one minute: messages that wait or are in work, those sent within it, and tasks."""

    backlog: int
    sent: int
    running: int
    desired: int


Metric = Callable[[Point, float], float]
"""Of a minute, and of the seconds within which a task's share is to be done: messages a task."""


def compute_work_per_desired_task(point: Point, drain_s: float) -> float:
    """IF(FILL(desired,0)>0, m1/desired, m1), where m1 = backlog + messages sent a minute * drain_s/60.

    What will be sent within the time that the backlog takes is work as well. Without it a service that keeps up looks
    as if it had nothing to do. Tasks that are desired are on their way: divided by those that run, a backlog would ask
    for the same tasks again each minute until they have started.
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
    """`metric` is tracked at `target`; cooldowns in seconds. `protects`: busy tasks are not ended by scaling in."""

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
                    self._queue.visible + self._queue.held, self._sent_since(), len(self._fleet.workers), self.desired
                )
            )
            self._points.append(self._late.popleft())
            wanted = min(most, self._wanted())
            if wanted != self.desired:
                self.desired, self._scaled_s = wanted, self._env.now

    def _sent_since(self) -> int:
        before, self._sent = self._sent, self._queue.sent
        return self._sent - before

    def _wanted(self) -> int:
        now, target = self._points[-1], self._policy.target
        # The alarm that wakes the service: a backlog below the target would never start a first task.
        if self.desired == 0:
            return 1 if self._policy.metric(now) > 0 else 0
        values = [self._policy.metric(point) for point in self._points]
        since_s = self._env.now - self._scaled_s
        # In proportion to what is desired at present, which AWS does not spell out.
        fitting = ceil(self.desired * values[-1] / target)
        if len(values) >= OUT_POINTS and min(values[-OUT_POINTS:]) > target and since_s >= self._policy.out_cooldown_s:
            return max(self.desired, fitting)
        if len(values) == IN_POINTS and max(values) < IN_SHARE * target and since_s >= self._policy.in_cooldown_s:
            return min(self.desired, fitting)
        return self.desired

    def _reconcile(self, make: Callable[[], Worker]) -> Steps:
        while True:
            yield self._env.timeout(RECONCILE_S)
            self._fleet.tidy()
            tasks = [worker for worker in self._fleet.workers if not worker.stopping]
            if len(tasks) < self.desired:
                self._fleet.place(self.desired - len(tasks), make)
            surplus = max(0, len(tasks) - self.desired)
            for task in [task for task in tasks if not (self._policy.protects and task.busy)][:surplus]:
                self._fleet.stop(task)
