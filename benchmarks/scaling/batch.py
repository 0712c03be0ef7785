"""AWS Batch: jobs that wait for an instance, and a schedule that submits jobs every minute."""

from collections.abc import Callable

import simpy

from benchmarks.scaling.world import Fleet, Queue, Steps, Worker

TICK_S = 60
RECONCILE_S = 10
"""How often Batch looks for jobs to place; assumed."""

Submit = Callable[[int, int], int]
"""Visible messages and active jobs → jobs to submit."""


class Jobs:
    """A job queue and its compute environment."""

    def __init__(self, env: simpy.Environment, queue: Queue, fleet: Fleet) -> None:
        self._env, self._queue, self._fleet = env, queue, fleet
        self.waiting = 0
        self.submitted = 0
        self.most_waiting = 0

    @property
    def active(self) -> int:
        return self.waiting + sum(worker.alive for worker in self._fleet.workers)

    def run(self, submit: Submit, make: Callable[[], Worker]) -> None:
        self._env.process(self._submit_jobs(submit))
        self._env.process(self._start_jobs(make))

    def _submit_jobs(self, submit: Submit) -> Steps:
        while True:
            # The function asks SQS itself, so there is no delay of a metric.
            yield self._env.timeout(TICK_S)
            jobs = submit(self._queue.visible, self.active)
            self.waiting += jobs
            self.submitted += jobs
            self.most_waiting = max(self.most_waiting, self.waiting)

    def _start_jobs(self, make: Callable[[], Worker]) -> Steps:
        while True:
            yield self._env.timeout(RECONCILE_S)
            self._fleet.end_idle_instances()
            if self.waiting:
                self.waiting -= self._fleet.start_workers(self.waiting, make)
