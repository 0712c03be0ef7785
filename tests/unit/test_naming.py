"""Which of several photos of one name has which id."""

from collections.abc import Sequence
from itertools import permutations

import pytest

from app.core.naming import find_orphaned_raws, guess_name, settle_names
from app.core.records import ImageRecord, ImageStatus, PhotoRef

INDEXED, REJECTED, NOT_A_PHOTO = ImageStatus.INDEXED, ImageStatus.REJECTED, ImageStatus.NOT_A_PHOTO


def named(file: str, status: ImageStatus = INDEXED, bucket: str = "photos") -> ImageRecord:
    """A photo whose id was made of its key."""
    name = file.rpartition(".")[0] or file
    return ImageRecord(PhotoRef("g", name, bucket, f"g/{file}", name), status, face_count=1)


def chosen(image_id: str, key: str, status: ImageStatus = INDEXED) -> ImageRecord:
    """A photo whose sender chose the id."""
    return ImageRecord(PhotoRef("g", image_id, "photos", key), status)


def settle(members: Sequence[ImageRecord], name: str = "IMG_1", taken: Sequence[str] = ()) -> dict[str, str]:
    """Key → id, and the status where it has changed; the same in whatever order the photos came."""
    found = []
    for order in permutations(members):
        settled = settle_names(order, name, taken)
        assert [one.photo.key for one in settled] == [one.photo.key for one in order]
        found.append({f"{one.photo.bucket}/{one.photo.key}": one.photo.image_id for one in settled})
    assert all(one == found[0] for one in found)
    assert len(set(found[0].values())) == len(members)
    return {key.removeprefix("photos/"): image_id for key, image_id in found[0].items()}


def test_a_photo_alone_has_the_plain_id() -> None:
    assert settle([named("IMG_1.png")]) == {"g/IMG_1.png": "IMG_1"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("IMG_1.JPG", "IMG_1.heic"),
        ("IMG_1.jpeg", "IMG_1.png"),
        ("IMG_1.HEIC", "IMG_1.avif"),
        ("IMG_1.avif", "IMG_1.WebP"),
        ("IMG_1.webp", "IMG_1.png"),
        ("IMG_1.png", "IMG_1.tiff"),
        ("IMG_1.tif", "IMG_1.NEF"),
        ("IMG_1.JPG", "IMG_1.jpg"),
        ("IMG_1.dng", "IMG_1.gif"),
    ],
)
def test_of_two_photos_the_ending_decides_who_has_the_plain_id(first: str, second: str) -> None:
    assert settle([named(first), named(second)]) == {f"g/{first}": "IMG_1", f"g/{second}": second}


def test_a_name_that_looks_as_if_it_had_an_ending_keeps_the_one_that_it_has_lost() -> None:
    ids = settle([named("IMG_1.png.jpg"), named("IMG_1.png.png")], "IMG_1.png")
    assert ids == {"g/IMG_1.png.jpg": "IMG_1.png", "g/IMG_1.png.png": "IMG_1.png.png"}
    assert settle([named("IMG_1.mov.mov", NOT_A_PHOTO)], "IMG_1.mov") == {"g/IMG_1.mov.mov": "IMG_1.mov.mov"}


@pytest.mark.parametrize(("status", "alone"), [(REJECTED, "IMG_1"), (NOT_A_PHOTO, "IMG_1.JPG")])
def test_a_file_that_cannot_be_read_never_keeps_the_plain_id_from_a_picture(status: ImageStatus, alone: str) -> None:
    members = [named("IMG_1.JPG", status), named("IMG_1.tif", ImageStatus.NO_FACES)]
    assert settle(members) == {"g/IMG_1.JPG": "IMG_1.JPG", "g/IMG_1.tif": "IMG_1"}
    assert settle(members[:1]) == {"g/IMG_1.JPG": alone}


