"""People keep their ids: across runs, more photos, splits and merges."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.grouping.people import choose_cover, match_people, summarise
from app.records import FaceBatch, quality_columns

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=40)


def ids(count: int) -> list[str]:
    return [f"face_{number:03}" for number in range(count)]


def run(labels: Sequence[int], previous: Sequence[str | None] | None = None) -> list[str]:
    return match_people(np.array(labels, np.int64), ids(len(labels)), previous or [None] * len(labels))


def batch(image_ids: list[str], det_scores: list[float], sizes_px: list[float]) -> FaceBatch:
    count = len(image_ids)
    return FaceBatch(
        face_ids=ids(count),
        image_ids=image_ids,
        boxes=np.zeros((count, 4), np.float32),
        det_scores=np.array(det_scores, np.float32),
        quality=quality_columns([{"size_px": size_px} for size_px in sizes_px]),
        embeddings=np.zeros((count, 8), np.float32),
        crop_keys=[""] * count,
        person_ids=[None] * count,
        digests=[""] * count,
    )


@given(LABELS)
def test_running_again_on_its_own_result_changes_nothing(labels: list[int]) -> None:
    first = run(labels)
    assert run(labels, first) == first


@given(LABELS, st.data())
def test_faces_share_an_id_exactly_if_they_share_a_label(labels: list[int], data: st.DataObject) -> None:
    people = st.sampled_from([None, "p1", "p2", "p3", *run(labels)])
    previous = data.draw(st.lists(people, min_size=len(labels), max_size=len(labels)))
    pairs = set(zip(labels, run(labels, previous), strict=True))
    assert len(pairs) == len(set(labels)) == len({person for _, person in pairs})


@given(LABELS, st.data())
def test_a_new_id_is_never_one_that_the_gallery_has(labels: list[int], data: st.DataObject) -> None:
    """The ids that this very run would make up are among those of the gallery: every new one must give way."""
    known = run(list(range(len(labels))))
    previous = data.draw(st.permutations(known))
    for label in set(labels):
        members = [row for row, other in enumerate(labels) if other == label]
        now = run(labels, previous)[members[0]]
        assert now not in known or now in {previous[row] for row in members}


@given(LABELS, LABELS)
def test_adding_faces_keeps_the_ids_of_all_people(labels: list[int], more: list[int]) -> None:
    first = run(labels)
    assert run(labels + more, first + [None] * len(more))[: len(labels)] == first


@given(LABELS, st.data())
def test_neither_the_order_of_the_faces_nor_the_numbers_of_the_labels_matter(
    labels: list[int], data: st.DataObject
) -> None:
    count = len(labels)
    previous = data.draw(st.lists(st.sampled_from([None, "p1", "p2"]), min_size=count, max_size=count))
    order = data.draw(st.permutations(range(count)))
    shuffled = match_people(
        np.array([9 - labels[row] for row in order]),
        [ids(count)[row] for row in order],
        [previous[row] for row in order],
    )
    expected = run(labels, previous)
    assert shuffled == [expected[row] for row in order]


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_larger_part_of_a_split_person_keeps_the_id(small: int, extra: int) -> None:
    now = run([0] * small + [1] * (small + extra), ["p1"] * (2 * small + extra))
    assert now[-1] == "p1"
    assert now[0] != "p1"


@given(st.integers(1, 9), st.integers(1, 9))
def test_merged_people_take_the_id_of_the_larger_one(small: int, extra: int) -> None:
    assert set(run([0] * (2 * small + extra), ["p1"] * small + ["p2"] * (small + extra))) == {"p2"}


def test_the_larger_part_keeps_the_id_even_where_a_merge_would_save_another() -> None:
    labels = [0] * 19 + [1] * 8
    previous = ["p1"] * 10 + ["p2"] * 9 + ["p1"] * 8
    now = run(labels, previous)
    assert set(now[:19]) == {"p1"}
    assert now[19] not in {"p1", "p2"}


def test_a_new_id_comes_from_the_smallest_face_id_alone() -> None:
    assert run([0, 0, 1])[0] == run([0, 1, 1])[0]
    assert all(re.fullmatch(r"p[0-9a-f]{16}", person) for person in run([0, 1, 2]))


def test_each_face_needs_a_label_and_a_previous_id() -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        match_people(np.zeros(2, np.int64), ids(2), [None])
    with pytest.raises(ValueError, match="argument 2 is"):
        match_people(np.zeros(2, np.int64), ids(1), [None, None])


def test_the_cover_is_the_surest_and_largest_face_and_the_first_among_equals() -> None:
    faces = batch(["a"] * 4, det_scores=[0.9, 0.5, 0.8, 0.8], sizes_px=[50, 70, 90, 90])
    assert choose_cover(faces, [3, 2, 1, 0]) == "face_002"
    assert choose_cover(faces, [0, 1]) == "face_000"


def test_a_face_without_a_size_is_the_cover_only_where_there_is_no_other() -> None:
    faces = batch(["a", "b"], det_scores=[0.99, 0.1], sizes_px=[100, 20])
    faces = dataclasses.replace(faces, quality=quality_columns([{}, {"size_px": 20.0}]))
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
    assert match_people(np.empty(0, np.int64), [], []) == []
    assert summarise(batch([], [], []), []) == []


@given(LABELS)
def test_every_face_is_counted_once(labels: list[int]) -> None:
    faces = batch(ids(len(labels)), [0.9] * len(labels), [10.0] * len(labels))
    persons = run(labels)
    counts: dict[str, int] = defaultdict(int)
    for person in persons:
        counts[person] += 1
    assert {record.person_id: record.face_count for record in summarise(faces, persons)} == counts
