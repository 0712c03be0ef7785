"""Where results lie."""

import pytest

from app.core.records import PersonRecord, PhotoRef
from app.core.result_keys import MAX_KEY_BYTES, ResultKeys

KEYS = ResultKeys()
MODEL = "toy-000000000000"
CONTENT = "0123456789abcdef" * 4


def named(rest: str, gallery: str = "g", bucket: str = "photos") -> PhotoRef:
    name = rest.rpartition(".")[0]
    return PhotoRef(gallery, name, bucket, f"{gallery}/{rest}", name)


def test_all_results_lie_below_the_prefix_of_their_gallery() -> None:
    photo = named("day 1/a.jpg")
    keys = [
        KEYS.groups("g"),
        KEYS.page("g"),
        KEYS.crops(photo, 0, CONTENT, MODEL),
        KEYS.preview(photo, 0, CONTENT),
        KEYS.cover("g", PersonRecord("p", "f", 1, 1), "d1"),
    ]
    assert all(key.startswith("face-worker/g/") for key in keys)
    assert all(map(KEYS.is_result, keys))
    assert len(set(keys)) == len(keys)


def test_a_picture_has_its_content_and_edition_in_its_key() -> None:
    photo = named("day 1/a.jpg")
    assert KEYS.preview(photo, 3, CONTENT) == f"face-worker/g/previews/day 1/a.jpg/{photo.slot}-3-0123456789ab.jpg"
    assert (
        KEYS.crops(photo, 3, CONTENT, MODEL)
        == f"face-worker/g/faces/day 1/a.jpg/{photo.slot}-3-0123456789ab-{MODEL}.crops"
    )


def test_photos_never_share_a_picture() -> None:
    photos = [
        named("a.jpg"),
        named("a.png"),
        named("a.jpg", bucket="other"),
        named("a.jpg/b.jpg"),
        PhotoRef("g", "a.jpg", "photos", "x"),
        PhotoRef("g", "a", "photos", "g/a.jpg"),
    ]
    for make in (lambda one: KEYS.preview(one, 0, CONTENT), lambda one: KEYS.crops(one, 0, CONTENT, MODEL)):
        assert len({make(photo) for photo in photos}) == len(photos)


def test_a_photos_pictures_stay_where_they_are_when_its_id_changes() -> None:
    photo = named("a.png")
    renamed = PhotoRef("g", "a.png", "photos", "g/a.png", "a")
    assert KEYS.crops(renamed, 0, CONTENT, MODEL) == KEYS.crops(photo, 0, CONTENT, MODEL)


def test_former_pictures_are_those_of_the_same_photo_and_of_no_later_edition() -> None:
    photo, other = named("a.jpg"), named("a.jpg", bucket="other")
    keys = [make(one, edition) for edition in (0, 2, 10) for one in (photo, other) for make in (crops, preview)]
    assert KEYS.choose_former([*keys, "face-worker/g/faces/a.jpg/odd"], photo, 2) == [
        crops(photo, 0),
        preview(photo, 0),
        crops(photo, 2),
        preview(photo, 2),
    ]
    for key in (crops(photo, 0), preview(photo, 7)):
        assert key.startswith(KEYS.pictures_of(photo))


def crops(photo: PhotoRef, edition: int) -> str:
    return KEYS.crops(photo, edition, CONTENT, MODEL)


def preview(photo: PhotoRef, edition: int) -> str:
    return KEYS.preview(photo, edition, CONTENT)


@pytest.mark.parametrize("length", [10, 700, 760, 800, 820, 1000])
@pytest.mark.parametrize("gallery", ["g", "ü" * 200, "写" * 200])
def test_no_key_is_longer_than_s3_allows(gallery: str, length: int) -> None:
    photo = named("x" * length + ".jpg", gallery)
    for key in (crops(photo, 10**9), preview(photo, 10**9)):
        assert len(key.encode()) <= MAX_KEY_BYTES
        assert key.startswith(KEYS.pictures_of(photo))


@pytest.mark.parametrize(
    "key",
    ["g/faces/a.jpg", "g/previews/a.jpg", "g/groups.json", "g/people.html", "face-worker.jpg", "g/face-worker/a.jpg"],
)
def test_photos_of_any_name_are_not_taken_for_results(key: str) -> None:
    assert not KEYS.is_result(key)


def test_a_crop_of_a_former_version_is_known_as_a_result() -> None:
    assert KEYS.is_result(f"g/faces/day 1/a/{MODEL}-12.webp")


def test_the_page_finds_results_beside_it_and_those_of_former_versions() -> None:
    assert KEYS.make_url("g", "face-worker/g/previews/é #1?.jpg") == "previews/%C3%A9%20%231%3F.jpg"
    assert KEYS.make_url("g", "face-worker/g/faces//x.crops") == "faces//x.crops"
    assert KEYS.make_url("g", "g/previews/a.jpg") == "../../g/previews/a.jpg"
    assert KEYS.make_url("face-worker", "face-worker/face-worker/previews/a.jpg") == "previews/a.jpg"
