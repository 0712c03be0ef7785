"""FaceStore, where several files of a gallery have one name: of the fake and of MongoDB."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from threading import Barrier

import pytest

from app.core.records import (
    Changes,
    FaceMove,
    FaceRef,
    ImageRecord,
    ImageStatus,
    PersonRecord,
    PhotoRef,
    PhotoResult,
    join_batches,
    make_face_id,
)
from app.core.result_keys import ResultKeys
from tests.edits import confirm, reject
from tests.stores import MODEL, Stores, face_record, photo_result, store, unit_vector

OTHER_MODEL = "other-111111111111"
KEYS = ResultKeys()


def named(file: str) -> PhotoRef:
    name = file.rpartition(".")[0]
    return PhotoRef("g", name, "photos", f"g/{file}", name)


def result(file: str, count: int = 1, *, content: str | None = None, model: str = MODEL) -> PhotoResult:
    """A photo whose faces are those of its content alone."""
    photo, content = named(file), content or f"content of {file}"
    plain = photo_result(photo, count, etag=f"etag of {content}", model=model)
    crop_key, seed = KEYS.crops(photo, 0, content.encode().hex(), model), sum(content.encode())
    faces = [
        replace(face_record(photo, row, unit_vector(seed + row), model=model), crop_key=crop_key)
        for row in range(count)
    ]
    preview = KEYS.preview(photo, 0, content.encode().hex()) if count else None
    return PhotoResult(replace(plain.image, content=content, preview_key=preview), faces)


def refused(file: str, status: ImageStatus = ImageStatus.REJECTED) -> PhotoResult:
    return PhotoResult(ImageRecord(named(file), status, "It can't be used.", etag=f"etag of {file}", model_id=MODEL))


def save(stores: Stores, *results: PhotoResult) -> Changes:
    """Store photos one after the other, as workers do that have just looked at them. Returns the last one's changes."""
    changes = Changes()
    for one in results:
        changes = stores.faces.save_photos([replace(one, edition=stores.faces.find_image(one.image.photo)[1])])
        assert changes.overtaken == []
    return changes


def remove(stores: Stores, file: str) -> Changes:
    changes = stores.faces.remove_photo(named(file), stores.faces.find_image(named(file))[1])
    assert changes is not None
    return changes


def ids(stores: Stores) -> dict[str, str]:
    """Key → image id."""
    return {image.photo.key.removeprefix("g/"): image.photo.image_id for image in stores.faces.read_images("g")}


def owners(stores: Stores, model: str = MODEL) -> dict[str, str | None]:
    """Face id → ETag of the photo it was found in."""
    batch = join_batches(list(stores.faces.read_faces("g", model)))
    return dict(zip(batch.face_ids, batch.etags, strict=True))


FILES = {"IMG_1.JPG": "IMG_1", "IMG_1.png": "IMG_1.png", "IMG_1.MOV": "IMG_1.MOV"}


@pytest.mark.parametrize("order", list(permutations(FILES)))
def test_in_whatever_order_files_of_one_name_come_each_photo_is_stored_and_has_the_same_id(
    stores: Stores, order: tuple[str, ...]
) -> None:
    for file in order:
        save(stores, refused(file, ImageStatus.NOT_A_PHOTO) if file.endswith("MOV") else result(file))
    assert ids(stores) == FILES
    assert owners(stores) == {
        make_face_id(replace(named("IMG_1.JPG"), image_id=name), MODEL, 0): f"etag of content of {file}"
        for file, name in FILES.items()
        if not file.endswith("MOV")
    }


def test_a_photo_that_is_stored_again_keeps_the_id_that_it_has(stores: Stores) -> None:
    own = PhotoResult(photo_result(PhotoRef("g", "42", "photos", "elsewhere/7.jpg"), 0).image)
    files = [
        result("IMG_1.JPG"),
        result("IMG_1.png"),
        refused("IMG_1.MOV", ImageStatus.NOT_A_PHOTO),
        refused("IMG_1.tif"),
        refused("IMG_2.MOV", ImageStatus.NOT_A_PHOTO),
        own,
    ]
    save(stores, *files)
    before = ids(stores)
    assert before["IMG_2.MOV"] == "IMG_2.MOV"
    for _ in range(3):
        save(stores, *files)
        assert ids(stores) == before


def test_photos_of_one_name_that_are_stored_in_one_batch_are_all_stored(stores: Stores) -> None:
    store(stores, [result("IMG_1.png"), result("IMG_1.JPG"), result("IMG_2.png"), refused("IMG_1.tif")])
    assert ids(stores) == {
        "IMG_1.JPG": "IMG_1",
        "IMG_1.png": "IMG_1.png",
        "IMG_1.tif": "IMG_1.tif",
        "IMG_2.png": "IMG_2",
    }


