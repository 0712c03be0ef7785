import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from app.clustering.neighbours import NeighbourSearch
from app.core.errors import RejectMessage, RetryLater, StaleFence
from app.core.journal import Edit, EditState
from app.core.kill_points import KillPoint, KillPoints
from app.core.ports import CLAIM_S, GalleryLease, RunProgress
from app.core.records import FaceRecord, FaceRef, ImageStatus, PhotoResult
from app.core.roles import QualityBars
from app.core.thresholds import Threshold
from app.grouping.editing import BUSY_DELAY_S, EDIT_DELAY_S
from app.grouping.handle import handle
from app.grouping.index import GalleryIndex
from app.grouping.output import Groups, read_groups
from app.grouping.page import remove_time
from app.grouping.parts import GroupingParts
from app.telemetry.catalogue import Metric
from tests.edits import of_faces
from tests.fake_outbox import FakeEventOutbox
from tests.fake_stores import FakeFaceStore, FakeGalleryStore, FakePeopleStore
from tests.fakes import FakeClock, FakeObjectStore, FakeQueue
from tests.stores import MODEL, face_record, image_record, photo
from tests.telling import Listener

LEASE_S = 60
OTHER = "other-111111111111"
DELAY_S = 30
OUTPUT = ("people.vectors", "groups.json", "people.html")
ANN, BOB, EVE = np.eye(3, 16, dtype=np.float32)


def near(vector: np.ndarray, seed: int) -> np.ndarray:
    """Another photo of the same person: cosine about 0.97."""
    moved = vector + np.random.default_rng(seed).normal(scale=0.06, size=vector.shape)
    return (moved / np.linalg.norm(moved)).astype(np.float32)


class World:
    """The grouping service's parts as fakes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.objects = FakeObjectStore("results")
        self.faces = FakeFaceStore()
        self.galleries = FakeGalleryStore(self.clock)
        self.people = FakePeopleStore(self.faces, self.galleries)
        self.queue = FakeQueue(clock=self.clock)
        self.events = FakeEventOutbox(clock=self.clock)
        self.parts = GroupingParts(
            queue=self.queue,
            objects=self.objects,
            faces=self.faces,
            galleries=self.galleries,
            people=self.people,
            editor=self.people,
            journal=self.people.journal,
            model_id=MODEL,
            threshold=Threshold(0.5),
            quality=QualityBars(),
            uses_quality=True,
            grouping_delay_s=DELAY_S,
            lease_s=LEASE_S,
            events=self.events,
            search=NeighbourSearch(),
        )

    def with_index(self, folder: Path) -> "World":
        self.parts = replace(self.parts, index=GalleryIndex(folder, max_bytes=10**9))
        return self

    def how(self) -> tuple[object, ...]:
        """Kind of the last run, faces new to it, and faces gone."""
        summary = self.galleries.galleries["g"].summary
        return summary["kind"], summary["new"], summary["gone"]

    def add(self, name: str, *vectors: np.ndarray) -> None:
        """What detection does for a photo with these faces."""
        self.add_under(MODEL, name, *vectors)

    def add_under(self, model: str, name: str, *vectors: np.ndarray) -> None:
        of = photo(name)
        faces = [face_record(of, index, vector, model=model) for index, vector in enumerate(vectors)]
        self.store(PhotoResult(image_record(of, len(faces), model=model), faces))
        self.galleries.mark_dirty("g", 30)

    def store(self, result: PhotoResult) -> None:
        """What a worker does that has just looked at the photo."""
        edition = self.faces.find_image(result.image.photo)[1]
        assert not self.faces.save_photos([replace(result, edition=edition)]).overtaken

    def change_model(self, **changes: Any) -> None:
        """What a deploy of another pack does."""
        self.parts = replace(self.parts, model_id=OTHER, **changes)

    def group(self, progress: Callable[[], None] = lambda: None, **fields: str) -> Groups:
        self.receive(progress, **fields)
        return self.read_groups()

    def read_groups(self) -> Groups:
        index = self.objects.read("face-worker/g/groups.json")
        return read_groups(index, lambda path: self.objects.read(f"face-worker/g/{path}"))

    def receive(self, progress: Callable[[], None] = lambda: None, **fields: str) -> None:
        handle(json.dumps({"type": "group_gallery", "gallery_id": "g", **fields}), self.parts, progress)

    def person_of(self, name: str, index: int = 0) -> str | None:
        return self.faces.person_of.get(face_record(photo(name), index).face_id)

    @property
    def statuses(self) -> dict[str, str]:
        return {person.person_id: person.status.value for person in self.people.published("g")}

    @property
    def is_free(self) -> bool:
        return self.galleries.galleries["g"].owner is None


@pytest.fixture(params=["anew", "with an index"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Ann in three photos, Bob in two of them, Eve in one. Nothing depends on whether a run knows the one before."""
    world = World().with_index(tmp_path) if request.param == "with an index" else World()
    world.add("1", ANN, BOB)
    world.add("2", near(ANN, 1), near(BOB, 2))
    world.add("3", near(ANN, 3), EVE)
    return world


def test_the_faces_of_a_gallery_become_people(world: World) -> None:
    groups = world.group()
    assert [(person.photo_count, person.face_count) for person in groups.people] == [(3, 3), (2, 2), (1, 1)]
    ann, bob, eve = (person.person_id for person in groups.people)
    assert [world.person_of("1"), world.person_of("2"), world.person_of("3")] == [ann] * 3
    assert [world.person_of("1", 1), world.person_of("2", 1), world.person_of("3", 1)] == [bob, bob, eve]
    assert world.statuses == dict.fromkeys((ann, bob, eve), "active")


def test_groups_and_page_are_published_with_their_types(world: World) -> None:
    groups = world.group()
    assert (groups.gallery_id, groups.model, groups.unassigned, groups.skipped) == ("g", MODEL, [], [])
    assert world.objects.content_types["face-worker/g/groups.json"] == "application/json"
    assert world.objects.content_types["face-worker/g/people.html"] == "text/html; charset=utf-8"
    assert b"<html" in world.objects.read("face-worker/g/people.html")


def test_a_run_that_knows_the_one_before_reads_the_embeddings_of_new_faces_alone(tmp_path: Path) -> None:
    world = World().with_index(tmp_path)
    for name in "abcdef":
        world.add(name, near(ANN, ord(name)))
    world.group()
    assert world.how() == ("full", 6, 0)
    read: list[list[str]] = []
    reading = world.faces.read_embeddings
    world.faces.read_embeddings = lambda ids: reading(read.append(list(ids)) or ids)  # type: ignore[method-assign]
    world.add("g", near(ANN, 1), BOB)
    world.group()
    assert world.how() == ("incremental", 2, 0)
    assert read == [[face_record(photo("g"), index).face_id for index in range(2)]]
    assert world.person_of("g") == world.person_of("a") != world.person_of("g", 1)


