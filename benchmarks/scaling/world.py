"""The parts that ECS and Batch have in common: a queue, workers, and instances that start and end. It uses SimPy."""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Any

import numpy as np
import simpy

from benchmarks.scaling.conditions import HOUR_S, Conditions, Counts

Steps = Generator[simpy.Event, Any, None]


class Queue:
    """Messages, each represented by the second at which it was sent. The oldest is received first, in SQS roughly
    so."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._visible: deque[float] = deque()
        self._polls: deque[simpy.Event] = deque()
        self.held = 0
        self.sent = 0
        self.ages_s: list[float] = []
        """Of each message that is done: the time since it was sent."""
        self.done_draining = 0
        """Messages done by workers that drain, which are Batch's."""

    @property
    def visible(self) -> int:
        return len(self._visible)

    @property
    def oldest_age_s(self) -> float:
        return self._env.now - min(islice(self._visible, 1_000)) if self._visible else 0.0

    def fill(self, arrivals: Counts) -> Steps:
        for second in np.flatnonzero(arrivals):
            yield self._env.timeout(float(second) - self._env.now)
            self.sent += int(arrivals[second])
            self._visible.extend([self._env.now] * int(arrivals[second]))
            self._end_polls(int(arrivals[second]))

    def take(self, most: int) -> list[float]:
        taken = [self._visible.popleft() for _ in range(min(most, self.visible))]
        self.held += len(taken)
        return taken

    def wait(self, seconds: float) -> Steps:
        """A long poll: wait until a message arrives or the time is over."""
        poll = self._env.event()
        self._polls.append(poll)
        try:
            yield poll | self._env.timeout(seconds)
        finally:
            if poll in self._polls:
                self._polls.remove(poll)

    def delete(self, messages: list[float], *, draining: bool) -> None:
        self.held -= len(messages)
        self.done_draining += len(messages) * draining
        self.ages_s.extend(self._env.now - sent for sent in messages)

    def make_visible(self, messages: list[float], after_s: float) -> Steps:
        """Make the messages of a killed worker visible again after the visibility timeout."""
        yield self._env.timeout(after_s)
        self.held -= len(messages)
        self._visible.extendleft(reversed(messages))
        self._end_polls(len(messages))

    def _end_polls(self, messages: int) -> None:
        for _ in range(min(messages, len(self._polls))):
            self._polls.popleft().succeed()


class Worker:
    """One worker process. When it is asked to stop it finishes its messages, which takes seconds. When it is killed it
    loses them."""

    def __init__(self, env: simpy.Environment, queue: Queue, given: Conditions, *, drains: bool) -> None:
        self._env, self._queue, self._given, self._drains = env, queue, given, drains
        self._held: list[float] = []
        self.stopping = False
        self.process = env.process(self._run())

    @property
    def busy(self) -> bool:
        return bool(self._held)

    @property
    def alive(self) -> bool:
        return self.process.is_alive

    def stop(self) -> None:
        self.stopping = True

    def kill(self) -> None:
        if self.alive:
            self.process.interrupt()

    def _run(self) -> Steps:
        try:
            yield self._env.timeout(self._given.container_s)
            yield from self._work()
        except simpy.Interrupt:
            if self._held:
                self._env.process(self._queue.make_visible(self._held, self._given.visibility_s))
                self._held = []

    def _work(self) -> Steps:
        empty_polls = 0
        end_s = self._env.now + self._given.job_s if self._drains else inf
        while (
            self._env.now < end_s
            and not self.stopping
            and not (self._drains and empty_polls >= self._given.drain_polls)
        ):
            self._held = self._queue.take(self._given.held)
            if not self._held:
                began = self._env.now
                yield from self._queue.wait(self._given.poll_s)
                empty_polls += self._env.now - began >= self._given.poll_s
                continue
            empty_polls = 0
            yield self._env.timeout(len(self._held) * self._given.seconds_per_photo)
            self._queue.delete(self._held, draining=self._drains)
            self._held = []


@dataclass(eq=False)
class Instance:
    began_s: float
    ready: bool = False
    doomed: bool = False
    worker: Worker | None = None
    idle_since_s: float = 0.0

    @property
    def free(self) -> bool:
        return self.ready and not self.doomed and self.worker is None


class Fleet:
    """Spot instances with one worker each. Idle instances end after `linger_s`."""

    def __init__(self, env: simpy.Environment, given: Conditions, rng: np.random.Generator, linger_s: float) -> None:
        self._env, self._given, self._rng, self._linger_s = env, given, rng, linger_s
        self.instances: list[Instance] = []
        self.busy_killed = 0
        """Workers that were killed while they had messages, which were visible again only after the timeout."""
        self._ended_s = 0.0
        for wave in given.waves:
            env.process(self._reclaim_share(wave.at_s, wave.share))

    @property
    def hours(self) -> float:
        """Instance hours that must be paid."""
        return (self._ended_s + sum(self._env.now - instance.began_s for instance in self.instances)) / HOUR_S

    @property
    def workers(self) -> list[Worker]:
        return [instance.worker for instance in self.instances if instance.worker]

    def start_workers(self, wanted: int, make: Callable[[], Worker]) -> int:
        """Start up to `wanted` workers on free instances, and launch instances for the others. Returns how many
        started."""
        free = [instance for instance in self.instances if instance.free][:wanted]
        for instance in free:
            instance.worker = make()
        starting = sum(not instance.ready for instance in self.instances)
        begins_s, ends_s = self._given.drought
        room = 0 if begins_s <= self._env.now < ends_s else self._given.max_instances - len(self.instances)
        for _ in range(min(wanted - len(free) - starting, room)):
            self._launch()
        return len(free)

    def end_idle_instances(self) -> None:
        """Mark instances whose workers have ended as free, and end those that were free for `linger_s`."""
        for instance in list(self.instances):
            if instance.worker and not instance.worker.alive:
                instance.worker, instance.idle_since_s = None, self._env.now
            if instance.free and self._env.now - instance.idle_since_s >= self._linger_s:
                self._end(instance)

    def stop(self, worker: Worker) -> None:
        """Stop the worker as by SIGTERM if it heeds that, else kill it."""
        if self._given.heeds_stop:
            worker.stop()
        else:
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        self.busy_killed += worker.busy
        worker.kill()

    def _launch(self) -> None:
        instance = Instance(self._env.now)
        self.instances.append(instance)
        self._env.process(self._start(instance))

    def _start(self, instance: Instance) -> Steps:
        yield self._env.timeout(self._rng.uniform(*self._given.start_s))
        instance.ready, instance.idle_since_s = True, self._env.now
        life_s = self._rng.exponential(HOUR_S / self._given.reclaims_per_instance_hour)
        yield self._env.timeout(life_s)
        yield from self._reclaim(instance)

    def _reclaim_share(self, at_s: float, share: float) -> Steps:
        yield self._env.timeout(at_s)
        for instance in self.instances:
            if instance.ready and self._rng.random() < share:
                self._env.process(self._reclaim(instance))

    def _reclaim(self, instance: Instance) -> Steps:
        """Spot's notice, and the end of the instance two minutes later."""
        if instance.doomed or instance not in self.instances:
            return
        instance.doomed = True
        if instance.worker and self._given.heeds_stop:
            instance.worker.stop()
        yield self._env.timeout(self._given.notice_s)
        if instance.worker:
            self._kill(instance.worker)
        self._end(instance)

    def _end(self, instance: Instance) -> None:
        if instance in self.instances:
            self.instances.remove(instance)
            self._ended_s += self._env.now - instance.began_s
