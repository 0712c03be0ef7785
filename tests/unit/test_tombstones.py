"""What a tombstone says of a photo, and of its faces."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from app.core.messages import Forget
from app.core.records import PhotoRef
from app.core.result_keys import ResultKeys
from app.core.tombstones import (
    NOTHING_FORGOTTEN,
    Forgotten,
    Place,
    Tombstone,
    make_gallery_key,
    make_order,
    make_photo_key,
    make_relative,
    name_copy,
)

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
PHOTO = PhotoRef("g", "a", "photos", "g/a.jpg", "a")
SIZE = (200, 100)


@pytest.mark.parametrize(
    ("uploaded", "is_forgotten"),
    [(NOON - timedelta(1), True), (NOON, True), (NOON + timedelta(seconds=1), False), (None, True)],
)
def test_what_was_uploaded_until_then_is_forgotten(uploaded: datetime | None, is_forgotten: bool) -> None:
    assert Forgotten(NOON).covers(uploaded) is is_forgotten
    assert not NOTHING_FORGOTTEN.covers(uploaded)


def place(content: str | None = "c", etag: str | None = "e") -> Forgotten:
    """A face on the left half of a photo of 200 x 100 pixels."""
    return Forgotten(None, (Place(content, etag, make_relative(np.array([20, 10, 80, 90], np.float32), SIZE)),))


def test_a_face_at_a_forgotten_place_is_found_in_any_size_of_the_photo() -> None:
    boxes = np.array([[22, 12, 82, 88], [120, 10, 180, 90], [60, 10, 120, 90]], np.float32)
    assert place().find_faces(boxes, SIZE, "c", "e").tolist() == [True, False, False]
    assert place().find_faces(boxes * 10, (2000, 1000), "c", "e").tolist() == [True, False, False]
    assert place().find_faces(boxes[:0], SIZE, "c", "e").tolist() == []


def test_a_place_is_of_one_content_or_of_one_etag_where_the_content_is_not_known() -> None:
    boxes = np.array([[20, 10, 80, 90]], np.float32)
    assert place().find_faces(boxes, SIZE, "c", "another upload of it").all()
    assert not place().find_faces(boxes, SIZE, "another picture", "e").any()
    assert place(None).find_faces(boxes, SIZE, None, "e").all()
    assert place(None).find_faces(boxes, SIZE, "c", "e").all()
    assert not place(None).find_faces(boxes, SIZE, "c", "another").any()


@pytest.mark.parametrize(
    ("tombstone", "fields"),
    [
        (Tombstone("k", "photo", "g", "r", NOON, photo=PHOTO), {"image_id": "a"}),
        (Tombstone("k", "person", "g", "r", NOON, person_id="p1"), {"person_id": "p1"}),
        (Tombstone("k", "gallery", "g", "r", NOON), {"confirm": "g"}),
    ],
)
def test_the_message_of_a_request_is_made_again(tombstone: Tombstone, fields: dict[str, str]) -> None:
    order = make_order(tombstone)
    assert order == Forget.model_validate({"request_id": "r", "scope": tombstone.scope, "gallery_id": "g", **fields})


def test_a_photos_tombstone_stays_its_own_when_its_id_changes() -> None:
    moved = PhotoRef("g", "a.jpg", "photos", "g/a.jpg", "a")
    assert (
        make_photo_key(moved) == make_photo_key(PHOTO) != make_photo_key(PhotoRef("g", "a", "photos", "g/a.png", "a"))
    )


def test_copies_of_tombstones_are_told_from_the_results_of_a_gallery_of_that_name() -> None:
    keys = ResultKeys()
    copy = keys.tombstones("g") + name_copy(make_gallery_key("g"), "r1")
    assert copy.startswith(keys.folder("tombstones"))
    assert keys.is_tombstone(copy)
    for other in (keys.groups("tombstones"), keys.page("tombstones"), *keys.pictures_of(PHOTO)):
        assert not keys.is_tombstone(other)
    assert "g" not in copy.removeprefix(keys.tombstone_folder).replace("/", "").removesuffix(".json")
