"""How many Batch jobs a queue is worth."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_submitter.decision import Limits, decide

COUNTS = st.integers(0, 200_000)
LIMITS = st.builds(Limits, st.integers(1, 10_000), st.integers(1, 200), st.integers(0, 100))


@pytest.mark.parametrize(
    ("visible", "active", "share", "submit"),
    [
        pytest.param(0, 0, 100, 0, id="an empty queue needs no job"),
        pytest.param(1, 0, 100, 1, id="one message needs a job"),
        pytest.param(1_000, 0, 100, 1, id="a full share is one job"),
        pytest.param(1_001, 0, 100, 2, id="one message more is another"),
        pytest.param(5_000, 3, 100, 2, id="active jobs are taken into account"),
        pytest.param(5_000, 5, 100, 0, id="enough jobs are enough"),
        pytest.param(5_000, 9, 100, 0, id="more jobs than needed are left alone"),
        pytest.param(50_000, 0, 100, 10, id="no more than the cap"),
        pytest.param(50_000, 8, 100, 2, id="the cap counts active jobs"),
        pytest.param(50_000, 30, 100, 0, id="nothing is added above the cap"),
        pytest.param(50_000, 0, 0, 0, id="no share, no job"),
        pytest.param(8_000, 0, 25, 2, id="a quarter of the messages"),
        pytest.param(100, 0, 7, 1, id="7 percent of a few is one job"),
        pytest.param(100_000, 0, 7, 7, id="7 percent is not a little more than 7"),
    ],
)
def test_a_queue_of_messages_wants_jobs(visible: int, active: int, share: int, submit: int) -> None:
    assert decide(visible, active, Limits(1_000, 10, share)).submit == submit


@settings(deadline=None)
@given(COUNTS, COUNTS, LIMITS)
def test_active_jobs_never_rise_above_the_cap(visible: int, active: int, limits: Limits) -> None:
    assert active + decide(visible, active, limits).submit <= max(active, limits.max_jobs)


@settings(deadline=None)
@given(COUNTS, COUNTS, LIMITS)
def test_there_is_never_a_job_without_messages_for_it(visible: int, active: int, limits: Limits) -> None:
    jobs = decide(visible, active, limits).submit
    assert jobs == 0 or (active + jobs - 1) * limits.messages_per_job * 100 < visible * limits.traffic_share


@settings(deadline=None)
@given(COUNTS, LIMITS)
def test_submitting_twice_in_a_row_submits_once(visible: int, limits: Limits) -> None:
    first = decide(visible, 0, limits).submit
    assert decide(visible, first, limits).submit == 0


@settings(deadline=None)
@given(COUNTS, COUNTS, COUNTS, LIMITS)
def test_more_messages_never_want_fewer_jobs(visible: int, more: int, active: int, limits: Limits) -> None:
    assert decide(visible + more, active, limits).submit >= decide(visible, active, limits).submit


@settings(deadline=None)
@given(COUNTS, COUNTS, st.integers(0, 100), st.integers(0, 100))
def test_a_larger_share_never_wants_fewer_jobs(visible: int, active: int, one: int, other: int) -> None:
    small, large = sorted((one, other))
    fewer, more = (decide(visible, active, Limits(500, 50, share)).submit for share in (small, large))
    assert fewer <= more


@pytest.mark.parametrize("limits", [(0, 1, 50), (1, 0, 50), (1, 10_001, 50), (1, 1, -1), (1, 1, 101)])
def test_limits_that_make_no_sense_are_refused(limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Limits(*limits)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        decide(-1, 0, Limits(1, 1, 100))