def test_two_photos_of_one_name_that_are_stored_at_the_same_moment_are_both_stored(stores: Stores) -> None:
    start = Barrier(2)

    def store_all(ending: str) -> None:
        start.wait(30)
        for number in range(12):
            assert store(stores, [result(f"IMG_{number}.{ending}")]) == []

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(store_all, ("png", "jpg")))
    expected = {f"IMG_{number}.jpg": f"IMG_{number}" for number in range(12)}
    assert ids(stores) == expected | {f"IMG_{number}.png": f"IMG_{number}.png" for number in range(12)}
    assert len(owners(stores)) == 24


def test_what_users_said_of_faces_moves_along_with_their_photo(stores: Stores) -> None:
    save(stores, result("IMG_1.png", 3))
    old = [make_face_id(named("IMG_1.png"), MODEL, row) for row in range(3)]
    lease = stores.galleries.take_lease("g", "tester", 60)
    assert lease is not None
    people = [PersonRecord("p1", old[0], 2, 1), PersonRecord("p2", old[2], 1, 1)]
    moves = [FaceMove(old[0], None, "p1"), FaceMove(old[1], None, "p1"), FaceMove(old[2], None, "p2")]
    stores.people.write_people(lease, people, moves)
    stores.people.publish_people(lease)
    confirm(stores, lease, "p2", FaceRef(old[1]))
    reject(stores, lease, "p1", FaceRef(old[2]))

    save(stores, result("IMG_1.JPG", 1))

    moved = [make_face_id(replace(named("IMG_1.png"), image_id="IMG_1.png"), MODEL, row) for row in range(3)]
    batch = join_batches(list(stores.faces.read_faces("g", MODEL)))
    found = dict(zip(batch.face_ids, batch.person_ids, strict=True))
    assert found == {old[0]: None, moved[0]: "p1", moved[1]: "p2", moved[2]: "p2"}
    assert moved[1] in batch.confirmed
    assert batch.rejected == {moved[2]: {"p1"}}
    if stores.database is not None:
        covers = {one["person_id"]: one["cover_face_id"] for one in stores.database["people"].find()}
        assert covers == {"p1": moved[0], "p2": moved[2]}
    # The way back, when the other photo is removed.
    remove(stores, "IMG_1.JPG")
    batch = join_batches(list(stores.faces.read_faces("g", MODEL)))
    assert dict(zip(batch.face_ids, batch.person_ids, strict=True)) == dict(zip(old, ("p1", "p2", "p2"), strict=True))
    assert old[1] in batch.confirmed


def test_faces_under_another_model_move_along_too(stores: Stores) -> None:
    save(stores, result("IMG_1.png", 2, model=OTHER_MODEL), result("IMG_1.png"), result("IMG_1.JPG"))
    assert set(owners(stores, OTHER_MODEL)) == {f"g/IMG_1.png/{OTHER_MODEL}/{row}" for row in range(2)}


@pytest.mark.parametrize("order", [("IMG_1.NEF", "IMG_1.JPG"), ("IMG_1.JPG", "IMG_1.NEF")])
def test_a_raw_file_beside_its_jpeg_is_not_a_photo_and_keeps_no_faces(stores: Stores, order: tuple[str, str]) -> None:
    save(stores, *map(result, order))
    raw, _ = stores.faces.find_image(named("IMG_1.NEF"))
    assert raw is not None
    assert (raw.status, raw.reason, raw.photo.image_id) == (
        ImageStatus.NOT_A_PHOTO,
        "belongs to IMG_1.JPG",
        "IMG_1.NEF",
    )
    assert set(owners(stores).values()) == {"etag of content of IMG_1.JPG"}


def test_the_pictures_of_a_raw_file_that_turns_out_to_belong_to_a_jpeg_are_named_for_removal(stores: Stores) -> None:
    raw = result("IMG_1.NEF")
    expected = sorted([raw.faces[0].crop_key, str(raw.image.preview_key)])
    save(stores, raw)
    assert save(stores, result("IMG_1.JPG")).pictures == expected
    assert save(stores, raw).pictures == expected


def test_a_raw_file_whose_jpeg_is_removed_is_to_be_indexed(stores: Stores) -> None:
    save(stores, result("IMG_1.NEF"), result("IMG_1.JPG"))
    assert stores.faces.find_companion(named("IMG_1.NEF")).photo == named("IMG_1.JPG")
    [photo] = remove(stores, "IMG_1.JPG").to_index
    assert photo.key == "g/IMG_1.NEF"
    # A second message, where the first worker died before it indexed the file.
    assert [one.key for one in remove(stores, "IMG_1.JPG").to_index] == ["g/IMG_1.NEF"]
    save(stores, result("IMG_1.NEF"))
    assert ids(stores) == {"IMG_1.NEF": "IMG_1"}
    assert stores.faces.find_companion(named("IMG_1.NEF")) is None


