from dataclasses import replace

import numpy as np
import pytest

from app.core.records import (
    FaceBatch,
    ImageRecord,
    ImageStatus,
    PhotoRef,
    PhotoResult,
    is_older,
    join_batches,
    make_face_id,
    make_quality_columns,
    make_thumbnail_key,
)

PHOTO = PhotoRef("g", "day 1/a", "photos", "g/day 1/a.jpg")
MODEL = "toy-000000000000"


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
        crop_ranges=[(0, 9)] * count,
    )


def test_ids_say_gallery_image_model_and_position() -> None:
    assert PHOTO.document_id == "g/day 1/a"
    assert make_face_id(PHOTO, MODEL, 2) == f"g/day 1/a/{MODEL}/2"


def test_photos_and_models_never_share_a_face_id() -> None:
    other = PhotoRef("g", "day 1/b", "photos", "g/day 1/b.jpg")
    places = [(photo, model, index) for photo in (PHOTO, other) for model in (MODEL, "m-1") for index in (0, 1)]
    assert len({make_face_id(*place) for place in places}) == len(places)


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


@pytest.mark.parametrize(
    ("sequencer", "stored", "older"),
    [
        ("0A", "0B", True),
        ("0B", "0A", False),
        ("0A", "0A", False),
        ("0A", "0A01", True),
        ("0A0", "0A", False),
        ("0b", "0C", True),
        (None, "0A", False),
        ("0A", None, False),
    ],
)
def test_events_of_one_key_are_ordered_by_their_sequencers(
    sequencer: str | None, stored: str | None, older: bool
) -> None:
    assert is_older(sequencer, stored) is older


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
