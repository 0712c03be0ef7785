"""FaceStore: what the services rely on, of the fake and of MongoDB."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pymongo import MongoClient

from app.adapters.mongo import Document, open_database
from app.adapters.mongo_faces import MongoFaceStore, decode_vectors, encode_vector
from app.errors import BadConfiguration, RetryLater
from app.records import FaceBatch, ImageRecord, ImageStatus, PersonRecord, join_batches
from tests.stores import MODEL, Stores, face_record, image_record, photo, unit_vector

OTHER_MODEL = "other-111111111111"


def save(stores: Stores, name: str = "a", count: int = 1, *, etag: str = "etag-1", model: str = MODEL) -> None:
    of = photo(name)
    faces = [face_record(of, index, model=model) for index in range(count)]
    stores.faces.save_photo(image_record(of, count, etag=etag, model=model), faces)


def faces_of(stores: Stores, gallery: str = "g", model: str = MODEL) -> FaceBatch:
    return join_batches(list(stores.faces.read_faces(gallery, model)))


def give_persons(stores: Stores, **persons: str) -> None:
    """Names of photos → the person of each one's first face."""
    lease = stores.galleries.take_lease("g", "tester", 60)
    people = [PersonRecord(person, "", 1, 1) for person in persons.values()]
    assigned = {face_record(photo(name), 0).face_id: person for name, person in persons.items()}
    stores.people.save_people(lease, people, assigned)


def test_a_photo_nobody_stored_is_none(stores: Stores) -> None:
    assert stores.faces.find_image(photo()) is None


def test_a_photos_record_comes_back_as_it_was(stores: Stores) -> None:
    saved = ImageRecord(
        replace(photo("day 1/Ä 🎉"), version_id="v7"),
        ImageStatus.REJECTED,
        reason="The JPEG is cut off.",
        etag="abc",
        last_modified=datetime(2024, 2, 29, 12, 30, 1, tzinfo=UTC),
        model_id=MODEL,
        timings_s={"fetch": 0.25, "decode": 0.5},
    )
    stores.faces.save_photo(saved, [])
    assert stores.faces.find_image(saved.photo) == saved


def test_faces_come_back_with_every_column_as_it_was(stores: Stores) -> None:
    save(stores, count=2)
    batch = faces_of(stores)
    expected = [face_record(photo(), index) for index in range(2)]
    assert batch.face_ids == [face.face_id for face in expected]
    assert batch.image_ids == ["a", "a"]
    assert batch.crop_keys == [face.crop_key for face in expected]
    assert batch.quality == [face.quality for face in expected]
    assert batch.person_ids == [None, None]
    assert np.array_equal(batch.boxes, np.stack([face.box for face in expected]))
    assert np.array_equal(batch.det_scores, np.array([0.9, 0.9], np.float32))


def test_embeddings_come_back_as_the_same_float32_unit_vectors(stores: Stores) -> None:
    save(stores, count=3)
    embeddings = faces_of(stores).embeddings
    assert embeddings.dtype == np.float32
    assert np.array_equal(embeddings, np.stack([unit_vector(index) for index in range(3)]))
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_storing_a_photo_twice_changes_nothing(stores: Stores) -> None:
    save(stores, count=2)
    before = stores.snapshot()
    save(stores, count=2)
    assert stores.snapshot() == before
    assert len(before) >= 3


def test_storing_a_photo_twice_changes_nothing_after_grouping_either(stores: Stores) -> None:
    save(stores, count=2)
    give_persons(stores, a="p1")
    before = stores.snapshot()
    save(stores, count=2)
    assert stores.snapshot() == before


def test_the_order_in_which_photos_are_stored_does_not_matter(stores: Stores) -> None:
    for name in ("a", "b", "c"):
        save(stores, name)
    before = stores.snapshot()
    for name in ("c", "a", "b", "a"):
        save(stores, name)
    assert stores.snapshot() == before


