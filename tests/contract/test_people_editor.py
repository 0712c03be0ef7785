"""PeopleEditor: what users' edits do, of the fake and of MongoDB."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.core.errors import StaleFence
from app.core.journal import Edit, EditState
from app.core.ports import GalleryLease
from app.core.records import FaceBatch, FaceMove, FaceRef, PersonRecord, PersonStatus, PhotoResult, join_batches
from tests.edits import confirm, edit, merge, name, of_faces, reject, undo
from tests.stores import MODEL, Stores, face_record, image_record, photo, photo_result, store, unit_vector

A, B, C, D = (face_record(photo(name), 0).face_id for name in "abcd")
COVER = {"op": "cover", "person_id": "p1"}
MakeEdit = Callable[[Stores, GalleryLease], Edit]


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
    name(stores, lease, "p1", "Ann")
    assert people_of(stores, lease)["p1"].name == "Ann"
    name(stores, lease, "p1", None)
    assert people_of(stores, lease)["p1"].name is None


def test_a_former_id_stands_for_the_person(stores: Stores, lease: GalleryLease) -> None:
    name(stores, lease, "p3", "Bea")
    assert [one.name for one in people_of(stores, lease).values()] == [None, "Bea", None]
    confirm(stores, lease, "p3", FaceRef(D))
    assert faces_of(stores).person_ids[3] == "p2"
    reject(stores, lease, "p3", FaceRef(A))
    assert faces_of(stores).rejected == {A: {"p2"}}


def test_a_confirmed_face_is_the_persons_at_once_and_so_is_the_cover(stores: Stores, lease: GalleryLease) -> None:
    confirm(stores, lease, "p1", FaceRef(C), FaceRef(D))
    batch = faces_of(stores)
    assert batch.person_ids == ["p1"] * 4
    assert batch.confirmed == {B, C, D}


def test_a_cover_that_another_person_has_by_now_is_not_confirmed(stores: Stores, lease: GalleryLease) -> None:
    confirm(stores, lease, "p2", FaceRef(B))
    confirm(stores, lease, "p1", FaceRef(D))
    batch = faces_of(stores)
    assert (batch.person_ids, batch.confirmed) == (["p1", "p2", "p2", "p1"], {B, C, D})


def test_a_rejected_face_is_unassigned_until_the_next_run(stores: Stores, lease: GalleryLease) -> None:
    confirm(stores, lease, "p1", FaceRef(A))
    reject(stores, lease, "p1", FaceRef(A), FaceRef(D))
    batch = faces_of(stores)
    assert batch.person_ids == [None, "p1", "p2", None]
    assert batch.rejected == {A: {"p1"}, D: {"p1"}}
    assert A not in batch.confirmed


def test_a_face_stays_whose_it_is_where_it_is_rejected_for_another(stores: Stores, lease: GalleryLease) -> None:
    reject(stores, lease, "p2", FaceRef(A))
    reject(stores, lease, "p2", FaceRef(A))
    assert (faces_of(stores).person_ids[0], faces_of(stores).rejected) == ("p1", {A: {"p2"}})


def test_the_later_word_counts(stores: Stores, lease: GalleryLease) -> None:
    reject(stores, lease, "p1", FaceRef(C))
    confirm(stores, lease, "p1", FaceRef(C))
    batch = faces_of(stores)
    assert (batch.person_ids[2], batch.rejected) == ("p1", {})


def test_merged_people_lead_to_the_one_and_their_covers_are_confirmed(stores: Stores, lease: GalleryLease) -> None:
    name(stores, lease, "p2", "Bea")
    reject(stores, lease, "p2", FaceRef(B))
    reject(stores, lease, "p1", FaceRef(D))
    merge(stores, lease, "p1", "p2")
    people = people_of(stores, lease)
    assert {person_id: one.merged_into for person_id, one in people.items()} == {"p1": None, "p2": "p1", "p3": "p1"}
    assert (people["p1"].name, people["p2"].status) == ("Bea", PersonStatus.MERGED)
    batch = faces_of(stores)
    assert batch.confirmed == {B, C}
    assert batch.rejected == {D: {"p1"}}


@pytest.mark.parametrize("published", [True, False])
def test_a_confirmed_face_that_follows_its_person_into_another_stays_confirmed(
    stores: Stores, lease: GalleryLease, published: bool
) -> None:
    merge(stores, lease, "p1", "p2")
    assert faces_of(stores).person_ids[2] == "p1"
    stores.people.write_people(lease, [], [FaceMove(C, "p1", "p2")])
    if published:
        stores.people.publish_people(lease)
    stores.people.read_people(lease)
    batch = faces_of(stores)
    assert batch.person_ids[2] == ("p2" if published else "p1")
    assert batch.confirmed == {B, C}


def test_the_name_of_the_person_that_others_are_merged_into_stays(stores: Stores, lease: GalleryLease) -> None:
    for person_id, called in (("p1", "Ann"), ("p2", "Bea")):
        name(stores, lease, person_id, called)
    merge(stores, lease, "p1", "p3")
    assert people_of(stores, lease)["p1"].name == "Ann"


def test_a_person_merged_into_itself_stays(stores: Stores, lease: GalleryLease) -> None:
    merge(stores, lease, "p2", "p3", "p2")
    assert people_of(stores, lease)["p2"].merged_into is None


EDITS: dict[str, MakeEdit] = {
    "name": lambda stores, lease: name(stores, lease, "p1", "Ann"),
    "confirm": lambda stores, lease: confirm(stores, lease, "p1", FaceRef(D)),
    "reject": lambda stores, lease: reject(stores, lease, "p1", FaceRef(A)),
    "merge": lambda stores, lease: merge(stores, lease, "p1", "p2"),
    "split": lambda stores, lease: edit(stores, lease, of_faces("split", "p1", FaceRef(A), name="Cid")),
    "move": lambda stores, lease: edit(stores, lease, of_faces("move", "p1", FaceRef(C))),
    "hide": lambda stores, lease: edit(stores, lease, {"op": "hide", "person_id": "p1"}),
    "cover": lambda stores, lease: edit(stores, lease, {"op": "cover", "person_id": "p1", "face": {"face_id": A}}),
    "keep apart": lambda stores, lease: edit(stores, lease, {"op": "keep_apart", "person_id": "p1", "other": "p3"}),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_counts_as_a_change(stores: Stores, lease: GalleryLease, kind: str) -> None:
    EDITS[kind](stores, lease)
    renewed = stores.galleries.take_lease("g", "tester", 60)
    assert renewed
    assert renewed.revision == lease.revision + 1


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_is_made_on_what_is_published(stores: Stores, lease: GalleryLease, kind: str) -> None:
    EDITS[kind](stores, lease)
    people, expected = people_of(stores, lease), stores.look("g")
    of_d, of_c = faces_of(stores).person_ids[3], faces_of(stores).person_ids[2]
    moves = [FaceMove(D, of_d, "p2"), FaceMove(C, of_c, None)]
    stores.people.write_people(lease, [replace(person, face_count=9) for person in people.values()], moves)
    EDITS[kind](stores, lease)
    assert stores.look("g") == expected


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_without_the_lease_is_refused(stores: Stores, lease: GalleryLease, kind: str) -> None:
    stores.galleries.release(lease)
    before = stores.snapshot(), stores.look("g")
    with pytest.raises(StaleFence):
        EDITS[kind](stores, lease)
    assert (stores.snapshot(), stores.look("g")) == before


WRONG: dict[str, MakeEdit] = {
    "has no person p9": lambda stores, lease: name(stores, lease, "p9", "Ann"),
    "has no person p8": lambda stores, lease: merge(stores, lease, "p1", "p2", "p8"),
    "has no face x, y": lambda stores, lease: confirm(stores, lease, "p1", FaceRef("x"), FaceRef(D), FaceRef("y")),
    "has no face z": lambda stores, lease: reject(stores, lease, "p1", FaceRef(A), FaceRef("z")),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_an_edit_of_what_is_not_there_says_so_and_changes_nothing(
    stores: Stores, lease: GalleryLease, sentence: str
) -> None:
    before = stores.snapshot(), stores.look("g")
    refused = WRONG[sentence](stores, lease)
    assert (refused.state, refused.reason) == (EditState.REFUSED, f"The gallery g {sentence}.")
    assert stores.journal.find("g", refused.edit_id) == refused
    assert (stores.snapshot(), stores.look("g")) == before


def test_a_face_of_another_gallery_is_not_there(stores: Stores, lease: GalleryLease) -> None:
    store(stores, [photo_result(photo("a", "other"))])
    refused = confirm(stores, lease, "p1", FaceRef(face_record(photo("a", "other"), 0).face_id))
    assert str(refused.reason).startswith("The gallery g has no face other/a")


def test_an_edit_that_was_made_on_an_old_page_does_not_reach_the_face_that_has_the_id_now(
    stores: Stores, lease: GalleryLease
) -> None:
    shown = {D: face_record(photo("d"), 0).digest}
    confirm(stores, lease, "p1", FaceRef(D, shown[D]))
    other = PhotoResult(image_record(photo("d"), etag="etag-2"), [face_record(photo("d"), 0, unit_vector(99))])
    store(stores, [other])
    before = stores.snapshot()
    for edit_faces in (confirm, reject):
        refused = edit_faces(stores, lease, "p1", FaceRef(D, shown[D]))
        assert "another face now: the photo was replaced" in str(refused.reason)
    assert stores.snapshot() == before
    assert confirm(stores, lease, "p1", FaceRef(D, other.faces[0].digest)).state is EditState.APPLIED


@pytest.mark.parametrize("kind", EDITS)
def test_an_undone_edit_leaves_what_was_before_and_a_redone_one_what_was_after(
    stores: Stores, lease: GalleryLease, kind: str
) -> None:
    before = stores.snapshot(), stores.look("g")
    done = EDITS[kind](stores, lease)
    after = stores.snapshot(), stores.look("g")
    assert (done.state, done.reason) == (EditState.APPLIED, None)
    assert after != before
    undone = undo(stores, lease, done)
    assert (undone.state, undone.notes) == (EditState.APPLIED, ())
    assert (stores.snapshot(), stores.look("g")) == before
    assert undo(stores, lease, undone).state is EditState.APPLIED
    assert (stores.snapshot(), stores.look("g")) == after


def test_an_edit_is_applied_once(stores: Stores, lease: GalleryLease) -> None:
    one = name(stores, lease, "p1", "Ann")
    name(stores, lease, "p1", "Bea")
    request = {"op": "name", "person_id": "p1", "name": "Ann"}
    assert edit(stores, lease, request, edit_id=one.edit_id) == one
    assert people_of(stores, lease)["p1"].name == "Bea"


def test_the_operations_of_an_edit_are_applied_together_or_not_at_all(stores: Stores, lease: GalleryLease) -> None:
    before = stores.snapshot(), stores.look("g")
    named = {"op": "name", "person_id": "p1", "name": "Ann"}
    refused = edit(stores, lease, named, {"op": "hide", "person_id": "p9"})
    assert (refused.state, refused.reason) == (EditState.REFUSED, "The gallery g has no person p9.")
    assert (stores.snapshot(), stores.look("g")) == before
    assert edit(stores, lease, named, {"op": "hide", "person_id": "p1"}).state is EditState.APPLIED
    assert (people_of(stores, lease)["p1"].name, people_of(stores, lease)["p1"].hidden) == ("Ann", True)


def test_what_users_said_of_a_person_survives_what_a_run_writes(stores: Stores, lease: GalleryLease) -> None:
    apart = {"op": "keep_apart", "person_id": "p1", "other": "p2"}
    edit(stores, lease, {"op": "hide", "person_id": "p1"}, apart, {**COVER, "face": {"face_id": A}})
    said = people_of(stores, lease)["p1"]
    assert (said.hidden, said.chosen_cover, said.cover_face_id, said.kept_apart) == (True, A, A, ("p2",))
    stores.people.write_people(lease, [PersonRecord("p1", B, 1, 1)], [])
    stores.people.publish_people(lease)
    assert people_of(stores, lease)["p1"] == replace(said, cover_face_id=B, face_count=1, photo_count=1)


def test_an_undone_merge_gives_the_old_id_its_links_and_faces_back(stores: Stores, lease: GalleryLease) -> None:
    merged = merge(stores, lease, "p1", "p2")
    assert {one.merged_into for one in people_of(stores, lease).values()} == {None, "p1"}
    undo(stores, lease, merged)
    people = people_of(stores, lease)
    assert [one.merged_into for one in people.values()] == [None, None, "p2"]
    assert faces_of(stores).person_ids == ["p1", "p1", "p2", None]


def test_an_undo_leaves_faces_that_were_moved_since_and_says_so(stores: Stores, lease: GalleryLease) -> None:
    moved = edit(stores, lease, of_faces("move", "p2", FaceRef(A), FaceRef(B)))
    confirm(stores, lease, "p1", FaceRef(A))
    undone = undo(stores, lease, moved)
    assert undone.state is EditState.APPLIED
    assert undone.notes == ("1 of 2 faces were moved since, and stay where they are.",)
    assert faces_of(stores).person_ids == ["p1", "p1", "p2", None]


def test_an_undo_leaves_what_another_owner_has_said_since(stores: Stores, lease: GalleryLease) -> None:
    named = edit(stores, lease, {"op": "name", "person_id": "p1", "name": "Ann"}, {"op": "hide", "person_id": "p1"})
    name(stores, lease, "p1", "Anna")
    undone = undo(stores, lease, named)
    assert undone.notes == ("The name of p1 was changed since, and stays.",)
    assert (people_of(stores, lease)["p1"].name, people_of(stores, lease)["p1"].hidden) == ("Anna", False)


def test_what_cannot_be_undone_says_why(stores: Stores, lease: GalleryLease) -> None:
    unknown = edit(stores, lease, {"op": "undo", "edit_id": "e9"})
    refused = undo(stores, lease, unknown)
    named = name(stores, lease, "p1", "Ann")
    undone = undo(stores, lease, named)
    again = undo(stores, lease, named)
    other = name(stores, lease, "p1", "Ann")
    name(stores, lease, "p1", "Anna")
    late = undo(stores, lease, other)
    assert [one.reason for one in (unknown, refused, again, late)] == [
        "The gallery g has no edit e9.",
        f"The edit {unknown.edit_id} was refused, so there is nothing to undo.",
        f"The edit {named.edit_id} is undone already, by the edit {undone.edit_id}.",
        f"Nothing of the edit {other.edit_id} is left to undo. The name of p1 was changed since, and stays.",
    ]


def test_a_split_person_that_others_were_merged_into_stays_when_the_split_is_undone(
    stores: Stores, lease: GalleryLease
) -> None:
    split = edit(stores, lease, of_faces("split", "p1", FaceRef(A), name="Cid"))
    new = faces_of(stores).person_ids[0]
    assert new not in (None, "p1")
    merge(stores, lease, str(new), "p2")
    undone = undo(stores, lease, split)
    assert undone.notes == (f"The person {new}, which the edit made, has got other faces since, and stays.",)
    assert faces_of(stores).person_ids == ["p1", "p1", new, None]


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ({"op": "keep_apart", "person_id": "p2", "other": "p3"}, "p2 and p3 are one person, p2."),
        ({"op": "cover", "person_id": "p1", "face": {"face_id": C}}, f"{C} is not a face of p1 now."),
        (of_faces("split", "p2", FaceRef(A)), f"{A} is not a face of p2 now."),
    ],
)
def test_an_edit_that_does_not_fit_says_why(
    stores: Stores, lease: GalleryLease, operation: dict[str, object], reason: str
) -> None:
    assert str(edit(stores, lease, operation).reason).startswith(reason)


def test_an_edit_that_changes_too_many_faces_for_one_transaction_is_refused(
    stores: Stores, lease: GalleryLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.people_edits.MOST_CHANGED_FACES", 1)
    before = stores.snapshot(), stores.look("g")
    refused = merge(stores, lease, "p2", "p1")
    assert str(refused.reason).startswith("The edit changes 3 faces, and 1 are the most.")
    assert (stores.snapshot(), stores.look("g")) == before
    assert merge(stores, lease, "p2", "p3").state is EditState.APPLIED
