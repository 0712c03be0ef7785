"""GalleryStore: what the services rely on, of the fake and of MongoDB."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import TypeVar
from uuid import uuid4

import pytest
from pymongo import MongoClient

from app.adapters.mongo import Document
from app.adapters.mongo_galleries import MongoGalleryStore
from app.core.errors import StaleFence
from app.core.ports import CHECK_AFTER_S, CLAIM_S, GalleryChange, GalleryLease, GalleryState, RunProgress
from app.core.roles import QualityBars
from tests.stores import MODEL, Stores

T = TypeVar("T")
THREADS = 8
TIMES = ("grouping_due_at", "grouping_owed", "grouping_check_at")
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


def change(stores: Stores, delay_s: int, gallery: str = "g") -> bool:
    """What a photo does. Whether it sent the gallery's message."""
    claim = stores.galleries.mark_dirty(gallery, delay_s)
    if claim:
        stores.galleries.note_sent(claim, delay_s)
    return claim is not None


def wait(stores: Stores, delay_s: int) -> bool:
    """What a grouping message does whose gallery is being grouped. Whether it left another message."""
    claim = stores.galleries.claim_message("g", delay_s)
    if claim:
        stores.galleries.note_sent(claim, delay_s)
    return claim is not None


def owed_after(stores: Stores, seconds: float) -> list[str]:
    """The galleries whose message is owed and sent by nobody, some seconds after all that is stored now."""
    if stores.database is None:
        stores.sleep(seconds)
    else:
        shift_times(stores, -seconds)
    found = []
    while claim := stores.galleries.claim_overdue():
        found.append(claim.gallery_id)
    return found


def shift_times(stores: Stores, seconds: float) -> None:
    """Put the database's clock back by so many seconds, as seen by what is stored."""
    if stores.database is None:
        stores.sleep(-seconds)
        return
    for gallery in stores.database["galleries"].find():
        times = {name: gallery[name] + timedelta(seconds=seconds) for name in TIMES if gallery.get(name)}
        stores.database["galleries"].update_one({"_id": gallery["_id"]}, {"$set": {"seen": True, **times}})


def test_the_first_change_owes_a_message_and_those_within_the_delay_do_not(stores: Stores) -> None:
    assert [change(stores, 60) for _ in range(3)] == [True, False, False]


def test_a_change_after_the_delay_owes_a_message_again(stores: Stores) -> None:
    assert [change(stores, 1) for _ in range(2)] == [True, False]
    stores.sleep(1.1)
    assert [change(stores, 1) for _ in range(2)] == [True, False]


def test_a_change_within_the_delay_does_not_put_the_next_message_off(stores: Stores) -> None:
    change(stores, 1)
    stores.sleep(0.6)
    change(stores, 1)
    stores.sleep(0.6)
    assert change(stores, 1)


def test_galleries_have_delays_of_their_own(stores: Stores) -> None:
    assert change(stores, 60)
    assert change(stores, 60, "other")


def test_without_a_delay_every_change_owes_a_message(stores: Stores) -> None:
    assert [change(stores, 0) for _ in range(3)] == [True] * 3


def test_of_changes_at_the_same_time_exactly_one_owes_a_message(stores: Stores) -> None:
    claims = at_the_same_time(lambda _: stores.galleries.mark_dirty("g", 60))
    assert len([claim for claim in claims if claim]) == 1
    assert lease_of(stores, "me").revision == THREADS


def test_a_claim_owes_a_message_once_in_its_delay_and_counts_no_change(stores: Stores) -> None:
    change(stores, 0)
    assert [wait(stores, 1) for _ in range(2)] == [True, False]
    stores.sleep(1.1)
    assert wait(stores, 1)
    assert lease_of(stores, "me").revision == 1


def test_a_change_and_a_claim_share_one_message(stores: Stores) -> None:
    assert change(stores, 60)
    assert not wait(stores, 60)


def test_of_claims_at_the_same_time_exactly_one_owes_a_message(stores: Stores) -> None:
    claims = at_the_same_time(lambda _: stores.galleries.claim_message("g", 60))
    assert len([claim for claim in claims if claim]) == 1


def test_several_photos_that_are_stored_together_are_as_many_changes(stores: Stores) -> None:
    stores.galleries.mark_dirty("g", 30, changes=3)
    stores.galleries.mark_dirty("g", 30)
    state = stores.galleries.find_gallery("g")
    assert state is not None
    assert state.revision == 4


def test_a_message_whose_sender_died_before_sending_is_owed_to_whoever_comes_once_the_claim_is_over(
    stores: Stores,
) -> None:
    assert stores.galleries.mark_dirty("g", 1)
    assert stores.galleries.mark_dirty("g", 1) is None
    assert owed_after(stores, CLAIM_S - 2) == []
    assert owed_after(stores, 3) == ["g"]
    assert stores.galleries.mark_dirty("g", 1) is None
    shift_times(stores, -CLAIM_S - 1)
    assert change(stores, 60)
    assert owed_after(stores, 50) == []


def test_a_message_that_could_not_be_sent_is_owed_at_once(stores: Stores) -> None:
    claim = stores.galleries.mark_dirty("g", 60)
    assert claim
    stores.galleries.give_claim_back(claim)
    assert change(stores, 60)
    claim = stores.galleries.mark_dirty("other", 60)
    assert claim
    stores.galleries.give_claim_back(claim)
    assert owed_after(stores, 0) == ["other"]


def test_a_claim_that_is_anothers_by_now_settles_nothing(stores: Stores) -> None:
    late = stores.galleries.mark_dirty("g", 60)
    assert late
    assert owed_after(stores, CLAIM_S + 1) == ["g"]
    stores.galleries.give_claim_back(late)
    stores.galleries.note_sent(late, 600)
    assert stores.galleries.mark_dirty("g", 60) is None
    assert owed_after(stores, CLAIM_S + 1) == ["g"]


