"""The faults of a round: a plan that is drawn from a seed, and the nemesis (Jepsen's word) that carries it out.

The same seed gives the same plan. In which state a strike finds a process still depends on the machine's speed.

Clock steps change the wall clock of one service's processes only, and need a C compiler (see benchmarks.chaos.clock).
"""

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.chaos.clock import Clock
from benchmarks.chaos.fleet import Exit, Fleet, Slot
from benchmarks.chaos.journal import JournalReader
from benchmarks.chaos.proxy import Faults
from benchmarks.chaos.world import STORES, VISIBILITY_S, World

AIM_S = 3.0
READY_S = 30.0
ARMED_SHARE = 0.7
STOP_S = {"detection": VISIBILITY_S + 3.0, "grouping": 2 * VISIBILITY_S + 6.0}
"""How long a process is stopped: longer than the visibility timeout, and for grouping longer than the gallery's lease
plus the delay of the message that another worker sends when it finds the lease taken."""
TERM_TIMEOUT_S = 120.0
SLOW = Faults({"delay": 1.0}, delay_s=0.2)
RACES = Faults({"delay": 0.6}, delay_s=0.8)
"""A database this slow makes it likely that two workers have the same photo at the same time."""
CLOCK_STEPS_S = (-3600, -90, 45, 600, 7200)
FAULT_MENU = (
    Faults({"drop-answer": 0.4}),
    Faults({"reset": 0.3}),
    Faults({"delay": 0.5}),
    Faults({"black-hole": 0.2}),
    Faults({"drop-answer": 0.15, "reset": 0.1, "delay": 0.2, "black-hole": 0.05}),
    Faults({"reset": 1.0}),
)
KILL_POINTS: dict[str, tuple[str, ...]] = {
    "detection": ("after-receive", "mid-inference", "after-put", "after-save", "after-remove", "after-delete"),
    "grouping": ("after-receive", "before-publish", "after-publish", "after-groups", "after-delete"),
}
"""See app.core.kill_points. Some points are reached more often than others, so each kills at the first to third
time."""
ALL_POINTS = [f"{service}/{point}" for service, points in KILL_POINTS.items() for point in points]
NEEDS_DELETIONS = frozenset({"detection/after-remove"})
"""Points that are reached only where photos are deleted."""

Kind = Literal["kill", "term", "stop", "fault", "clock"]


@dataclass(frozen=True)
class Strike:
    """One fault, `at_s` after the begin of the storm. `target` is a service or a store; network faults last `for_s`."""

    at_s: float
    kind: Kind
    target: str
    for_s: float = 0.0
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True)
class Plan:
    """Strikes in the order of time, and for each service the kill points with which processes are started."""

    strikes: list[Strike]
    kill_points: dict[str, list[str]]


