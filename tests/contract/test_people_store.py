"""PeopleStore: what the services rely on, of the fake and of MongoDB."""

import pytest

from app.ports import GalleryLease
from app.records import PersonRecord, join_batches
from tests.fake_stores import FakePeopleStore
from tests.stores import MODEL, Stores, face_record, image_record, photo

NAMES = ("a", "b", "c")
FACE_IDS = {name: face_record(photo(name), 0).face_id for name in NAMES}


def lease_of_next_run(stores: Stores, gallery: str = "g") -> GalleryLease:
    lease = stores.galleries.take_lease(gallery, "tester", 60)
    assert lease is not None
    stores.galleries.release(lease)
    return lease


def save(stores: Stores, *person_ids: str, assigned: dict[str, str | None] | None = None, gallery: str = "g") -> None:
    people = [PersonRecord(person_id, FACE_IDS["a"], 2, 1) for person_id in person_ids]
    stores.people.save_people(lease_of_next_run(stores, gallery), people, assigned or {})


def name_person(stores: Stores, person_id: str, name: str) -> None:
    """As the customer does, outside this system."""
    if isinstance(stores.people, FakePeopleStore):
        stores.people.names["g", person_id] = name
    else:
        stores.database["people"].update_one({"_id": f"g/{person_id}"}, {"$set": {"name": name}})


def save_photos(stores: Stores) -> None:
    for name in NAMES:
        stores.faces.save_photo(image_record(photo(name)), [face_record(photo(name), 0)])


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
    stores.faces.save_photo(image_record(photo("b"), 0), [])
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
