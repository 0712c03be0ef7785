"""GuestReader: what finding a guest relies on, of the fake and of MongoDB."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from app.adapters.mongo_guests import MongoGuestReader
from app.core.ports import GalleryLease, GuestFaces, GuestReader
from app.core.records import FaceMove, PersonRecord, PersonStatus
from tests.fake_guests import FakeGuestReader
from tests.fake_stores import FakeFaceStore, FakePeopleStore
from tests.stores import MODEL, Stores, face_record, photo, photo_result, store

ANN, BOB = "pa", "pb"


@dataclass(frozen=True)
class Rig:
    stores: Stores
    reader: GuestReader
    hide: Callable[[str], object]

    def add(self, name: str, faces: int = 1, gallery: str = "g") -> None:
        store(self.stores, [photo_result(photo(name, gallery), faces)])

    def lease(self) -> GalleryLease:
        lease = self.stores.galleries.take_lease("g", "me", 60)
        assert lease is not None
        return lease

    def write(self, people: list[PersonRecord], **moves: str | None) -> None:
        """What a run writes and does not publish; `moves` are photos and the person of their first face."""
        lease = self.lease()
        before = dict(self.stores.look("g").faces)
        ids = {face_record(photo(name), 0).face_id: person for name, person in moves.items()}
        found = [FaceMove(face_id, before.get(face_id), person) for face_id, person in ids.items()]
        self.stores.people.write_people(lease, people, found)

    def publish(self, people: list[PersonRecord], **moves: str | None) -> None:
        self.write(people, **moves)
        self.stores.people.publish_people(self.lease())

    def read(self, *person_ids: str, faces: tuple[str, ...] = ()) -> GuestFaces:
        ids = [face_record(photo(name), 0).face_id for name in faces]
        return self.reader.read_guest("g", MODEL, person_ids, ids)


def person(person_id: str, **fields: Any) -> PersonRecord:
    return PersonRecord(person_id, "cover", 1, 1, **fields)


@pytest.fixture
def rig(stores: Stores) -> Rig:
    database = stores.database
    if database is None:
        assert isinstance(stores.faces, FakeFaceStore)
        assert isinstance(stores.people, FakePeopleStore)
        fake = FakeGuestReader(stores.faces, stores.people)
        return Rig(stores, fake, lambda person_id: fake.hidden.add(("g", person_id)))
    people = database["people"]
    return Rig(
        stores,
        MongoGuestReader(database),
        lambda person_id: people.update_one({"_id": f"g/{person_id}"}, {"$set": {"hidden": True}}),
    )


def images(found: GuestFaces) -> list[str]:
    return sorted(face.image_id for face in found.faces)


def test_a_persons_faces_come_with_their_photos(rig: Rig) -> None:
    rig.add("a")
    rig.add("b")
    rig.publish([person(ANN), person(BOB)], a=ANN, b=BOB)
    found = rig.read(ANN)
    (face,) = found.faces
    assert found.people == {ANN: ANN}
    of = photo("a")
    record = face_record(of, 0)
    assert (face.face_id, face.person_id, face.image_id, face.key) == (record.face_id, ANN, "a", of.key)
    assert face.box == pytest.approx(record.box.tolist())
    assert np.asarray(face.embedding).dtype == np.float32
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)


def test_of_a_person_that_was_merged_the_other_ones_faces_come(rig: Rig) -> None:
    rig.add("a")
    rig.publish([person(ANN, status=PersonStatus.MERGED, merged_into=BOB), person(BOB)], a=BOB)
    found = rig.read(ANN)
    assert (found.people, images(found)) == ({ANN: BOB}, ["a"])


@pytest.mark.parametrize("which", ["absent", "hidden", "unknown"])
def test_nothing_comes_of_a_person_that_nobody_may_see(rig: Rig, which: str) -> None:
    rig.add("a")
    status = PersonStatus.ABSENT if which == "absent" else PersonStatus.ACTIVE
    rig.publish([person(ANN, status=status)], a=ANN)
    if which == "hidden":
        rig.hide(ANN)
    found = rig.read("p-other" if which == "unknown" else ANN)
    assert (found.people, found.faces) == ({}, [])


def test_what_a_run_has_not_published_is_not_seen(rig: Rig) -> None:
    rig.add("a")
    rig.add("b")
    rig.publish([person(ANN)], a=ANN, b=ANN)
    rig.write([person(BOB)], b=BOB)
    assert images(rig.read(ANN)) == ["a", "b"]
    assert rig.read(BOB).people == {}
    rig.stores.people.publish_people(rig.lease())
    assert images(rig.read(BOB)) == ["b"]
    assert images(rig.read(ANN)) == ["a"]


def test_an_unassigned_face_comes_by_its_id_until_it_has_a_person(rig: Rig) -> None:
    rig.add("a")
    rig.add("b")
    rig.publish([person(ANN)], a=ANN)
    found = rig.read(faces=("a", "b"))
    assert [(face.image_id, face.person_id) for face in found.faces] == [("b", None)]


def test_other_galleries_and_models_stay_apart(rig: Rig) -> None:
    rig.add("a")
    rig.add("x", gallery="h")
    rig.publish([person(ANN)], a=ANN)
    assert rig.reader.read_guest("h", MODEL, [ANN], []).people == {}
    assert rig.reader.read_guest("g", "other-111111111111", [ANN], []).faces == []


def test_a_gallery_that_nobody_knows_has_nobody(rig: Rig) -> None:
    assert rig.read(ANN, faces=("a",)) == GuestFaces({}, [])


@pytest.mark.parametrize("stores", ["mongod"], indirect=True)
def test_a_guest_in_a_large_gallery_is_found_without_a_look_at_all_its_faces(rig: Rig) -> None:
    names = [f"p{number:03}" for number in range(200)]
    for name in names:
        rig.add(name)
    rig.publish([person(ANN), person(BOB)], **dict.fromkeys(names, BOB) | {"p000": ANN})
    database = rig.stores.database
    assert database is not None
    database.command("profile", 2)
    try:
        assert images(rig.read(ANN, faces=("p001",))) == ["p000"]
    finally:
        database.command("profile", 0)
    looked_at = {str(one["command"]): one["docsExamined"] for one in database["system.profile"].find({"op": "query"})}
    assert len(looked_at) >= 4
    assert max(looked_at.values()) <= 2, looked_at
