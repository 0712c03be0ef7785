"""People keep their ids across runs, new photos, splits and merges, and users' corrections hold."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.clustering.graph import UNASSIGNED
from app.clustering.identity import PersonMatches, match_people, resolve_merged_ids
from app.core.records import FaceBatch, PersonRecord, PersonStatus, make_quality_columns
from app.grouping.summary import find_changed, merge_with_absent, summarise

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=40)
NAMES = ["p1", "p2", "p3", "p4"]


def ids(count: int) -> list[str]:
    return [f"face_{number:03}" for number in range(count)]


def batch(previous: Sequence[str | None], **corrections: object) -> FaceBatch:
    """Faces with these people, each in a photo of its own and similar to no other, with these `corrections`."""
    count = len(previous)
    faces = FaceBatch(
        face_ids=ids(count),
        image_ids=[f"photo {number}" for number in range(count)],
        boxes=np.zeros((count, 4), np.float32),
        det_scores=np.full(count, 0.9, np.float32),
        quality=make_quality_columns([{"size_px": 50.0}] * count),
        embeddings=np.eye(count, max(count, 1), dtype=np.float32),
        crop_keys=[""] * count,
        person_ids=list(previous),
        digests=[""] * count,
        etags=["etag-1"] * count,
        crop_ranges=[None] * count,
    )
    return replace(faces, **corrections)


def person(person_id: str, name: str | None = None, since: int = 0, merged_into: str | None = None) -> PersonRecord:
    status = PersonStatus.MERGED if merged_into else PersonStatus.ACTIVE
    return PersonRecord(person_id, "", 0, 0, name, status, merged_into, since)


def run(labels: Sequence[int], previous: Sequence[str | None] | None = None, *known: PersonRecord) -> list[str | None]:
    return match(labels, batch(previous or [None] * len(labels)), *known).person_ids


def match(labels: Sequence[int], faces: FaceBatch, *known: PersonRecord) -> PersonMatches:
    return match_people(np.array(labels, np.int64), faces, known)


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
def test_removing_faces_keeps_the_ids_of_those_who_remain(labels: list[int], data: st.DataObject) -> None:
    first = run(labels)
    kept = sorted(data.draw(st.sets(st.integers(0, len(labels) - 1), min_size=1)))
    faces = replace(batch([first[row] for row in kept]), face_ids=[ids(len(labels))[row] for row in kept])
    assert match([labels[row] for row in kept], faces).person_ids == [first[row] for row in kept]


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_larger_part_of_a_split_person_keeps_the_id(small: int, extra: int) -> None:
    now = run([0] * small + [1] * (small + extra), ["p1"] * (2 * small + extra))
    assert now[-1] == "p1"
    assert now[0] != "p1"


def test_the_confirmed_part_of_a_split_person_keeps_the_id_however_small() -> None:
    faces = batch(["p1"] * 10, confirmed=frozenset(ids(1)))
    now = match([0] * 2 + [1] * 8, faces).person_ids
    assert now[:2] == ["p1", "p1"]
    assert "p1" not in now[2:]


def test_parts_that_both_have_confirmed_faces_stay_one_person() -> None:
    faces = batch(["p1"] * 6, confirmed=frozenset(["face_000", "face_005"]))
    assert match([0, 0, 1, 2, 2, 2], faces).person_ids[:2] == ["p1", "p1"]
    assert match([0, 0, 1, 2, 2, 2], faces).person_ids[3:] == ["p1"] * 3


PART = st.integers(1, 9)


@given(PART, PART)
def test_of_merged_people_the_named_one_stays_whatever_its_size_and_age(first: int, second: int) -> None:
    known = [person("p1", since=1), person("p2", name="Ann", since=7)]
    matched = match([0] * (first + second), batch(["p1"] * first + ["p2"] * second), *known)
    assert set(matched.person_ids) == {"p2"}
    assert matched.merged == {"p1": "p2"}


@given(PART, PART)
def test_of_merged_people_without_names_the_oldest_stays(first: int, second: int) -> None:
    known = [person("p1", since=2), person("p2", since=1)]
    matched = match([0] * (first + second), batch(["p1"] * first + ["p2"] * second), *known)
    assert set(matched.person_ids) == {"p2"}
    assert matched.merged == {"p1": "p2"}


def test_of_people_of_one_age_the_largest_stays() -> None:
    assert set(run([0] * 5, ["p1"] * 2 + ["p2"] * 3)) == {"p2"}


def test_a_person_with_a_confirmed_face_stays_before_older_ones() -> None:
    faces = batch(["p1", "p1", "p1", "p2", "p2"], confirmed=frozenset(["face_003"]))
    matched = match([0] * 5, faces, person("p1", since=1), person("p2", since=5))
    assert (matched.person_ids, matched.merged) == (["p2"] * 5, {"p1": "p2"})


def like(*rows: int) -> np.ndarray:
    """Each face looks like the face with this number."""
    return np.eye(10, dtype=np.float32)[list(rows)]


def test_two_named_people_are_not_merged_and_a_new_face_goes_to_the_nearest() -> None:
    faces = batch(["p1", "p1", "p2", None, None], embeddings=like(0, 1, 2, 2, 1))
    matched = match([0] * 5, faces, person("p1", "Ann"), person("p2", "Bea"))
    assert matched.person_ids == ["p1", "p1", "p2", "p2", "p1"]
    assert matched.merged == {}


def test_embeddings_are_asked_for_where_they_were_not_read_and_only_to_find_the_nearest() -> None:
    looks, asked = like(0, 1, 2, 2), []

    def embeddings_of(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.tolist())
        return looks[rows]

    unread = np.empty((4, 0), np.float32)
    for known, expected in (([], [{"p1"}, []]), ([person("p1", "Ann"), person("p2", "Bea")], [{"p1", "p2"}, [[3]]])):
        faces = batch(["p1", "p1", "p2", None], embeddings=unread)
        now = match_people(np.zeros(4, np.int64), faces, known, None, embeddings_of).person_ids
        assert [set(now), [rows for rows in asked if rows == [3]]] == expected
    assert now == ["p1", "p1", "p2", "p2"]


def test_two_people_with_confirmed_faces_are_not_merged() -> None:
    sure = frozenset(["face_000", "face_002"])
    faces = batch(["p1", "p1", "p2", "p2", None], embeddings=like(0, 1, 2, 3, 3), confirmed=sure)
    assert match([0] * 5, faces).person_ids == ["p1", "p1", "p2", "p2", "p2"]


def test_one_confirmed_face_among_anothers_stays_alone() -> None:
    """A user has moved one face of Ann's to Bob, who has a cluster elsewhere."""
    faces = batch(["ann"] * 5 + ["bob"] * 4, confirmed=frozenset(["face_005"]))
    assert match([0] * 6 + [1] * 3, faces).person_ids == ["ann"] * 5 + ["bob"] * 4


