"""EventOutbox: what the services rely on, of the fake and of MongoDB."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier

import pytest

from app.core.events import MOST_PHOTOS, Event, GalleryGrouped, collect, tell_edit_refused, tell_grouped, tell_photos
from app.core.ports import EVENT_CLAIM_S, EventOutbox
from app.core.records import ImageRecord, ImageStatus
from tests.fake_outbox import FakeEventOutbox
from tests.stores import COLLECT_S, Stores, image_record, photo

GROUPED = tell_grouped(
    "g",
    GalleryGrouped(
        revision=3,
        published=2,
        model="m",
        people=1,
        photos=2,
        changed_people=["p1", "$p2"],
        changed=2,
        merged={"$p2": "p1"},
        groups_key="face-worker/g/groups.json",
    ),
)
REFUSED = tell_edit_refused("$g", "e1", "$nobody")


def pass_time(stores: Stores, seconds: float) -> None:
    """Let so many seconds pass, as seen by what is stored."""
    if stores.database is None:
        stores.sleep(seconds)
        return
    for one in stores.database["outbox"].find({"due_at": {"$type": "date"}}):
        earlier = {"$set": {"due_at": one["due_at"] - timedelta(seconds=seconds)}}
        stores.database["outbox"].update_one({"_id": one["_id"]}, earlier)


def indexed(*names: str, gallery: str = "g", faces: int = 2) -> list[Event]:
    return tell_photos([image_record(photo(name, gallery), faces) for name in names])


def take(outbox: EventOutbox) -> Event:
    event = outbox.take()
    assert event is not None
    return event


def test_an_event_is_taken_as_it_was_added(stores: Stores) -> None:
    stores.outbox.add([GROUPED])
    stores.outbox.add([REFUSED])
    taken = [take(stores.outbox), take(stores.outbox)]
    assert sorted(taken, key=lambda event: event.type) == [REFUSED, GROUPED]
    assert all(abs(event.at - GROUPED.at) < timedelta(seconds=1) for event in taken)
    assert stores.outbox.take() is None


def test_what_is_added_twice_before_it_was_sent_is_one_event(stores: Stores) -> None:
    stores.outbox.add([GROUPED, GROUPED])
    stores.outbox.add([GROUPED])
    assert stores.outbox.count_waiting() == 1
    taken = take(stores.outbox)
    stores.outbox.add([GROUPED])
    stores.outbox.note_sent([taken])
    assert stores.outbox.count_waiting() == 0
    stores.outbox.add([GROUPED])
    assert take(stores.outbox) == GROUPED


def test_an_event_whose_sender_died_is_taken_again_once_its_claim_is_over(stores: Stores) -> None:
    stores.outbox.add([GROUPED])
    take(stores.outbox)
    pass_time(stores, EVENT_CLAIM_S - 5)
    assert stores.outbox.take() is None
    pass_time(stores, 6)
    assert take(stores.outbox) == GROUPED


def test_an_event_that_did_not_arrive_is_due_again_when_it_was_said_to_be(stores: Stores) -> None:
    stores.outbox.add([GROUPED])
    stores.outbox.give_back([take(stores.outbox)], 20)
    pass_time(stores, 15)
    assert stores.outbox.take() is None
    pass_time(stores, 6)
    assert take(stores.outbox) == GROUPED


def test_photos_of_some_seconds_are_one_event_for_each_gallery_and_type(stores: Stores) -> None:
    lost = [ImageRecord(photo("x"), ImageStatus.REJECTED, "It is empty.")]
    stores.outbox.add([*indexed("a", "b"), *indexed("c", gallery="h"), *tell_photos(lost)])
    stores.outbox.add(indexed("d", "a"))
    assert stores.outbox.take() is None, "they wait for others"
    pass_time(stores, COLLECT_S + 1)
    taken = [take(stores.outbox) for _ in range(3)]
    assert stores.outbox.take() is None
    said = {(one.gallery_id, one.type): one.data for one in taken}
    assert {**said["g", "photo.indexed"], "image_ids": sorted(said["g", "photo.indexed"]["image_ids"])} == {
        "photos": 3,
        "faces": 6,
        "image_ids": ["a", "b", "d"],
    }
    assert said["h", "photo.indexed"] == {"photos": 1, "faces": 2, "image_ids": ["c"]}
    why = {"image_id": "x", "status": "rejected", "reason": "It is empty."}
    assert said["g", "photo.rejected"] == {"photos": 1, "rejected": [why]}
    stores.outbox.note_sent(taken)
    assert stores.outbox.count_waiting() == 0


def test_photos_whose_sender_died_come_again_as_the_same_event_without_those_that_came_since(stores: Stores) -> None:
    stores.outbox.add(indexed("a", "b"))
    pass_time(stores, COLLECT_S + 1)
    first = take(stores.outbox)
    stores.outbox.add(indexed("c"))
    pass_time(stores, COLLECT_S + 1)
    later = take(stores.outbox)
    assert later.data["image_ids"] == ["c"]
    pass_time(stores, EVENT_CLAIM_S)
    again = {one.event_id: one for one in (take(stores.outbox), take(stores.outbox))}
    assert again == {first.event_id: first, later.event_id: later}
    stores.outbox.note_sent([again[first.event_id]])
    assert stores.outbox.count_waiting() == 1


def test_what_did_not_arrive_of_photos_is_due_again_as_one(stores: Stores) -> None:
    stores.outbox.add(indexed("a", "b", "c"))
    pass_time(stores, COLLECT_S + 1)
    first = take(stores.outbox)
    stores.outbox.give_back([first], 10)
    pass_time(stores, 11)
    assert take(stores.outbox) == first
    assert stores.outbox.take() is None


def test_a_photo_that_is_told_again_later_is_no_part_of_the_former_event(stores: Stores) -> None:
    stores.outbox.add(indexed("a", "b"))
    pass_time(stores, COLLECT_S + 1)
    first = take(stores.outbox)
    stores.outbox.note_sent([first])
    stores.outbox.add(indexed("a"))
    pass_time(stores, COLLECT_S + 1)
    second = take(stores.outbox)
    assert second.event_id != first.event_id, "a reader that knows the first would miss the second"
    assert second.data == {"photos": 1, "faces": 2, "image_ids": ["a"]}


def test_of_workers_that_look_at_the_same_time_each_event_is_taken_by_one(stores: Stores) -> None:
    names = [f"p{number:03}" for number in range(40)]
    for name in names:
        stores.outbox.add(indexed(name))
    stores.outbox.add([REFUSED])
    pass_time(stores, COLLECT_S + 1)
    start = Barrier(4)

    def work(_: int) -> list[Event]:
        start.wait()
        found = []
        while event := stores.outbox.take():
            found.append(event)
        return found

    with ThreadPoolExecutor(4) as pool:
        taken = [event for found in pool.map(work, range(4)) for event in found]
    told = [image_id for event in taken if event.type == "photo.indexed" for image_id in event.data["image_ids"]]
    assert sorted(told) == names
    assert [event for event in taken if event.type == "edit.refused"] == [REFUSED]


def test_an_event_lists_some_photos_and_counts_all() -> None:
    events = indexed(*(str(number) for number in range(MOST_PHOTOS + 7)), faces=1)
    data = collect(events, "batch").data
    assert (data["photos"], data["faces"], len(data["image_ids"])) == (MOST_PHOTOS + 7, MOST_PHOTOS + 7, MOST_PHOTOS)


@pytest.mark.parametrize("same", ["etag-1", "etag-2"])
def test_the_same_fact_has_the_same_id_and_another_one_another(same: str) -> None:
    record = image_record(photo("a"))
    (first,), (second,) = tell_photos([record]), tell_photos([replace(record, etag=same)])
    assert (first.event_id == second.event_id) == (same == "etag-1")


def test_without_a_time_to_collect_each_photo_is_an_event_of_its_own() -> None:
    outbox = FakeEventOutbox(0)
    events = indexed("a", "b")
    outbox.add(events)
    assert [take(outbox), take(outbox)] == events
