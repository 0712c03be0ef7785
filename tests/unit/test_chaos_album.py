"""The checks of the chaos benchmark's real workload see what is wrong: each is shown one wrong end among right ones."""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import combinations
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from app.core.naming import settle_names
from app.core.records import ImageRecord, ImageStatus, PhotoRef
from app.core.result_keys import ResultKeys
from app.vision.crops import encode_crops, encode_preview
from benchmarks.chaos import album, album_checks
from benchmarks.chaos.album_checks import SAME_PICTURE, File
from benchmarks.chaos.snapshot import DeadLetter, Document, Snapshot
from benchmarks.chaos.uploader import BAD_KEY, Moment
from benchmarks.chaos.user import Kind, Word

JPEG, PNG, RAW, VIDEO = (("photos", f"g/IMG_1{ending}") for ending in (".jpg", ".png", ".nef", ".mov"))
BOX = [60.0, 60.0, 130.0, 140.0]
COVER = "face-worker/g/covers/p1-0123.jpg"
SHARD = "face-worker/g/groups/people/p1-1-0123456789ab.json"
OUTCOMES = album.list_outcomes()


def make_file(place: album.Place, picture: int) -> File:
    data = album.make_file(picture, PurePosixPath(place[1]).suffix)
    content = hashlib.sha256(data).hexdigest()
    return File(place, f"etag of {content[:8]}", data, OUTCOMES[content])


def read_pixels(file: File) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(file.data)).convert("RGB"))


def make_crop(file: File) -> bytes:
    return encode_crops(read_pixels(file), np.array([BOX], np.float32))[0]


@dataclass
class Case:
    """All that the checks are shown. It is right until it is broken."""

    files: dict[album.Place, File]
    run: Snapshot
    pictures: dict[str, bytes]
    words: list[Word] = field(default_factory=list)
    history: dict[album.Place, list[Moment]] = field(default_factory=dict)

    def find_words(self) -> album_checks.Words:
        return album_checks.Words(self.words, self.history, self.run)

    def find_wrong(self) -> list[str]:
        return [
            *album_checks.find_lost_files(self.files, self.run),
            *album_checks.find_duplicated_files(self.run),
            *album_checks.find_revived(self.files, self.run),
            *album_checks.find_wrong_ends(self.files, self.run),
            *album_checks.find_swapped(self.files, self.run, self.pictures),
            *album_checks.find_ungrouped(self.run),
            *album_checks.find_left_files(self.run),
            *album_checks.find_misplaced(self.find_words()),
            *album_checks.find_wrong_letters([0], self.run),
        ]


def make_image(file: File, image_id: str, status: str, reason: str | None = None) -> Document:
    document: Document = {"_id": f"g/{image_id}", "gallery_id": "g", "image_id": image_id, "status": status}
    document |= {
        "reason": reason,
        "s3": dict(zip(("bucket", "key"), file.place, strict=True)),
        "etag": file.etag,
        "preview_key": None,
    }
    return document | {"content": file.content}


@pytest.fixture
def case() -> Case:
    """A JPEG and a PNG of one name, each with one face of the same person, a raw file, a video, and a bad record."""
    files = {place: make_file(place, picture) for place, picture in ((JPEG, 0), (PNG, 6), (RAW, 1), (VIDEO, 2))}
    images = [
        make_image(files[JPEG], "IMG_1", "indexed"),
        make_image(files[PNG], "IMG_1.png", "indexed"),
        make_image(files[RAW], "IMG_1.nef", "not_a_photo", "belongs to IMG_1.jpg"),
        make_image(files[VIDEO], "IMG_1.mov", "not_a_photo", "It is a video, not a photo."),
    ]
    faces, pictures = {}, {}
    for image in images[:2]:
        file, crops = files[album_checks.get_place(image)], f"face-worker/g/faces/{image['image_id']}.crops"
        image["preview_key"] = f"face-worker/g/previews/{image['image_id']}.jpg"
        pictures[image["preview_key"]] = encode_preview(read_pixels(file), 160)
        pictures[crops] = b"a neighbour" + make_crop(file)
        face = {"_id": f"{image['_id']}/m/0", "gallery_id": "g", "image_id": image["image_id"], "box": BOX}
        face |= {"crop_key": crops, "crop_range": [11, len(pictures[crops]) - 11], "etag": file.etag}
        face |= {"digest": f"digest of {image['image_id']}", "person_id": "p1", "assigned_by": "auto"}
        faces[face["_id"]] = face
    pictures[COVER] = make_crop(files[JPEG])
    listed = [{"face_id": face["_id"], "digest": face["digest"]} for face in faces.values()]
    person = {"person_id": "p1", "cover_face_id": "g/IMG_1/m/0", "cover_key": COVER, "faces": listed}
    skipped = [{"image_id": one["image_id"], "key": one["s3"]["key"], "status": one["status"]} for one in images[2:]]
    body = json.dumps({"Records": [{"s3": {"object": {"key": BAD_KEY.format(0)}}}]})
    run = Snapshot(
        images={image["_id"]: image for image in images},
        faces=faces,
        people={"g/p1": {"_id": "g/p1", "gallery_id": "g", "person_id": "p1", "status": "active"}},
        galleries={"g": {"_id": "g", "revision": 7, "last_run": {"revision": 7}}},
        groups={"g": {"people": [person], "unassigned": [], "skipped": skipped, "files": [SHARD]}},
        keys=frozenset({*pictures, ResultKeys().groups("g"), SHARD}),
        dead_letters=[DeadLetter("detection-dead-letters", "x", body, "names no gallery")],
    )
    return Case(files, run, pictures, history={place: [Moment(0, file.data)] for place, file in files.items()})


