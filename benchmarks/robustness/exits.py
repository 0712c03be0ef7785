"""How long does a service take to end after SIGTERM, with production's settings? One line of JSON.

`python -m benchmarks exits [--pack PACK]`

`idle_s`: during a long poll of 20 s. `busy_s`: during the analysis of photos. `overdue_s`: while photos are read so
slowly, for minutes, that the deadline of 80 s ends the wait. Nothing may be lost by any of them. The exit code is 1
where an exit takes longer than its bound, or a message is neither done nor back in its queue.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from app.core.errors import WorkerError
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.journal import JournalReader
from benchmarks.chaos.proxy import Faults
from benchmarks.chaos.storm import count_messages, put_photos, send
from benchmarks.chaos.workload import make_calm_messages, make_workload
from benchmarks.chaos.world import World, WorldOptions
from local.stack import LocalStackError

PRODUCTION = {
    "MESSAGE_VISIBILITY_TIMEOUT": "120",
    "QUEUE_WAIT_S": "20",
    "GROUPING_DELAY_S": "30",
    "SHUTDOWN_DEADLINE_S": "80",
    "BATCH_SIZE": "24",
    "MAX_FACE_WORKERS": "16",
}
IDLE_BOUND_S, BUSY_BOUND_S = 22.0, 85.0
PHOTOS = 30
PATIENCE_S = 60.0
EXIT_TIMEOUT_S = 200.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks exits", description=__doc__)
    parser.add_argument("--pack", default="open")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="exits-") as home:
            result = measure(Path(home), options.pack)
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    in_time = result["idle_s"] <= IDLE_BOUND_S and max(result["busy_s"], result["overdue_s"]) <= BUSY_BOUND_S
    return 0 if in_time and result["exit_codes"] == [0, 0, 0] and not result["missing"] else 1


def measure(home: Path, pack: str) -> dict[str, Any]:
    photos = make_workload(PHOTOS, seed=0).photos
    with World(WorldOptions(home, pack, settings=PRODUCTION)) as world:
        put_photos(world, photos)
        with Fleet(world.environment, home / "logs", {"detection": 1}, lambda _slot, _last: {}) as fleet:
            time.sleep(2)  # The first poll is still waiting then.
            idle_s = _terminate(fleet)
            send(world, make_calm_messages(photos), 0)
            _await_holder(world)
            busy_s = _terminate(fleet)
            world.proxies["s3"].faults = Faults({"trickle": 1.0})
            _await_ready(fleet)
            _await_holder(world)
            time.sleep(2)  # The photos are being read then.
            overdue_s = _terminate(fleet)
            codes = [one.code for one in fleet.exits]
        waiting = count_messages(world)["detection"]
        done = world.database["images"].count_documents({})
    return {
        "idle_s": round(idle_s, 1),
        "busy_s": round(busy_s, 1),
        "overdue_s": round(overdue_s, 1),
        "exit_codes": codes[:3],
        "messages": len(photos),
        "done": done,
        "waiting": waiting,
        "missing": max(0, len(photos) - done - waiting),
    }


def _terminate(fleet: Fleet) -> float:
    seconds = fleet.terminate(fleet.slots[0], EXIT_TIMEOUT_S)
    if seconds is None or seconds == math.inf:
        raise LocalStackError(f"The service did not end within {EXIT_TIMEOUT_S:.0f} s after SIGTERM.")
    return seconds


def _await_ready(fleet: Fleet) -> None:
    until = time.monotonic() + PATIENCE_S
    while not fleet.is_ready(fleet.slots[0]):
        if time.monotonic() > until:
            raise LocalStackError(f"The service was not ready again within {PATIENCE_S:.0f} s.")
        time.sleep(0.1)


def _await_holder(world: World) -> None:
    journal, until = JournalReader(world.journal_path), time.monotonic() + PATIENCE_S
    while not journal.find_holders():
        if time.monotonic() > until:
            raise LocalStackError(f"No message was received within {PATIENCE_S:.0f} s.")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
