"""PeopleStore: what the services rely on, of the fake and of MongoDB."""

from collections.abc import Callable, ItemsView, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandStartedEvent

from app.adapters.mongo import WRITE_BATCH, Document
from app.adapters.mongo_galleries import MongoPeopleStore
from app.errors import StaleFence
from app.ports import GalleryLease
from app.records import PersonRecord, join_batches
from tests.fake_stores import FakePeopleStore
from tests.stores import MODEL, OnceBefore, Stores, face_record, photo, photo_result

NAMES = ("a", "b", "c")
FACE_IDS = {name: face_record(photo(name), 0).face_id for name in NAMES}


def lease_of(stores: Stores, owner: str, ttl_s: float = 60, gallery: str = "g") -> GalleryLease:
    lease = stores.galleries.take_lease(gallery, owner, ttl_s)
    assert lease is not None
    return lease


def people_of(*person_ids: str) -> list[PersonRecord]:
    return [PersonRecord(person_id, FACE_IDS["a"], 2, 1) for person_id in person_ids]


def save(stores: Stores, *person_ids: str, assigned: dict[str, str | None] | None = None, gallery: str = "g") -> None:
    lease = lease_of(stores, "tester", gallery=gallery)
    stores.people.save_people(lease, people_of(*person_ids), assigned or {})
    stores.galleries.release(lease)


def name_person(stores: Stores, person_id: str, name: str) -> None:
    """As the customer does, outside this system."""
    if isinstance(stores.people, FakePeopleStore):
        stores.people.names["g", person_id] = name
    else:
        stores.database["people"].update_one({"_id": f"g/{person_id}"}, {"$set": {"name": name}})


def save_photos(stores: Stores) -> None:
    stores.faces.save_photos([photo_result(photo(name)) for name in NAMES])


def person_of_each_face(stores: Stores) -> list[str | None]:
    return join_batches(list(stores.faces.read_faces("g", MODEL))).person_ids


def test_a_gallery_without_people_has_no_names(stores: Stores) -> None:
    assert stores.people.read_names("g") == {}


def test_a_new_person_is_active_and_has_no_name(stores: Stores) -> None:
    save(stores, "p1")
    assert stores.statuses("g") == {"p1": "active"}
    assert stores.people.read_names("g") == {}


def test_a_name_survives_the_next_run(stores: Stores) -> None:
    save(stores, "p1", "p2")
    name_person(stores, "p1", "Zoë 🎉")
    save(stores, "p1", "p2")
    assert stores.people.read_names("g") == {"p1": "Zoë 🎉"}


def test_a_person_no_longer_seen_is_kept_as_absent_with_the_name(stores: Stores) -> None:
    save(stores, "p1", "p2")
    name_person(stores, "p1", "Ann")
    save(stores, "p2")
    assert stores.statuses("g") == {"p1": "absent", "p2": "active"}
    assert stores.people.read_names("g") == {"p1": "Ann"}


def test_a_person_seen_again_is_active_again(stores: Stores) -> None:
    save(stores, "p1")
    save(stores)
    save(stores, "p1")
    assert stores.statuses("g") == {"p1": "active"}


def test_other_galleries_people_are_left_alone(stores: Stores) -> None:
    save(stores, "p1")
    save(stores, "p9", gallery="other")
    save(stores, gallery="other")
    assert stores.statuses("g") == {"p1": "active"}
    assert stores.statuses("other") == {"p9": "absent"}


