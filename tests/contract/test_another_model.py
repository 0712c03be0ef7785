"""A gallery of another model, by the fakes and by MongoDB: what a grouping run reads of it, and what it leaves."""

from dataclasses import replace

import pytest

from app.clustering.neighbours import NeighbourSearch
from app.core.errors import RejectMessage
from app.core.roles import QualityBars
from app.core.thresholds import Threshold
from app.grouping.handle import GroupingParts, handle
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