def say(case: Case, kind: Kind, face_id: str, person_id: str = "p1", *, is_sure: bool = True, at: float = 100) -> Word:
    """What a user says of a face as it is in the case."""
    face = case.run.faces[face_id]
    image = case.run.images[f"g/{face['image_id']}"]
    place = album_checks.get_place(image)
    word = Word(at, kind, "g", person_id, face["digest"], place, image["content"], is_sure)
    case.words.append(word)
    return word


def test_a_right_end_has_nothing_wrong(case: Case) -> None:
    assert case.find_wrong() == []


def change(path: str, value: object) -> Callable[[Case], None]:
    """`faces:g/IMG_1/m/0:digest` names a field of a document."""

    def changed(case: Case) -> None:
        collection, name, key = path.split(":")
        getattr(case.run, collection)[name][key] = value

    return changed


def without(collection: str, name: str) -> Callable[[Case], None]:
    return lambda case: getattr(case.run, collection).pop(name)


def without_file(case: Case) -> None:
    del case.files[PNG]


def other_file(case: Case) -> None:
    case.files[PNG] = replace(make_file(PNG, 7), etag=case.files[PNG].etag)


def other_crops(case: Case) -> None:
    other = make_crop(case.files[PNG])
    case.pictures["face-worker/g/faces/IMG_1.crops"] = b"a neighbour" + other
    case.run.faces["g/IMG_1/m/0"]["crop_range"] = [11, len(other)]


def wrong_range(case: Case) -> None:
    case.run.faces["g/IMG_1/m/0"]["crop_range"] = [0, 500]


def other_preview(case: Case) -> None:
    case.pictures["face-worker/g/previews/IMG_1.jpg"] = encode_preview(read_pixels(make_file(JPEG, 5)), 160)


def other_cover(case: Case) -> None:
    case.pictures[COVER] = make_crop(case.files[PNG])


def no_cover(case: Case) -> None:
    del case.pictures[COVER]


def second_record(case: Case) -> None:
    case.run.images["g/IMG_1~1"] = {**case.run.images["g/IMG_1.mov"], "_id": "g/IMG_1~1"}


def left_cover(case: Case) -> None:
    case.run = replace(case.run, keys=case.run.keys | {"face-worker/g/covers/p9-0.jpg"})


def no_letter(case: Case) -> None:
    case.run.dead_letters.clear()


def letter_with_neighbours(case: Case) -> None:
    records = json.loads(case.run.dead_letters[0].body)["Records"]
    case.run.dead_letters[0] = replace(case.run.dead_letters[0], body=json.dumps({"Records": [*records, *records]}))