def test_a_photo_that_shows_others_now_changes_people_though_the_index_knew_it(tmp_path: Path) -> None:
    world = World().with_index(tmp_path)
    for name in "abcdef":
        world.add(name, near(ANN, ord(name)))
    world.group()
    world.add("c", BOB)
    world.group()
    assert world.how() == ("incremental", 1, 1)
    assert world.person_of("c") != world.person_of("a")


def test_a_full_run_on_request_reads_everything_and_tells_the_difference(tmp_path: Path) -> None:
    world = World().with_index(tmp_path)
    world.add("a", ANN, BOB)
    world.group()
    world.group(mode="full")
    assert world.how() == ("full", 2, 0)
    assert world.galleries.galleries["g"].summary["difference"] == 0


def test_an_index_is_not_written_again_where_no_face_has_changed(tmp_path: Path) -> None:
    world = World().with_index(tmp_path)
    world.add("a", ANN, BOB)
    world.group()
    (file,) = tmp_path.iterdir()
    written = file.stat().st_ino
    world.galleries.mark_dirty("g", 30)
    world.group()
    assert world.how() == ("incremental", 0, 0)
    assert file.stat().st_ino == written
    world.add("b", near(ANN, 1), near(BOB, 1))
    world.group()
    assert file.stat().st_ino != written


def test_an_index_that_is_broken_is_made_anew(tmp_path: Path) -> None:
    world = World().with_index(tmp_path)
    world.add("a", ANN, BOB)
    world.group()
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"broken")
    world.add("b", near(ANN, 1))
    world.group()
    assert world.how() == ("full", 3, 0)
    assert world.person_of("a") == world.person_of("b")


def test_the_run_is_recorded_with_its_numbers(world: World) -> None:
    world.group()
    gallery = world.galleries.galleries["g"]
    assert gallery.grouped == (3, MODEL)
    assert {name: gallery.summary[name] for name in ("faces", "people", "photos")} == {
        "faces": 6,
        "people": 3,
        "photos": 3,
    }


def test_names_are_kept_and_shown(world: World) -> None:
    ann = world.group().people[0].person_id
    world.people.names["g", ann] = "Ann"
    world.add("4", near(ANN, 4))
    groups = world.group()
    assert (groups.people[0].person_id, groups.people[0].name, groups.people[0].photo_count) == (ann, "Ann", 4)
    assert groups.people[1].name is None
    assert b"Ann" in world.objects.read("face-worker/g/people.html")


def test_a_second_run_assigns_no_face_again(world: World) -> None:
    world.group()
    before = world.faces.snapshot()
    world.group(mode="full")
    assert len(world.people.moves) == 1
    assert world.faces.snapshot() == before


def test_a_new_photo_assigns_its_own_faces_alone(world: World) -> None:
    world.group()
    world.add("4", near(BOB, 5))
    world.group()
    assert [move.face_id for move in world.people.moves[1]] == [face_record(photo("4"), 0).face_id]


def test_an_unchanged_gallery_is_left_alone(world: World) -> None:
    world.group()
    world.objects.journal.clear()
    world.group()
    assert world.objects.journal == []
    assert len(world.people.moves) == 1


def test_an_unchanged_gallery_is_grouped_anew_when_asked_in_full_or_under_another_model(world: World) -> None:
    world.group()
    world.objects.journal.clear()
    world.group(mode="full")
    assert world.objects.journal == [f"put face-worker/g/{name}" for name in OUTPUT]
    world.change_model(allows_model_change=True)
    assert world.group().people == []
    written = [line for line in world.objects.journal[len(OUTPUT) :] if line.startswith("put ")]
    assert written == [f"put face-worker/g/{name}" for name in OUTPUT]


def test_output_that_would_be_the_same_again_is_left_alone_but_made_anew_on_request(world: World) -> None:
    first = world.group()
    world.objects.journal.clear()
    for _ in range(3):
        world.galleries.mark_dirty("g", 30)
        assert world.group() == first
    assert world.objects.journal == []
    assert world.galleries.galleries["g"].grouped == (6, MODEL)
    world.group(mode="full")
    assert world.objects.journal == [f"put face-worker/g/{name}" for name in OUTPUT]


def test_output_is_written_again_where_another_worker_had_the_gallery_and_may_be_about_to_write(world: World) -> None:
    world.group()
    dead = world.galleries.take_lease("g", "dead", LEASE_S)
    assert dead
    world.clock.sleep(LEASE_S)
    world.objects.journal.clear()
    world.galleries.mark_dirty("g", 30)
    world.group()
    assert world.objects.journal == [f"put face-worker/g/{name}" for name in OUTPUT]
    with pytest.raises(StaleFence):
        world.objects.replace("face-worker/g/groups.json", b"late", "application/json", dead.fence)


class Killed(BaseException):
    """What SIGKILL is to a thread."""


class KillsAt(KillPoints):
    def __init__(self, point: str) -> None:
        super().__init__()
        self._kills_at = point

    def reach(self, point: KillPoint) -> None:
        if point == self._kills_at:
            raise Killed


def shown(world: World) -> dict[str, set[str]]:
    """Person id → faces, as the database has it for readers."""
    people: dict[str, set[str]] = {one.person_id: set() for one in world.people.published("g") if one.face_count}
    for face_id, person_id in world.faces.person_of.items():
        people[person_id].add(face_id)
    return people


@pytest.mark.parametrize("point", ["before-publish", "after-publish", "after-groups"])
def test_a_run_killed_between_two_steps_is_made_up_for_by_the_next(world: World, point: str) -> None:
    undisturbed = World()
    for one in (world, undisturbed):
        if one is undisturbed:
            one.add("1", ANN, BOB)
            one.add("2", near(ANN, 1), near(BOB, 2))
            one.add("3", near(ANN, 3), EVE)
        one.group()
        one.add("3", near(ANN, 3))
        one.add("4", near(BOB, 5))
    old, parts = shown(world), world.parts
    world.parts = replace(parts, kill_points=KillsAt(point))
    with pytest.raises(Killed):
        world.group()
    published, new = shown(world), undisturbed.group()
    assert (published == old) == (point == "before-publish")
    assert published in (old, shown(undisturbed))
    world.parts = parts
    world.clock.sleep(LEASE_S)
    groups = world.group()
    assert groups == new.model_copy(update={"generated_at": groups.generated_at})
    assert shown(world) == shown(undisturbed)
    pages = [remove_time(one.objects.read("face-worker/g/people.html").decode()) for one in (world, undisturbed)]
    assert pages[0] == pages[1]