def test_one_confirmed_face_among_anothers_takes_no_other_face_even_where_it_is_the_only_one_of_its_person() -> None:
    faces = batch(["ann"] * 5 + ["bob", None], confirmed=frozenset(["face_005"]), embeddings=like(0, 0, 0, 0, 0, 1, 1))
    matched = match([0] * 7, faces, person("ann"), person("bob", "Bob"))
    assert (matched.person_ids, matched.merged) == (["ann"] * 5 + ["bob", "ann"], {})


def test_a_confirmed_face_that_the_clustering_leaves_out_keeps_its_person() -> None:
    faces = batch(["p1", "p2"], confirmed=frozenset(["face_000"]))
    assert match([UNASSIGNED, UNASSIGNED], faces).person_ids == ["p1", None]


def test_a_rejected_face_becomes_a_new_person_and_stays_it() -> None:
    faces = batch(["p1", "p1", None, None], rejected={name: frozenset(["p1"]) for name in ids(4)[2:]})
    first = match([0] * 4, faces, person("p1"))
    assert first.person_ids[:2] == ["p1", "p1"]
    assert first.person_ids[2] == first.person_ids[3] not in ("p1", None)
    known = [person("p1"), person(str(first.person_ids[2]), since=1)]
    assert match([0] * 4, replace(faces, person_ids=first.person_ids), *known) == first


def test_a_rejected_face_that_is_no_core_face_is_unassigned() -> None:
    faces = batch(["p1", "p1", None], rejected={"face_002": frozenset(["p1"])})
    matched = match_people(np.zeros(3, np.int64), faces, [person("p1")], np.array([True, True, False]))
    assert (matched.person_ids, matched.rejected_for) == (["p1", "p1", None], {"face_002": "p1"})


def test_a_face_stays_with_whom_it_was_where_the_cluster_is_whom_it_is_not() -> None:
    faces = batch(["p1", "p1", "p2", "p2", "p2"], rejected={"face_002": frozenset(["p1"])})
    assert match([0, 0, 0, 1, 1], faces, person("p1"), person("p2")).person_ids == ["p1", "p1", "p2", "p2", "p2"]


def test_people_of_whom_a_face_was_rejected_for_the_other_are_not_merged() -> None:
    faces = batch(["p1", "p1", "p2"], rejected={"face_000": frozenset(["p2"])})
    matched = match([0, 0, 0], faces, person("p1"), person("p2", "Bea"))
    assert (matched.person_ids, matched.merged) == (["p1", "p1", "p2"], {})


