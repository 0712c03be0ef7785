"""One round: a workload is sent during a storm of faults, and checked when all queues are empty again."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.core.coalescing import LOOK_EVERY_S
from app.core.ports import CLAIM_S
from benchmarks.chaos import checks
from benchmarks.chaos.fleet import Exit, Fleet
from benchmarks.chaos.journal import JournalReader, measure_redelivery_times
from benchmarks.chaos.nemesis import Nemesis, make_plan
from benchmarks.chaos.snapshot import DeadLetter, Snapshot, read_dead_letters, read_snapshot
from benchmarks.chaos.watch import FenceWatch
from benchmarks.chaos.workload import Sent, make_calm_messages, make_workload
from benchmarks.chaos.world import QUEUE_VARIABLES, SETTINGS, SHUTDOWN_DEADLINE_S, VISIBILITY_S, World, WorldOptions
from local.stack import ROOT, LocalStackError

GROUPING_WORKERS = 2
SENDING_SHARE = 0.7
QUIET_FOR_S = 3.0
OWED_FOR_S = CLAIM_S + LOOK_EVERY_S + 20.0
"""A worker that was killed before it sent a grouping message keeps others from sending it for CLAIM_S; only then they
look. A gallery that is still behind after this time is not grouped by itself."""
EXIT_SLACK_S = 20.0
"""Added to the deadline of an exit: a poll may wait for an SQS that does not answer, and the machine may be busy."""
SHOWN_VIOLATIONS = 25
REDRIVES = 4
"""One after the storm, and one for each worker that still has a kill point when it ends."""


@dataclass(frozen=True)
class RoundOptions:
    """Options of a round. `patience_s` limits the time from the end of the storm until all queues are empty."""

    messages: int = 60
    kills: int = 6
    seconds: float = 60.0
    workers: int = 2
    max_receives: int = 5
    patience_s: float = 300.0


def run_calm(options: RoundOptions, world_options: WorldOptions) -> Snapshot:
    """The result of the same photos without faults."""
    photos = make_workload(options.messages, seed=0).photos
    with World(world_options) as world:
        put_photos(world, photos)
        logs = world_options.home / "logs"
        with Fleet(world.environment, logs, {"detection": 2, "grouping": 1}, lambda _slot, _last: {}):
            send(world, make_calm_messages(photos), 0)
            await_quiet(world, options.patience_s)
        return read_snapshot(world)


def run_round(options: RoundOptions, world_options: WorldOptions, calm: Snapshot) -> dict[str, Any]:
    """The result of one seed, as it is printed."""
    began = time.monotonic()
    seed = world_options.seed
    workload = make_workload(options.messages, seed)
    with World(world_options) as world:
        put_photos(world, workload.photos)
        nemesis = Nemesis(world, make_plan(seed, options.kills, options.seconds), seed)
        workers = {"detection": options.workers, "grouping": GROUPING_WORKERS}
        fleet = Fleet(world.environment, world_options.home / "logs", workers, nemesis.make_environment)
        with FenceWatch(world) as watch, fleet:
            within_s = options.seconds * SENDING_SHARE
            run_storm(fleet, nemesis, lambda: send(world, workload.messages, within_s), options)
            is_innocent = partial(checks.is_innocent, sent=workload.messages)
            redriven, unrest = settle(world, is_innocent, options.patience_s)
            exits = list(fleet.exits)
        sweep(world)
        run = read_snapshot(world)
    events = JournalReader(world.journal_path).read()
    found = {
        "lost": checks.find_lost_messages(workload.messages, run),
        "ungrouped": checks.find_ungrouped_galleries(run),
        "duplicated": checks.find_duplicated_results(run, calm),
        "fence_violations": checks.find_fence_violations(run, events, watch.seen),
        "orphans": checks.find_orphans(run),
    }
    others = [
        *unrest,
        *checks.find_different_photos(run, calm),
        *checks.find_different_groups(run, calm),
        *checks.find_wrong_dead_letters(workload.messages, run, events, options.max_receives),
    ]
    return {
        "seed": seed,
        "workload": "simple",
        "sent": len(workload.messages),
        "stored": sum(checks.is_stored(one, run) for one in workload.messages),
        "dead_lettered": sum(checks.is_dead(one, run) for one in workload.messages),
        "redriven_innocent": redriven,
        "seconds": round(time.monotonic() - began, 1),
        **describe_round(world, nemesis, exits, found, others),
    }


def describe_round(
    world: World, nemesis: Nemesis, exits: Sequence[Exit], found: Mapping[str, list[str]], others: list[str]
) -> dict[str, Any]:
    """The part of a round's result that every workload has: what was done to the workers, and what is wrong."""
    events = JournalReader(world.journal_path).read()
    others = [
        *others,
        *checks.find_slow_exits(nemesis.sigterm_exit_s, nemesis.never_ended, SHUTDOWN_DEADLINE_S + EXIT_SLACK_S),
        *checks.find_unexpected_exits(exits),
    ]
    times_s = measure_redelivery_times(events, exits, VISIBILITY_S)
    violations = [sentence for sentences in found.values() for sentence in sentences] + others
    return {
        **{name: len(sentences) for name, sentences in found.items()},
        "kills": sum(one.code == -9 for one in exits),
        "kills_at": dict(sorted(checks.count_kills(exits).items())),
        "faults": sum(proxy.felt.total() for proxy in world.proxies.values()),
        "stops": nemesis.stops,
        "sigterms": len(nemesis.sigterm_exit_s),
        "clock_steps": nemesis.clock_steps,
        "refused_receipts": sum(event.event == "refuse" for event in events),
        "redelivery_s": [round(time_s, 1) for time_s in times_s],
        "max_sigterm_exit_s": round(max(nemesis.sigterm_exit_s), 1) if nemesis.sigterm_exit_s else None,
        "strict": world.options.strict,
        "violations": violations[:SHOWN_VIOLATIONS],
    }