def edit(world: World, *operations: Mapping[str, object], edit_id: str = "") -> Edit:
    """What an owner's message does. Returns what the journal has of it."""
    edit_id = edit_id or uuid4().hex
    order = {"type": "edit_people", "gallery_id": "g", "edit_id": edit_id, "by": "Eve", "edits": operations}
    handle(json.dumps(order), world.parts)
    return world.people.journal.edits["g", edit_id]


def face(name: str, index: int = 0) -> str:
    return face_record(photo(name), index).face_id


def test_a_confirmed_face_stays_whatever_it_looks_like(world: World) -> None:
    ann, bob, _ = (person.person_id for person in world.group().people)
    edit(world, of_faces("confirm", bob, FaceRef(face("2"))))
    groups = world.group()
    assert [world.person_of("1"), world.person_of("2"), world.person_of("3")] == [ann, bob, ann]
    assert {person.person_id: person.face_count for person in groups.people}[bob] == 3
    assert world.group(mode="full").people == groups.people


def test_a_rejected_face_becomes_another_person_and_never_comes_back(world: World) -> None:
    ann = world.group().people[0].person_id
    edit(world, of_faces("reject", ann, FaceRef(face("2"))))
    world.group()
    other = world.person_of("2")
    assert other not in (None, ann)
    world.add("4", near(ANN, 4))
    world.group()
    assert (world.person_of("2"), world.person_of("1")) == (other, ann)


def test_people_merged_by_a_user_stay_so_and_the_old_id_leads_to_the_one(world: World) -> None:
    ann, bob, eve = (person.person_id for person in world.group().people)
    edit(world, {"op": "merge", "person_id": eve, "others": [bob]})
    groups = world.group()
    assert groups.merged == {bob: eve}
    assert {person.person_id: person.face_count for person in groups.people} == {ann: 3, eve: 3}
    world.add("4", near(BOB, 4))
    again = world.group()
    assert world.person_of("4") == eve
    assert again.merged == {bob: eve}
    assert json.dumps({bob: eve}, separators=(",", ":")).encode() in world.objects.read("face-worker/g/people.html")


def test_an_edit_of_a_free_gallery_is_applied_at_once_and_a_run_follows(world: World) -> None:
    ann = world.group().people[0].person_id
    done = edit(world, {"op": "name", "person_id": ann, "name": "Ann"})
    assert (done.state, done.reason) == (EditState.APPLIED, None)
    assert world.people.names["g", ann] == "Ann"
    assert world.is_free
    world.clock.sleep(EDIT_DELAY_S)
    assert world.queue.visible == ['{"version":1,"type":"group_gallery","gallery_id":"g","mode":"auto"}']
    assert world.group().people[0].name == "Ann"


def test_an_edit_that_comes_again_changes_nothing_and_another_of_its_id_is_refused(world: World) -> None:
    ann = world.group().people[0].person_id
    first = edit(world, {"op": "name", "person_id": ann, "name": "Ann"}, edit_id="e1")
    edit(world, {"op": "name", "person_id": ann, "name": "Anna"}, edit_id="e2")
    assert edit(world, {"op": "name", "person_id": ann, "name": "Ann"}, edit_id="e1") == first
    assert world.people.names["g", ann] == "Anna"
    with pytest.raises(RejectMessage, match="has another edit e1"):
        edit(world, {"op": "name", "person_id": ann, "name": "Eve"}, edit_id="e1")


def test_an_edit_of_an_unknown_gallery_is_answered_and_leaves_no_gallery(world: World) -> None:
    order = {"type": "edit_people", "gallery_id": "x", "edit_id": "e", "by": "Eve"}
    handle(json.dumps({**order, "edits": [{"op": "hide", "person_id": "p"}]}), world.parts)
    answer = world.people.journal.edits["x", "e"]
    assert (answer.state, answer.reason) == (EditState.REFUSED, "There is no gallery x.")
    assert set(world.galleries.galleries) == {"g"}


def test_an_edit_during_a_run_is_applied_once_it_has_published(world: World) -> None:
    ann = world.group().people[0].person_id
    world.add("4", near(ANN, 4))
    seen: list[EditState] = []

    def speak_up() -> None:
        if not seen and not world.is_free:
            seen.append(edit(world, {"op": "name", "person_id": ann, "name": "Ann"}, edit_id="e1").state)

    world.group(speak_up)
    assert seen == [EditState.QUEUED]
    assert world.people.journal.edits["g", "e1"].state is EditState.APPLIED
    assert (world.people.names["g", ann], world.is_free) == ("Ann", True)
    assert world.person_of("4") == ann
    world.clock.sleep(DELAY_S)
    assert len(world.queue.visible) == 1
    assert world.group().people[0].name == "Ann"


def test_an_edit_that_comes_as_a_run_gives_its_lease_back_is_applied_by_its_worker(world: World) -> None:
    ann = world.group().people[0].person_id
    world.add("4", near(ANN, 4))
    release, said = world.galleries.release, []

    def speak_up(lease: GalleryLease) -> None:
        if not said:
            said.append(edit(world, {"op": "name", "person_id": ann, "name": "Ann"}, edit_id="e1").state)
        release(lease)

    world.galleries.release = speak_up  # type: ignore[method-assign]
    world.receive()
    assert said == [EditState.QUEUED]
    assert world.people.journal.edits["g", "e1"].state is EditState.APPLIED


def test_an_edit_that_a_dead_worker_left_is_applied_before_the_next_run(world: World) -> None:
    bob = world.group().people[1].person_id
    world.clock.sleep(CLAIM_S + 1)
    assert world.galleries.take_lease("g", "a worker", LEASE_S)
    left = edit(world, of_faces("confirm", bob, FaceRef(face("2"))))
    assert left.state is EditState.QUEUED
    world.clock.sleep(LEASE_S + 1)
    assert len(world.queue.visible) == 1
    world.group()
    assert world.people.journal.edits["g", left.edit_id].state is EditState.APPLIED
    assert world.person_of("2") == bob
    assert world.galleries.galleries["g"].grouped == (world.galleries.galleries["g"].revision, MODEL)


@pytest.mark.parametrize("point", ["after-journal", "after-edit"])
def test_an_edit_whose_worker_is_killed_is_applied_once(world: World, point: KillPoint) -> None:
    ann = world.group().people[0].person_id
    world.add("4", near(ANN, 4))
    split = of_faces("split", ann, FaceRef(face("2")), name="Ann 2")
    parts = world.parts
    world.parts = replace(parts, kill_points=DyingAt(point))
    with pytest.raises(KilledError):
        edit(world, split, edit_id="e1")
    world.parts = parts
    world.clock.sleep(LEASE_S + 1)
    revision = world.galleries.galleries["g"].revision
    again = edit(world, split, edit_id="e1")
    assert again.state is EditState.APPLIED
    assert world.galleries.galleries["g"].revision == revision + (point == "after-journal")
    assert sorted(world.people.names.values()) == ["Ann 2"]
    world.clock.sleep(DELAY_S)
    assert world.queue.visible
    world.group()
    assert world.person_of("2") not in (None, ann)


