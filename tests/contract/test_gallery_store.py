"""GalleryStore: what the services rely on, of the fake and of MongoDB."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Barrier
from typing import TypeVar

import pytest

from app.core.errors import StaleFence
from app.core.ports import GalleryLease, GalleryState, RunProgress
from app.core.roles import QualityBars
from tests.stores import MODEL, Stores

T = TypeVar("T")
THREADS = 8
READING = RunProgress("read", 0.0, None, datetime(2024, 6, 1, 12, tzinfo=UTC))


def at_the_same_time(action: Callable[[int], T]) -> list[T]:
    """What eight threads get that begin together."""
    start = Barrier(THREADS)

    def run(number: int) -> T:
        start.wait()
        return action(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def lease_of(stores: Stores, owner: str, ttl_s: float = 60) -> GalleryLease:
    lease = stores.galleries.take_lease("g", owner, ttl_s)
    assert lease is not None
    return lease


def test_the_first_change_owes_a_message_and_those_within_the_delay_do_not(stores: Stores) -> None:
    assert stores.galleries.mark_dirty("g", 60)
    assert not stores.galleries.mark_dirty("g", 60)
    assert not stores.galleries.mark_dirty("g", 60)


def test_a_change_after_the_delay_owes_a_message_again(stores: Stores) -> None:
    assert stores.galleries.mark_dirty("g", 1)
    assert not stores.galleries.mark_dirty("g", 1)
    stores.sleep(1.1)
    assert stores.galleries.mark_dirty("g", 1)
    assert not stores.galleries.mark_dirty("g", 1)


def test_a_change_within_the_delay_does_not_put_the_next_message_off(stores: Stores) -> None:
    stores.galleries.mark_dirty("g", 1)
    stores.sleep(0.6)
    stores.galleries.mark_dirty("g", 1)
    stores.sleep(0.6)
    assert stores.galleries.mark_dirty("g", 1)


def test_galleries_have_delays_of_their_own(stores: Stores) -> None:
    assert stores.galleries.mark_dirty("g", 60)
    assert stores.galleries.mark_dirty("other", 60)


def test_without_a_delay_every_change_owes_a_message(stores: Stores) -> None:
    assert [stores.galleries.mark_dirty("g", 0) for _ in range(3)] == [True] * 3


def test_of_changes_at_the_same_time_exactly_one_owes_a_message(stores: Stores) -> None:
    owed = at_the_same_time(lambda _: stores.galleries.mark_dirty("g", 60))
    assert sorted(owed) == [False] * (THREADS - 1) + [True]
    assert lease_of(stores, "me").revision == THREADS


def test_a_claim_owes_a_message_once_in_its_delay_and_counts_no_change(stores: Stores) -> None:
    stores.galleries.mark_dirty("g", 0)
    assert stores.galleries.claim_message("g", 1)
    assert not stores.galleries.claim_message("g", 1)
    stores.sleep(1.1)
    assert stores.galleries.claim_message("g", 1)
    assert lease_of(stores, "me").revision == 1


def test_a_change_and_a_claim_share_one_message(stores: Stores) -> None:
    assert stores.galleries.mark_dirty("g", 60)
    assert not stores.galleries.claim_message("g", 60)
    assert stores.galleries.claim_message("other", 60)
    assert not stores.galleries.mark_dirty("other", 60)


def test_of_claims_at_the_same_time_exactly_one_owes_a_message(stores: Stores) -> None:
    owed = at_the_same_time(lambda _: stores.galleries.claim_message("g", 60))
    assert sorted(owed) == [False] * (THREADS - 1) + [True]


def test_a_gallery_that_was_never_marked_is_unknown(stores: Stores) -> None:
    stores.galleries.mark_dirty("other", 60)
    assert stores.galleries.find_gallery("g") is None


def test_a_gallery_shows_its_changes_and_its_last_run(stores: Stores) -> None:
    stores.galleries.mark_dirty("g", 60)
    assert stores.galleries.find_gallery("g") == GalleryState(1, None, None)
    stores.galleries.record_run(lease_of(stores, "me"), MODEL, {"faces": 3, "stages_s": {"read": 0.5}})
    stores.galleries.mark_dirty("g", 60)
    state = stores.galleries.find_gallery("g")
    assert state
    assert state.last_run
    run = {"faces": 3, "stages_s": {"read": 0.5}, "revision": 1, "model": MODEL}
    assert (state.revision, {name: state.last_run[name] for name in run}) == (2, run)


def test_a_lease_has_what_the_run_before_was_recorded_with(stores: Stores) -> None:
    lease = lease_of(stores, "me")
    assert lease.last_run == {}
    stores.galleries.record_run(lease, MODEL, {"faces": 3, "stages_s": {"read": 0.5}})
    last = lease_of(stores, "me").last_run
    assert (last["faces"], last["stages_s"]) == (3, {"read": 0.5})


def progress_of(stores: Stores) -> RunProgress | None:
    state = stores.galleries.find_gallery("g")
    return state.progress if state else None


def test_progress_is_seen_until_the_lease_is_given_back(stores: Stores) -> None:
    lease = lease_of(stores, "me")
    for progress in (READING, replace(READING, stage="cluster", share=0.5, eta_s=7.5)):
        stores.galleries.report_progress(lease, progress)
        assert progress_of(stores) == progress
    stores.galleries.release(lease)
    assert progress_of(stores) is None


def test_progress_of_a_run_that_lost_its_gallery_hides_nothing_of_the_newer_runs(stores: Stores) -> None:
    lost = lease_of(stores, "me", 0.2)
    stores.galleries.report_progress(lost, READING)
    stores.sleep(0.4)
    newer = lease_of(stores, "you")
    clustering = replace(READING, stage="cluster")
    stores.galleries.report_progress(newer, clustering)
    stores.galleries.report_progress(lost, READING)
    stores.galleries.release(lost)
    assert progress_of(stores) == clustering


def test_the_lease_of_a_gallery_nobody_has_marked_is_at_revision_zero(stores: Stores) -> None:
    lease = lease_of(stores, "me")
    assert (lease.gallery_id, lease.owner, lease.revision, lease.grouped) == ("g", "me", 0, None)


def test_a_lease_has_the_quality_bars_of_its_gallery(stores: Stores) -> None:
    assert lease_of(stores, "me").quality is None
    stores.galleries.set_quality("g", QualityBars(core=40, border=10))
    lease = lease_of(stores, "me")
    assert (lease.quality, lease.revision) == (QualityBars(core=40, border=10), 1)
    stores.galleries.set_quality("g", None)
    lease = lease_of(stores, "me")
    assert (lease.quality, lease.revision) == (None, 2)


def test_a_lease_has_the_threshold_of_its_gallery(stores: Stores) -> None:
    assert lease_of(stores, "me").threshold is None
    stores.galleries.set_threshold("g", 0.6)
    lease = lease_of(stores, "me")
    assert (lease.threshold, lease.revision) == (0.6, 1)
    stores.galleries.set_threshold("g", None)
    assert lease_of(stores, "me").threshold is None


def test_a_held_lease_is_nobody_elses(stores: Stores) -> None:
    lease_of(stores, "me")
    assert stores.galleries.take_lease("g", "you", 60) is None
    assert stores.galleries.take_lease("other", "you", 60) is not None


def test_of_owners_at_the_same_time_exactly_one_gets_the_lease(stores: Stores) -> None:
    leases = at_the_same_time(lambda number: stores.galleries.take_lease("g", f"owner {number}", 60))
    assert len([lease for lease in leases if lease]) == 1


def test_its_owner_renews_a_lease_without_a_new_fence(stores: Stores) -> None:
    first = lease_of(stores, "me", 0.5)
    renewed = lease_of(stores, "me", 60)
    assert renewed.fence == first.fence
    stores.sleep(0.7)
    assert stores.galleries.take_lease("g", "you", 60) is None


def test_a_lease_is_free_after_its_time_and_the_fence_has_grown(stores: Stores) -> None:
    first = lease_of(stores, "me", 0.3)
    stores.sleep(0.5)
    assert lease_of(stores, "you").fence > first.fence


def test_a_released_lease_is_free_at_once_and_fences_only_grow(stores: Stores) -> None:
    fences = []
    for owner in ("me", "you", "me", "me"):
        lease = lease_of(stores, owner)
        fences.append(lease.fence)
        stores.galleries.release(lease)
    assert fences == sorted(set(fences))


def test_releasing_a_lease_that_is_anothers_by_now_does_nothing(stores: Stores) -> None:
    lost = lease_of(stores, "me", 0.2)
    stores.sleep(0.4)
    lease_of(stores, "you")
    stores.galleries.release(lost)
    assert stores.galleries.take_lease("g", "third", 60) is None


def test_a_refused_lease_changes_nothing_for_its_owner(stores: Stores) -> None:
    held = lease_of(stores, "me")
    for _ in range(3):
        assert stores.galleries.take_lease("g", "you", 60) is None
    assert lease_of(stores, "me").fence == held.fence


def test_the_lease_has_the_revision_and_the_run_before(stores: Stores) -> None:
    stores.galleries.mark_dirty("g", 60)
    stores.galleries.mark_dirty("g", 60)
    lease = lease_of(stores, "me")
    assert (lease.revision, lease.grouped) == (2, None)
    stores.galleries.record_run(lease, MODEL, {"faces": 3})
    assert lease_of(stores, "me").grouped == (2, MODEL)


def test_the_lease_has_the_output_of_the_run_before_alone(stores: Stores) -> None:
    first = lease_of(stores, "me")
    assert first.output is None
    stores.galleries.record_run(first, MODEL, {"output": "digest"})
    stores.galleries.release(first)
    second = lease_of(stores, "you")
    assert second.output == "digest"
    assert lease_of(stores, "you").output == "digest"
    stores.galleries.release(second)
    assert lease_of(stores, "third").output is None


def test_a_change_during_a_run_is_not_taken_for_grouped(stores: Stores) -> None:
    stores.galleries.mark_dirty("g", 60)
    lease = lease_of(stores, "me")
    stores.galleries.mark_dirty("g", 60)
    stores.galleries.record_run(lease, MODEL, {})
    after = lease_of(stores, "me")
    assert after.grouped == (1, MODEL)
    assert after.revision == 2


def test_a_run_that_lost_its_lease_is_refused_and_not_recorded(stores: Stores) -> None:
    lost = lease_of(stores, "me", 0.2)
    stores.sleep(0.4)
    lease_of(stores, "you")
    with pytest.raises(StaleFence):
        stores.galleries.record_run(lost, MODEL, {})
    assert lease_of(stores, "you").grouped is None


def test_a_run_that_gave_its_lease_back_is_refused(stores: Stores) -> None:
    lease = lease_of(stores, "me")
    stores.galleries.release(lease)
    with pytest.raises(StaleFence):
        stores.galleries.record_run(lease, MODEL, {})


def test_a_run_whose_lease_came_back_after_anothers_is_refused(stores: Stores) -> None:
    first = lease_of(stores, "me", 0.2)
    stores.sleep(0.4)
    stores.galleries.release(lease_of(stores, "you"))
    again = lease_of(stores, "me")
    assert again.fence > first.fence
    with pytest.raises(StaleFence):
        stores.galleries.record_run(first, MODEL, {})
    stores.galleries.record_run(again, MODEL, {})


def test_a_run_whose_time_is_over_is_recorded_while_nobody_else_has_the_lease(stores: Stores) -> None:
    lease = lease_of(stores, "me", 0.2)
    stores.sleep(0.4)
    stores.galleries.record_run(lease, MODEL, {})
    assert lease_of(stores, "me").grouped == (0, MODEL)
