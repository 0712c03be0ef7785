from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from app.core.records import (
    FaceBatch,
    ImageRecord,
    ImageStatus,
    PhotoRef,
    PhotoResult,
    is_output_key,
    is_overtaken,
    join_batches,
    make_crop_key,
    make_face_id,
    make_groups_key,
    make_page_key,
    make_preview_key,
    make_quality_columns,
    make_thumbnail_key,
)

PHOTO = PhotoRef("g", "day 1/a", "photos", "g/day 1/a.jpg")
MODEL = "toy-000000000000"
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)


def batch(*names: str) -> FaceBatch:
    count = len(names)
    return FaceBatch(
        face_ids=[f"face {name}" for name in names],
        image_ids=[f"image {name}" for name in names],
        boxes=np.full((count, 4), count, np.float32),
        det_scores=np.full(count, 0.5, np.float32),
        quality=make_quality_columns([{"size_px": float(count)}] * count),
        embeddings=np.eye(count, 8, dtype=np.float32),
        crop_keys=[f"crop {name}" for name in names],
        person_ids=[None] * count,
        digests=[f"digest {name}" for name in names],
        etags=["etag-1"] * count,
    )


def test_ids_and_keys_say_gallery_image_model_and_position() -> None:
    assert PHOTO.document_id == "g/day 1/a"
    assert make_face_id(PHOTO, MODEL, 2) == f"g/day 1/a/{MODEL}/2"
    assert make_crop_key(PHOTO, MODEL, 2) == f"g/faces/day 1/a/{MODEL}-2.webp"


def test_photos_and_models_never_share_a_face_id_or_a_crop() -> None:
    other = PhotoRef("g", "day 1/b", "photos", "g/day 1/b.jpg")
    places = [(photo, model, index) for photo in (PHOTO, other) for model in (MODEL, "m-1") for index in (0, 1)]
    assert len({make_face_id(*place) for place in places}) == len(places)
    assert len({make_crop_key(*place) for place in places}) == len(places)


@pytest.mark.parametrize(
    "key",
    [
        make_crop_key(PHOTO, MODEL, 0),
        make_preview_key(PHOTO),
        make_groups_key("g"),
        make_page_key("g"),
        "g/faces/x",
        "g/previews/x",
    ],
)
def test_what_this_system_writes_is_known_as_its_own(key: str) -> None:
    assert is_output_key(key)


@pytest.mark.parametrize(
    "key", [PHOTO.key, "g/people.jpg", "faces/a.jpg", "g/my faces/a.jpg", "g/day/faces/a.jpg", "groups.json", "", "g/"]
)
def test_photos_are_not_taken_for_output(key: str) -> None:
    assert not is_output_key(key)


def test_joined_batches_are_the_columns_one_after_the_other() -> None:
    joined = join_batches([batch("a", "b"), batch("c")])
    assert len(joined) == 3
    assert joined.face_ids == ["face a", "face b", "face c"]
    assert joined.digests == ["digest a", "digest b", "digest c"]
    assert joined.image_ids == ["image a", "image b", "image c"]
    assert joined.crop_keys == ["crop a", "crop b", "crop c"]
    assert joined.boxes[:, 0].tolist() == [2, 2, 1]
    assert joined.embeddings.shape == (3, 8)
    assert joined.quality["size_px"].tolist() == [2, 2, 1]
    assert joined.person_ids == [None] * 3
    assert joined.etags == ["etag-1"] * 3
    assert (joined.confirmed, joined.rejected) == (frozenset(), {})


def test_what_users_said_is_joined_too() -> None:
    parts = [
        replace(batch(name), confirmed=frozenset([name]), rejected={name: frozenset([f"not {name}"])}) for name in "ab"
    ]
    joined = join_batches(parts)
    assert joined.confirmed == {"a", "b"}
    assert joined.rejected == {"a": {"not a"}, "b": {"not b"}}


def test_a_faces_quality_is_what_it_was_stored_with() -> None:
    columns = make_quality_columns([{"unified": 26.392, "yaw": -3.5}, {"unified": 7.0, "pitch": 1.0}])
    faces = replace(batch("a", "b"), quality=columns)
    assert faces.get_quality(0) == {"unified": 26.392, "yaw": -3.5}
    assert faces.get_quality(1) == {"unified": 7.0}
    assert (faces.measure("yaw", 0), faces.measure("yaw", 1)) == (-3.5, None)


def test_joining_nothing_gives_a_batch_of_no_faces() -> None:
    joined = join_batches([])
    assert len(joined) == 0
    assert joined.boxes.shape == (0, 4)
    assert {column.shape for column in joined.quality.values()} == {(0,)}
    assert joined.embeddings.dtype == np.float32


@pytest.mark.parametrize("second", [timedelta(seconds=1), timedelta(milliseconds=1)])
def test_only_what_is_older_than_the_stored_version_is_overtaken(second: timedelta) -> None:
    assert is_overtaken(NOON - second, NOON)
    assert not is_overtaken(NOON, NOON)
    assert not is_overtaken(NOON + second, NOON)


def test_an_object_that_is_gone_is_never_overtaken_and_overtakes_nothing() -> None:
    assert not is_overtaken(None, NOON)
    assert not is_overtaken(NOON, None)
    assert not is_overtaken(None, None)


def test_two_results_of_one_photo_are_told_apart_even_when_alike() -> None:
    image = ImageRecord(PHOTO, ImageStatus.NO_FACES)
    first, second = PhotoResult(image), PhotoResult(image)
    assert first in [first]
    assert second not in [first]


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{folder}/small/{stem}.webp", "2024/wedding/small/IMG 1.webp"),
        ("thumbnails/{key}", "thumbnails/2024/wedding/IMG 1.JPG"),
        ("{gallery_id}/{image_id}-{name}", "g/day 1/a-IMG 1.JPG"),
    ],
)
def test_a_thumbnail_lies_where_its_template_says(template: str, key: str) -> None:
    photo = PhotoRef("g", "day 1/a", "photos", "2024/wedding/IMG 1.JPG")
    assert make_thumbnail_key(template, photo) == key


def test_a_name_without_ending_is_its_own_stem() -> None:
    assert make_thumbnail_key("{stem}", PhotoRef("g", "a", "photos", ".hidden")) == ".hidden"


@pytest.mark.parametrize("template", ["{size}/x", "{}", "{key", "{key.name}"])
def test_a_template_that_asks_for_something_else_says_what_it_may_name(template: str) -> None:
    with pytest.raises(ValueError, match=r"may name \{gallery_id\}, .* in braces"):
        make_thumbnail_key(template, PHOTO)