def test_a_face_rejected_for_a_person_is_rejected_for_whom_that_one_was_merged_into() -> None:
    old = [person("p1"), person("p0", merged_into="p1")]
    faces = batch(["p1", None], rejected={"face_001": frozenset(["p0"])})
    assert match([0, 0], faces, *old).person_ids[1] != "p1"
    merging = batch(["p1", "p0", "p1", None], rejected={"face_003": frozenset(["p0"])})
    matched = match([0] * 4, merging, person("p1"), person("p0", since=1))
    assert matched.merged == {"p0": "p1"}
    assert matched.person_ids[3] not in ("p0", "p1")


def test_faces_under_a_merged_id_are_whom_it_was_merged_into() -> None:
    known = [person("p0", merged_into="p1"), person("p1", merged_into="p2"), person("p2")]
    assert run([0, 1], ["p0", "p1"], *known)[0] == "p2"


def test_the_larger_part_keeps_the_id_even_where_a_merge_would_save_another() -> None:
    labels = [0] * 19 + [1] * 8
    previous = ["p1"] * 10 + ["p2"] * 9 + ["p1"] * 8
    now = run(labels, previous)
    assert set(now[:19]) == {"p1"}
    assert now[19] not in {"p1", "p2"}


def test_a_new_id_comes_from_the_smallest_face_id_alone() -> None:
    assert run([0, 0, 1])[0] == run([0, 1, 1])[0]
    assert all(re.fullmatch(r"p[0-9a-f]{16}", str(one)) for one in run([0, 1, 2]))


def test_a_person_comes_back_with_the_face_it_was_made_from_and_the_same_content_alone() -> None:
    ann = str(run([0, 0])[0])
    away = replace(person(ann, "Ann"), status=PersonStatus.ABSENT)
    more = batch([None] * 3, face_ids=["another", *ids(2)])
    assert match([0, 0, 0], more, away).person_ids == [ann] * 3
    replaced = replace(more, etags=["etag-1", "etag-2", "etag-1"])
    assert ann not in match([0, 0, 0], replaced, away).person_ids


def test_a_person_does_not_come_back_as_a_face_that_was_rejected_for_it() -> None:
    ann = str(run([0])[0])
    assert match([0], batch([None], rejected={"face_000": frozenset([ann])}), person(ann)).person_ids != [ann]


def test_each_face_needs_a_label() -> None:
    with pytest.raises(ValueError, match="2 faces need as many labels"):
        match([0], batch([None, None]))


def test_an_empty_gallery_has_no_people() -> None:
    assert match([], batch([])) == PersonMatches([], {}, {})


def test_links_of_people_merged_again_and_again_lead_to_the_last_in_one_step() -> None:
    chain = [person("p1", merged_into="p2"), person("p2", merged_into="p3"), person("p3")]
    assert resolve_merged_ids(chain) == {"p1": "p3", "p2": "p3"}
    assert set(resolve_merged_ids([person("p1", merged_into="p2"), person("p2", merged_into="p1")])) == {"p1", "p2"}


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def galleries(draw: st.DrawFn) -> tuple[list[int], FaceBatch, list[PersonRecord]]:
    """Any clustering of faces with any people before, some confirmed, some rejected, people named and merged."""
    count = draw(st.integers(1, 14))
    labels = draw(st.lists(st.integers(UNASSIGNED, 3), min_size=count, max_size=count))
    previous = draw(st.lists(st.sampled_from([None, *NAMES]), min_size=count, max_size=count))
    confirmed = {name for name, one in zip(ids(count), previous, strict=True) if one and draw(st.integers(0, 4)) == 0}
    rejected: dict[str, frozenset[str]] = {}
    for name in draw(st.sets(st.sampled_from(ids(count)), max_size=5)):
        rejected[name] = draw(st.frozensets(st.sampled_from(NAMES), min_size=1, max_size=2))
    known = [person(name, draw(st.sampled_from([None, None, "Ann"])), draw(st.integers(0, 2))) for name in NAMES]
    alias = person("p4", merged_into="p1") if draw(st.booleans()) else known[3]
    looks = np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    vectors = np.eye(5, dtype=np.float32)[looks]
    faces = batch(previous, embeddings=vectors, confirmed=frozenset(confirmed), rejected=rejected)
    return labels, faces, [*known[:3], alias]


Gallery = tuple[list[int], FaceBatch, list[PersonRecord]]


