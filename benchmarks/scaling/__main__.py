"""A simulated day of load with several ways of scaling: ages of photos, instances, killed workers and waiting jobs.

`python -m benchmarks scaling [--seed 0] [--seconds-per-photo S] [--plot FILE] [--json]`

The queue, workers, Spot instances, CloudWatch's delay, target tracking and Batch are simulated; how many jobs are
submitted is decided by the submitter's own function. The seconds of a photo are in infra/workload.toml, the other
conditions in benchmarks/scaling/conditions.py. The exit code is 1 where ECS, Batch or both together miss a goal.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.scaling.conditions import DAY, HOUR_S, Conditions, read_conditions
from benchmarks.scaling.measures import Figures, measure
from benchmarks.scaling.plot import write_plot
from benchmarks.scaling.ways import WAYS, Trace, Way, simulate
from infra.cost.inputs import PRICES, WORKLOAD, Prices, Workload, parse_positive, read_table
from infra.cost.model import Model
from infra.cost.report import make_table

BUILT = 3
"""So many of WAYS, the first ones, are built, and must meet the goals."""
SHARES = (10, 25, 50, 75)
NIGHT = replace(DAY, length_s=4 * HOUR_S)
DROUGHT = (2.5 * HOUR_S, 3.5 * HOUR_S)
"""An hour without Spot instances, while the small gallery of the night arrives."""
INSTANCE = "g4dn.xlarge"


@dataclass(frozen=True)
class Answers:
    """Figures by way and by traffic_share, and by way the most jobs that waited while Spot had no instance."""

    day: dict[str, Figures]
    shares: dict[int, Figures]
    drought: dict[str, int]


def main(arguments: list[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    given = read_conditions()
    if options.seconds_per_photo:
        given = replace(given, seconds_per_photo=options.seconds_per_photo)
    traces = {way.name: simulate(way, DAY, given, options.seed) for way in WAYS}
    answers = _make_answers(traces, given, options.seed)
    print(json.dumps(asdict(answers)) if options.json else format_answers(answers), end="")
    if options.plot:
        write_plot(options.plot, _choose_drawn(traces))
    return 0 if all(row.meets_goals for row in list(answers.day.values())[:BUILT]) else 1


def _make_answers(traces: Mapping[str, Trace], given: Conditions, seed: int) -> Answers:
    model = Model(read_table(PRICES, Prices), read_table(WORKLOAD, Workload), INSTANCE, INSTANCE)
    usd_h = model.compute_hourly_usd(INSTANCE, "spot")
    known = {way.share: traces[way.name] for way in WAYS[:BUILT]}
    shared = {share: known.get(share) or simulate(Way("", share), DAY, given, seed) for share in SHARES}
    dry = replace(given, drought=DROUGHT)
    submitting = [way for way in WAYS if way.share == 100 and way.job_s is None]
    return Answers(
        {name: measure(trace, given.seconds_per_photo, usd_h) for name, trace in traces.items()},
        {share: measure(trace, given.seconds_per_photo, usd_h) for share, trace in shared.items()},
        {way.name: simulate(way, NIGHT, dry, seed).most_waiting_jobs for way in submitting},
    )


def format_answers(answers: Answers) -> str:
    """Three Markdown tables."""
    names = ("age p50, p95, most (min)", "most waiting", "most workers", "instance hours", "$ for 1,000", "at work")
    head = ("way", *names, "turns an hour", "busy killed", "most jobs waiting")
    day = [(name, *_format_cells(row), *_format_troubles(row)) for name, row in answers.day.items()]
    shares = [(f"{share} %", f"{row.by_batch:.0%}", *_format_cells(row)) for share, row in answers.shares.items()]
    drought = [(name, str(jobs)) for name, jobs in answers.drought.items()]
    return (
        f"{make_table(head, day)}\n\nBoth at once, by `traffic_share`:\n\n"
        f"{make_table(('share', 'done by Batch', *names), shares)}\n\n"
        "With an hour in which Spot has no instances, as 500 photos arrive in the night:\n\n"
        f"{make_table(('way', 'most jobs waiting'), drought)}\n"
    )


def _format_cells(row: Figures) -> tuple[str, ...]:
    ages = f"{row.age_p50_min:.1f}, {row.age_p95_min:.1f}, {row.age_most_min:.1f}"
    used = (f"{row.instance_hours:.0f}", f"{row.usd_per_1000:.3f}", f"{row.at_work:.0%}")
    return ages, f"{row.backlog_most:,}", str(row.workers_most), *used


def _format_troubles(row: Figures) -> tuple[str, ...]:
    return str(row.turns), str(row.busy_killed), str(row.waiting_jobs_most)


def _choose_drawn(traces: Mapping[str, Trace]) -> dict[str, Trace]:
    names = [way.name for way in (*WAYS[:BUILT], *WAYS[-2:])]
    return {name: traces[name] for name in names}


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of arrivals, starts and reclaims (0)")
    parser.add_argument("--seconds-per-photo", type=parse_positive, help="of one worker, in place of the file's")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the picture, as SVG")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
