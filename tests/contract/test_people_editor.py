"""PeopleEditor: what users' edits do, of the fake and of MongoDB."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.core.errors import RejectMessage, StaleFence
from app.core.ports import GalleryLease
from app.core.records import FaceBatch, FaceMove, FaceRef, PersonRecord, PersonStatus, PhotoResult, join_batches
from tests.stores import MODEL, Stores, face_record, image_record, photo, photo_result, store, unit_vector

A, B, C, D = (face_record(photo(name), 0).face_id for name in "abcd")
Edit = Callable[[Stores, GalleryLease], None]


@pytest.fixture
def lease(stores: Stores) -> GalleryLease:
    """Of a gallery with p1 (faces a and b, b its cover), p2 (face c), p3 merged into p2, and face d of nobody."""
    store(stores, [photo_result(photo(name)) for name in "abcd"])
    lease = stores.galleries.take_lease("g", "tester", 60)
    assert lease
    people = [
        PersonRecord("p1", B, 2, 2),
        PersonRecord("p2", C, 1, 1),
        PersonRecord("p3", C, 0, 0, status=PersonStatus.MERGED, merged_into="p2"),
    ]
    moves = [FaceMove(A, None, "p1"), FaceMove(B, None, "p1"), FaceMove(C, None, "p2")]
    stores.people.write_people(lease, people, moves)
    stores.people.publish_people(lease)
    return lease


def faces_of(stores: Stores) -> FaceBatch:
    return join_batches(list(stores.faces.read_faces("g", MODEL)))


def people_of(stores: Stores, lease: GalleryLease) -> dict[str, PersonRecord]:
    return {person.person_id: person for person in stores.people.read_people(lease)}


def test_a_person_is_named_and_unnamed(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.name_person(lease, "p1", "Ann")
    assert people_of(stores, lease)["p1"].name == "Ann"
    stores.editor.name_person(lease, "p1", None)
    assert people_of(stores, lease)["p1"].name is None


def test_a_former_id_stands_for_the_person(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.name_person(lease, "p3", "Bea")
    assert [one.name for one in people_of(stores, lease).values()] == [None, "Bea", None]
    stores.editor.confirm_faces(lease, "p3", [FaceRef(D)])
    assert faces_of(stores).person_ids[3] == "p2"
    stores.editor.reject_faces(lease, "p3", [FaceRef(A)])
    assert faces_of(stores).rejected == {A: {"p2"}}


def test_a_confirmed_face_is_the_persons_at_once_and_so_is_the_cover(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.confirm_faces(lease, "p1", [FaceRef(C), FaceRef(D)])
    batch = faces_of(stores)
    assert batch.person_ids == ["p1"] * 4
    assert batch.confirmed == {B, C, D}


def test_a_cover_that_another_person_has_by_now_is_not_confirmed(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.confirm_faces(lease, "p2", [FaceRef(B)])
    stores.editor.confirm_faces(lease, "p1", [FaceRef(D)])
    batch = faces_of(stores)
    assert (batch.person_ids, batch.confirmed) == (["p1", "p2", "p2", "p1"], {B, C, D})


def test_a_rejected_face_is_unassigned_until_the_next_run(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.confirm_faces(lease, "p1", [FaceRef(A)])
    stores.editor.reject_faces(lease, "p1", [FaceRef(A), FaceRef(D)])
    batch = faces_of(stores)
    assert batch.person_ids == [None, "p1", "p2", None]
    assert batch.rejected == {A: {"p1"}, D: {"p1"}}
    assert A not in batch.confirmed


def test_a_face_stays_whose_it_is_where_it_is_rejected_for_another(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.reject_faces(lease, "p2", [FaceRef(A)])
    stores.editor.reject_faces(lease, "p2", [FaceRef(A)])
    assert (faces_of(stores).person_ids[0], faces_of(stores).rejected) == ("p1", {A: {"p2"}})


def test_the_later_word_counts(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.reject_faces(lease, "p1", [FaceRef(C)])
    stores.editor.confirm_faces(lease, "p1", [FaceRef(C)])
    batch = faces_of(stores)
    assert (batch.person_ids[2], batch.rejected) == ("p1", {})


def test_merged_people_lead_to_the_one_and_their_covers_are_confirmed(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.name_person(lease, "p2", "Bea")
    stores.editor.reject_faces(lease, "p2", [FaceRef(B)])
    stores.editor.reject_faces(lease, "p1", [FaceRef(D)])
    stores.editor.merge_people(lease, "p1", ["p2"])
    people = people_of(stores, lease)
    assert {name: one.merged_into for name, one in people.items()} == {"p1": None, "p2": "p1", "p3": "p1"}
    assert (people["p1"].name, people["p2"].status) == ("Bea", PersonStatus.MERGED)
    batch = faces_of(stores)
    assert batch.confirmed == {B, C}
    assert batch.rejected == {D: {"p1"}}


@pytest.mark.parametrize("published", [True, False])
def test_a_confirmed_face_that_follows_its_person_into_another_stays_confirmed(
    stores: Stores, lease: GalleryLease, published: bool
) -> None:
    stores.editor.merge_people(lease, "p1", ["p2"])
    stores.people.write_people(lease, [], [FaceMove(C, "p2", "p1")])
    if published:
        stores.people.publish_people(lease)
    stores.people.read_people(lease)
    batch = faces_of(stores)
    assert batch.person_ids[2] == ("p1" if published else "p2")
    assert batch.confirmed == {B, C}


def test_the_name_of_the_person_that_others_are_merged_into_stays(stores: Stores, lease: GalleryLease) -> None:
    for person_id, name in (("p1", "Ann"), ("p2", "Bea")):
        stores.editor.name_person(lease, person_id, name)
    stores.editor.merge_people(lease, "p1", ["p3"])
    assert people_of(stores, lease)["p1"].name == "Ann"


def test_a_person_merged_into_itself_stays(stores: Stores, lease: GalleryLease) -> None:
    stores.editor.merge_people(lease, "p2", ["p3", "p2"])
    assert people_of(stores, lease)["p2"].merged_into is None


EDITS: dict[str, Edit] = {
    "name": lambda stores, lease: stores.editor.name_person(lease, "p1", "Ann"),
    "confirm": lambda stores, lease: stores.editor.confirm_faces(lease, "p1", [FaceRef(D)]),
    "reject": lambda stores, lease: stores.editor.reject_faces(lease, "p1", [FaceRef(A)]),
    "merge": lambda stores, lease: stores.editor.merge_people(lease, "p1", ["p2"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_counts_as_a_change(stores: Stores, lease: GalleryLease, edit: str) -> None:
    EDITS[edit](stores, lease)
    renewed = stores.galleries.take_lease("g", "tester", 60)
    assert renewed
    assert renewed.revision == lease.revision + 1


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_made_on_what_is_published(stores: Stores, lease: GalleryLease, edit: str) -> None:
    EDITS[edit](stores, lease)
    people, expected = people_of(stores, lease), stores.look("g")
    moves = [FaceMove(D, None, "p2"), FaceMove(C, "p2", "p1")]
    stores.people.write_people(lease, [replace(person, face_count=9) for person in people.values()], moves)
    EDITS[edit](stores, lease)
    assert stores.look("g") == expected


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_without_the_lease_is_refused(stores: Stores, lease: GalleryLease, edit: str) -> None:
    stores.galleries.release(lease)
    before = stores.snapshot(), stores.look("g")
    with pytest.raises(StaleFence):
        EDITS[edit](stores, lease)
    assert (stores.snapshot(), stores.look("g")) == before


WRONG: dict[str, Edit] = {
    "has no person p9": lambda stores, lease: stores.editor.name_person(lease, "p9", "Ann"),
    "has no person p8": lambda stores, lease: stores.editor.merge_people(lease, "p1", ["p2", "p8"]),
    "has no face x, y": lambda stores, lease: stores.editor.confirm_faces(
        lease, "p1", [FaceRef("x"), FaceRef(D), FaceRef("y")]
    ),
    "has no face z": lambda stores, lease: stores.editor.reject_faces(lease, "p1", [FaceRef(A), FaceRef("z")]),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_an_edit_of_what_is_not_there_says_so_and_changes_nothing(
    stores: Stores, lease: GalleryLease, sentence: str
) -> None:
    before = stores.snapshot(), stores.look("g")
    with pytest.raises(RejectMessage, match=f"The gallery g {sentence}"):
        WRONG[sentence](stores, lease)
    assert (stores.snapshot(), stores.look("g")) == before


def test_a_face_of_another_gallery_is_not_there(stores: Stores, lease: GalleryLease) -> None:
    store(stores, [photo_result(photo("a", "other"))])
    with pytest.raises(RejectMessage, match="has no face other/a"):
        stores.editor.confirm_faces(lease, "p1", [FaceRef(face_record(photo("a", "other"), 0).face_id)])


def test_an_edit_that_was_made_on_an_old_page_does_not_reach_the_face_that_has_the_id_now(
    stores: Stores, lease: GalleryLease
) -> None:
    shown = {D: face_record(photo("d"), 0).digest}
    stores.editor.confirm_faces(lease, "p1", [FaceRef(D, shown[D])])
    other = PhotoResult(image_record(photo("d"), etag="etag-2"), [face_record(photo("d"), 0, unit_vector(99))])
    store(stores, [other])
    before = stores.snapshot()
    for edit in (stores.editor.confirm_faces, stores.editor.reject_faces):
        with pytest.raises(RejectMessage, match=r"another face now: the photo was replaced|has no face"):
            edit(lease, "p1", [FaceRef(D, shown[D])])
    assert stores.snapshot() == before
    stores.editor.confirm_faces(lease, "p1", [FaceRef(D, other.faces[0].digest)])