def test_the_same_key_in_three_buckets_is_three_photos() -> None:
    ids = settle([named("IMG_1.JPG"), named("IMG_1.JPG", bucket="b"), named("IMG_1.JPG", bucket="c")])
    assert ids["b/g/IMG_1.JPG"] == "IMG_1"
    assert ids["c/g/IMG_1.JPG"] == "IMG_1.JPG"
    assert ids["g/IMG_1.JPG"].startswith("IMG_1.JPG~")


def test_a_raw_file_beside_a_jpeg_is_no_photo_of_its_own_and_has_no_faces() -> None:
    raw, jpeg = settle_names([named("IMG_1.NEF"), named("IMG_1.JPG")], "IMG_1", [])
    assert (raw.status, raw.reason, raw.face_count) == (NOT_A_PHOTO, "belongs to IMG_1.JPG", 0)
    assert raw.photo.image_id == "IMG_1.NEF"
    assert jpeg == named("IMG_1.JPG")
    assert find_orphaned_raws([raw, jpeg]) == []
    assert find_orphaned_raws([raw]) == [raw.photo]


def test_a_raw_file_beside_a_jpeg_that_cannot_be_read_is_the_photo() -> None:
    assert settle([named("IMG_1.NEF"), named("IMG_1.JPG", REJECTED)])["g/IMG_1.NEF"] == "IMG_1"


def test_a_raw_file_beside_a_png_is_a_photo_of_its_own() -> None:
    raw, _ = settle_names([named("IMG_1.NEF"), named("IMG_1.png")], "IMG_1", [])
    assert (raw.status, raw.photo.image_id) == (INDEXED, "IMG_1.NEF")


def test_an_id_that_a_sender_chose_is_that_photos() -> None:
    members = [chosen("IMG_1", "elsewhere/7.png"), named("IMG_1.JPG")]
    assert settle(members) == {"elsewhere/7.png": "IMG_1", "g/IMG_1.JPG": "IMG_1.JPG"}


def test_a_chosen_photo_that_cannot_be_read_makes_room_for_one_that_can() -> None:
    members = [chosen("IMG_1", "elsewhere/7.png", REJECTED), named("IMG_1.JPG")]
    assert settle(members) == {"elsewhere/7.png": "IMG_1.png", "g/IMG_1.JPG": "IMG_1"}
    assert settle(members[:1]) == {"elsewhere/7.png": "IMG_1"}


def test_a_long_id_that_another_photo_has_gets_digits() -> None:
    ids = settle([named("IMG_1.JPG"), named("IMG_1.png")], taken=["IMG_1.png"])
    assert ids["g/IMG_1.png"].startswith("IMG_1.png~")


def test_a_photo_of_another_name_that_has_this_id_makes_room() -> None:
    stranger = named("IMG_1.png")
    owner = named("IMG_1.png.jpg")
    settled = settle_names([stranger, owner], "IMG_1.png", [])
    assert [one.photo.image_id for one in settled][1] == "IMG_1.png"
    assert settled[0].photo.image_id.startswith("IMG_1.png~")


def test_a_file_without_an_ending_keeps_an_id_of_its_own_beside_a_photo() -> None:
    ids = settle([named("IMG_1"), named("IMG_1.jpg")])
    assert ids["g/IMG_1.jpg"] == "IMG_1"
    assert ids["g/IMG_1"].startswith("IMG_1~")


@pytest.mark.parametrize(
    ("image_id", "key", "name"),
    [
        ("day 1/IMG_7", "g/day 1/IMG_7.JPG", "day 1/IMG_7"),
        ("IMG_7", "uploads/2024/IMG_7.JPG", "IMG_7"),
        ("IMG_7", "IMG_7.JPG", "IMG_7"),
        ("MG_7", "g/IMG_7.JPG", None),
        ("IMG_7.JPG", "g/IMG_7.JPG", None),
        ("42", "g/IMG_7.JPG", None),
    ],
)
def test_an_id_that_is_the_keys_end_was_made_of_the_key(image_id: str, key: str, name: str | None) -> None:
    assert guess_name(image_id, key) == name