def run_storm(fleet: Fleet, nemesis: Nemesis, send_all: Callable[[], None], options: RoundOptions) -> None:
    """Send all messages while the plan is carried out. Afterwards there are no faults."""
    sender = threading.Thread(target=send_all, daemon=True)
    sender.start()
    nemesis.carry_out(fleet)
    sender.join()
    # Kill points that were never reached are replaced by other kills, so that a round has as many as were ordered.
    for _ in range(options.kills):
        if sum(one.code == -9 for one in fleet.exits) >= options.kills:
            return
        nemesis.kill_one(fleet)
        time.sleep(0.5)


def put_photos(world: World, photos: dict[tuple[str, str], bytes]) -> None:
    for (gallery, image), data in photos.items():
        world.s3.put_object(Bucket=SETTINGS["BUCKET_NAME"], Key=f"{gallery}/{image}.jpg", Body=data)


def send(world: World, messages: Sequence[Sent], within_s: float) -> None:
    """Send messages directly to the queue, without the proxy, evenly over the time."""
    began = time.monotonic()
    for row, message in enumerate(messages):
        time.sleep(max(0.0, began + within_s * row / len(messages) - time.monotonic()))
        world.sqs.send_message(QueueUrl=world.queues["detection"], MessageBody=message.body)


def settle(world: World, is_innocent: Callable[[DeadLetter], bool], patience_s: float) -> tuple[int, list[str]]:
    """Wait until the queues are empty, and redrive messages that the storm has dead-lettered. Returns how many these
    were, and a sentence for what is still wrong."""
    redriven = 0
    for _ in range(REDRIVES):
        unrest = await_quiet(world, patience_s)
        if unrest:
            return redriven, [unrest]
        count = redrive_innocent(world, is_innocent)
        redriven += count
        if not count:
            return redriven, []
    return redriven, [f"{count} messages that are not poison are dead-lettered again and again."]


def await_quiet(world: World, patience_s: float) -> str | None:
    """Wait until both queues stay empty, and no grouping message is owed that a worker will still send. Returns a
    sentence where the queues don't stay empty."""
    until = time.monotonic() + patience_s
    quiet_since = empty_since = None
    while time.monotonic() < until:
        counts = count_messages(world)
        if any(counts.values()):
            quiet_since = empty_since = None
        elif is_behind(world) and time.monotonic() - (empty_since := empty_since or time.monotonic()) < OWED_FOR_S:
            quiet_since = None
        else:
            quiet_since = quiet_since or time.monotonic()
            if time.monotonic() - quiet_since > QUIET_FOR_S:
                return None
        time.sleep(0.3)
    return f"The queues are not empty {patience_s:.0f} s after the storm: {count_messages(world)}."


def is_behind(world: World) -> bool:
    """Whether a gallery has changed since its last run."""
    galleries = world.database["galleries"].find({}, ["revision", "last_run.revision"])
    return any(one.get("revision", 0) != one.get("last_run", {}).get("revision", 0) for one in galleries)


def count_messages(world: World) -> dict[str, int]:
    """Queue → number of its messages that are visible, in flight or delayed."""
    counts = {}
    for name in QUEUE_VARIABLES:
        wanted = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
        answer = world.sqs.get_queue_attributes(QueueUrl=world.queues[name], AttributeNames=wanted)
        counts[name] = sum(int(count) for count in answer["Attributes"].values())
    return counts


def redrive_innocent(world: World, is_innocent: Callable[[DeadLetter], bool]) -> int:
    """Redrive the messages that are not poison, as an operator does after an outage. Returns how many."""
    letters = read_dead_letters(world, must_delete=is_innocent)
    innocent = [letter for letter in letters if is_innocent(letter)]
    for letter in innocent:
        source = letter.queue.removesuffix("-dead-letters")
        world.sqs.send_message(QueueUrl=world.queues[source], MessageBody=letter.body)
    return len(innocent)


def sweep(world: World) -> None:
    """Remove what killed workers have left behind, as an operator does."""
    command = [sys.executable, "-m", "app.admin", "sweep", "--older-than-s", "0", "--json"]
    environment = {**os.environ, **world.environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalStackError(f"The sweep failed: {done.stderr.strip()}")