def living(faces: FaceBatch, known: Sequence[PersonRecord]) -> list[str | None]:
    into = resolve_merged_ids(known)
    return [into.get(str(one), one) for one in faces.person_ids]


@UNHURRIED
@given(galleries())
def test_confirmed_faces_never_move(gallery: Gallery) -> None:
    labels, faces, known = gallery
    matched = match(labels, faces, *known)
    before = living(faces, known)
    for row, face_id in enumerate(faces.face_ids):
        if face_id in faces.confirmed:
            assert matched.person_ids[row] == before[row]
            assert before[row] not in matched.merged


@UNHURRIED
@given(galleries())
def test_rejected_pairs_never_meet(gallery: Gallery) -> None:
    labels, faces, known = gallery
    matched = match(labels, faces, *known)
    into = resolve_merged_ids(known)
    for row, face_id in enumerate(faces.face_ids):
        if face_id not in faces.confirmed:
            resolved = [into.get(one, one) for one in faces.rejected.get(face_id, ())]
            assert matched.person_ids[row] not in [matched.merged.get(one, one) for one in resolved]


@UNHURRIED
@given(galleries())
def test_named_people_never_become_others_and_keep_a_face(gallery: Gallery) -> None:
    labels, faces, known = gallery
    matched = match(labels, faces, *known)
    assert not [one for one in known if one.name and one.person_id in matched.merged]
    votes = {
        before
        for face_id, label, before in zip(faces.face_ids, labels, living(faces, known), strict=True)
        if label != UNASSIGNED and face_id not in faces.rejected
    }
    for one in known:
        if one.name and one.person_id in votes:
            assert one.person_id in matched.person_ids


@UNHURRIED
@given(galleries())
def test_faces_that_the_clustering_leaves_out_are_unassigned_unless_confirmed(gallery: Gallery) -> None:
    labels, faces, known = gallery
    matched = match(labels, faces, *known)
    for face_id, label, now in zip(faces.face_ids, labels, matched.person_ids, strict=True):
        assert (now is None) == (label == UNASSIGNED and face_id not in faces.confirmed)


@UNHURRIED
@given(galleries(), st.data())
def test_neither_the_order_of_the_faces_nor_the_numbers_of_the_labels_matter(
    gallery: Gallery, data: st.DataObject
) -> None:
    labels, faces, known = gallery
    order = data.draw(st.permutations(range(len(labels))))
    shuffled = replace(
        faces,
        **{name: [getattr(faces, name)[row] for row in order] for name in ("face_ids", "image_ids", "person_ids")},
        embeddings=faces.embeddings[list(order)],
    )
    turned = [UNASSIGNED if labels[row] == UNASSIGNED else 9 - labels[row] for row in order]
    expected = match(labels, faces, *known)
    found = match(turned, shuffled, *reversed(known))
    assert found == replace(expected, person_ids=[expected.person_ids[row] for row in order])


def next_run(
    faces: FaceBatch, known: Sequence[PersonRecord], matched: PersonMatches
) -> tuple[FaceBatch, list[PersonRecord]]:
    """What the run leaves behind for the next one."""
    people, ages = (
        merge_with_absent(summarise(faces, matched.person_ids), known, matched.merged),
        {x.person_id for x in known},
    )
    now = [replace(one, since=one.since if one.person_id in ages else 9, number=one.number or 1) for one in people]
    return replace(faces, person_ids=matched.person_ids), now


@UNHURRIED
@given(galleries())
def test_two_runs_in_a_row_change_nothing(gallery: Gallery) -> None:
    labels, faces, known = gallery
    first = match(labels, faces, *known)
    faces, people = next_run(faces, known, first)
    second = match(labels, faces, *people)
    assert (second.person_ids, second.merged) == (first.person_ids, {})
    assert find_changed(next_run(faces, people, second)[1], people) == []


@UNHURRIED
@given(galleries(), st.data())
def test_ids_of_merged_people_lead_to_an_existing_person_in_one_step_after_many_runs(
    gallery: Gallery, data: st.DataObject
) -> None:
    labels, faces, known = gallery
    people: Sequence[PersonRecord] = known
    for _ in range(3):
        faces, people = next_run(faces, people, match(labels, faces, *people))
        records = {one.person_id: one for one in people}
        for one in people:
            assert (one.status is PersonStatus.MERGED) == (one.merged_into is not None)
            if one.merged_into:
                assert records[one.merged_into].merged_into is None
        assert {one.person_id for one in people if one.status is PersonStatus.ACTIVE} == {*faces.person_ids} - {None}
        labels = data.draw(st.lists(st.integers(UNASSIGNED, 3), min_size=len(labels), max_size=len(labels)))
    assert records.keys() >= {one.person_id for one in known}