def test_a_photo_with_fewer_faces_than_before_loses_the_surplus(stores: Stores) -> None:
    save(stores, count=3)
    save(stores, count=1)
    assert faces_of(stores).face_ids == [face_record(photo(), 0).face_id]
    assert stores.faces.find_image(photo()).face_count == 1


def test_a_photo_without_faces_any_more_loses_all(stores: Stores) -> None:
    save(stores, count=2)
    save(stores, count=0)
    assert len(faces_of(stores)) == 0


def test_storing_one_photo_leaves_the_faces_of_others(stores: Stores) -> None:
    save(stores, "a", 2)
    save(stores, "ab", 2)
    save(stores, "a", 0)
    assert faces_of(stores).image_ids == ["ab", "ab"]


def test_faces_of_another_model_stay_and_are_never_read_along(stores: Stores) -> None:
    save(stores, count=2, model=OTHER_MODEL)
    save(stores, count=1)
    assert len(faces_of(stores)) == 1
    assert len(faces_of(stores, model=OTHER_MODEL)) == 2


def test_a_face_found_again_keeps_its_person(stores: Stores) -> None:
    save(stores)
    give_persons(stores, a="p1")
    save(stores)
    assert faces_of(stores).person_ids == ["p1"]


def test_a_face_of_other_content_under_the_same_name_loses_its_person(stores: Stores) -> None:
    save(stores, "a")
    save(stores, "b")
    give_persons(stores, a="p1", b="p2")
    save(stores, "a", etag="etag-2")
    assert faces_of(stores).person_ids == [None, "p2"]


def test_a_face_that_went_and_came_again_has_no_person(stores: Stores) -> None:
    save(stores)
    give_persons(stores, a="p1")
    save(stores, count=0)
    save(stores)
    assert faces_of(stores).person_ids == [None]


def test_batches_are_bounded_and_ordered_by_face_id(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.mongo_faces.READ_BATCH", 3)
    monkeypatch.setattr("tests.fake_stores.READ_BATCH", 3)
    for name in ("c", "B", "é", "a"):
        save(stores, name, 2)
    batches = list(stores.faces.read_faces("g", MODEL))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    ids = join_batches(batches).face_ids
    assert ids == sorted(ids)


def test_a_gallery_without_faces_gives_no_batches(stores: Stores) -> None:
    save(stores)
    assert list(stores.faces.read_faces("another", MODEL)) == []


def test_photos_are_read_by_gallery_and_ordered_by_image_id(stores: Stores) -> None:
    for of in (photo("c"), photo("a"), photo("b"), photo("a", "other")):
        stores.faces.save_photo(image_record(of, 0), [])
    assert [image.photo for image in stores.faces.read_images("g")] == [photo("a"), photo("b"), photo("c")]
    assert list(stores.faces.read_images("none")) == []


def test_vectors_are_written_as_bson_vectors_that_pymongo_reads_the_same() -> None:
    vector = unit_vector(1, 512)
    binary = encode_vector(vector)
    assert np.array_equal(np.array(binary.as_vector().data, np.float32), vector)
    assert np.array_equal(decode_vectors([binary, binary]), np.stack([vector, vector]))
    assert decode_vectors([]).shape == (0, 0)


def test_a_database_that_is_away_asks_to_retry_later() -> None:
    with MongoClient[Document]("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=50) as client:
        store = MongoFaceStore(client["nowhere"])
        with pytest.raises(RetryLater, match=r"^Reading a photo's record in MongoDB failed: "):
            store.find_image(photo())


@pytest.mark.parametrize(
    "uri",
    ["mongodb://user:hunter2@", "mongodb://user:hunter2@host/?ssl=maybe&nonsense", "mongodb://u:hunter2@h:port"],
)
def test_a_wrong_uri_names_its_setting_and_never_its_password(uri: str) -> None:
    with pytest.raises(BadConfiguration, match=r"^SOME_URI is not a usable MongoDB URI") as caught:
        open_database(uri, "x", "SOME_URI")
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