def letter_without_reason(case: Case) -> None:
    case.run.dead_letters[0] = replace(case.run.dead_letters[0], reason=None)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (without("images", "g/IMG_1.mov"), "photos/g/IMG_1.mov has no record"),
        (second_record, "photos/g/IMG_1.mov has 2 records"),
        (without_file, "g/IMG_1.png is stored as indexed, and there is no photos/g/IMG_1.png"),
        (without("images", "g/IMG_1.png"), "1 faces of g/IMG_1.png have no photo"),
        (change("images:g/IMG_1:image_id", "IMG_1.jpg"), "has the id IMG_1.jpg instead of IMG_1."),
        (change("images:g/IMG_1:status", "rejected"), "is rejected (None) instead of indexed"),
        (change("images:g/IMG_1.nef:reason", "belongs to IMG_1.png"), "not because 'belongs to IMG_1.jpg'"),
        (change("images:g/IMG_1:etag", "another"), "g/IMG_1 has the etag another"),
        (change("images:g/IMG_1:content", "another"), "g/IMG_1 was made of another content"),
        (other_file, "g/IMG_1.png was made of another content"),
        (other_file, "The crop of g/IMG_1.png/m/0 shows another picture"),
        (change("faces:g/IMG_1/m/0:etag", "another"), "g/IMG_1/m/0 is of the etag another"),
        (other_crops, "The crop of g/IMG_1/m/0 shows another picture"),
        (wrong_range, "The crop of g/IMG_1/m/0 is no picture"),
        (change("faces:g/IMG_1/m/0:crop_key", "gone"), "The crop of g/IMG_1/m/0 is missing"),
        (
            change("faces:g/IMG_1/m/0:box", [60.0, 60.0, 90.0, 90.0]),
            "The crop of g/IMG_1/m/0 shows another picture, of",
        ),
        (other_preview, "The preview of g/IMG_1 shows another picture"),
        (other_cover, "The cover of g/p1 shows another picture"),
        (no_cover, "The cover of g/p1 is missing"),
        (without("faces", "g/IMG_1/m/0"), "The cover of g/p1 is of a face that is not stored"),
        (change("galleries:g:revision", 8), "g is at revision 8, its last run saw 7"),
        (without("galleries", "g"), "g was never noted as changed"),
        (without("groups", "g"), "g is at revision 7"),
        (change("faces:g/IMG_1/m/0:digest", "new"), "g/groups.json lists other faces than MongoDB"),
        (change("groups:g:unassigned", [{"face_id": "g/IMG_1/m/0", "digest": ""}]), "lists g/IMG_1/m/0 2 times"),
        (change("groups:g:skipped", []), "g/groups.json lists other skipped photos than MongoDB"),
        (change("groups:g:files", []), f"{SHARD} is not named by groups.json"),
        (left_cover, "face-worker/g/covers/p9-0.jpg is nobody's"),
        (change("faces:g/IMG_1/m/0:assigned_by", "user"), "g/IMG_1/m/0 is confirmed as p1, which nobody said"),
        (change("faces:g/IMG_1/m/0:rejected", ["p2"]), "g/IMG_1/m/0 is rejected for p2, which nobody said"),
        (no_letter, "The bad record 0 is no dead letter"),
        (letter_with_neighbours, "A message is dead-lettered, and it is no bad record"),
        (letter_without_reason, "The bad record 0 is no dead letter"),
    ],
)
def test_what_is_wrong_is_said(case: Case, break_it: Callable[[Case], object], sentence: str) -> None:
    break_it(case)
    assert any(sentence in said for said in case.find_wrong()), case.find_wrong()


def test_words_on_the_faces_that_were_meant_are_right(case: Case) -> None:
    say(case, "confirm", "g/IMG_1/m/0")
    say(case, "reject", "g/IMG_1.png/m/0", "p2")
    case.run.faces["g/IMG_1/m/0"]["assigned_by"] = "user"
    case.run.faces["g/IMG_1.png/m/0"]["rejected"] = ["p2"]
    assert case.find_wrong() == []
    assert album_checks.count_words(case.run) == 2
    assert len(list(case.find_words().list_held())) == 2


def test_a_word_follows_its_person_into_another_one(case: Case) -> None:
    case.run.people["g/p0"] = {"gallery_id": "g", "person_id": "p0", "status": "merged", "merged_into": "p1"}
    say(case, "confirm", "g/IMG_1/m/0", "p0")
    case.run.faces["g/IMG_1/m/0"]["assigned_by"] = "user"
    assert case.find_wrong() == []


@pytest.mark.parametrize(
    ("kind", "sentence"), [("confirm", "was confirmed as p2; now it is p1's"), ("reject", "was rejected for p2, and")]
)
def test_a_word_that_is_gone_from_a_photo_that_stayed_is_wrong(case: Case, kind: Kind, sentence: str) -> None:
    say(case, kind, "g/IMG_1/m/0", "p2")
    assert [one for one in case.find_wrong() if sentence in one]


def test_a_word_may_go_with_its_content_and_must_not_stay(case: Case) -> None:
    word = say(case, "confirm", "g/IMG_1/m/0")
    case.words[0] = replace(word, digest="a former face", content="a former content")
    assert case.find_wrong() == []
    case.run.faces["g/IMG_1/m/0"]["assigned_by"] = "user"
    assert "which nobody said of it" in case.find_wrong()[0]


@pytest.mark.parametrize("since", [80.0, 120.0])
def test_a_word_may_go_where_the_photo_was_another_one_for_a_while(case: Case, since: float) -> None:
    say(case, "reject", "g/IMG_1/m/0", "p2")
    case.history[JPEG][1:] = [Moment(since, b"another"), Moment(since + 1, case.files[JPEG].data)]
    assert case.find_wrong() == []
    case.history[JPEG][1:] = [Moment(10, b"another"), Moment(11, case.files[JPEG].data)]
    assert case.find_wrong() != []