@pytest.mark.parametrize("method", ["add", "list_unsettled", "settle"])
def test_an_edit_is_tried_again_where_the_journal_is_away(world: World, method: str) -> None:
    ann = world.group().people[0].person_id
    world.people.journal.outages[method] = 1
    with pytest.raises(RetryLater):
        edit(world, {"op": "hide", "person_id": ann}, edit_id="e1")
    assert edit(world, {"op": "hide", "person_id": ann}, edit_id="e1").state is EditState.APPLIED
    assert world.is_free
    assert world.people.journal.list_unsettled("g") == []


def test_an_undone_edit_is_as_if_it_had_not_been(world: World) -> None:
    before = world.group()
    _, bob, eve = (person.person_id for person in before.people)
    edit(world, {"op": "merge", "person_id": eve, "others": [bob]}, edit_id="e1")
    assert world.group().merged == {bob: eve}
    assert edit(world, {"op": "undo", "edit_id": "e1"}).notes == ()
    after = world.group()
    assert (after.people, after.merged) == (before.people, {})
    assert [world.person_of(one, 1) for one in "123"] == [bob, bob, eve]


def test_an_undo_of_a_rejection_gives_the_face_back_though_a_run_has_assigned_it(world: World) -> None:
    ann = world.group().people[0].person_id
    edit(world, of_faces("reject", ann, FaceRef(face("2"))), edit_id="e1")
    world.group()
    assert world.person_of("2") not in (None, ann)
    edit(world, {"op": "undo", "edit_id": "e1"})
    world.group()
    assert world.person_of("2") == ann


def test_a_split_person_stays_apart_in_later_runs(world: World) -> None:
    ann = world.group().people[0].person_id
    edit(world, of_faces("split", ann, FaceRef(face("2")), name="Ann 2"))
    for name in "456":
        world.add(name, near(ANN, ord(name)))
        people = {person.person_id: person for person in world.group().people}
    split = world.person_of("2")
    assert split not in (None, ann)
    assert people[str(split)].name == "Ann 2"
    assert world.person_of("1") == ann


def test_a_chosen_cover_is_shown_while_its_face_is_the_persons(world: World) -> None:
    ann, bob, _ = (person.person_id for person in world.group().people)
    covers = {person.person_id: person.cover_face_id for person in world.people.published("g")}
    other = next(face(name) for name in "123" if face(name) != covers[ann])
    edit(world, {"op": "cover", "person_id": ann, "face": {"face_id": other}})
    for _ in range(2):
        world.add("4", near(ANN, 4))
        world.group()
        now = {person.person_id: person.cover_face_id for person in world.people.published("g")}
        assert now[ann] == other
    edit(world, of_faces("confirm", bob, FaceRef(other)))
    world.group()
    now = {person.person_id: person.cover_face_id for person in world.people.published("g")}
    assert now[ann] not in (other, None)


def test_people_who_are_kept_apart_are_not_merged_by_a_run(world: World) -> None:
    ann, bob, _ = (person.person_id for person in world.group().people)
    world.add("5", near(EVE, 5))
    between = ((ANN + BOB) / np.sqrt(2)).astype(np.float32)
    edit(world, {"op": "keep_apart", "person_id": bob, "other": ann})
    for number in range(8):
        world.add(f"between-{number}", near(between, number))
    world.group(mode="full")
    assert world.statuses[ann] == world.statuses[bob] == "active"
    assert world.people.people["g", ann].kept_apart == (bob,)


def test_an_edit_is_applied_while_another_gallery_is_being_grouped(world: World) -> None:
    ann = world.group().people[0].person_id
    with world.parts.run_slot.hold():
        assert edit(world, {"op": "hide", "person_id": ann}).state is EditState.APPLIED


def test_a_run_waits_for_the_one_before_it_in_this_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.parts.run_slot, "_wait_s", 0.01)
    world.clock.sleep(CLAIM_S + 1)
    with world.parts.run_slot.hold() as has_it:
        assert has_it
        world.receive()
    assert world.galleries.galleries["g"].grouped is None
    world.clock.sleep(DELAY_S)
    assert len(world.queue.visible) == 1
    world.group()


def test_what_belongs_to_a_gallery_is_set_and_bars_bring_a_run(world: World) -> None:
    world.group()
    world.queue.letters.clear()
    world.clock.sleep(DELAY_S)
    order = {"type": "set_gallery", "gallery_id": "g"}
    handle(json.dumps({**order, "request_id": "r1", "display_name": "Ann & Bob"}), world.parts)
    assert world.queue.bodies == []
    handle(json.dumps({**order, "request_id": "r2", "similarity_threshold": 0.99}), world.parts)
    assert len(world.queue.bodies) == 1
    handle(json.dumps({**order, "request_id": "r3", "display_name": None}), world.parts)
    handle(json.dumps({**order, "request_id": "r1", "display_name": "Ann & Bob"}), world.parts)
    state = world.galleries.find_gallery("g")
    assert state is not None
    assert (state.display_name, state.threshold) == (None, 0.99)
    assert len(world.group().people) > 3


class KilledError(BaseException):
    """The process is gone: nothing of it runs on."""


class DyingAt(KillPoints):
    def __init__(self, point: KillPoint) -> None:
        super().__init__()
        self._dies_at = point

    def reach(self, point: KillPoint) -> None:
        if point == self._dies_at:
            raise KilledError


def test_a_rejected_face_that_is_no_core_face_has_a_reason_why_it_is_unassigned(world: World) -> None:
    add_poor(world, "4", unified=30)
    ann = world.group().people[0].person_id
    edit(world, of_faces("reject", ann, FaceRef(face("4"))))
    (alone,) = world.group().unassigned
    assert (
        alone.why_alone
        == f"It is most like {ann}, for whom it was rejected, and it is too poor to be somebody of its own."
    )


def test_a_change_during_a_run_is_grouped_by_the_next(world: World) -> None:
    class Busy(FakeObjectStore):
        def put(self, key: str, data: bytes, content_type: str) -> None:
            super().put(key, data, content_type)
            if key == "face-worker/g/groups.json" and "g/4" not in world.faces.images:
                world.add("4", EVE)

    world.parts = replace(world.parts, objects=Busy("results"))
    world.objects = world.parts.objects
    assert len(world.group().people[2].faces) == 1
    assert world.group().people[2].photo_count == 2


