"""PeopleStore: what the services rely on, of the fake and of MongoDB."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from threading import Event

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandStartedEvent

from app.adapters.mongo import WRITE_BATCH, Document
from app.adapters.mongo_people import MongoPeopleStore
from app.core.errors import RetryLater, StaleFence
from app.core.ports import GalleryLease
from app.core.records import FaceMove, PersonRecord, PersonStatus
from tests.edits import merge
from tests.fake_stores import FakePeopleStore
from tests.stores import ON_SERVERS, OnceBefore, Stores, View, face_record, photo, photo_result, store

NAMES = ("a", "b", "c")
FACE_IDS = {name: face_record(photo(name), 0).face_id for name in NAMES}


def lease_of(stores: Stores, owner: str, ttl_s: float = 60, gallery: str = "g") -> GalleryLease:
    lease = stores.galleries.take_lease(gallery, owner, ttl_s)
    assert lease is not None
    return lease


def people_of(*person_ids: str) -> list[PersonRecord]:
    return [PersonRecord(person_id, FACE_IDS["a"], 2, 1) for person_id in person_ids]


def moves_of(now: dict[str, str | None], before: dict[str, str | None] | None = None) -> list[FaceMove]:
    """By photos' names."""
    return [FaceMove(FACE_IDS[name], (before or {}).get(name), person) for name, person in now.items()]


def write(stores: Stores, lease: GalleryLease, people: Sequence[PersonRecord], moves: Sequence[FaceMove] = ()) -> None:
    stores.people.write_people(lease, people, moves)
    stores.people.publish_people(lease)


def save(stores: Stores, *person_ids: str, moves: Sequence[FaceMove] = (), gallery: str = "g") -> None:
    """A whole run."""
    lease = lease_of(stores, "tester", gallery=gallery)
    write(stores, lease, people_of(*person_ids), moves)
    stores.galleries.release(lease)


def known(stores: Stores, gallery: str = "g") -> dict[str, PersonRecord]:
    lease = lease_of(stores, "tester", gallery=gallery)
    found = stores.people.read_people(lease)
    stores.galleries.release(lease)
    return {person.person_id: person for person in found}


def name_person(stores: Stores, person_id: str, name: str) -> None:
    """As the customer does, outside this system."""
    if isinstance(stores.people, FakePeopleStore):
        stores.people.names["g", person_id] = name
    else:
        stores.database["people"].update_one({"_id": f"g/{person_id}"}, {"$set": {"name": name}})


def save_photos(stores: Stores) -> None:
    store(stores, [photo_result(photo(name)) for name in NAMES])


def test_a_gallery_that_nobody_grouped_has_no_people(stores: Stores) -> None:
    assert known(stores) == {}
    assert stores.look("g") == View((), ())


def test_people_come_back_as_they_were_written(stores: Stores) -> None:
    absent = replace(people_of("p2")[0], face_count=0, status=PersonStatus.ABSENT)
    merged = replace(people_of("p3")[0], status=PersonStatus.MERGED, merged_into="p1")
    written = [*people_of("p1"), absent, merged]
    write(stores, lease_of(stores, "tester"), written)
    assert [replace(person, since=0, number=None) for person in known(stores).values()] == written
    assert stores.look("g").people == tuple(written)


def test_a_person_is_as_old_as_the_run_that_made_it(stores: Stores) -> None:
    save(stores, "p1")
    save(stores, "p1", "p2")
    save(stores, "p2")
    assert known(stores)["p1"].since < known(stores)["p2"].since


def test_a_name_survives_the_next_run(stores: Stores) -> None:
    save(stores, "p1", "p2")
    name_person(stores, "p1", "Zoë 🎉")
    save(stores, "p1", "p2")
    assert {person_id: person.name for person_id, person in known(stores).items()} == {"p1": "Zoë 🎉", "p2": None}


def test_people_that_are_not_written_stay_as_they_are(stores: Stores) -> None:
    save(stores, "p1", "p2")
    before = known(stores)["p1"]
    save(stores, "p2")
    assert known(stores)["p1"] == before


def test_other_galleries_people_are_left_alone(stores: Stores) -> None:
    save(stores, "p1")
    save(stores, "p9", gallery="other")
    assert (known(stores).keys(), known(stores, "other").keys()) == ({"p1"}, {"p9"})