def make_plan(seed: int, kills: int, seconds: float, *, changes_photos: bool = False) -> Plan:
    """The plan of a seed. In half of the kills a worker kills itself at a kill point."""
    chance = random.Random(seed)  # noqa: S311 - a fixed order, not a secret
    services = ["detection", "detection", "grouping"]

    def some(kind: Kind, count: int, targets: Sequence[str]) -> list[Strike]:
        return [Strike(chance.uniform(1, seconds), kind, chance.choice(targets)) for _ in range(count)]

    strikes = some("kill", kills - kills // 2, services) + some("term", max(1, kills // 4), services)
    strikes += some("stop", max(1, kills // 3), ["grouping", "detection"])
    strikes += some("clock", max(1, kills // 5), ["detection", "grouping"])
    strikes += [
        Strike(chance.uniform(0, seconds), "fault", STORES[row % 3], chance.uniform(2, 5), chance.choice(FAULT_MENU))
        for row in range(max(3, round(seconds / 5)))
    ]
    if changes_photos:
        # A worker that goes on after a stop stores what it read before: the file may be another one by then.
        strikes += some("stop", max(2, round(seconds / 12)), ["detection"])
        races = range(max(2, round(seconds / 8)))
        strikes += [Strike(chance.uniform(0, seconds), "fault", "mongo", chance.uniform(3, 6), RACES) for _ in races]
    points: dict[str, list[str]] = {service: [] for service in KILL_POINTS}
    # Points are taken in turn, in an order that depends on the seed, so that over many seeds each gets its kills.
    reached = [point for point in ALL_POINTS if changes_photos or point not in NEEDS_DELETIONS]
    order = chance.sample(reached, len(reached))
    for row in range(kills // 2):
        service, point = order[row % len(order)].split("/")
        points[service].append(f"{point}:{chance.randint(1, 3)}")
    return Plan(sorted(strikes, key=lambda strike: strike.at_s), points)


class Nemesis:
    """Carries out a plan. `stops`, `clock_steps` and `sigterm_exit_s` record what it did."""

    def __init__(self, world: World, plan: Plan, seed: int) -> None:
        self.stops = 0
        self.clock_steps = 0
        self.sigterm_exit_s: list[float] = []
        self.never_ended: list[str] = []
        self._world = world
        self._plan = plan
        self._chance = random.Random(seed)  # noqa: S311 - a fixed order, not a secret
        self._points = {service: list(points) for service, points in plan.kill_points.items()}
        self._armed: dict[Slot, str] = {}
        self._is_over = False
        self._journal = JournalReader(world.journal_path)
        self._reserved: set[int] = set()
        self._lock = threading.Lock()
        self._clocks = {service: Clock(world.options.home, service) for service in plan.kill_points}

    def make_environment(self, slot: Slot, last: Exit | None) -> Mapping[str, str]:
        """Environment variables for the next process of a slot, in addition to its settings."""
        with self._lock:
            mine = dict(self._clocks[slot.service].environment)
            points = self._points[slot.service]
            armed = self._armed.pop(slot, None)
            if armed and not self._is_over and not (last and last.killed_at):
                points.insert(0, armed)  # The last process ended before it reached the point.
            if points and self._chance.random() < ARMED_SHARE:
                mine["CHAOS_KILL_AT"] = self._armed[slot] = points.pop()
        return mine

    def carry_out(self, fleet: Fleet) -> None:
        """Start every strike at its time, each in a thread of its own. Returns when all have ended."""
        began = time.monotonic()
        threads = []
        for strike in self._plan.strikes:
            time.sleep(max(0.0, began + strike.at_s - time.monotonic()))
            threads.append(threading.Thread(target=self._strike, args=(strike, fleet), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        with self._lock:
            self._is_over = True
            for points in self._points.values():
                points.clear()

    def kill_one(self, fleet: Fleet) -> None:
        self._kill(Strike(0, "kill", self._chance.choice(["detection", "grouping"])), fleet)

    def _strike(self, strike: Strike, fleet: Fleet) -> None:
        actions: dict[Kind, Callable[[Strike, Fleet], None]] = {
            "kill": self._kill,
            "term": self._terminate,
            "stop": self._stop,
            "fault": self._disturb,
            "clock": self._step_clock,
        }
        actions[strike.kind](strike, fleet)

    def _kill(self, strike: Strike, fleet: Fleet) -> None:
        with _Reservation(self, strike.target, fleet) as slot:
            if slot:
                fleet.signal(slot, signal.SIGKILL)

    def _terminate(self, strike: Strike, fleet: Fleet) -> None:
        with _Reservation(self, strike.target, fleet) as slot:
            if not slot:
                return
            worker, seconds = slot.worker, fleet.terminate(slot, TERM_TIMEOUT_S)
            if seconds == math.inf:
                self.never_ended.append(worker)
            elif seconds is not None:  # None: the process has killed itself meanwhile.
                self.sigterm_exit_s.append(seconds)

    def _stop(self, strike: Strike, fleet: Fleet) -> None:
        slow = self._world.proxies["mongo"]
        # A grouping run of a tiny gallery is very short. A slow database makes it long enough to be stopped half way.
        slow.faults = SLOW
        with _Reservation(self, strike.target, fleet) as slot:
            time.sleep(self._chance.uniform(0.3, 2.5))
            stopped = slot is not None and fleet.signal(slot, signal.SIGSTOP)
            if slow.faults is SLOW:
                slow.faults = Faults()
            if slot and stopped:
                time.sleep(STOP_S[strike.target])
                fleet.signal(slot, signal.SIGCONT)
                self.stops += 1

    def _disturb(self, strike: Strike, _fleet: Fleet) -> None:
        proxy = self._world.proxies[strike.target]
        proxy.faults = strike.faults
        time.sleep(strike.for_s)
        # If a later strike on the same store has begun, its faults stay.
        if proxy.faults is strike.faults:
            proxy.faults = Faults()

    def _step_clock(self, strike: Strike, _fleet: Fleet) -> None:
        self.clock_steps += self._clocks[strike.target].step_to(self._chance.choice(CLOCK_STEPS_S))

    def reserve(self, service: str, fleet: Fleet) -> Slot | None:
        """Reserve a ready process of this service for one strike; if possible, one that holds a message."""
        began = time.monotonic()
        chosen = None
        while chosen is None:
            with self._lock:
                ready = [slot for slot in fleet.slots if slot.service == service and fleet.is_ready(slot)]
                free = [slot for slot in ready if id(slot) not in self._reserved]
                holders = self._journal.find_holders()
                busy = [slot for slot in free if slot.worker in holders]
                waited_s = time.monotonic() - began
                if busy or (waited_s > AIM_S and free):
                    chosen = self._chance.choice(busy or free)
                    self._reserved.add(id(chosen))
            if chosen is None and waited_s > READY_S:
                return None
            time.sleep(0.02)
        return chosen

    def release(self, slot: Slot) -> None:
        with self._lock:
            self._reserved.discard(id(slot))


class _Reservation:
    """A process that one strike has to itself: a kill during a SIGTERM would falsify the time of the exit."""

    def __init__(self, nemesis: Nemesis, service: str, fleet: Fleet) -> None:
        self._nemesis = nemesis
        self._slot = nemesis.reserve(service, fleet)

    def __enter__(self) -> Slot | None:
        return self._slot

    def __exit__(self, *_: object) -> None:
        if self._slot:
            self._nemesis.release(self._slot)