def test_of_messages_for_a_gallery_under_work_elsewhere_one_is_left_to_come_again(world: World) -> None:
    world.galleries.take_lease("g", "another worker", 10 * LEASE_S)
    world.clock.sleep(DELAY_S)
    for _ in range(3):
        world.receive()
    assert world.objects.output_keys == set()
    assert len(world.queue.bodies) == 1
    assert world.queue.visible == []
    world.clock.sleep(DELAY_S)
    (message,) = world.queue.receive(10, 0)
    assert (json.loads(message.body)["gallery_id"], message.receive_count) == ("g", 1)


def test_a_message_that_waits_covers_the_changes_until_it_comes(world: World) -> None:
    world.galleries.take_lease("g", "another worker", 10 * LEASE_S)
    world.clock.sleep(DELAY_S)
    world.receive()
    assert not world.galleries.mark_dirty("g", DELAY_S)


def test_changes_that_are_announced_already_leave_a_waiting_message_nothing_to_do(world: World) -> None:
    world.galleries.take_lease("g", "another worker", LEASE_S)
    world.receive()
    assert world.queue.bodies == []


def test_an_order_for_a_full_run_is_kept_while_the_gallery_is_under_work(world: World) -> None:
    world.galleries.take_lease("g", "another worker", LEASE_S)
    world.receive(mode="full")
    assert [json.loads(body)["mode"] for body in world.queue.bodies] == ["full"]


def test_without_a_delay_a_message_still_waits_while_its_gallery_is_under_work(world: World) -> None:
    world.parts = replace(world.parts, grouping_delay_s=0)
    world.galleries.take_lease("g", "another worker", 10 * LEASE_S)
    world.clock.sleep(DELAY_S)
    world.receive()
    world.clock.sleep(BUSY_DELAY_S - 0.1)
    assert (len(world.queue.bodies), world.queue.visible) == (1, [])


@pytest.mark.parametrize("mode", ["auto", "full"])
def test_a_message_that_could_not_be_left_is_left_by_the_next_try(world: World, mode: str) -> None:
    world.galleries.take_lease("g", "another worker", 10 * LEASE_S)
    world.clock.sleep(DELAY_S)
    world.queue.outages["send"] = 1
    with pytest.raises(RetryLater):
        world.receive(mode=mode)
    world.receive(mode=mode)
    assert [json.loads(body)["mode"] for body in world.queue.bodies] == [mode]


def test_a_gallery_whose_worker_has_died_is_grouped_once_its_lease_is_over(world: World) -> None:
    world.galleries.take_lease("g", "a dead worker", LEASE_S)
    world.clock.sleep(LEASE_S)
    assert len(world.group().people) == 3


def test_a_run_shows_its_stages_while_it_lasts_and_nothing_after(world: World) -> None:
    seen: list[tuple[str, float]] = []

    class Watched(FakeGalleryStore):
        def report_progress(self, lease: GalleryLease, progress: RunProgress) -> None:
            super().report_progress(lease, progress)
            shown = self.find_gallery("g")
            assert shown
            assert shown.progress == progress
            seen.append((progress.stage, progress.share))

    galleries = Watched(world.clock)
    galleries.galleries = world.galleries.galleries
    world.parts = replace(world.parts, galleries=galleries)
    world.group()
    assert [stage for stage, _ in dict.fromkeys(seen)] == ["read", "cluster", "people", "publish"]
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert 0 < shares[1] < shares[-1] < 1
    state = galleries.find_gallery("g")
    assert state
    assert state.progress is None
    assert state.last_run
    assert list(state.last_run["stages_s"]) == ["read", "cluster", "people", "publish"]


def test_a_run_that_fails_shows_nothing_after(world: World) -> None:
    world.objects.outages["replace"] = 1
    with pytest.raises(RetryLater):
        world.group()
    state = world.galleries.find_gallery("g")
    assert state
    assert state.progress is None


STAGES = {"clustering": 2, "saving": 3, "groups": 4, "page": 5}
"""Before which of its stages a run pauses → the how-manieth call of `progress` that is."""


class Pause:
    """A `progress` in whose call number `at` all the lease's time passes and `then` something happens."""

    def __init__(self, world: World, at: int, then: Callable[[], object]) -> None:
        self._world, self._at, self._then = world, at, then
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            self._world.clock.sleep(LEASE_S)
            self._then()


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_loses_its_lease_to_another_writes_nothing_from_then_on(world: World, stage: str) -> None:
    world.group()
    world.add("4", near(BOB, 5))
    seen: list[object] = []

    def take_over() -> None:
        assert world.galleries.take_lease("g", "another worker", LEASE_S)
        seen.extend([world.faces.snapshot(), dict(world.objects.objects)])

    pause = Pause(world, STAGES[stage], take_over)
    with pytest.raises(StaleFence, match="lost to another worker"):
        world.group(progress=pause)
    assert pause.calls == STAGES[stage]
    assert [world.faces.snapshot(), world.objects.objects] == seen
    assert world.galleries.galleries["g"].owner == "another worker"


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_whose_gallery_was_anothers_meanwhile_ends_and_leaves_it_free(world: World, stage: str) -> None:
    seen: list[object] = []

    def take_over_and_finish() -> None:
        lease = world.galleries.take_lease("g", "another worker", LEASE_S)
        assert lease
        world.galleries.release(lease)
        seen.append(dict(world.objects.objects))

    with pytest.raises(StaleFence):
        world.group(progress=Pause(world, STAGES[stage], take_over_and_finish))
    assert world.objects.objects == seen[0]
    assert world.is_free
    assert len(world.group().people) == 3


def test_a_run_longer_than_its_lease_keeps_the_gallery(world: World) -> None:
    refused: list[object] = []

    def stage_takes_long() -> None:
        world.clock.sleep(0.9 * LEASE_S)
        refused.append(world.galleries.take_lease("g", "another worker", LEASE_S))

    assert len(world.group(progress=stage_takes_long).people) == 3
    assert refused == [None] * max(STAGES.values())


def test_a_run_gets_on_with_every_face_that_it_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.grouping.run.REPORT_EVERY_S", 0)
    told: list[RunProgress] = []
    monkeypatch.setattr(world.galleries, "report_progress", lambda _, progress: told.append(progress))
    world.group()
    shares = [progress.share for progress in told if progress.stage == "people"]
    assert shares == sorted(shares)
    assert len(set(shares)) == 1 + 6


