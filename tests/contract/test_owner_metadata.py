"""OwnerMetadata: what the services rely on, of the fake and of MongoDB."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest
from pymongo import MongoClient

from app.adapters.mongo import Document
from app.adapters.mongo_galleries import MongoOwnerMetadata
from app.core.errors import StoreUnavailable
from app.core.ports import OwnerMetadata
from app.core.records import ImageStatus
from tests.fake_stores import FakeOwnerMetadata
from tests.stores import CLIENTS, MODEL, image_record, photo


@dataclass(frozen=True)
class Rig:
    """`add` and `read` are the owner's: fields of a photo's document, by image id."""

    metadata: OwnerMetadata
    add: Callable[[str, dict[str, object]], None]
    read: Callable[[], dict[str, dict[str, object]]]


def fake_rig() -> Rig:
    metadata = FakeOwnerMetadata()
    return Rig(
        metadata,
        lambda image_id, fields: metadata.documents.update({("g", image_id): dict(fields)}),
        lambda: {image_id: fields for (_, image_id), fields in metadata.documents.items()},
    )


@pytest.fixture(params=["fake", *CLIENTS])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    if request.param == "fake":
        yield fake_rig()
        return
    client = request.getfixturevalue(CLIENTS[request.param])
    database = client[f"owner_{uuid4().hex}"]

    def add(image_id: str, fields: dict[str, object]) -> None:
        database["images"].insert_one({"gallery_id": "g", "image_id": image_id, **fields})

    def read() -> dict[str, dict[str, object]]:
        found = database["images"].find({}, {"_id": 0, "gallery_id": 0})
        return {document.pop("image_id"): document for document in found}

    yield Rig(MongoOwnerMetadata(database), add, read)
    client.drop_database(database)


def test_a_known_photo_gets_its_face_index_and_keeps_all_else(rig: Rig) -> None:
    rig.add("a", {"title": "Beach", "tags": ["sea"], "width": 4000})
    rig.metadata.set_face_indexes([image_record(photo("a"), 2)])
    expected = {"status": "indexed", "reason": None, "face_count": 2, "model": MODEL, "etag": "etag-1", "left_out": []}
    assert rig.read() == {"a": {"title": "Beach", "tags": ["sea"], "width": 4000, "face_index": expected}}


def test_a_face_index_says_why_faces_were_left_out(rig: Rig) -> None:
    rig.add("a", {})
    rig.metadata.set_face_indexes([replace(image_record(photo("a"), 2), left_out=("Its quality is 7 of 100.",))])
    assert rig.read()["a"]["face_index"]["left_out"] == ["Its quality is 7 of 100."]


def test_a_photo_the_owner_does_not_know_is_not_made_known(rig: Rig) -> None:
    rig.add("a", {"title": "Beach"})
    rig.metadata.set_face_indexes([image_record(photo("b")), image_record(photo("a", "another gallery"))])
    assert rig.read() == {"a": {"title": "Beach"}}


def test_a_later_result_replaces_the_whole_face_index(rig: Rig) -> None:
    rig.add("a", {})
    rig.metadata.set_face_indexes([image_record(photo("a"), 2)])
    rejected = replace(image_record(photo("a"), 0), status=ImageStatus.REJECTED, reason="The file is empty.")
    rig.metadata.set_face_indexes([rejected])
    face_index = rig.read()["a"]["face_index"]
    assert (face_index["status"], face_index["reason"]) == ("rejected", "The file is empty.")
    assert face_index["face_count"] == 0


def face_counts(rig: Rig) -> dict[str, int]:
    return {image_id: fields["face_index"]["face_count"] for image_id, fields in rig.read().items()}


def test_many_photos_get_each_their_own_face_index(rig: Rig) -> None:
    for name in ("a", "b", "c"):
        rig.add(name, {})
    rig.metadata.set_face_indexes([image_record(photo(name), count) for name, count in (("b", 1), ("c", 0), ("a", 3))])
    assert face_counts(rig) == {"a": 3, "b": 1, "c": 0}


def test_of_a_photo_that_comes_twice_the_later_result_counts(rig: Rig) -> None:
    rig.add("a", {})
    rig.add("b", {})
    rig.metadata.set_face_indexes([image_record(photo(name), count) for name, count in (("a", 1), ("b", 5), ("a", 2))])
    assert face_counts(rig) == {"a": 2, "b": 5}


def test_the_result_of_a_photo_that_is_gone_is_removed_and_all_else_stays(rig: Rig) -> None:
    rig.add("a", {"title": "Beach"})
    rig.add("b", {})
    rig.metadata.set_face_indexes([image_record(photo("a")), image_record(photo("b"), 2)])
    for _ in range(2):
        rig.metadata.clear_face_index(photo("a"))
    rig.metadata.clear_face_index(photo("never known"))
    assert rig.read()["a"] == {"title": "Beach"}
    assert rig.read()["b"]["face_index"]["face_count"] == 2


def test_a_file_with_a_long_id_is_told_under_the_plain_id_while_no_other_has_a_result_there(rig: Rig) -> None:
    rig.add("a", {})
    film = replace(image_record(replace(photo("a"), image_id="a.MOV"), 0), status=ImageStatus.NOT_A_PHOTO)
    rig.metadata.set_face_indexes([film])
    assert rig.read()["a"]["face_index"]["status"] == "not_a_photo"
    rig.metadata.set_face_indexes([image_record(photo("a"), 2)])
    rig.metadata.set_face_indexes([film])
    assert rig.read()["a"]["face_index"]["status"] == "indexed"


def test_no_photos_at_all_change_nothing(rig: Rig) -> None:
    rig.add("a", {"title": "Beach"})
    rig.metadata.set_face_indexes([])
    assert rig.read() == {"a": {"title": "Beach"}}


def test_an_owners_database_that_is_away_asks_to_retry_later() -> None:
    with MongoClient[Document]("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=50) as client:
        metadata = MongoOwnerMetadata(client["nowhere"])
        with pytest.raises(StoreUnavailable, match=r"^Writing the owner's face_index in MongoDB failed: "):
            metadata.set_face_indexes([image_record(photo("a"))])