def test_faces_get_their_people_and_those_not_named_keep_theirs(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", "p2", assigned={FACE_IDS["a"]: "p1", FACE_IDS["b"]: "p2"})
    assert person_of_each_face(stores) == ["p1", "p2", None]
    save(stores, "p1", "p2", assigned={FACE_IDS["c"]: "p2"})
    assert person_of_each_face(stores) == ["p1", "p2", "p2"]


def test_a_face_can_lose_its_person(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", assigned={FACE_IDS["a"]: "p1", FACE_IDS["b"]: "p1"})
    save(stores, "p1", assigned={FACE_IDS["a"]: None})
    assert person_of_each_face(stores) == [None, "p1", None]


def test_a_face_that_was_removed_meanwhile_is_not_brought_back(stores: Stores) -> None:
    save_photos(stores)
    stores.faces.save_photos([photo_result(photo("b"), 0)])
    save(stores, "p1", assigned={FACE_IDS["a"]: "p1", FACE_IDS["b"]: "p1"})
    assert person_of_each_face(stores) == ["p1", None]


def test_storing_the_same_people_twice_changes_no_face(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", assigned={FACE_IDS["a"]: "p1"})
    before = stores.snapshot()
    save(stores, "p1", assigned={FACE_IDS["a"]: "p1"})
    assert stores.snapshot() == before


@pytest.mark.parametrize("stores", ["mongo"], indirect=True)
def test_an_absent_person_counts_no_faces_in_mongodb(stores: Stores) -> None:
    save(stores, "p1")
    save(stores)
    person = stores.database["people"].find_one({"_id": "g/p1"})
    assert (person["face_count"], person["photo_count"]) == (0, 0)


def lose(stores: Stores, lease: GalleryLease) -> GalleryLease:
    """What happens to the lease of a worker that is paused for longer than it lasts. Returns the next owner's."""
    stores.sleep(0.3)
    return lease_of(stores, "you")


def test_a_worker_that_wakes_after_its_lease_was_taken_over_changes_nothing(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", "p2", assigned={FACE_IDS["a"]: "p1"})
    zombie = lease_of(stores, "me", 0.2)
    lose(stores, zombie)
    faces, statuses = stores.snapshot(), stores.statuses("g")
    with pytest.raises(StaleFence):
        stores.people.save_people(zombie, people_of("p1", "p9"), {FACE_IDS["a"]: None, FACE_IDS["b"]: "p9"})
    with pytest.raises(StaleFence):
        stores.people.save_people(zombie, [], {})
    assert (stores.snapshot(), stores.statuses("g")) == (faces, statuses)


def test_a_lease_that_was_given_back_saves_nothing(stores: Stores) -> None:
    lease = lease_of(stores, "me")
    stores.galleries.release(lease)
    with pytest.raises(StaleFence):
        stores.people.save_people(lease, people_of("p1"), {})
    assert stores.statuses("g") == {}


def test_a_lease_whose_time_is_over_but_which_nobody_took_still_saves(stores: Stores) -> None:
    lease = lease_of(stores, "me", 0.2)
    stores.sleep(0.3)
    stores.people.save_people(lease, people_of("p1"), {})
    assert stores.statuses("g") == {"p1": "active"}


class Pausing(dict[str, str | None]):
    """Assignments whose reader is paused after the first batch that a store writes."""

    pause: Callable[[], object]

    def items(self) -> ItemsView[str, str | None]:
        return self._items()  # type: ignore[return-value]

    def _items(self) -> Iterator[tuple[str, str | None]]:
        for index, pair in enumerate(super().items()):
            if index == WRITE_BATCH:
                self.pause()
            yield pair


def test_a_worker_paused_between_two_batches_writes_nothing_of_the_second(stores: Stores) -> None:
    save_photos(stores)
    lease = lease_of(stores, "me", 0.2)
    fillers = {f"g/never-there/{number}": "p1" for number in range(WRITE_BATCH - 1)}
    assigned = Pausing({FACE_IDS["a"]: "p1", **fillers, FACE_IDS["b"]: "p1"})
    assigned.pause = lambda: lose(stores, lease)
    with pytest.raises(StaleFence):
        stores.people.save_people(lease, people_of("p1"), assigned)
    assert person_of_each_face(stores) == ["p1", None, None]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_of_a_run_appears_once_its_lease_is_anothers(stores: Stores, seed: int) -> None:
    save_photos(stores)
    zombie, begun, given_up = lease_of(stores, "me", 0.02), Event(), Event()

    def write_until_refused() -> int:
        for number in count():
            if given_up.is_set():
                break
            try:
                stores.people.save_people(zombie, people_of(f"p{number}"), {FACE_IDS["a"]: f"p{number}"})
            except StaleFence:
                return number
            begun.set()
        raise AssertionError("the zombie was never refused")

    def take_over() -> None:
        for _ in range(10_000):
            # None while the zombie is in the middle of a transaction.
            if stores.galleries.take_lease("g", "you", 60):
                return
        raise AssertionError("the lease could not be taken over")

    with ThreadPoolExecutor(1) as pool:
        zombies_end = pool.submit(write_until_refused)
        assert begun.wait(30)
        stores.sleep(0.02 + 0.003 * seed)
        try:
            take_over()
        except BaseException:
            given_up.set()
            raise
        at_take_over = stores.snapshot(), stores.statuses("g")
        assert zombies_end.result(30) > 0
    assert (stores.snapshot(), stores.statuses("g")) == at_take_over


def save_with(
    stores: Stores, mongo_uri: str, action: Callable[[CommandStartedEvent], None], lease: GalleryLease
) -> None:
    with MongoClient[Document](mongo_uri, event_listeners=[OnceBefore("update faces", action)]) as client:
        store = MongoPeopleStore(client[stores.database.name])
        store.save_people(lease, people_of("p1"), {FACE_IDS["a"]: "p1"})


@pytest.mark.parametrize("stores", ["mongo"], indirect=True)
def test_a_lease_is_not_taken_over_within_a_transaction_and_is_right_after(stores: Stores, mongo_uri: str) -> None:
    save_photos(stores)
    lease, taken = lease_of(stores, "me", 0.2), []

    def take_over(_: CommandStartedEvent) -> None:
        stores.sleep(0.3)
        taken.append(stores.galleries.take_lease("g", "you", 60))

    save_with(stores, mongo_uri, take_over, lease)
    assert taken == [None]
    assert person_of_each_face(stores) == ["p1", None, None]
    assert lease_of(stores, "you").fence > lease.fence


@pytest.mark.parametrize("stores", ["mongo"], indirect=True)
def test_a_worker_paused_so_long_that_the_server_ends_its_transaction_writes_nothing(
    stores: Stores, mongo_uri: str
) -> None:
    save_photos(stores)
    lease, taken = lease_of(stores, "me", 0.2), []

    def end_and_take_over(event: CommandStartedEvent) -> None:
        # What the server does by itself after 60 s.
        stores.database.client.admin.command("killSessions", [event.command["lsid"]])
        taken.append(lose(stores, lease))

    with pytest.raises(StaleFence):
        save_with(stores, mongo_uri, end_and_take_over, lease)
    assert taken[0].fence > lease.fence
    assert person_of_each_face(stores) == [None, None, None]