def test_results_of_a_newer_run_are_not_replaced(world: World) -> None:
    class Late(FakeObjectStore):
        """Another worker takes the gallery over and writes its files, just before this run writes its own."""

        def replace(self, key: str, data: bytes, content_type: str, fence: int) -> None:
            if "face-worker/g/groups.json" not in self.output_keys:
                world.clock.sleep(LEASE_S)
                newer = world.galleries.take_lease("g", "another worker", LEASE_S)
                assert newer
                super().replace("face-worker/g/groups.json", b"newer", content_type, newer.fence)
            super().replace(key, data, content_type, fence)

    world.parts = replace(world.parts, objects=Late("results"))
    world.objects = world.parts.objects
    with pytest.raises(StaleFence):
        world.group()
    assert world.objects.read("face-worker/g/groups.json") == b"newer"
    assert "face-worker/g/people.html" not in world.objects.output_keys


def test_a_gallery_that_was_restored_from_a_time_before_its_files_is_published(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.objects.replace("face-worker/g/groups.json", b"from a lost time", "application/json", fence=200)
    world.objects.replace("face-worker/g/people.html", b"from a lost time", "text/html", fence=207)
    assert len(world.group().people) == 3
    assert b"<html" in world.objects.read("face-worker/g/people.html")
    assert caplog.text.count("a file is newer than its gallery in MongoDB") == 2
    gallery = world.galleries.galleries["g"]
    assert (gallery.fence, gallery.grouped, gallery.progress, world.is_free) == (208, (3, MODEL), None, True)
    world.add("4", near(ANN, 4))
    assert world.group().people[0].photo_count == 4
    assert gallery.fence == 209


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("faces", "read_faces"),
        ("faces", "read_images"),
        ("people", "read_people"),
        ("people", "write_people"),
        ("people", "publish_people"),
        ("objects", "replace"),
        ("galleries", "record_run"),
    ],
)
def test_the_lease_is_released_whatever_fails_and_the_next_try_succeeds(world: World, part: str, method: str) -> None:
    getattr(world, part).outages[method] = 1
    with pytest.raises(RetryLater):
        world.group()
    assert world.is_free
    assert len(world.group().people) == 3
    assert world.is_free


def test_a_gallery_without_faces_gives_an_empty_result_and_page(world: World) -> None:
    empty = World()
    groups = empty.group(mode="full")
    assert (groups.people, groups.unassigned, groups.skipped) == ([], [], [])
    assert empty.objects.output_keys == {f"face-worker/g/{name}" for name in OUTPUT}


def test_people_whose_photos_are_gone_are_absent_and_no_longer_published(world: World) -> None:
    eve = world.group().people[2].person_id
    world.add("3", near(ANN, 3))
    assert eve not in [person.person_id for person in world.group().people]
    assert world.statuses[eve] == "absent"


def test_two_photos_of_the_same_content_show_one_person_twice() -> None:
    world = World()
    world.add("original", ANN, BOB)
    world.add("copy", ANN, BOB)
    groups = world.group()
    assert [person.photo_count for person in groups.people] == [2, 2]
    assert world.person_of("original") == world.person_of("copy") != world.person_of("copy", 1)


def test_two_faces_of_one_photo_are_two_people_even_when_alike() -> None:
    world = World()
    world.add("twins", ANN, near(ANN, 1) * 0.8 + BOB * 0.6)
    assert len(world.group().people) == 2


def test_photos_without_faces_are_listed_with_their_reason(world: World) -> None:
    rejected = replace(image_record(photo("9"), 0), status=ImageStatus.REJECTED, reason="The file is empty.")
    world.store(PhotoResult(rejected))
    (skipped,) = world.group().skipped
    assert (skipped.image_id, skipped.status, skipped.reason) == ("9", ImageStatus.REJECTED, "The file is empty.")


def test_faces_of_another_model_are_never_compared(world: World) -> None:
    world.group()
    world.add_under(OTHER, "1", EVE)
    faces = [face.face_id for person in world.group().people for face in person.faces]
    assert len(faces) == 6
    assert not [face for face in faces if "other" in face]


@pytest.mark.parametrize("mode", ["auto", "full"])
def test_a_gallery_that_was_grouped_under_another_model_is_refused_and_stays_as_it_is(world: World, mode: str) -> None:
    world.group()
    world.add("4", BOB)
    world.change_model()
    before = [world.faces.snapshot(), dict(world.objects.objects), world.people.published("g")]
    with pytest.raises(RejectMessage, match=f"was grouped under the model {MODEL}, and this worker's is {OTHER}") as no:
        world.receive(mode=mode)
    assert no.value.kind == "other model"
    assert "ALLOW_MODEL_CHANGE=true" in str(no.value)
    assert [world.faces.snapshot(), dict(world.objects.objects), world.people.published("g")] == before
    assert world.is_free
    world.parts = replace(world.parts, model_id=MODEL)
    assert world.group().people[1].photo_count == 3


def test_a_gallery_that_was_never_grouped_is_refused_where_it_has_faces_of_another_model(world: World) -> None:
    world.add_under(OTHER, "4", EVE)
    with pytest.raises(RejectMessage, match=f"has faces under the model {OTHER}, and this worker's is {MODEL}"):
        world.receive()
    assert world.objects.output_keys == set()


