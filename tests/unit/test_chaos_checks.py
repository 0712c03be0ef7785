"""The chaos benchmark's checks see what is wrong: each is shown one fault in a result that is fine otherwise."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chaos import checks
from benchmarks.chaos.__main__ import SUMS, summarise_rounds
from benchmarks.chaos.fleet import Exit
from benchmarks.chaos.journal import Event, JournalReader, measure_redelivery_times
from benchmarks.chaos.nemesis import RACES, make_plan
from benchmarks.chaos.snapshot import DeadLetter, Document, Snapshot
from benchmarks.chaos.workload import Sent, make_workload

DETECTION_DEAD = "detection-dead-letters"
CROPS, PREVIEW = "face-worker/g/faces/i.jpg/01234567-0-c-m.crops", "face-worker/g/previews/i.jpg/01234567-0-c.jpg"
GROUPS, PAGE = "face-worker/g/groups.json", "face-worker/g/people.html"


def face(index: int, person: str | None = "p1") -> Document:
    return {
        "_id": f"g/i/m/{index}",
        "gallery_id": "g",
        "image_id": "i",
        "embedding": np.eye(4, dtype=np.float32)[index],
        "box": [0.0, 0.0, 10.0, 10.0 + index],
        "landmarks": [[1.0, 2.0]] * 5,
        "crop_key": CROPS,
        "crop_range": [10 * index, 10],
        "digest": f"digest-{index}",
        "etag": "e",
        "person_id": person,
    }


@pytest.fixture
def run() -> Snapshot:
    """One gallery with one photo of two faces of one person, and two dead letters."""
    image = {"_id": "g/i", "gallery_id": "g", "image_id": "i", "status": "indexed", "reason": None, "face_count": 2}
    image |= {"width": 5, "height": 5, "model": "m", "etag": "e", "preview_key": PREVIEW}
    faces = {one["_id"]: one for one in (face(0), face(1))}
    listed = [{"face_id": name} for name in faces]
    return Snapshot(
        images={"g/i": image},
        faces=faces,
        people={"g/p1": {"_id": "g/p1", "gallery_id": "g", "person_id": "p1", "status": "active", "version": 3}},
        galleries={"g": {"_id": "g", "revision": 7, "published": 3, "last_run": {"revision": 7, "fence": 5}}},
        groups={"g": {"people": [{"person_id": "p1", "faces": listed}], "unassigned": [], "skipped": []}},
        keys=frozenset({CROPS, PREVIEW, GROUPS, PAGE}),
        dead_letters=[
            DeadLetter(DETECTION_DEAD, "x", "bad", "not JSON"),
            DeadLetter(DETECTION_DEAD, "y", "slow", None),
        ],
    )


SENT = [Sent(0, "photo", "good", ("g", "i")), Sent(1, "rejected", "bad"), Sent(2, "redriven", "slow")]


def all_of(run: Snapshot, calm: Snapshot) -> list[str]:
    return [
        *checks.find_lost_messages(SENT, run),
        *checks.find_ungrouped_galleries(run),
        *checks.find_duplicated_results(run, calm),
        *checks.find_different_photos(run, calm),
        *checks.find_different_groups(run, calm),
        *checks.find_fence_violations(run, [], []),
        *checks.find_orphans(run),
    ]


def test_a_result_like_the_undisturbed_one_has_nothing_wrong(run: Snapshot) -> None:
    assert all_of(run, copy.deepcopy(run)) == []


def test_other_person_ids_are_no_difference(run: Snapshot) -> None:
    calm = copy.deepcopy(run)
    calm.groups["g"]["people"][0]["person_id"] = "another"
    assert checks.find_different_groups(run, calm) == []


def drop(key: str) -> Callable[[Snapshot], Snapshot]:
    return lambda run: Snapshot(**{**vars(run), "keys": run.keys - {key}})


def add(key: str) -> Callable[[Snapshot], Snapshot]:
    return lambda run: Snapshot(**{**vars(run), "keys": run.keys | {key}})


def change(path: str, value: object) -> Callable[[Snapshot], Snapshot]:
    """`faces:g/i/m/0:person_id` names a field of a document."""

    def changed(run: Snapshot) -> Snapshot:
        collection, name, field = path.split(":")
        getattr(run, collection)[name][field] = value
        return run

    return changed


def without(collection: str, name: str) -> Callable[[Snapshot], Snapshot]:
    def changed(run: Snapshot) -> Snapshot:
        del getattr(run, collection)[name]
        return run

    return changed


def another_face(run: Snapshot) -> Snapshot:
    run.faces["g/i/m/2"] = face(2)
    return run


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (without("images", "g/i"), "Message 0 is lost"),
        (change("galleries:g:revision", 8), "its last run saw 7"),
        (another_face, "Face g/i/m/2 is one too many"),
        (without("faces", "g/i/m/1"), "Face g/i/m/1 is missing"),
        (change("faces:g/i/m/0:embedding", np.array([0.9999, 0.01, 0, 0], np.float32)), "another embedding"),
        (change("faces:g/i/m/0:box", [0.0, 0.0, 10.0, 11.0]), "another box"),
        (change("images:g/i:status", "rejected"), "has status 'rejected' instead of 'indexed'"),
        (without("groups", "g"), "g/groups.json is missing"),
        (change("groups:g:unassigned", [{"face_id": "g/i/m/1"}]), "lists g/i/m/1 2 times"),
        (change("groups:g:people", []), "The people of g are others"),
        (change("groups:g:skipped", [{"image_id": "i"}]), "The skipped photos of g"),
        (change("faces:g/i/m/0:person_id", "p2"), "1 faces have another person in MongoDB"),
        (change("people:g/p1:status", "absent"), "the active people are not those"),
        (change("people:g/p1:version", 4), "1 documents are of a version after 3"),
        (change("faces:g/i/m/0:version", 4), "1 documents are of a version after 3"),
        (change("galleries:g:writing", 4), "a version was begun and not finished"),
        (drop(CROPS), f"{CROPS} is missing"),
        (drop(PREVIEW), f"{PREVIEW} is missing"),
        (add(f"{CROPS}.crops"), f"{CROPS}.crops belongs to nothing"),
        (add("g/strange"), "g/strange is not a key"),
        (change("images:g/i:face_count", 1), "has 2 faces and says 1"),
    ],
)
def test_what_is_wrong_is_said(run: Snapshot, break_it: Callable[[Snapshot], Snapshot], sentence: str) -> None:
    calm = copy.deepcopy(run)
    assert any(sentence in said for said in all_of(break_it(run), calm))


def test_a_photo_is_not_lost_where_its_message_is_dead_lettered(run: Snapshot) -> None:
    run.images.clear()
    run.dead_letters.append(DeadLetter(DETECTION_DEAD, "z", "good", None))
    assert checks.find_lost_messages(SENT, run) == []


def put(fence: int) -> Event:
    return Event(0, "put", f"grouping-0.{fence}", key="g/groups.json", fence=fence)


def test_a_file_written_under_an_older_fence_is_a_violation(run: Snapshot) -> None:
    assert checks.find_fence_violations(run, [put(1), put(3), put(3)], []) == []
    assert len(checks.find_fence_violations(run, [put(1), put(3), put(2)], [])) == 1


def receives(body: str, count: int) -> list[Event]:
    sent = Event(0, "send", None, queue="detection", message=f"id-{body}", body=body)
    return [sent] + [Event(0, "receive", "w", queue="detection", message=f"id-{body}")] * count


def test_poison_that_is_dead_lettered_as_it_should_be_is_fine(run: Snapshot) -> None:
    assert checks.find_wrong_dead_letters(SENT, run, receives("bad", 1) + receives("slow", 5), max_receives=5) == []


@pytest.mark.parametrize("count", [4, 6])
def test_poison_redriven_after_another_number_of_receives_is_wrong(run: Snapshot, count: int) -> None:
    events = receives("bad", 1) + receives("slow", count)
    assert f"after {count} receives" in checks.find_wrong_dead_letters(SENT, run, events, max_receives=5)[0]


def test_poison_that_a_worker_rejects_at_its_last_try_may_be_redriven_by_the_queue_too(run: Snapshot) -> None:
    run.dead_letters.append(DeadLetter(DETECTION_DEAD, "z", "slow", "The last try failed.", "5"))
    events = receives("bad", 1) + receives("slow", 5)
    assert checks.find_wrong_dead_letters(SENT, run, events, max_receives=5) == []
    run.dead_letters.append(DeadLetter(DETECTION_DEAD, "z", "slow", "The last try failed.", "4"))
    assert "rejected 2 times" in checks.find_wrong_dead_letters(SENT, run, events, max_receives=5)[0]


def test_poison_that_is_redriven_twice_or_is_no_dead_letter_is_wrong(run: Snapshot) -> None:
    events = receives("bad", 1) + receives("slow", 5)
    run.dead_letters.append(run.dead_letters[1])
    assert "redriven 2 times" in checks.find_wrong_dead_letters(SENT, run, events, max_receives=5)[0]
    del run.dead_letters[1:]
    assert "redriven 0 times" in checks.find_wrong_dead_letters(SENT, run, events, max_receives=5)[0]


def test_poison_rejected_more_often_than_received_is_wrong(run: Snapshot) -> None:
    run.dead_letters.append(replace(run.dead_letters[0], receive_count="2"))
    events = receives("bad", 1) + receives("slow", 5)
    assert (
        "received 1 times and rejected 2 times" in checks.find_wrong_dead_letters(SENT, run, events, max_receives=5)[0]
    )


def test_redelivery_is_counted_from_the_kill_for_the_messages_that_were_held() -> None:
    def event(at: float, kind: str, worker: str, message: str, seconds: int | None = None) -> Event:
        return Event(at, kind, worker, queue="detection", message=message, seconds=seconds)

    events = [
        event(1, "receive", "a.0", "held"),
        event(1, "receive", "a.0", "beaten"),
        event(1, "receive", "a.0", "settled"),
        event(4, "hide", "a.0", "beaten", seconds=10),
        event(4, "hide", "a.0", "settled", seconds=3),
        event(12, "receive", "b.0", "held"),
        event(14, "receive", "b.0", "beaten"),
        event(15, "receive", "b.0", "settled"),
    ]
    exits = [Exit("a.0", -9, 5.0, was_ready=True), Exit("b.0", 0, 99.0, was_ready=True)]
    assert sorted(measure_redelivery_times(events, exits, visibility_s=10)) == [7.0, 9.0]


def test_a_slow_exit_and_one_that_never_came_are_said() -> None:
    assert len(checks.find_slow_exits([1.0, 41.0], ["detection-0.2"], bound_s=40)) == 2


def test_exits_are_expected_by_order_by_kill_and_before_ready() -> None:
    fine = [Exit("w", 0, 0, True), Exit("w", -9, 0, True), Exit("w", 4, 0, False), Exit("w", -15, 0, False)]
    assert checks.find_unexpected_exits(fine) == []
    assert len(checks.find_unexpected_exits([Exit("w", 10, 0, True), Exit("w", -15, 0, True)])) == 2


def test_holders_are_the_workers_with_unsettled_messages(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    lines = [
        {"at": 1, "event": "receive", "worker": "a.0", "queue": "detection", "message": "1"},
        {"at": 1, "event": "receive", "worker": "b.0", "queue": "detection", "message": "2"},
    ]
    half = json.dumps({"at": 2, "event": "delete", "worker": "b.0", "queue": "detection", "message": "2"})
    journal.write_text("\n".join(map(json.dumps, lines)) + "\n" + half[:20], "utf-8")
    reader = JournalReader(journal)
    assert reader.find_holders() == {"a.0", "b.0"}
    with journal.open("a", encoding="utf-8") as stream:
        stream.write(half[20:] + "\n")
    assert reader.find_holders() == {"a.0"}


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    assert make_plan(1, 6, 60) == make_plan(1, 6, 60)
    assert make_plan(1, 6, 60) != make_plan(2, 6, 60)


def test_a_plan_has_the_kills_it_was_asked_for() -> None:
    plan = make_plan(0, kills=7, seconds=60)
    named = sum(map(len, plan.kill_points.values()))
    assert named + sum(strike.kind == "kill" for strike in plan.strikes) == 7


def test_only_a_plan_for_changing_photos_kills_at_deletions_and_slows_the_database_down() -> None:
    plans = [make_plan(seed, 24, 60, changes_photos=changes) for changes in (True, False) for seed in range(3)]
    points = [[point.partition(":")[0] for point in plan.kill_points["detection"]] for plan in plans]
    assert ["after-remove" in some for some in points] == [True] * 3 + [False] * 3
    assert [any(strike.faults is RACES for strike in plan.strikes) for plan in plans] == [True] * 3 + [False] * 3


def test_a_workload_has_its_duplicates_and_poison_and_no_two_equal_bodies() -> None:
    workload = make_workload(100, seed=3)
    kinds = [message.kind for message in workload.messages]
    photos = [message.photo for message in workload.messages if message.photo]
    assert (kinds.count("photo"), kinds.count("rejected"), kinds.count("redriven")) == (98, 1, 1)
    assert len(photos) - len(set(photos)) == 10
    assert len({message.body for message in workload.messages}) == 100
    assert len(set(workload.photos.values())) == len(workload.photos) == 88


@pytest.mark.parametrize(
    ("times_s", "late"), [([9.0, 10.0, 99.0] * 9, False), ([9.0, 16.0, 99.0] * 9, True), ([99.0] * 19, False)]
)
def test_half_of_all_redeliveries_must_be_in_time_whatever_the_seed(times_s: list[float], late: bool) -> None:
    empty: dict[str, Any] = dict.fromkeys(SUMS, 0) | {"seed": 0, "kills_at": {}, "max_sigterm_exit_s": None}
    results = [{**empty, "violations": [], "redelivery_s": [time_s]} for time_s in times_s]
    assert bool(summarise_rounds(results)["violations"]) is late


def test_one_rejection_that_was_sent_twice_is_one(run: Snapshot) -> None:
    run.dead_letters.append(run.dead_letters[0])
    events = receives("bad", 1) + receives("slow", 5)
    assert checks.find_wrong_dead_letters(SENT, run, events, max_receives=5) == []