def test_a_word_that_was_not_sure_may_be_gone(case: Case) -> None:
    say(case, "confirm", "g/IMG_1/m/0", "p2", is_sure=False)
    assert case.find_wrong() == []


def test_a_word_on_another_photo_with_the_same_face_is_misplaced(case: Case) -> None:
    case.run.faces["g/IMG_1.png/m/0"] |= {"digest": "digest of IMG_1", "assigned_by": "user"}
    case.run.images["g/IMG_1.png"]["content"] = case.run.images["g/IMG_1"]["content"]
    say(case, "confirm", "g/IMG_1/m/0", is_sure=False)
    found = album_checks.find_misplaced(case.find_words())
    assert found == ["g/IMG_1.png/m/0 is confirmed as p1, which nobody said of it."]


def test_an_id_with_the_ending_may_be_taken_by_a_photo_that_claims_it(case: Case) -> None:
    twin = ("photos", "g/IMG_1.png.jpg")
    case.files[twin] = make_file(twin, 12)
    assert album_checks.make_ends(case.files.values())[twin].image_ids == ("IMG_1.png",)
    digits = PhotoRef("g", "", *PNG, "IMG_1").slot
    assert album_checks.make_ends(case.files.values())[PNG].image_ids == ("IMG_1.png", f"IMG_1.png~{digits}")


def test_the_checks_own_rule_of_ids_is_the_one_that_the_service_follows() -> None:
    places = [(bucket, f"g/IMG_1{ending}") for bucket in ("a", "b") for ending in album.ENDINGS]
    for few in combinations(places, 3):
        for unread in (None, few[0], few[1]):
            files = [make_file(place, 11 if place == unread else 0) for place in few]
            ends = album_checks.make_ends(files)
            records = [
                ImageRecord(PhotoRef("g", "", *file.place, "IMG_1"), ImageStatus(file.outcome)) for file in files
            ]
            for record in settle_names(records, "IMG_1", ()):
                end = ends[record.photo.bucket, record.photo.key]
                assert record.photo.image_id in end.image_ids
                assert (record.status.value, record.reason or "") == (end.status, end.reason)


def test_a_plan_has_every_kind_of_change_and_announces_each_at_least_once() -> None:
    plan = album.make_plan(200, 0, 30, "plain", "versioned")
    assert (
        plan == album.make_plan(200, 0, 30, "plain", "versioned") != album.make_plan(200, 1, 30, "plain", "versioned")
    )
    assert set(Counter(one.kind for one in plan.changes)) == {"put", "put in parts", "delete", "restore", "roll back"}
    announced = Counter(number for one in plan.deliveries for number in one.changes)
    assert announced.keys() == set(range(200))
    assert max(announced.values()) > 1
    first = {number: min(one.at_s for one in plan.deliveries if number in one.changes) for number in announced}
    assert all(at_s >= plan.changes[number].at_s for number, at_s in first.items())
    assert max(at_s - plan.changes[number].at_s for number, at_s in first.items()) > 5
    assert len(plan.bad_records) > 1
    assert {one.place[0] for one in plan.changes} == {"plain", "versioned"}


def test_pictures_differ_by_more_than_the_checks_allow() -> None:
    def shrink(picture: int) -> np.ndarray:
        image = Image.open(BytesIO(album.make_file(picture, ".jpg"))).convert("RGB")
        return np.asarray(image.resize((50, 50)), np.float32)

    shown = [shrink(picture) for picture in range(album.PICTURES) if picture % 12 != 11]
    assert min(float(np.abs(one - other).mean()) for one, other in combinations(shown, 2)) > 1.5 * SAME_PICTURE


def test_a_case_is_not_changed_by_its_checks(case: Case) -> None:
    before = copy.deepcopy(case.run.images)
    case.find_wrong()
    assert case.run.images == before


@pytest.mark.parametrize(("picture", "is_right"), [(14, True), (5, False)], ids=["the same picture", "another one"])
def test_a_word_stays_on_a_picture_that_was_exported_anew_and_on_no_other(
    case: Case, picture: int, is_right: bool
) -> None:
    former, face = make_file(JPEG, picture), case.run.faces["g/IMG_1/m/0"]
    case.history[JPEG].insert(0, Moment(0, former.data))
    case.words.append(Word(100, "confirm", "g", "p1", "digest of the former face", JPEG, former.content, True))
    face["assigned_by"] = "user"
    assert (case.find_wrong() == []) == is_right