def test_a_change_of_model_that_is_allowed_is_logged_and_regroups(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    former = {person.person_id for person in world.group().people}
    ann = world.person_of("1")
    world.add_under(OTHER, "1", EVE)
    world.change_model(allows_model_change=True)
    groups = world.group()
    assert [(person.person_id, person.face_count) for person in groups.people] == [(ann, 1)]
    assert {person for person in former if world.statuses[person] == "absent"} == former - {ann}
    assert f"was grouped under the model {MODEL}, and is grouped under {OTHER} now" in caplog.text
    world.parts = replace(world.parts, allows_model_change=False)
    world.add_under(OTHER, "2", EVE)
    assert [person.face_count for person in world.group().people] == [2]


def test_a_gallery_without_people_to_lose_may_change_its_model() -> None:
    world = World()
    world.add("1")
    assert world.group().people == []
    world.change_model()
    world.add_under(OTHER, "1", ANN)
    assert [person.face_count for person in world.group().people] == [1]


def test_faces_that_an_allowed_change_of_model_left_over_refuse_nothing_later(world: World) -> None:
    world.group()
    world.change_model(allows_model_change=True)
    assert world.group().people == []
    world.parts = replace(world.parts, allows_model_change=False)
    world.add_under(OTHER, "1", ANN)
    assert [person.face_count for person in world.group().people] == [1]


def examine_anew(world: World) -> None:
    """All photos under the other model: its vectors differ from the former ones, and its boxes a little."""
    turned = np.eye(16, dtype=np.float32)[::-1]
    for name in ("1", "2", "3"):
        of = photo(name)
        former = sorted(
            (one for one in world.faces.faces.values() if one.image_id == name), key=lambda one: one.face_id
        )
        faces = [
            replace(face_record(of, index, turned @ one.embedding, model=OTHER), box=one.box + np.float32(1))
            for index, one in enumerate(reversed(former))
        ]
        world.store(PhotoResult(image_record(of, len(faces), model=OTHER), faces))
        world.galleries.mark_dirty("g", 30)


def shown_people(groups: Groups) -> dict[str, tuple[str | None, list[str]]]:
    """Person → name, and the photos."""
    return {one.person_id: (one.name, sorted(face.image_id for face in one.faces)) for one in groups.people}


def test_people_names_and_users_words_go_over_to_another_model(world: World) -> None:
    world.group()
    ann, bob, eve = (str(world.person_of(*place)) for place in (("1", 0), ("1", 1), ("3", 1)))
    edit(world, of_faces("confirm", ann, FaceRef(face("1"))), of_faces("reject", bob, FaceRef(face("3", 1))))
    world.people.names["g", ann] = "Ann"
    world.people.people["g", ann] = replace(world.people.people["g", ann], chosen_cover=face("3"))
    before = shown_people(world.group())
    world.objects.put(face_record(photo("1"), 0).crop_key, b"crops", "")
    examine_anew(world)
    world.change_model()
    assert shown_people(world.group()) == before
    assert before == {ann: ("Ann", ["1", "2", "3"]), bob: (None, ["1", "2"]), eve: (None, ["3"])}
    [confirmed] = world.faces.confirmed - {one for one in world.faces.confirmed if "toy" in one}
    assert world.faces.person_of[confirmed] == ann
    assert world.faces.rejected == {face_record(photo("3"), 0, model=OTHER).face_id: {bob}}
    assert {one.model_id for one in world.faces.faces.values()} == {OTHER}
    cover = world.people.people["g", ann]
    assert cover.cover_face_id == cover.chosen_cover == face_record(photo("3"), 1, model=OTHER).face_id
    assert face_record(photo("1"), 0).crop_key not in world.objects.output_keys
    assert shown_people(world.group(mode="full")) == before


def test_a_former_model_that_is_to_be_kept_keeps_faces_without_people(world: World) -> None:
    before = shown_people(world.group())
    examine_anew(world)
    world.change_model(keeps_former_model=True)
    assert shown_people(world.group()) == before
    kept = {key for key, one in world.faces.faces.items() if one.model_id == MODEL}
    assert len(kept) == 6
    assert not kept & set(world.faces.person_of)
    written = len(world.people.moves)
    assert shown_people(world.group(mode="full")) == before
    assert len(world.people.moves) == written, "people were written again"


@pytest.mark.parametrize("point", ["before-publish", "after-publish", "after-groups"])
def test_a_change_of_model_that_is_killed_is_made_up_for_by_the_next_run(world: World, point: str) -> None:
    before = shown_people(world.group())
    examine_anew(world)
    world.change_model(kill_points=KillsAt(point))
    with pytest.raises(Killed):
        world.receive()
    world.clock.sleep(LEASE_S)
    world.change_model(kill_points=KillPoints())
    assert shown_people(world.group(mode="full")) == before
    assert {one.model_id for one in world.faces.faces.values()} == {OTHER}


def test_photos_that_are_examined_after_an_allowed_change_bring_their_people_back(world: World) -> None:
    before = shown_people(world.group())
    world.change_model(allows_model_change=True)
    assert world.group().people == []
    assert set(world.statuses.values()) == {"absent"}
    examine_anew(world)
    assert shown_people(world.group()) == before


def rename_photos(world: World, *names: str) -> None:
    """Photos get other keys and come as another export, all in one window."""
    for name in names:
        faces = [one.embedding for one in world.faces.faces.values() if one.image_id == name]
        assert world.faces.remove_photo(photo(name), world.faces.find_image(photo(name))[1])
        world.add(f"2024/{name}", *(near(vector, 40 + row) for row, vector in enumerate(faces)))


def test_people_whose_photos_all_get_other_keys_keep_ids_and_names(world: World) -> None:
    before = world.group()
    world.people.names["g", before.people[0].person_id] = "Ann"
    named = shown_people(world.group(mode="full"))
    rename_photos(world, "1", "2", "3")
    renamed = {person: (name, [f"2024/{one}" for one in photos]) for person, (name, photos) in named.items()}
    assert shown_people(world.group()) == renamed
    rename_photos(world, "2024/1", "2024/2", "2024/3")
    assert list(shown_people(world.group())) == list(named)


def test_strangers_on_photos_that_come_as_others_go_are_new_people(world: World) -> None:
    before = set(shown_people(world.group()))
    for name in ("1", "2", "3"):
        assert world.faces.remove_photo(photo(name), world.faces.find_image(photo(name))[1])
    world.add("4", *np.eye(8, 16, dtype=np.float32)[4:6])
    assert not before & set(shown_people(world.group()))


def test_former_vectors_that_are_broken_recall_nobody_and_stop_nothing(world: World) -> None:
    before = set(shown_people(world.group()))
    world.objects.put("face-worker/g/people.vectors", b"broken", "")
    rename_photos(world, "1", "2", "3")
    after = shown_people(world.group())
    assert (len(after), before & set(after)) == (3, set())


def test_a_message_for_another_queue_is_rejected(world: World) -> None:
    with pytest.raises(RejectMessage):
        world.group(type="detect_image")


def poor(of: str, index: int, vector: np.ndarray, unified: float) -> FaceRecord:
    return replace(face_record(photo(of), index, vector), quality={"unified": unified, "size_px": 50.0})


def add_poor(world: World, name: str, unified: float) -> None:
    """One more photo of Ann, hardly recognisable, in which she is not very similar to anybody."""
    faces = [poor(name, 0, near(ANN, 9), unified)]
    world.store(PhotoResult(image_record(photo(name), 1), faces))
    world.galleries.mark_dirty("g", 30)


def test_a_face_below_the_bar_is_left_out_with_the_reason(world: World) -> None:
    add_poor(world, "4", unified=12)
    groups = world.group()
    (face,) = groups.unassigned
    assert (face.image_id, face.why_alone) == ("4", "Its quality is 12 of 100, below 20: it is poor.")
    assert world.person_of("4") is None
    assert world.galleries.galleries["g"].summary["unassigned"] == 1


def test_a_border_face_joins_its_person_and_is_not_the_cover(world: World) -> None:
    add_poor(world, "4", unified=30)
    groups = world.group()
    assert groups.unassigned == []
    assert world.person_of("4") == world.person_of("1", 0)
    assert not any(person.cover_face_id.startswith("g/4/") for person in groups.people)


def test_a_person_that_lost_its_last_core_face_loses_its_border_face(world: World) -> None:
    add_poor(world, "4", unified=30)
    world.group()
    for name in ("1", "2", "3"):
        world.store(PhotoResult(image_record(photo(name), 0)))
    world.galleries.mark_dirty("g", 30)
    assert [face.image_id for face in world.group().unassigned] == ["4"]
    assert world.person_of("4") is None


def test_a_gallery_may_ask_for_less(world: World) -> None:
    add_poor(world, "4", unified=12)
    world.galleries.set_quality("g", QualityBars(core=10, border=5))
    assert world.group().unassigned == []


def test_a_gallery_may_have_a_threshold_of_its_own(world: World) -> None:
    people = len(world.group().people)
    # No two faces are so similar that they are one person.
    world.galleries.set_threshold("g", 0.999)
    assert len(world.group().people) > people
    world.galleries.set_threshold("g", None)
    assert len(world.group().people) == people


def test_quality_that_is_only_recorded_leaves_no_face_out(world: World) -> None:
    world.parts = replace(world.parts, uses_quality=False)
    add_poor(world, "4", unified=1)
    assert world.group().unassigned == []
    assert world.person_of("4") == world.person_of("1", 0)


def test_telemetry_hears_of_a_run_its_people_and_its_stages(world: World) -> None:
    listener = Listener()
    world.parts = replace(world.parts, telemetry=listener.telemetry)
    world.group()
    sums = listener.metrics.sums
    assert (sums[Metric.FULL_RUNS], sums[Metric.INCREMENTAL_RUNS], sums[Metric.FACES_GROUPED]) == (1, 0, 6)
    assert listener.metrics.values[Metric.PEOPLE] == [3]
    assert len(listener.metrics.values[Metric.GROUPING_SECONDS]) == 1
    stages = ["read", "cluster", "people", "write people", "publish people", "publish", "write covers", "write files"]
    assert listener.tracer.stages == stages
    assert listener.tracer.facts == {"gallery": "g", "mode": "auto"}


def test_telemetry_hears_whether_a_run_knew_the_one_before_and_how_a_full_one_differs(tmp_path: Path) -> None:
    listener = Listener()
    world = World().with_index(tmp_path)
    world.parts = replace(world.parts, telemetry=listener.telemetry)
    for number in range(4):
        world.add(f"a{number}", near(ANN, number))
    world.group()
    world.add("b", near(ANN, 9))
    world.group()
    world.group(mode="full")
    sums = listener.metrics.sums
    assert (sums[Metric.INDEX_MISSES], sums[Metric.INDEX_HITS]) == (1, 2)
    assert (sums[Metric.FULL_RUNS], sums[Metric.INCREMENTAL_RUNS]) == (2, 1)
    assert listener.metrics.values[Metric.GROUPING_DIFFERENCE] == [0]


def test_a_message_that_is_left_for_a_gallery_under_work_carries_the_trace_on(world: World) -> None:
    world.parts = replace(world.parts, telemetry=Listener(sends="00-trace").telemetry)
    world.galleries.take_lease("g", "another", LEASE_S)
    world.receive(mode="full")
    (letter,) = world.queue.letters
    assert letter.attributes == {"traceparent": "00-trace"}


def test_version_1_is_one_file_and_leaves_none_of_version_2(world: World) -> None:
    second = world.group()
    assert any("/groups/people/" in key for key in world.objects.output_keys)
    world.parts = replace(world.parts, groups_version=1)
    world.galleries.mark_dirty("g", 30)
    first = world.group()
    assert json.loads(world.objects.read("face-worker/g/groups.json"))["version"] == 1
    assert [one.person_id for one in first.people] == [one.person_id for one in second.people]
    assert not any("/groups/" in key for key in world.objects.output_keys)


def test_people_are_shown_by_numbers_that_stay(world: World) -> None:
    groups = world.group()
    assert [(one.number, one.photo_count) for one in groups.people] == [(1, 3), (2, 2), (3, 1)]
    eve = groups.people[2].person_id
    for seed in range(4):
        world.add(f"e{seed}", near(EVE, seed))
    groups = world.group()
    assert [(one.person_id == eve, one.number) for one in groups.people] == [(True, 3), (False, 1), (False, 2)]
    assert b'"label":"Person 3","photos":5' in world.objects.read("face-worker/g/people.html")


def test_a_pair_that_was_nearly_joined_is_suggested_until_its_owner_says_no(world: World) -> None:
    like_eve = 0.45 * EVE + np.sqrt(1 - 0.45**2) * np.eye(16, dtype=np.float32)[7]
    world.add("4", like_eve.astype(np.float32))
    groups = world.group()
    eve, other = (one.person_id for one in groups.people if one.photo_count == 1)

    def suggested() -> list[set[str]]:
        index = json.loads(world.objects.read("face-worker/g/groups.json"))
        files = [json.loads(world.objects.read(f"face-worker/g/{part['shard']}")) for part in index["suggestions"]]
        return [{pair["person_id"], pair["other"]} for file in files for pair in file["suggestions"]]

    assert suggested() == [{eve, other}]
    edit(world, {"op": "keep_apart", "person_id": eve, "other": other})
    world.group()
    assert suggested() == []


def test_applications_are_told_of_a_run_with_what_has_changed(world: World) -> None:
    groups = world.group()
    (told,) = world.events.added
    assert (told.type, told.gallery_id) == ("gallery.grouped", "g")
    people = sorted(person.person_id for person in groups.people)
    expected = {"published": 1, "model": MODEL, "people": 3, "photos": 3, "changed": 3, "merged": {}}
    assert told.data == {
        **expected,
        "revision": 3,
        "changed_people": people,
        "groups_key": "face-worker/g/groups.json",
    }
    world.add("4", near(ANN, 9))
    world.group()
    assert world.events.added[1].data["changed_people"] == [world.person_of("1")]


def test_a_run_that_dies_after_its_people_are_published_is_told_by_the_next_with_all_that_changed(world: World) -> None:
    world.galleries.outages["record_run"] = 1
    with pytest.raises(RetryLater):
        world.group()
    world.events.note_sent(world.events.added)
    world.group()
    first, second = world.events.added
    assert first == second
    assert first.data["changed"] == 3


def test_a_run_is_not_recorded_before_its_event_is_kept(world: World) -> None:
    world.events.outages["add"] = 1
    with pytest.raises(RetryLater):
        world.group()
    assert world.galleries.galleries["g"].grouped is None
    world.group()
    assert [event.data["changed"] for event in world.events.added] == [3]
