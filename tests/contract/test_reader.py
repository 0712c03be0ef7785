"""The reader for applications sees a gallery's people as they are published, whatever a run is doing."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from app import reader
from app.core.ports import GalleryLease
from app.core.records import FaceMove, PersonRecord, PersonStatus
from tests.stores import ON_SERVERS, Stores, face_record, photo, photo_result, store

pytestmark = ON_SERVERS

NAMES = ("a", "b", "c")
A, B, C = (face_record(photo(name), 0).face_id for name in NAMES)
ANN, BOB = PersonRecord("ann", A, 2, 2), PersonRecord("bob", C, 1, 1)
FIRST = [FaceMove(A, None, "ann"), FaceMove(B, None, "ann"), FaceMove(C, None, "bob")]


class Gallery:
    """Ann on the photos a and b, Bob on c; then a run that makes Bob of b, and Eve of c, and merges Bob into Eve."""

    def __init__(self, stores: Stores) -> None:
        assert stores.database is not None
        self.stores, self.database = stores, stores.database
        store(stores, [photo_result(photo(name)) for name in NAMES])
        lease = self.take_lease()
        stores.people.write_people(lease, [ANN, BOB], FIRST)
        stores.people.publish_people(lease)
        stores.galleries.release(lease)

    def take_lease(self) -> GalleryLease:
        lease = self.stores.galleries.take_lease("g", "tester", 60)
        assert lease is not None
        return lease

    def write(self, lease: GalleryLease, look: Callable[[], None] = lambda: None) -> None:
        """What the second run writes; `look` is called before and after each face."""
        merged = replace(BOB, face_count=0, photo_count=0, status=PersonStatus.MERGED, merged_into="eve")
        people = [replace(ANN, face_count=1, photo_count=1), merged, PersonRecord("eve", C, 2, 2)]

        def moves() -> Iterator[FaceMove]:
            for move in (FaceMove(B, "ann", "eve"), FaceMove(C, "bob", "eve")):
                look()
                yield move
            look()

        self.stores.people.write_people(lease, people, moves())

    def read(self) -> dict[str, list[str]]:
        """Active people → their faces, read person by person."""
        people = reader.read_people(self.database, "g")
        active = [person_id for person_id, person in people.items() if person.status == "active"]
        return {name: [face.face_id for face in reader.read_faces_of(self.database, "g", name)] for name in active}

    def read_at_once(self) -> dict[str, list[str]]:
        owned: dict[str, list[str]] = {}
        for face in reader.read_faces(self.database, "g"):
            owned.setdefault(face.person_id or "nobody", []).append(face.face_id)
        return owned


@pytest.fixture
def gallery(stores: Stores) -> Gallery:
    return Gallery(stores)


BEFORE = {"ann": [A, B], "bob": [C]}
AFTER = {"ann": [A], "eve": [B, C]}


def test_what_is_published_is_read(gallery: Gallery) -> None:
    assert gallery.read() == gallery.read_at_once() == BEFORE
    people = reader.read_people(gallery.database, "g")
    assert list(people) == ["ann", "bob"], "who is in most photos comes first"
    ann = people["ann"]
    assert (ann.number, ann.name, ann.hidden, ann.face_count, ann.photo_count) == (1, None, False, 2, 2)
    (face,) = reader.read_faces_of(gallery.database, "g", "bob")
    assert (face.face_id, face.image_id, face.confirmed) == (C, "c", False)
    assert face.crop_key


def test_a_run_that_is_half_written_is_not_seen(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.mongo.WRITE_BATCH", 1)
    seen: list[tuple[Any, Any, str | None]] = []

    def look() -> None:
        found = reader.find_person(gallery.database, "g", "bob")
        seen.append((gallery.read(), gallery.read_at_once(), found and found.person_id))

    lease = gallery.take_lease()
    gallery.write(lease, look)
    look()
    assert len(seen) == 4
    assert all(one == (BEFORE, BEFORE, "bob") for one in seen)
    gallery.stores.people.publish_people(lease)
    assert gallery.read() == gallery.read_at_once() == AFTER


def test_a_run_that_died_is_not_seen_before_and_after_the_next_one_has_taken_it_back(gallery: Gallery) -> None:
    gallery.write(gallery.take_lease())
    assert gallery.read() == BEFORE
    gallery.stores.people.read_people(gallery.take_lease())
    assert gallery.read() == gallery.read_at_once() == BEFORE


def test_who_was_merged_leads_to_who_it_is_now(gallery: Gallery) -> None:
    lease = gallery.take_lease()
    gallery.write(lease)
    gallery.stores.people.publish_people(lease)
    person = reader.find_person(gallery.database, "g", "bob")
    assert person is not None
    assert person.person_id == "eve"
    assert [face.face_id for face in reader.read_faces_of(gallery.database, "g", "bob")] == [B, C]
    assert reader.read_people(gallery.database, "g")["bob"].merged_into == "eve"


def test_nobody_is_found_in_a_gallery_or_under_an_id_that_is_not_there(gallery: Gallery) -> None:
    assert reader.read_people(gallery.database, "none") == {}
    assert reader.find_person(gallery.database, "g", "nobody") is None
    assert reader.read_faces_of(gallery.database, "g", "nobody") == []


class WhileReading:
    """A database in which something happens before each look into `galleries` but the first."""

    def __init__(self, database: Any, happens: Callable[[], None], times: int) -> None:
        self._database, self._happens, self._left, self._is_first = database, happens, times, True

    def __getitem__(self, name: str) -> Any:
        if name == "galleries":
            if not self._is_first and self._left:
                self._left -= 1
                self._happens()
            self._is_first = False
        return self._database[name]


def test_what_is_published_while_it_is_read_is_read_anew(gallery: Gallery) -> None:
    lease = gallery.take_lease()
    gallery.write(lease)
    publishing = WhileReading(gallery.database, lambda: gallery.stores.people.publish_people(lease), times=1)
    assert list(reader.read_people(publishing, "g")) == ["eve", "ann", "bob"]


def test_a_gallery_that_changes_with_each_read_is_told(gallery: Gallery) -> None:
    def publish() -> None:
        gallery.database["galleries"].update_one({"_id": "g"}, {"$inc": {"published": 1}})

    changing = WhileReading(gallery.database, publish, times=2 * reader.TRIES)
    with pytest.raises(reader.GalleryKeepsChanging, match="Try it later"):
        reader.read_people(changing, "g")
