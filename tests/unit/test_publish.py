from dataclasses import replace

import numpy as np

from app.clustering.identity import PersonMatches
from app.core.records import FaceBatch, ImageStatus, PersonRecord, PersonStatus, make_quality_columns
from app.core.result_keys import ResultKeys
from app.core.roles import QualityBars
from app.grouping.covers import list_covers, write_covers
from app.grouping.output import Groups
from app.grouping.page import PagePhoto, render_page
from app.grouping.publish import compute_digest, list_page_photos, make_crop_urls, make_groups, name_covers
from tests.fakes import FakeObjectStore
from tests.stores import image_record, photo

HEADER = Groups(
    gallery_id="g", model="m", generated_at="2024-06-01T12:00:00+00:00", people=[], unassigned=[], skipped=[]
)
FACES = FaceBatch(
    face_ids=["f0", "f1", "f2"],
    image_ids=["a", "a", "b"],
    boxes=np.array([[1.006, 2, 3, 4], [10, 20, 30, 40], [0, 0, 9, 9]], np.float32),
    det_scores=np.array([0.987654, 0.5, 1], np.float32),
    quality=make_quality_columns([{"size_px": 2.0}, {}, {"sharpness": 7.5}]),
    embeddings=np.eye(3, 8, dtype=np.float32),
    crop_keys=["g/faces/a/m-0.webp", "g/faces/day 1/é#?/m-1.webp", "g/faces/b/m-0.webp"],
    person_ids=[None, None, None],
    digests=[""] * 3,
    etags=["etag-1"] * 3,
    crop_ranges=[None, (0, 10), (10, 20)],
)
BARS, KEYS = QualityBars(), ResultKeys()


def matched(person_ids: list[str | None], **rejected_for: str) -> PersonMatches:
    return PersonMatches(person_ids, {}, rejected_for)


PEOPLE = [PersonRecord("p1", "f2", 2, 2, "Ann"), PersonRecord("p2", "f1", 1, 1)]


def test_every_face_stands_with_its_person_in_the_order_of_the_people() -> None:
    groups = make_groups(HEADER, FACES, matched(["p1", "p2", "p1"]), PEOPLE, [], BARS)
    assert [(one.person_id, one.name, one.cover_face_id) for one in groups.people] == [
        ("p1", "Ann", "f2"),
        ("p2", None, "f1"),
    ]
    assert [[face.face_id for face in one.faces] for one in groups.people] == [["f0", "f2"], ["f1"]]
    assert [(one.face_count, one.photo_count) for one in groups.people] == [(2, 2), (1, 1)]
    assert groups.unassigned == []


def test_a_face_without_a_person_is_unassigned() -> None:
    groups = make_groups(HEADER, FACES, matched(["p1", None, "p1"]), PEOPLE[:1], [], BARS)
    assert [face.face_id for face in groups.unassigned] == ["f1"]


def test_an_unassigned_face_has_a_reason() -> None:
    dark = {"unified": 11.2, "under_exposure_score": 20.0, "sharpness_score": 10.0}
    covered = {"unified": 31.6, "eyes_covered_score": 8.0, "under_exposure_score": 90.0}
    faces = replace(FACES, quality=make_quality_columns([dark, covered, {"unified": 44.0}]))
    groups = make_groups(HEADER, faces, matched([None, None, None]), [], [], BARS)
    assert [face.why_alone for face in groups.unassigned] == [
        "Its quality is 11 of 100, below 20: it is dark and it is blurred.",
        "Its quality is 32 of 100 (its eyes are covered), and it is not clearly like a better face.",
        "Its quality is 44 of 100 (it is poor), and it is not clearly like a better face.",
    ]
    assert (
        make_groups(HEADER, faces, matched(["p2", "p2", "p2"]), PEOPLE[1:], [], BARS).people[0].faces[0].why_alone
        is None
    )


def test_the_reason_of_a_rejected_face_names_the_person() -> None:
    groups = make_groups(HEADER, FACES, matched([None, "p2", "p1"], f0="p1"), PEOPLE, [], BARS)
    (face,) = groups.unassigned
    assert (
        face.why_alone == "It is most like Ann, for whom it was rejected, and it is too poor to be somebody of its own."
    )


def test_former_ids_are_published_where_they_lead_to_an_active_person() -> None:
    former = [replace(PEOPLE[0], person_id=old, status=PersonStatus.MERGED, merged_into="p1") for old in ("p7", "p8")]
    gone = replace(former[0], person_id="p9", merged_into="p6")
    away = replace(PEOPLE[0], person_id="p6", status=PersonStatus.ABSENT)
    groups = make_groups(HEADER, FACES, matched(["p1", "p2", "p1"]), [*PEOPLE, *former, gone, away], [], BARS)
    assert groups.merged == {"p7": "p1", "p8": "p1"}
    assert [one.person_id for one in groups.people] == ["p1", "p2"]


