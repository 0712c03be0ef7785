"""The records of all people after a run, and which of them have changed."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.core.records import FaceBatch, PersonRecord, PersonStatus, make_quality_columns
from app.grouping.summary import choose_cover, find_changed, merge_with_absent, summarise


def batch(image_ids: list[str], det_scores: list[float], sizes_px: list[float]) -> FaceBatch:
    count = len(image_ids)
    return FaceBatch(
        face_ids=[f"face_{number:03}" for number in range(count)],
        image_ids=image_ids,
        boxes=np.zeros((count, 4), np.float32),
        det_scores=np.array(det_scores, np.float32),
        quality=make_quality_columns([{"size_px": size_px} for size_px in sizes_px]),
        embeddings=np.zeros((count, 8), np.float32),
        crop_keys=[""] * count,
        person_ids=[None] * count,
        digests=[""] * count,
        etags=["etag-1"] * count,
        crop_ranges=[None] * count,
    )


def test_the_cover_is_the_best_and_largest_face_and_the_first_of_equal_ones() -> None:
    faces = batch(["a"] * 4, det_scores=[0.9, 0.5, 0.8, 0.8], sizes_px=[50, 70, 90, 90])
    assert choose_cover(faces, [3, 2, 1, 0]) == "face_002"
    assert choose_cover(faces, [0, 1]) == "face_000"


def test_a_face_without_a_size_is_the_cover_only_where_there_is_no_other() -> None:
    faces = batch(["a", "b"], det_scores=[0.99, 0.1], sizes_px=[100, 20])
    faces = replace(faces, quality=make_quality_columns([{}, {"size_px": 20.0}]))
    assert choose_cover(faces, [0, 1]) == "face_001"
    assert choose_cover(faces, [0]) == "face_000"


def test_people_are_listed_by_photos_and_a_collage_counts_once() -> None:
    faces = batch(["a", "a", "a", "b", "c"], det_scores=[0.9] * 5, sizes_px=[10, 30, 20, 40, 50])
    people = summarise(faces, ["p_collage", "p_collage", "p_two", "p_two", "p_alone"])
    listed = [(p.person_id, p.cover_face_id, p.face_count, p.photo_count) for p in people]
    assert listed == [
        ("p_two", "face_003", 2, 2),
        ("p_alone", "face_004", 1, 1),
        ("p_collage", "face_001", 2, 1),
    ]


def test_an_empty_gallery_has_no_people() -> None:
    assert summarise(batch([], [], []), []) == []


@given(st.lists(st.sampled_from([None, "p1", "p2", "p3"]), min_size=1, max_size=40))
def test_every_face_is_counted_once(person_ids: list[str | None]) -> None:
    count = len(person_ids)
    faces = batch([str(number) for number in range(count)], [0.9] * count, [10.0] * count)
    counts = Counter(person_id for person_id in person_ids if person_id)
    assert {record.person_id: record.face_count for record in summarise(faces, person_ids)} == counts


ANN = PersonRecord("ann", "f1", 2, 2, name="Ann", since=3, number=1)
BOB = PersonRecord("bob", "f3", 1, 1, since=4, number=2)


def test_a_run_changes_neither_name_nor_age() -> None:
    seen = replace(ANN, face_count=5, name=None, since=0)
    assert merge_with_absent([seen], [ANN], {}) == [replace(ANN, face_count=5)]


def test_who_was_not_seen_is_absent_with_the_name_and_comes_back_with_it() -> None:
    away = merge_with_absent([], [ANN], {})
    assert away == [replace(ANN, status=PersonStatus.ABSENT, face_count=0, photo_count=0)]
    assert merge_with_absent([replace(ANN, name=None)], away, {}) == [ANN]


def test_who_was_merged_leads_straight_to_who_is_not() -> None:
    older = PersonRecord("old", "f9", 0, 0, status=PersonStatus.MERGED, merged_into="bob")
    now = merge_with_absent([ANN], [ANN, BOB, older], {"bob": "ann"})
    assert [(one.person_id, one.status, one.merged_into) for one in now] == [
        ("ann", PersonStatus.ACTIVE, None),
        ("bob", PersonStatus.MERGED, "ann"),
        ("old", PersonStatus.MERGED, "ann"),
    ]


def test_only_those_that_are_others_than_before_have_changed() -> None:
    new = PersonRecord("eve", "f7", 1, 1)
    assert find_changed([ANN, replace(BOB, photo_count=3), new], [BOB, ANN]) == [replace(BOB, photo_count=3), new]


def test_a_person_without_a_number_has_changed_so_that_it_gets_one() -> None:
    former = replace(ANN, number=None)
    assert find_changed([former, BOB], [former, BOB]) == [former]
