"""A gallery of another model, by the fakes and by MongoDB: what a grouping run reads of it, and what it leaves."""

from dataclasses import replace

import pytest

from app.adapters.mongo_tombstones import MongoTombstones
from app.clustering.neighbours import NeighbourSearch
from app.core.errors import RejectMessage
from app.core.records import FaceMove
from app.core.roles import QualityBars
from app.core.thresholds import Threshold
from app.grouping.handle import handle
from app.grouping.parts import ForgetParts, GroupingParts
from tests.fakes import FakeObjectStore, FakeQueue
from tests.stores import MODEL, Stores, photo, photo_result, store

OTHER = "other-111111111111"
MESSAGE = '{"type": "group_gallery", "gallery_id": "g"}'


def make_parts(stores: Stores, model_id: str = MODEL) -> GroupingParts:
    return GroupingParts(
        queue=FakeQueue(),
        objects=FakeObjectStore("results"),
        faces=stores.faces,
        galleries=stores.galleries,
        people=stores.people,
        editor=stores.editor,
        journal=stores.journal,
        model_id=model_id,
        threshold=Threshold(0.5),
        quality=QualityBars(),
        uses_quality=False,
        grouping_delay_s=30,
        lease_s=60,
        search=NeighbourSearch(),
    )


def save(stores: Stores, name: str, model: str) -> None:
    store(stores, [photo_result(photo(name), 2, model=model)])
    stores.galleries.mark_dirty("g", 30)


def test_people_stay_as_they_are_until_a_change_of_their_model_is_allowed(stores: Stores) -> None:
    save(stores, "a", MODEL)
    handle(MESSAGE, make_parts(stores))
    people = stores.look("g").people
    assert [person.status.value for person in people] == ["active", "active"]

    save(stores, "b", OTHER)
    with pytest.raises(RejectMessage, match=f"was grouped under the model {MODEL}, and this worker's is {OTHER}"):
        handle(MESSAGE, make_parts(stores, OTHER))
    assert stores.look("g").people == people

    handle(MESSAGE, replace(make_parts(stores, OTHER), allows_model_change=True))
    assert sorted(stores.look("g").statuses.values()) == ["absent", "absent", "active", "active"]
    save(stores, "c", OTHER)
    handle(MESSAGE, make_parts(stores, OTHER))


def test_faces_of_another_model_refuse_the_first_run_of_a_gallery(stores: Stores) -> None:
    save(stores, "a", MODEL)
    with pytest.raises(RejectMessage, match=f"has faces under the model {MODEL}, and this worker's is {OTHER}"):
        handle(MESSAGE, make_parts(stores, OTHER))
    assert stores.look("g").people == ()


def test_people_go_over_to_another_model_and_nothing_of_the_former_one_is_left(stores: Stores) -> None:
    for name in ("a", "b"):
        save(stores, name, MODEL)
    handle(MESSAGE, make_parts(stores))
    before = stores.look("g")
    lease = stores.galleries.take_lease("g", "owner", 60)
    assert lease
    [confirmed, rejected, *_] = [face_id for face_id, _ in before.faces]
    people = dict(before.faces)
    stores.people.move_chosen_covers(lease, {str(people[confirmed]): confirmed})
    told = [
        FaceMove(confirmed, people[confirmed], people[confirmed], confirmed=True),
        FaceMove(rejected, people[rejected], people[rejected], rejected=frozenset({str(people[confirmed])})),
    ]
    stores.people.write_people(lease, [], told)
    stores.people.publish_people(lease)
    stores.galleries.release(lease)

    for name in ("a", "b"):
        save(stores, name, OTHER)
    parts = make_parts(stores, OTHER)
    if stores.database is not None:
        parts = replace(parts, forgetting=ForgetParts(MongoTombstones(stores.database), stores.faces))
    parts.objects.put(photo_result(photo("a")).faces[0].crop_key, b"crops", "")
    handle(MESSAGE, parts)

    now = stores.look("g")
    assert [face_id.replace(OTHER, MODEL) for face_id, _ in now.faces] == [face_id for face_id, _ in before.faces]
    assert now.person_ids == before.person_ids
    assert {person.person_id for person in now.people} == {person.person_id for person in before.people}
    [batch] = stores.faces.read_faces("g", OTHER)
    assert batch.confirmed == {confirmed.replace(MODEL, OTHER)}
    assert batch.rejected == {rejected.replace(MODEL, OTHER): {people[confirmed]}}
    covers = {person.person_id: person.chosen_cover for person in now.people}
    assert covers[str(people[confirmed])] == confirmed.replace(MODEL, OTHER)
    assert parts.objects.fetch(photo_result(photo("a")).faces[0].crop_key) is None
    if stores.database is not None:
        assert "erased_at" in (stores.database["galleries"].find_one({"_id": "g"}) or {}), "index files stay on hosts"
