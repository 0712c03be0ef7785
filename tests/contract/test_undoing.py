"""Random edits and undos: undoing all of them gives the first state, of the fake and of MongoDB."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.journal import Edit, EditState
from app.core.ports import GalleryLease
from app.core.records import FaceMove, PersonRecord, PersonStatus
from tests.edits import edit
from tests.fakes import FakeClock
from tests.stores import ON_SERVERS, Stores, face_record, photo, photo_result, store

PHOTOS = "abcdef"
FACES = [face_record(photo(name), index).face_id for name in PHOTOS for index in range(2)]
PEOPLE = ["p1", "p2", "p3", "p4", "former"]
Operation = Mapping[str, Any]


def make_chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a fixed order, not a secret


def fill(stores: Stores) -> GalleryLease:
    """Twelve faces of four people, a merged person, and one that is nobody's."""
    store(stores, [photo_result(photo(name), 2) for name in PHOTOS])
    lease = stores.galleries.take_lease("g", "tester", 3_600)
    assert lease
    people = [PersonRecord(person, FACES[3 * row], 3, 3) for row, person in enumerate(PEOPLE[:4])]
    former = PersonRecord("former", FACES[0], 0, 0, status=PersonStatus.MERGED, merged_into="p1")
    moves = [FaceMove(face, None, PEOPLE[row // 3]) for row, face in enumerate(FACES[:-1])]
    stores.people.write_people(lease, [*people, former], moves)
    stores.people.publish_people(lease)
    return lease


def see(stores: Stores, lease: GalleryLease) -> tuple[object, ...]:
    """All that an edit may change."""
    people = sorted(stores.people.read_people(lease), key=lambda one: one.person_id)
    (batch,) = stores.faces.read_faces("g", "toy-000000000000")
    return people, batch.person_ids, batch.confirmed, {face: told for face, told in batch.rejected.items() if told}


def check(stores: Stores, lease: GalleryLease) -> None:
    people = {person.person_id: person for person in stores.people.read_people(lease)}
    (batch,) = stores.faces.read_faces("g", "toy-000000000000")
    for person in people.values():
        assert person.merged_into is None or people[person.merged_into].merged_into is None
        assert (person.status is PersonStatus.MERGED) == (person.merged_into is not None)
        assert person.person_id not in person.kept_apart
    for face, person_id in zip(batch.face_ids, batch.person_ids, strict=True):
        assert person_id is None or people[person_id].merged_into is None
        rejected = batch.rejected.get(face, ())
        assert person_id is None or person_id not in {
            people[one].merged_into or one for one in rejected if one in people
        }
        assert person_id is not None or face not in batch.confirmed


def choose_operation(chance: random.Random, people: list[str], known: list[str]) -> Operation:
    person, other = chance.choice(people), chance.choice(people)
    faces = [{"face_id": face} for face in chance.sample(FACES, chance.choice([1, 1, 2, 4]))]
    op = chance.choice(["name", "merge", "split", "move", "confirm", "reject", "hide", "show", "cover", "keep_apart"])
    if known and chance.random() < 0.3:
        return {"op": "undo", "edit_id": chance.choice(known)}
    of_person = {"op": op, "person_id": person}
    more: dict[str, Operation] = {
        "name": {"name": chance.choice(["Ann", "Bob", None])},
        "merge": {"others": [other]},
        "cover": {"face": faces[0]},
        "keep_apart": {"other": other},
        **{kind: {"faces": faces} for kind in ("split", "move", "confirm", "reject")},
    }
    return {**of_person, **more.get(op, {})}


def say(stores: Stores, lease: GalleryLease, chance: random.Random, count: int) -> list[Edit]:
    """So many random edits of one operation or several; returns those that were applied."""
    applied: list[Edit] = []
    for number in range(count):
        people = [*PEOPLE, *(one.person_id for one in stores.people.read_people(lease) if one.person_id not in PEOPLE)]
        known = [one.edit_id for one in applied]
        operations = [choose_operation(chance, people, known) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
        done = edit(stores, lease, *operations, edit_id=f"e{number}")
        check(stores, lease)
        if done.state is EditState.APPLIED:
            applied.append(done)
    return applied


def undo_all(stores: Stores, lease: GalleryLease, applied: list[Edit]) -> None:
    for done in reversed(applied):
        undone = edit(stores, lease, {"op": "undo", "edit_id": done.edit_id}, edit_id=f"undo-{done.edit_id}")
        assert (undone.state, undone.reason, undone.notes) == (EditState.APPLIED, None, ())


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_undoing_all_edits_gives_the_first_state(chance: random.Random, count: int) -> None:
    stores = Stores.of_fakes(FakeClock())
    lease = fill(stores)
    before = see(stores, lease)
    applied = say(stores, lease, chance, count)
    undo_all(stores, lease, applied)
    assert see(stores, lease) == before


@pytest.mark.parametrize("seed", range(3))
def test_undoing_a_thousand_edits_gives_the_first_state(seed: int) -> None:
    stores = Stores.of_fakes(FakeClock())
    lease = fill(stores)
    before = see(stores, lease)
    applied = say(stores, lease, make_chance(seed), 1_000)
    assert len(applied) > 300
    undo_all(stores, lease, applied)
    assert see(stores, lease) == before


@ON_SERVERS
@pytest.mark.parametrize("seed", range(2))
def test_undoing_all_edits_gives_the_first_state_of_a_server(stores: Stores, seed: int) -> None:
    lease = fill(stores)
    before = see(stores, lease), stores.snapshot(), stores.look("g")
    fakes = Stores.of_fakes(FakeClock())
    applied = say(stores, lease, make_chance(seed), 60)
    as_fake = say(fakes, fill(fakes), make_chance(seed), 60)
    assert [(one.edit_id, one.state) for one in applied] == [(one.edit_id, one.state) for one in as_fake]
    undo_all(stores, lease, applied)
    assert (see(stores, lease), stores.snapshot(), stores.look("g")) == before