def test_a_change_while_the_message_is_sent_is_covered_by_it_unless_it_may_have_come_before_the_change(
    stores: Stores,
) -> None:
    for gallery, delay_s in (("covered", 60), ("too slow", 0)):
        claim = stores.galleries.mark_dirty(gallery, delay_s)
        assert claim
        stores.sleep(0.01)
        assert stores.galleries.mark_dirty(gallery, delay_s) is None
        stores.galleries.note_sent(claim, delay_s)
    assert owed_after(stores, 0) == ["too slow"]


def test_a_clock_that_is_put_back_hides_no_change(stores: Stores) -> None:
    change(stores, 30)
    shift_times(stores, 3_600)
    assert change(stores, 30)
    assert stores.galleries.mark_dirty("dead", 30)
    shift_times(stores, 3_600)
    assert change(stores, 30, "dead")
    assert stores.galleries.mark_dirty("late", 30)
    shift_times(stores, 3_600)
    assert "late" in owed_after(stores, 0)


def test_a_gallery_that_is_not_grouped_long_after_its_message_is_owed_another_once(stores: Stores) -> None:
    change(stores, 30)
    assert owed_after(stores, 25 + CHECK_AFTER_S) == []
    shift_times(stores, -10)
    claim = stores.galleries.claim_overdue()
    assert claim
    stores.galleries.note_sent(claim, 30)
    assert owed_after(stores, 31 + CHECK_AFTER_S) == []
    assert change(stores, 30)
    assert owed_after(stores, 31 + CHECK_AFTER_S) == ["g"]


def test_a_gallery_that_is_grouped_is_owed_nothing(stores: Stores) -> None:
    change(stores, 30)
    stores.galleries.record_run(lease_of(stores, "me"), MODEL, {})
    assert owed_after(stores, 31 + CHECK_AFTER_S) == []
    assert owed_after(stores, 31 + CHECK_AFTER_S) == []


def test_a_setting_of_a_gallery_is_grouped_though_its_sender_died(stores: Stores) -> None:
    stores.galleries.set_threshold("g", 0.6)
    stores.galleries.set_quality("other", None)
    assert sorted(owed_after(stores, 0)) == ["g", "other"]


def test_of_those_who_look_for_owed_messages_at_the_same_time_exactly_one_gets_each(stores: Stores) -> None:
    for gallery in "ab":
        claim = stores.galleries.mark_dirty(gallery, 60)
        assert claim
        stores.galleries.give_claim_back(claim)
    claims = at_the_same_time(lambda _: stores.galleries.claim_overdue())
    assert sorted(claim.gallery_id for claim in claims if claim) == ["a", "b"]


def test_a_gallery_of_the_former_version_keeps_its_window(mongo_client: MongoClient[Document]) -> None:
    database = mongo_client[f"test_{uuid4().hex}"]
    now = datetime.now(UTC)
    for gallery, due in (("open", now + timedelta(seconds=20)), ("over", now - timedelta(seconds=1))):
        former = {"_id": gallery, "revision": 7, "grouping_due_at": due, "claimed_by": "a former worker"}
        database["galleries"].insert_one(former)
    galleries = MongoGalleryStore(database)
    assert galleries.mark_dirty("open", 30) is None
    claim = galleries.mark_dirty("over", 30)
    assert claim
    assert claim.revision == 8
    mongo_client.drop_database(database)


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


def test_the_fence_of_a_held_lease_is_lifted_and_grows_from_there(stores: Stores) -> None:
    lease = stores.galleries.lift_fence(lease_of(stores, "me"), 200)
    assert lease == replace(lease_of(stores, "me"), fence=201)
    stores.galleries.record_run(lease, MODEL, {"output": "digest"})
    stores.galleries.release(lease)
    after = lease_of(stores, "you")
    assert (after.fence, after.output) == (202, "digest")


def test_a_lease_that_is_anothers_or_given_back_lifts_no_fence(stores: Stores) -> None:
    lost = lease_of(stores, "me", 0.2)
    stores.sleep(0.4)
    newer = lease_of(stores, "you")
    with pytest.raises(StaleFence):
        stores.galleries.lift_fence(lost, 200)
    stores.galleries.release(newer)
    with pytest.raises(StaleFence):
        stores.galleries.lift_fence(newer, 200)
    assert lease_of(stores, "third").fence == newer.fence + 1


def test_what_belongs_to_a_gallery_is_set_once_by_its_request(stores: Stores) -> None:
    bars = QualityBars(core=50, border=30)
    first = GalleryChange({"display_name": "Ann", "retention_days": 9, "quality": bars, "threshold": 0.5})
    assert stores.galleries.set_gallery("g", "r1", first)
    assert stores.galleries.find_gallery("g") == GalleryState(1, None, None, 0, "Ann", 9, bars, 0.5)
    assert stores.galleries.set_gallery("g", "r2", GalleryChange({"display_name": "$Bob", "quality": None}))
    assert stores.galleries.find_gallery("g") == GalleryState(2, None, None, 0, "$Bob", 9, None, 0.5)
    assert not stores.galleries.set_gallery("g", "r1", first)
    assert stores.galleries.set_gallery("g", "r3", GalleryChange({"retention_days": None}))
    assert stores.galleries.find_gallery("g") == GalleryState(2, None, None, 0, "$Bob", None, None, 0.5)
    lease = stores.galleries.take_lease("g", "tester", 60)
    assert lease
    assert (lease.quality, lease.threshold) == (None, 0.5)
