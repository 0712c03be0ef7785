"""`python -m benchmarks chaos`: is anything lost or done twice when processes are killed and networks fail?

Prints one line of JSON a seed.

Not covered: the loss of a store's own data, several machines, and the memory of the workers over time. Clock steps
need a C compiler (see benchmarks.chaos.clock).
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.core.errors import WorkerError
from benchmarks.chaos.nemesis import ALL_POINTS
from benchmarks.chaos.real import run_real_round
from benchmarks.chaos.storm import RoundOptions, run_calm, run_round
from benchmarks.chaos.world import VISIBILITY_S, WorldOptions
from benchmarks.common.command import add_database_option
from local.database import choose_database

REDELIVERY_SLACK_S = 5.0
FEWEST_REDELIVERIES = 20
"""A busy machine delays single messages, so the median of fewer redeliveries is not a sign of an error."""

SUMS = (
    "sent",
    "stored",
    "dead_lettered",
    "lost",
    "duplicated",
    "fence_violations",
    "orphans",
    "swapped",
    "revived",
    "ungrouped",
    "misplaced",
    "kills",
    "faults",
    "stops",
)


def main(arguments: list[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    round_options = RoundOptions(
        options.messages, options.kills, options.seconds, options.workers, options.max_receives
    )
    with ExitStack() as stack:
        home = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        try:
            database = choose_database(options.database).name
            settings = {"WORKER_PROCESSES": str(options.processes)}
            world = WorldOptions(
                home.resolve(),
                options.pack,
                options.strict,
                options.max_receives,
                settings=settings,
                database=database,
            )
            results = _run_rounds(options, round_options, world)
        except WorkerError as error:
            print(error, file=sys.stderr)
            return 1
    total = summarise_rounds(results)
    if len(results) > 1:
        print(json.dumps(total))
    return 1 if total["violations"] else 0


def _run_rounds(options: argparse.Namespace, round_options: RoundOptions, world: WorldOptions) -> list[dict[str, Any]]:
    simple = options.workload == "simple"
    calm = run_calm(round_options, replace(world, home=world.home / "calm")) if simple else None
    results = []
    for seed in range(options.seed, options.seed + options.seeds):
        mine = replace(world, home=world.home / f"seed-{seed}", seed=seed)
        result = run_round(round_options, mine, calm) if calm else run_real_round(round_options, mine)
        result["database"] = world.database
        print(json.dumps(result), flush=True)
        results.append(result)
    return results


def summarise_rounds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of all rounds. Half of all redeliveries must be in time, where there are enough of them."""
    sums = {name: sum(result.get(name, 0) for result in results) for name in SUMS}
    struck = sum((Counter(result["kills_at"]) for result in results), Counter[str]())
    redelivery_s = [time_s for result in results for time_s in result["redelivery_s"]]
    median_s = statistics.median(redelivery_s) if len(redelivery_s) >= FEWEST_REDELIVERIES else None
    late = median_s is not None and median_s > VISIBILITY_S + REDELIVERY_SLACK_S
    return {
        "seeds": len(results),
        **sums,
        "kills_at": {point: struck[point] for point in ALL_POINTS},
        "redeliveries": len(redelivery_s),
        "median_redelivery_s": median_s,
        "max_sigterm_exit_s": max((result["max_sigterm_exit_s"] or 0 for result in results), default=None),
        "seeds_with_violations": [result["seed"] for result in results if result["violations"]],
        "violations": [sentence for result in results for sentence in result["violations"]]
        + [f"Half of the redeliveries took more than {median_s} s, with a visibility of {VISIBILITY_S} s."] * late,
    }


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks chaos", description=__doc__)
    parser.add_argument(
        "--workload", choices=["simple", "real"], default="real", help="photos that come once, or real uploads (real)"
    )
    parser.add_argument("--messages", type=int, default=60, help="messages of a round, or changes of buckets (60)")
    parser.add_argument("--kills", type=int, default=6, help="SIGKILLs of a round (6)")
    parser.add_argument("--seconds", type=float, default=60, help="how long a storm lasts (60)")
    parser.add_argument("--seed", type=int, default=0, help="the first round's seed (0)")
    parser.add_argument("--seeds", type=int, default=1, help="rounds, each with its own seed (1)")
    parser.add_argument("--strict", action="store_true", help="refuse stale receipt handles, as AWS may")
    add_database_option(parser)
    parser.add_argument("--workers", type=int, default=2, help="detection workers (2)")
    parser.add_argument("--processes", type=int, default=1, help="processes of each detection worker (1)")
    parser.add_argument("--max-receives", type=int, default=5, help="the queues' maxReceiveCount (5)")
    parser.add_argument("--pack", default="open", help="model pack (open)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep all logs here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