def test_faces_get_their_people_and_those_not_named_keep_theirs(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", "p2", moves=moves_of({"a": "p1", "b": "p2"}))
    assert stores.look("g").person_ids == ["p1", "p2", None]
    save(stores, "p1", "p2", moves=moves_of({"c": "p2"}))
    assert stores.look("g").person_ids == ["p1", "p2", "p2"]


def test_a_face_can_lose_its_person(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", moves=moves_of({"a": "p1", "b": "p1"}))
    save(stores, "p1", moves=moves_of({"a": None}, before={"a": "p1"}))
    assert stores.look("g").person_ids == [None, "p1", None]


def test_a_face_that_was_removed_meanwhile_is_not_brought_back(stores: Stores) -> None:
    save_photos(stores)
    store(stores, [photo_result(photo("b"), 0)])
    save(stores, "p1", moves=moves_of({"a": "p1", "b": "p1"}))
    assert stores.look("g").person_ids == ["p1", None]


def test_storing_the_same_people_twice_changes_no_face(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", moves=moves_of({"a": "p1"}))
    before = stores.snapshot()
    save(stores, "p1", moves=moves_of({"a": "p1"}))
    assert stores.snapshot() == before


def test_nothing_of_a_run_is_seen_before_it_is_published_and_then_all(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", "p2", moves=moves_of({"a": "p1", "b": "p2"}))
    old, lease = stores.look("g"), lease_of(stores, "tester")
    changed = [replace(people_of("p1")[0], face_count=7), *people_of("p3")]
    moves = moves_of({"a": "p3", "b": None, "c": "p1"}, before={"a": "p1", "b": "p2"})
    stores.people.write_people(lease, changed, moves)
    assert stores.look("g") == old
    stores.people.publish_people(lease)
    new = stores.look("g")
    assert [(person.person_id, person.face_count) for person in new.people] == [("p1", 7), ("p2", 2), ("p3", 2)]
    assert new.person_ids == ["p3", None, "p1"]


def write_and_die(stores: Stores) -> View:
    """A run that writes over all kinds of documents and never publishes. Returns what was to be seen before it."""
    save_photos(stores)
    save(stores, "p1", "p2", moves=moves_of({"a": "p1", "b": "p2"}))
    old, lease = stores.look("g"), lease_of(stores, "dead")
    changed = [replace(people_of("p1")[0], face_count=7, status=PersonStatus.ABSENT), *people_of("p3")]
    moves = moves_of({"a": "p3", "b": None, "c": "p1"}, before={"a": "p1", "b": "p2"})
    stores.people.write_people(lease, changed, moves)
    stores.galleries.release(lease)
    return old


def test_what_a_dead_run_wrote_is_discarded_by_the_next(stores: Stores) -> None:
    old = write_and_die(stores)
    assert known(stores).keys() == {"p1", "p2"}
    assert stores.look("g") == old
    batch = next(stores.faces.read_faces("g", face_record(photo("a"), 0).model_id))
    assert batch.person_ids == ["p1", "p2", None]
    save(stores, "p1", moves=moves_of({"c": "p1"}))
    new = stores.look("g")
    assert [(person.person_id, person.face_count) for person in new.people] == [("p1", 2), ("p2", 2)]
    assert new.person_ids == ["p1", "p2", "p1"]


def test_a_next_run_that_reads_nothing_first_discards_too(stores: Stores) -> None:
    old = write_and_die(stores)
    write(stores, lease_of(stores, "tester"), people_of("p1"))
    assert stores.look("g") == old


def test_discarding_leaves_the_documents_as_they_were(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", "p2", moves=moves_of({"a": "p1", "b": "p2"}))
    before = stores.snapshot()
    write_and_die(stores)
    known(stores)
    assert stores.snapshot() == before


def test_publishing_without_having_written_is_an_error_and_changes_nothing(stores: Stores) -> None:
    old = write_and_die(stores)
    known(stores)
    with pytest.raises(RetryLater):
        stores.people.publish_people(lease_of(stores, "tester"))
    assert stores.look("g") == old


def test_a_face_whose_photo_is_replaced_during_a_run_stays_unassigned_if_that_run_dies(stores: Stores) -> None:
    write_and_die(stores)
    store(stores, [photo_result(photo("a"), etag="etag-2")])
    assert stores.look("g").person_ids[0] is None
    known(stores)
    assert stores.look("g").person_ids == [None, "p2", None]


def two_versions(stores: Stores, faces: int) -> list[tuple[list[PersonRecord], list[FaceMove]]]:
    """Two runs that undo each other: everybody is p1, with these counts, or everybody is p2."""
    names = [f"{number:03}" for number in range(faces)]
    store(stores, [photo_result(photo(name)) for name in names])
    ids = [face_record(photo(name), 0).face_id for name in names]
    here, gone = PersonRecord("p1", ids[0], faces, faces), PersonRecord("p1", ids[0], 0, 0, status=PersonStatus.ABSENT)
    first = [here, replace(gone, person_id="p2")], [FaceMove(face_id, "p2", "p1") for face_id in ids]
    second = [gone, replace(here, person_id="p2")], [FaceMove(face_id, "p1", "p2") for face_id in ids]
    lease = lease_of(stores, "tester")
    write(stores, lease, first[0], [replace(move, before=None) for move in first[1]])
    stores.galleries.release(lease)
    return [second, first]


def test_a_reader_that_reads_all_the_time_never_gets_a_mix(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.mongo_people.split_into_batches", small_batches)
    versions = two_versions(stores, faces=20)
    wanted, lease, done = [], lease_of(stores, "tester"), Event()
    for people, moves in versions:
        wanted.append(({person.person_id: person.status.value for person in people}, {move.now for move in moves}))
    seen: list[object] = []

    def read_until_done() -> None:
        while not done.is_set():
            view = stores.look("g")
            seen.append((view.statuses, set(view.person_ids)))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_until_done)
        try:
            for number in range(2_000):
                write(stores, lease, *versions[number % 2])
                if number % 3 == 2:  # What a run that dies leaves, and the next one takes back.
                    stores.people.write_people(lease, *versions[(number + 1) % 2])
                if number > 10 and all(one in seen for one in wanted):
                    break
        finally:
            done.set()
        reader.result(60)
    assert [one for one in seen if one not in wanted] == []
    assert all(one in seen for one in wanted), "the reader saw one version alone, so nothing was shown"


def small_batches(items: Sequence[object], size: int = 3) -> Iterator[list[object]]:
    listed = list(items)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


class Dead(BaseException):
    """A worker that is no more."""


class DiesBefore:
    """`listener` lets its worker die before the number-th write. `sessions` are those of its open transactions."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.sessions: list[Document] = []
        self.listener = OnceBefore("commitTransaction", self._count)

    def _count(self, event: CommandStartedEvent) -> None:
        self.left -= 1
        self.listener.done = False
        if self.left <= 0:
            self.sessions.append(event.command["lsid"])
            raise Dead


@ON_SERVERS
@pytest.mark.parametrize("cleaned", [True, False], ids=["cleaned up after", "dying while it cleans up"])
def test_a_run_that_dies_before_any_of_its_writes_leaves_the_old_version_or_the_new(
    stores: Stores, mongo_uri: str, monkeypatch: pytest.MonkeyPatch, cleaned: bool
) -> None:
    monkeypatch.setattr("app.adapters.mongo_people.split_into_batches", small_batches)
    (second, _) = two_versions(stores, faces=7)
    old, ends = stores.look("g"), []
    for number in count(1):
        dead, lease = DiesBefore(number), lease_of(stores, f"worker {number}")
        with MongoClient[Document](mongo_uri, event_listeners=[dead.listener]) as client:
            store = MongoPeopleStore(client[stores.database.name])
            try:
                store.write_people(lease, *second)
                store.publish_people(lease)
            except Dead:
                ends.append(stores.look("g"))
                # What the server does by itself after 60 s; until then nobody can write what it has written.
                stores.database.client.admin.command("killSessions", dead.sessions)
            else:
                break
        stores.galleries.release(lease)
        if cleaned:
            known(stores)
        assert stores.look("g") == old
    new = stores.look("g")
    assert len(ends) > 4
    assert set(ends) == {old}
    assert set(new.person_ids) == {"p2"}


def lose(stores: Stores, lease: GalleryLease) -> GalleryLease:
    """What happens to the lease of a worker that is paused for longer than it lasts. Returns the next owner's."""
    stores.sleep(0.3)
    return lease_of(stores, "you")


def test_a_worker_that_wakes_after_its_lease_was_taken_over_changes_nothing(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", "p2", moves=moves_of({"a": "p1"}))
    zombie = lease_of(stores, "me", 0.2)
    stores.people.write_people(zombie, people_of("p1", "p9"), moves_of({"a": None, "b": "p9"}, before={"a": "p1"}))
    lose(stores, zombie)
    faces, view = stores.snapshot(), stores.look("g")
    with pytest.raises(StaleFence):
        stores.people.publish_people(zombie)
    with pytest.raises(StaleFence):
        stores.people.write_people(zombie, [], [])
    with pytest.raises(StaleFence):
        stores.people.read_people(zombie)
    assert (stores.snapshot(), stores.look("g")) == (faces, view)


def test_a_lease_that_was_given_back_saves_nothing(stores: Stores) -> None:
    lease = lease_of(stores, "me")
    stores.galleries.release(lease)
    with pytest.raises(StaleFence):
        stores.people.write_people(lease, people_of("p1"), [])
    assert stores.look("g").people == ()


def test_a_lease_whose_time_is_over_but_which_nobody_took_still_saves(stores: Stores) -> None:
    lease = lease_of(stores, "me", 0.2)
    stores.sleep(0.3)
    write(stores, lease, people_of("p1"))
    assert stores.look("g").statuses == {"p1": "active"}


def test_a_worker_paused_between_two_batches_writes_nothing_of_the_second(stores: Stores) -> None:
    save_photos(stores)
    lease = lease_of(stores, "me", 0.2)

    def moves() -> Iterator[FaceMove]:
        yield FaceMove(FACE_IDS["a"], None, "p1")
        yield from (FaceMove(f"g/never-there/{number}", None, "p1") for number in range(WRITE_BATCH - 1))
        lose(stores, lease)
        yield FaceMove(FACE_IDS["b"], None, "p1")

    with pytest.raises(StaleFence):
        stores.people.write_people(lease, people_of("p1"), moves())
    if stores.database is not None:
        assert stores.database["faces"].count_documents({"person_id": "p1"}) == 1
    assert stores.look("g") == View((), tuple((face_id, None) for face_id in FACE_IDS.values()))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_of_a_run_appears_once_its_lease_is_anothers(stores: Stores, seed: int) -> None:
    save_photos(stores)
    zombie, begun, given_up = lease_of(stores, "me", 0.02), Event(), Event()

    def write_until_refused() -> int:
        before = None
        for number in count():
            if given_up.is_set():
                break
            try:
                moves = moves_of({"a": f"p{number}"}, before={"a": before})
                write(stores, zombie, people_of(f"p{number}"), moves)
            except StaleFence:
                return number
            before = f"p{number}"
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
        at_take_over = stores.snapshot(), stores.look("g")
        assert zombies_end.result(30) > 0
    assert (stores.snapshot(), stores.look("g")) == at_take_over


def save_with(
    stores: Stores, mongo_uri: str, action: Callable[[CommandStartedEvent], None], lease: GalleryLease
) -> None:
    with MongoClient[Document](mongo_uri, event_listeners=[OnceBefore("update faces", action)]) as client:
        store = MongoPeopleStore(client[stores.database.name])
        store.write_people(lease, people_of("p1"), moves_of({"a": "p1"}))
        store.publish_people(lease)


@ON_SERVERS
def test_a_lease_is_not_taken_over_within_a_transaction_and_is_right_after(stores: Stores, mongo_uri: str) -> None:
    save_photos(stores)
    lease, taken = lease_of(stores, "me", 0.2), []

    def take_over(_: CommandStartedEvent) -> None:
        stores.sleep(0.3)
        taken.append(stores.galleries.take_lease("g", "you", 60))

    save_with(stores, mongo_uri, take_over, lease)
    assert taken == [None]
    assert stores.look("g").person_ids == ["p1", None, None]
    assert lease_of(stores, "you").fence > lease.fence


@ON_SERVERS
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
    assert stores.database["faces"].count_documents({"person_id": "p1"}) == 0


@ON_SERVERS
def test_people_of_a_gallery_whose_document_was_removed_by_hand_are_seen_after_its_next_run(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", moves=moves_of({"a": "p1"}))
    save(stores, "p2", moves=moves_of({"b": "p2"}))
    assert stores.database is not None
    for name in ("galleries", "leases"):
        stores.database[name].delete_one({"_id": "g"})
    assert known(stores).keys() == {"p1", "p2"}
    save(stores, "p3", moves=moves_of({"c": "p3"}))
    view = stores.look("g")
    assert view.statuses == dict.fromkeys(("p1", "p2", "p3"), "active")
    assert view.person_ids == ["p1", "p2", "p3"]


def test_users_words_of_a_face_are_written_along_where_a_run_carries_them_over(stores: Stores) -> None:
    store(stores, [photo_result(photo(name)) for name in ("a", "b")])
    moves = [
        FaceMove(FACE_IDS["a"], None, "p1", confirmed=True, rejected=frozenset({"p2"})),
        FaceMove(FACE_IDS["b"], None, None, rejected=frozenset({"p1"})),
    ]
    save(stores, "p1", moves=moves)
    [batch] = stores.faces.read_faces("g", face_record(photo("a"), 0).model_id)
    assert batch.person_ids == ["p1", None]
    assert batch.confirmed == {FACE_IDS["a"]}
    assert batch.rejected == {FACE_IDS["a"]: {"p2"}, FACE_IDS["b"]: {"p1"}}


def numbers(stores: Stores, gallery: str = "g") -> dict[str, int | None]:
    return {person_id: person.number for person_id, person in known(stores, gallery).items()}


def test_people_get_the_next_numbers_in_their_order_and_keep_them(stores: Stores) -> None:
    lease = lease_of(stores, "tester")
    assert stores.people.write_people(lease, people_of("p2", "p1"), []) == {"p2": 1, "p1": 2}
    stores.people.publish_people(lease)
    assert stores.people.write_people(lease, people_of("p1", "p3"), []) == {"p3": 3}
    stores.people.publish_people(lease)
    stores.galleries.release(lease)
    assert numbers(stores) == {"p1": 2, "p2": 1, "p3": 3}
    save(stores, "p1", gallery="other")
    assert numbers(stores, "other") == {"p1": 1}


def test_a_number_is_never_given_twice_though_its_person_is_merged_or_was_not_published(stores: Stores) -> None:
    save_photos(stores)
    save(stores, "p1", "p2", moves=moves_of({"a": "p1", "b": "p2"}))
    lease = lease_of(stores, "tester")
    stores.people.write_people(lease, people_of("p3"), [])
    assert stores.people.write_people(lease, people_of("p4"), []) == {"p4": 4}
    stores.people.publish_people(lease)
    merge(stores, lease, "p1", "p2")
    assert stores.people.write_people(lease, people_of("p5"), []) == {"p5": 5}
    stores.people.publish_people(lease)
    stores.galleries.release(lease)
    assert numbers(stores) == {"p1": 1, "p2": 2, "p4": 4, "p5": 5}


@ON_SERVERS
def test_people_of_a_former_version_get_numbers_and_a_lost_counter_goes_on_from_them(stores: Stores) -> None:
    save(stores, "p1", "p2")
    assert stores.database is not None
    stores.database["people"].update_one({"_id": "g/p1"}, {"$unset": {"number": ""}})
    stores.database["galleries"].update_one({"_id": "g"}, {"$unset": {"people_numbered": ""}})
    save(stores, "p1", "p3")
    assert numbers(stores) == {"p1": 3, "p2": 2, "p3": 4}


def test_a_chosen_cover_moves_to_a_face_of_another_model_at_once(stores: Stores) -> None:
    save(stores, "p1", "p2")
    lease = lease_of(stores, "tester")
    stores.people.move_chosen_covers(lease, {"p1": "g/a/new/0"})
    found = {one.person_id: one.chosen_cover for one in stores.people.read_people(lease)}
    assert found == {"p1": "g/a/new/0", "p2": None}
    stores.galleries.release(lease)
    lease_of(stores, "another")
    with pytest.raises(StaleFence):
        stores.people.move_chosen_covers(lease, {"p2": "g/a/new/0"})


def test_the_people_that_have_changed_since_a_version_are_listed(stores: Stores) -> None:
    lease = stores.galleries.take_lease("g", "worker", 60)
    assert lease is not None
    for person_id in ("p1", "p2"):
        stores.people.write_people(lease, [PersonRecord(person_id, "face", 1, 1)], [])
        stores.people.publish_people(lease)
    assert [stores.people.list_changed("g", since) for since in (0, 1, 2)] == [["p1", "p2"], ["p2"], []]
    assert stores.people.list_changed("h", 0) == []
