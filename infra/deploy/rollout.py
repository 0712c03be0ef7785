"""Rolls all services out to a new image, or all of them back. ECS is polled for the state of each service.

A service is done once ECS calls the roll-out of the new revision completed. It has failed where ECS calls it failed,
where ECS's circuit breaker has gone back to another revision, where AWS refuses to answer, or where the time is up. One
failure rolls every service back to its former revision: all read the same documents, and are released together.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from botocore.exceptions import BotoCoreError, ClientError

from infra.deploy.ecs import ServiceState, shorten_arn
from infra.deploy.image import Image

POLL_EVERY_S = 10.0

Say = Callable[[str], None]


class Service(Protocol):
    """What a roll-out needs of a service; infra.deploy.ecs.EcsService documents the methods."""

    name: str

    def get_revision(self) -> str: ...
    def register(self, image: Image) -> str: ...
    def set_revision(self, revision: str) -> None: ...
    def read_state(self) -> ServiceState: ...
    def unprotect(self, revision: str) -> None: ...
    def explain_last_stop(self, revision: str) -> str | None: ...


@dataclass(frozen=True)
class Patience:
    """How long a roll-out, and a rollback, may take, and the clock that measures it."""

    seconds: float
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Change:
    """The change of a service from one revision to another. `failure` is set once it has failed.

    `seen` is set once ECS has listed the wanted revision: an answer right after the update may be older than it.
    `reported` is the last line that was printed.
    """

    service: Service
    former: str
    wanted: str
    seen: bool = False
    done: bool = False
    failure: str | None = None
    reported: str = field(default="", repr=False)


def roll_out(services: Sequence[Service], image: Image, patience: Patience, say: Say = print) -> bool:
    """Whether every service runs the image now. If not, each runs its former revision, or a line says why not.

    Nothing is changed before a new revision of every service is registered.
    """
    changes = [Change(service, service.get_revision(), service.register(image)) for service in services]
    for change in changes:
        say(f"{change.service.name}: {shorten_arn(change.former)} → {shorten_arn(change.wanted)}")
        change.service.set_revision(change.wanted)
    _wait_for(changes, patience, say)
    failed = [change for change in changes if change.failure]
    for change in failed:
        say(f"{change.service.name}: {change.failure}")
    if failed:
        _roll_back(changes, patience, say)
    return not failed


def _roll_back(changes: Sequence[Change], patience: Patience, say: Say) -> None:
    rollbacks = [Change(change.service, former=change.wanted, wanted=change.former) for change in changes]
    for rollback in rollbacks:
        if _find_primary(rollback.service.read_state()) == rollback.wanted:
            say(f"{rollback.service.name}: ECS is on its way back to {shorten_arn(rollback.wanted)} already")
        else:
            say(f"{rollback.service.name}: rolling back to {shorten_arn(rollback.wanted)}")
            rollback.service.set_revision(rollback.wanted)
    _wait_for(rollbacks, patience, say)
    for rollback in rollbacks:
        end = (
            f"does not reach {shorten_arn(rollback.wanted)}: {rollback.failure}"
            if rollback.failure
            else f"runs {shorten_arn(rollback.wanted)} again"
        )
        say(f"{rollback.service.name}: {end}")


def _wait_for(changes: Sequence[Change], patience: Patience, say: Say) -> None:
    """Return once every change is done, or one has failed: the others would be rolled back anyway."""
    until = patience.now() + patience.seconds
    while True:
        for change in changes:
            if not change.done:
                try:
                    _check_progress(change, say)
                except (BotoCoreError, ClientError) as error:
                    change.failure = f"AWS does not tell how far it is: {error}"
        waiting = [change for change in changes if not change.done]
        if not waiting or any(change.failure for change in changes):
            return
        if patience.now() >= until:
            for change in waiting:
                change.failure = f"was not stable after {patience.seconds:.0f} s{_explain_stop(change)}"
            return
        patience.sleep(POLL_EVERY_S)


def _check_progress(change: Change, say: Say) -> None:
    change.service.unprotect(change.former)
    state = change.service.read_state()
    _report(change, state, say)
    mine = next((one for one in state.deployments if one.revision == change.wanted), None)
    primary = _find_primary(state)
    change.seen = change.seen or mine is not None
    if primary != change.wanted and change.seen:
        reason = f" ({mine.reason})" if mine and mine.reason else ""
        change.failure = f"ECS went back to {shorten_arn(primary)} by itself{reason}{_explain_stop(change)}"
    elif mine and mine.state == "FAILED":
        change.failure = f"ECS gave up: {mine.reason}{_explain_stop(change)}"
    else:
        change.done = mine is not None and mine.state == "COMPLETED"


def _find_primary(state: ServiceState) -> str:
    return next((one.revision for one in state.deployments if one.primary), "")


def _report(change: Change, state: ServiceState, say: Say) -> None:
    """Print a line on the progress, where it differs from the last one."""
    failed = sum(one.failed_tasks for one in state.deployments if one.revision == change.wanted)
    line = f"{change.service.name}: {state.running} of {state.desired} running"
    line += f", {failed} failed" if failed else ""
    line += f"; {state.last_event}" if state.last_event else ""
    if line != change.reported:
        say(line)
        change.reported = line


def _explain_stop(change: Change) -> str:
    stopped = change.service.explain_last_stop(change.wanted)
    return f"; its last task: {stopped}" if stopped else ""
