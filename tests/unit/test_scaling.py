"""The simulation of scaling, on two hours: a burst in a trickle of photos, while Spot takes half of the instances."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.scaling.conditions import Burst, Conditions, Load, Wave, read_conditions
from benchmarks.scaling.ecs import Point, compute_backlog_per_running_task, compute_work_per_desired_task
from benchmarks.scaling.measures import GOAL_MOST_MIN, GOAL_TURNS, count_turns, measure
from benchmarks.scaling.plot import write_plot
from benchmarks.scaling.ways import WAYS, Trace, Way, simulate
from infra.cost.inputs import WORKLOAD, Workload, read_table

# A benchmark's own simulation.
pytestmark = pytest.mark.slow

ECS, BATCH, BOTH, RUNNING, ENDLESS_JOBS, PLANNED_ECS, PLANNED_BATCH = WAYS
BUILT = [ECS, BATCH, BOTH]
SHORT = Load(bursts=(Burst(600, 12_000, 120),), rates=((0, 0.2), (1.5, 0.2), (1.6, 0), (2, 0)), length_s=7_200)
GIVEN = replace(read_conditions(), waves=(Wave(1_020, 0.5),))


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    return {way.name: simulate(way, SHORT, GIVEN) for way in WAYS}


def test_what_a_photo_takes_comes_from_the_file_that_the_cost_model_reads() -> None:
    assert read_conditions().seconds_per_photo == read_table(WORKLOAD, Workload).seconds_per_photo.value


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_photo_is_done_or_still_there(way: Way, traces: dict[str, Trace]) -> None:
    trace = traces[way.name]
    assert trace.sent > 12_000
    assert len(trace.ages_s) + trace.left == trace.sent


@pytest.mark.parametrize("way", BUILT, ids=lambda way: way.name)
def test_what_is_built_is_in_time_and_steady_though_spot_takes_half(way: Way, traces: dict[str, Trace]) -> None:
    figures = measure(traces[way.name], GIVEN.seconds_per_photo, usd_h=0.2)
    assert (figures.left, figures.busy_killed) == (0, 0)
    assert figures.age_most_min <= GOAL_MOST_MIN
    assert figures.turns <= GOAL_TURNS


@pytest.mark.parametrize("way", BUILT, ids=lambda way: way.name)
def test_what_is_built_is_bounded_and_ends_with_nothing_running(way: Way, traces: dict[str, Trace]) -> None:
    trace = traces[way.name]
    systems = 2 if way is BOTH else 1
    assert max(trace.wanted) <= max(trace.instances) <= systems * GIVEN.max_instances
    assert trace.instances[-1] == trace.workers[-1] == 0


def test_with_half_of_the_traffic_each_does_a_good_part(traces: dict[str, Trace]) -> None:
    done = {way.name: traces[way.name].done_by_batch / traces[way.name].sent for way in BUILT}
    assert (done[ECS.name], done[BATCH.name]) == (0, 1)
    assert 0.2 < done[BOTH.name] < 0.8


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_the_same_seed_gives_the_same_day(way: Way, traces: dict[str, Trace]) -> None:
    assert asdict(simulate(way, SHORT, GIVEN)) == asdict(traces[way.name])
    assert simulate(way, SHORT, GIVEN, seed=1).ages_s != traces[way.name].ages_s


@pytest.mark.parametrize(("way", "loses"), [(BATCH, False), (PLANNED_BATCH, True)], ids=["built", "planned"])
def test_spot_takes_messages_from_workers_that_heed_no_notice_only(way: Way, loses: bool) -> None:
    everything = replace(GIVEN, waves=(Wave(700, 1.0),))
    assert (simulate(way, SHORT, everything).busy_killed > 0) is loses


def test_a_queue_depth_of_one_a_task_costs_half_as_much_again_and_more(traces: dict[str, Trace]) -> None:
    assert traces[PLANNED_ECS.name].instance_hours > 1.5 * traces[ECS.name].instance_hours


def test_the_backlog_of_running_tasks_alone_goes_up_and_down_more_often() -> None:
    evening = Load(bursts=(), rates=((0, 30), (3, 30)), length_s=3 * 3_600)
    calm, restless = (count_turns(simulate(way, evening, GIVEN).wanted) for way in (ECS, RUNNING))
    assert calm <= 2 < restless


def test_jobs_that_end_after_a_while_do_not_idle_through_a_trickle() -> None:
    load = Load(bursts=(Burst(0, 30_000),), rates=((0, 2), (3, 2)), length_s=3 * 3_600)
    endless, ending = (simulate(way, load, GIVEN).instance_hours for way in (ENDLESS_JOBS, BATCH))
    assert ending < 0.7 * endless


@pytest.mark.parametrize(("way", "piled_up"), [(BATCH, False), (PLANNED_BATCH, True)], ids=["built", "planned"])
def test_jobs_pile_up_without_instances_only_as_planned(way: Way, piled_up: bool) -> None:
    dry = replace(GIVEN, drought=(0, 7_200))
    waiting = simulate(way, SHORT, dry).most_waiting_jobs
    needed = 12_000 / GIVEN.messages_per_worker
    assert (waiting > 60) if piled_up else (needed <= waiting <= needed + 1)


@pytest.mark.parametrize("way", BUILT, ids=lambda way: way.name)
def test_a_few_photos_in_an_idle_night_start_one_worker(way: Way) -> None:
    lonely = Load(bursts=(Burst(600, 40, 1),), rates=((0, 0), (1, 0)), length_s=3_600)
    trace = simulate(way, lonely, GIVEN)
    assert (trace.left, max(trace.workers)) == (0, 1)


def test_a_killed_worker_s_photos_come_back_after_their_visibility() -> None:
    careless = replace(GIVEN, heeds_stop=False, visibility_s=500)
    trace = simulate(BATCH, SHORT, careless)
    assert trace.busy_killed > 0
    assert trace.left == 0
    assert max(trace.ages_s) > 500


@pytest.mark.parametrize(
    ("point", "work", "backlog"),
    [
        pytest.param(Point(900, 0, 0, 0), 900, 900, id="from zero the whole backlog counts"),
        pytest.param(Point(900, 0, 3, 3), 300, 300, id="each task has its part"),
        pytest.param(Point(900, 0, 1, 9), 100, 900, id="tasks on their way are counted"),
        pytest.param(Point(0, 60, 3, 3), 100, 0, id="what will come in five minutes is work"),
    ],
)
def test_the_metrics_are_as_their_expressions_say(point: Point, work: float, backlog: float) -> None:
    assert compute_work_per_desired_task(point, 300) == work
    assert compute_backlog_per_running_task(point, 300) == backlog


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        pytest.param([0] * 90, 0, id="nothing happens"),
        pytest.param([0, 9, 9, 0], 1, id="up and down is one change of direction"),
        pytest.param([0, 9, 0, 9, 0], 3, id="twice up and down are three"),
        pytest.param([4, 5, 6, 5, 6, 5, 7, 9], 0, id="one or two workers are none"),
        pytest.param([0, 9, *[0] * 60, 9, *[0] * 60], 2, id="of those further apart only an hour's count"),
    ],
)
def test_turns_are_counted_within_an_hour(wanted: list[int], count: int) -> None:
    assert count_turns(wanted) == count


def test_the_picture_is_the_same_for_the_same_day(traces: dict[str, Trace], tmp_path: Path) -> None:
    for name in ("one.svg", "other.svg"):
        write_plot(tmp_path / name, {ECS.name: traces[ECS.name]})
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def test_a_slower_photo_makes_a_smaller_target() -> None:
    slow: Conditions = replace(GIVEN, seconds_per_photo=GIVEN.seconds_per_photo * 2)
    assert slow.messages_per_worker == GIVEN.messages_per_worker // 2
