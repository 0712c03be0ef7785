"""A run renews its gallery's lease and reports how far it is."""

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from app.core.errors import StaleFence
from app.core.ports import GalleryLease, RunProgress
from app.grouping.run import REPORT_EVERY_S, GroupingRun
from tests.fake_stores import FakeGalleryStore
from tests.fakes import RealClock

LEASE_S = 0.3


class Galleries(FakeGalleryStore):
    """With real time; `shown` is all progress that was reported."""

    def __init__(self) -> None:
        super().__init__(RealClock())
        self.shown: list[RunProgress] = []

    def report_progress(self, lease: GalleryLease, progress: RunProgress) -> None:
        super().report_progress(lease, progress)
        self.shown.append(progress)


@pytest.fixture
def galleries() -> Galleries:
    return Galleries()


def run_on(galleries: Galleries, last_run: Mapping[str, object] | None = None, lease_s: float = LEASE_S) -> GroupingRun:
    lease = galleries.take_lease("g", "me", lease_s)
    assert lease
    return GroupingRun(replace(lease, last_run=last_run or {}), galleries, lease_s)


def test_a_stage_may_last_longer_than_the_lease(galleries: Galleries) -> None:
    with run_on(galleries) as run:
        run.begin_stage("cluster")
        time.sleep(3 * LEASE_S)
        assert galleries.take_lease("g", "you", LEASE_S) is None
        run.begin_stage("people")


def test_a_run_that_is_over_keeps_nothing(galleries: Galleries) -> None:
    with run_on(galleries) as run:
        run.begin_stage("cluster")
    galleries.release(run.lease)
    time.sleep(LEASE_S)
    assert galleries.take_lease("g", "you", 60)


def test_a_run_goes_on_through_an_outage_shorter_than_its_lease(galleries: Galleries) -> None:
    with run_on(galleries) as run:
        galleries.outages["take_lease"] = 1
        time.sleep(2 * LEASE_S)
        assert galleries.outages["take_lease"] == 0
        run.begin_stage("people")


def test_a_run_learns_that_its_gallery_is_anothers(galleries: Galleries) -> None:
    with run_on(galleries) as run:
        galleries.release(run.lease)
        other = galleries.take_lease("g", "you", 60)
        with pytest.raises(StaleFence, match="lost to another worker"):
            run.begin_stage("people")
    galleries.release(run.lease)
    assert other == galleries.take_lease("g", "you", 60)


def test_the_share_goes_by_how_long_the_stages_took_the_last_time(galleries: Galleries) -> None:
    with run_on(galleries, {"stages_s": {"read": 1.0, "cluster": 2.0, "people": 1.0}}, lease_s=60) as run:
        for stage in ("read", "cluster", "people"):
            run.begin_stage(stage)
            time.sleep(0.01)
    assert [(one.stage, one.share) for one in galleries.shown] == [("read", 0.0), ("cluster", 0.25), ("people", 0.75)]
    first, _, last = (one.eta_s for one in galleries.shown)
    assert first is None
    assert last is not None


def test_what_is_left_is_told_in_proportion_to_what_has_passed(
    galleries: Galleries, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    with run_on(galleries, {"stages_s": {"read": 1.0, "cluster": 3.0}}, lease_s=600) as run:
        run.begin_stage("read")
        monkeypatch.setattr("app.grouping.run.time.monotonic", lambda: now + 100)
        run.begin_stage("cluster")
        monkeypatch.undo()
    assert (galleries.shown[-1].share, galleries.shown[-1].eta_s) == (0.25, pytest.approx(300, abs=1))


def test_progress_within_a_stage_is_reported_now_and_then(
    galleries: Galleries, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_on(galleries, {"stages_s": {"read": 1.0, "cluster": 1.0}}, lease_s=600) as run:
        run.begin_stage("read")
        for part in range(1000):
            run.advance(part / 1000)
        assert len(galleries.shown) == 1
        later = time.monotonic() + REPORT_EVERY_S
        monkeypatch.setattr("app.grouping.run.time.monotonic", lambda: later)
        run.advance(0.5)
        monkeypatch.undo()
    assert [one.share for one in galleries.shown] == [0.0, 0.25]
