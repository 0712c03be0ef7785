"""A day of load through ways of scaling: ages, instances, what is killed and what piles up.

`python -m benchmarks.scaling [--seed 0] [--seconds-per-photo S] [--plot FILE] [--json]`

Simulated are the queue, workers, Spot instances, CloudWatch's delay, target tracking and Batch; how many jobs are
submitted is decided by the submitter's own function. What a photo takes is in infra/workload.toml, the rest in
benchmarks/scaling/conditions.py. Exits with 1 where ECS, Batch or both together miss a goal.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.scaling.conditions import DAY, HOUR_S, Conditions, conditions
from benchmarks.scaling.measures import Figures, measure
from benchmarks.scaling.plot import write_plot
from benchmarks.scaling.ways import WAYS, Trace, simulate

BUILT = 3
"""The first of WAYS, which are held to the goals."""
DROUGHT = (2.5 * HOUR_S, 3.5 * HOUR_S)
"""An hour without Spot instances, as the night's small gallery arrives."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    given = conditions()
    if options.seconds_per_photo:
        given = replace(given, seconds_per_photo=options.seconds_per_photo)
    traces = {way.name: simulate(way, DAY, given, options.seed) for way in WAYS}
    figures = {name: measure(trace, given.seconds_per_photo) for name, trace in traces.items()}
    dry = droughts(given, options.seed)
    if options.json:
        print(json.dumps({"day": {name: asdict(row) for name, row in figures.items()}, "waiting_jobs": dry}))
    else:
        print(as_text(figures, dry), end="")
    if options.plot:
        write_plot(options.plot, _drawn(traces))
    return 0 if all(row.meets_goals for row in list(figures.values())[:BUILT]) else 1


def droughts(given: Conditions, seed: int) -> dict[str, int]:
    """The most jobs that wait for an instance while Spot has none for an hour, by way."""
    dry = replace(given, drought=DROUGHT)
    ways = [way for way in WAYS if way.share == 100 and way.job_s is None]
    return {way.name: simulate(way, DAY, dry, seed).most_waiting_jobs for way in ways}


def as_text(figures: Mapping[str, Figures], dry: Mapping[str, int]) -> str:
    """Two Markdown tables."""
    head = (
        "| way | age p50, p95, most (min) | most backlog | most workers | instance hours | at work | turns an hour | "
        "busy killed | most jobs waiting |"
    )
    lines = [head, "|---" * 9 + "|", *(_row(name, row) for name, row in figures.items())]
    lines += ["", "With an hour in which Spot has no instances, as 500 photos arrive in the night:", ""]
    lines += ["| way | most jobs waiting |", "|---|---|", *(f"| {name} | {jobs} |" for name, jobs in dry.items())]
    return "\n".join(lines) + "\n"


def _row(name: str, row: Figures) -> str:
    ages = f"{row.age_p50_min:.1f}, {row.age_p95_min:.1f}, {row.age_most_min:.1f}"
    return (
        f"| {name} | {ages} | {row.backlog_most:,} | {row.workers_most} | {row.instance_hours:.0f} | {row.at_work:.0%}"
        f" | {row.turns} | {row.busy_killed} | {row.waiting_jobs_most} |"
    )


def _drawn(traces: Mapping[str, Trace]) -> dict[str, Trace]:
    names = [way.name for way in (*WAYS[:BUILT], *WAYS[-2:])]
    return {name: traces[name] for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of arrivals, starts and reclaims (0)")
    parser.add_argument("--seconds-per-photo", type=float, help="of one worker, in place of the file's")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the picture, as SVG")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