def test_the_digest_is_of_all_but_the_time() -> None:
    groups = make_groups(HEADER, FACES, matched(["p1", "p2", "p1"]), PEOPLE, [], BARS)
    later = groups.model_copy(update={"generated_at": "2025-06-01T12:00:01+00:00"})
    pages = [render_page(one, {}, {}) for one in (groups, later)]
    assert pages[0] != pages[1]
    assert compute_digest("same", pages[0]) == compute_digest("same", pages[1])
    assert compute_digest("other", pages[0]) != compute_digest("same", pages[0])
    assert compute_digest("same", render_page(groups, {}, {"f2": "elsewhere.webp"})) != compute_digest("same", pages[0])


def test_numbers_are_rounded_and_the_measures_that_readers_need_are_kept() -> None:
    face = make_groups(HEADER, FACES, matched(["p1", "p2", "p1"]), PEOPLE, [], BARS).people[0].faces[0]
    assert face.box == (1.01, 2.0, 3.0, 4.0)
    assert face.det_score == 0.9877
    assert face.quality == {"size_px": 2.0}


def test_only_photos_without_a_result_are_skipped() -> None:
    images = [
        image_record(photo("a"), 2),
        replace(image_record(photo("b"), 0), reason="No face was found."),
        replace(image_record(photo("c"), 0), status=ImageStatus.REJECTED, reason=None),
    ]
    skipped = make_groups(HEADER, FACES, matched(["p1", "p2", "p1"]), PEOPLE, images, BARS).skipped
    assert [(one.image_id, one.status.value, one.reason) for one in skipped] == [
        ("b", "no_faces", "No face was found."),
        ("c", "rejected", ""),
    ]


def test_the_header_is_left_as_it_was() -> None:
    make_groups(HEADER, FACES, matched(["p1", "p2", "p1"]), PEOPLE, [], BARS)
    assert HEADER.people == []


def test_the_page_shows_the_previews_of_photos_with_faces() -> None:
    preview_key = "face-worker/g/previews/day 1/é #1?.jpg"
    images = [replace(image_record(photo("a")), preview_key=preview_key), image_record(photo("none"), 0)]
    without = image_record(photo("no preview"))
    assert list_page_photos([*images, without], KEYS) == {
        "a": PagePhoto("previews/day%201/%C3%A9%20%231%3F.jpg", 64, 48)
    }


def test_the_page_has_urls_of_covers_and_of_crops_that_are_objects_of_their_own() -> None:
    covers = list_covers("g", FACES, PEOPLE, KEYS)
    urls = make_crop_urls("g", FACES, covers, KEYS)
    assert urls == {
        "f0": "../../g/faces/a/m-0.webp",
        "f1": covers["p2"][0].removeprefix("face-worker/g/"),
        "f2": covers["p1"][0].removeprefix("face-worker/g/"),
    }
    assert urls["f2"].startswith("covers/p1-")


def test_each_persons_cover_is_named_in_the_groups() -> None:
    groups = make_groups(HEADER, FACES, matched(["p1", "p2", "p1"]), PEOPLE, [], BARS)
    assert [one.cover_key for one in name_covers(groups, {"p1": "k1"}).people] == ["k1", None]


def test_covers_are_copied_once_and_those_of_nobody_are_named_for_removal() -> None:
    objects = FakeObjectStore()
    objects.put(FACES.crop_keys[1], b"RIFF456789", "application/octet-stream")
    objects.put(FACES.crop_keys[2], b"x" * 10 + b"y" * 20, "application/octet-stream")
    covers = list_covers("g", FACES, PEOPLE, KEYS)
    assert write_covers(covers, FACES, KEYS.covers("g"), objects) == set()
    assert [objects.read(key) for key, _ in covers.values()] == [b"y" * 20, b"RIFF456789"]
    # Former versions wrote crops as WebP.
    assert [objects.content_types[key] for key, _ in covers.values()] == ["image/jpeg", "image/webp"]
    objects.outages["put"] = 1
    assert write_covers({"p2": covers["p2"]}, FACES, KEYS.covers("g"), objects) == {covers["p1"][0]}


def test_a_cover_whose_photo_was_replaced_meanwhile_is_left_out() -> None:
    objects = FakeObjectStore()
    write_covers(list_covers("g", FACES, PEOPLE, KEYS), FACES, KEYS.covers("g"), objects)
    assert objects.output_keys == set()


def test_people_whose_faces_have_no_crops_have_no_covers() -> None:
    bare = replace(FACES, crop_keys=[None] * len(FACES), crop_ranges=[None] * len(FACES))
    assert list_covers("g", bare, PEOPLE, KEYS) == {}
    assert make_crop_urls("g", bare, {}, KEYS) == {}