def test_a_removed_photo_leaves_nothing_under_any_model(stores: Stores) -> None:
    first = result("IMG_1.JPG", 2, model=OTHER_MODEL)
    second = result("IMG_1.JPG", 1)
    save(stores, first, second, result("IMG_2.JPG"))
    changes = remove(stores, "IMG_1.JPG")
    assert changes.pictures == sorted(
        {first.faces[0].crop_key, second.faces[0].crop_key, str(second.image.preview_key)}
    )
    assert ids(stores) == {"IMG_2.JPG": "IMG_2"}
    assert owners(stores, OTHER_MODEL) == {}
    assert set(owners(stores).values()) == {"etag of content of IMG_2.JPG"}


def test_to_remove_a_photo_again_or_one_that_nobody_stored_changes_nothing(stores: Stores) -> None:
    save(stores, result("IMG_2.JPG"))
    before = stores.snapshot()
    for _ in range(2):
        changes = remove(stores, "IMG_1.JPG")
        assert not (changes.images or changes.pictures or changes.to_index)
    assert stores.snapshot() == before


def test_a_photo_that_was_removed_while_it_was_examined_does_not_come_back(stores: Stores) -> None:
    for known in (False, True):
        late = replace(result("IMG_1.JPG"), edition=stores.faces.find_image(named("IMG_1.JPG"))[1])
        if known:
            save(stores, result("IMG_1.JPG"))
        remove(stores, "IMG_1.JPG")
        assert stores.faces.save_photos([late]).overtaken == [late]
        assert ids(stores) == {}


def test_a_removal_is_overtaken_by_what_was_stored_since_the_object_was_looked_at(stores: Stores) -> None:
    save(stores, result("IMG_1.JPG"))
    _, edition = stores.faces.find_image(named("IMG_1.JPG"))
    save(stores, result("IMG_1.JPG", content="new"))
    assert stores.faces.remove_photo(named("IMG_1.JPG"), edition) is None
    assert set(owners(stores).values()) == {"etag of new"}


def test_a_photo_that_another_one_replaced_has_no_face_of_former_content_under_any_model(stores: Stores) -> None:
    former = [result("IMG_1.JPG", 2, model=OTHER_MODEL), result("IMG_1.JPG", 2)]
    save(stores, *former)
    changes = save(stores, result("IMG_1.JPG", content="new"))
    assert owners(stores, OTHER_MODEL) == {}
    assert set(owners(stores).values()) == {"etag of new"}
    assert set(changes.pictures) == {one.faces[0].crop_key for one in former} | {former[0].image.preview_key}


def test_the_same_bytes_under_another_etag_keep_their_people(stores: Stores) -> None:
    save(stores, result("IMG_1.JPG", model=OTHER_MODEL), result("IMG_1.JPG"))
    lease = stores.galleries.take_lease("g", "tester", 60)
    assert lease is not None
    face_id = make_face_id(named("IMG_1.JPG"), MODEL, 0)
    stores.people.write_people(lease, [PersonRecord("p1", face_id, 1, 1)], [FaceMove(face_id, None, "p1")])
    stores.people.publish_people(lease)
    again = result("IMG_1.JPG")
    again = PhotoResult(replace(again.image, etag="uploaded in parts"), again.faces)
    save(stores, again)
    batch = join_batches(list(stores.faces.read_faces("g", MODEL)))
    assert (batch.person_ids, batch.etags) == (["p1"], ["uploaded in parts"])
    assert owners(stores, OTHER_MODEL) == {make_face_id(named("IMG_1.JPG"), OTHER_MODEL, 0): "uploaded in parts"}


def test_a_runs_move_does_not_reach_another_face_that_has_the_id_by_then(stores: Stores) -> None:
    save(stores, result("IMG_1.png"))
    lease = stores.galleries.take_lease("g", "tester", 60)
    assert lease is not None
    face_id = make_face_id(named("IMG_1.png"), MODEL, 0)
    [digest] = join_batches(list(stores.faces.read_faces("g", MODEL))).digests
    save(stores, result("IMG_1.JPG"))
    stores.people.write_people(lease, [PersonRecord("p1", face_id, 1, 1)], [FaceMove(face_id, None, "p1", digest)])
    stores.people.publish_people(lease)
    assert join_batches(list(stores.faces.read_faces("g", MODEL))).person_ids == [None, None]


def test_a_photo_of_a_chosen_id_has_it_and_the_other_one_its_ending(stores: Stores) -> None:
    own = PhotoRef("g", "IMG_1", "photos", "elsewhere/7.jpg")
    for _ in range(2):
        save(stores, result("IMG_1.JPG"))
        store(stores, [PhotoResult(photo_result(own, 0).image)])
        assert ids(stores) == {"IMG_1.JPG": "IMG_1.JPG", "elsewhere/7.jpg": "IMG_1"}
