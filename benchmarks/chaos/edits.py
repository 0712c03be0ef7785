"""`python -m benchmarks edits`: is each edit of people applied exactly once, and how soon?

First in peace: edits of an idle gallery, and of an idle one while the only worker groups a large gallery. The times are
from the send until the journal has the edit as applied. Then in a storm: edits of several galleries are sent, each up
to three times and out of order, between grouping messages, while two workers are killed, at random and at each of their
points between receive and delete. In the end every edit must be in the journal as applied or refused, each gallery's
revision must have grown by one for each applied edit, and each person must have the name of its last applied edit. The
exit code is 1 where one does not, or where an edit of an idle gallery took more than 2 s.
"""

import argparse
import json
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from app.adapters.mongo import ensure_indexes
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.mongo_journal import MongoEditJournal
from app.core.journal import EditState
from app.core.records import FaceRecord, ImageRecord, ImageStatus, PhotoRef, PhotoResult, make_face_id
from app.packs.store import PackStore
from benchmarks.chaos.fleet import Exit, Fleet, Slot
from benchmarks.chaos.storm import await_quiet
from benchmarks.chaos.world import World, WorldOptions
from benchmarks.common.command import UnusableInput, add_database_option, print_result
from local.stack import ROOT

POINTS = ("after-receive", "after-journal", "after-edit", "before-publish", "after-publish", "after-delete")
DIMENSION = 64
MOST_IDLE_S = 2.0
PATIENCE_S = 180.0
GALLERIES = 4


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks edits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", type=int, default=200, help="edits in the storm (200)")
    parser.add_argument("--faces", type=int, default=20_000, help="faces of the large gallery (20,000)")
    parser.add_argument("--seconds", type=float, default=60, help="how long the storm lasts (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    add_database_option(parser)
    options = parser.parse_args(arguments)
    found = print_result(lambda: measure_edits(options), as_json=options.json)
    return 0 if found and not found["violations"] and found["idle_max_ms"] <= 1000 * MOST_IDLE_S else 1


def measure_edits(options: argparse.Namespace) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix="edits-") as folder:
        home = Path(folder)
        quiet, storm = (
            WorldOptions(home / name, database=options.database, max_receives=20) for name in ("quiet", "storm")
        )
        with World(quiet) as world:
            times = _measure_times(Bench(world, options.seed), options.faces)
        with World(storm) as world:
            return {**times, **_run_storm(Bench(world, options.seed), options.edits, options.seconds)}


class Bench:
    """The stores and queues of a world, as an application and an observer use them."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)  # noqa: S311 - a fixed order, not a secret
        self.galleries = MongoGalleryStore(world.database)
        self.journal = MongoEditJournal(world.database)
        self._faces = MongoFaceStore(world.database)
        self._model_id = PackStore(ROOT / "models").read("open").model_id
        ensure_indexes(world.database)

    def fill(self, gallery_id: str, people: int, photos: int) -> None:
        """Store faces that are as similar as those of so many people, in so many photos each."""
        vectors = np.random.default_rng(people).normal(size=(people, DIMENSION))
        for number in range(photos):
            photo = PhotoRef(gallery_id, f"{number}", "photos", f"{gallery_id}/{number}.jpg", f"{number}")
            noise = np.random.default_rng(number).normal(scale=0.2, size=vectors.shape)
            moved = vectors + noise
            unit = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
            image = ImageRecord(
                photo,
                ImageStatus.INDEXED,
                etag="e",
                face_count=people,
                model_id=self._model_id,
                width_px=9,
                height_px=9,
            )
            faces = [self._make_face(photo, row, vector) for row, vector in enumerate(unit)]
            self._faces.save_photos([PhotoResult(image, faces)])
        self.galleries.mark_dirty(gallery_id, 0)

    def _make_face(self, photo: PhotoRef, row: int, vector: np.ndarray) -> FaceRecord:
        return FaceRecord(
            face_id=make_face_id(photo, self._model_id, row),
            gallery_id=photo.gallery_id,
            image_id=photo.image_id,
            model_id=self._model_id,
            box=np.zeros(4, np.float32),
            landmarks=np.zeros((5, 2), np.float32),
            det_score=0.9,
            quality={"unified": 80.0},
            embedding=vector,
            crop_key="",
        )

    def send(self, message: Mapping[str, Any], delay_s: int = 0) -> None:
        url = self.world.queues["grouping"]
        self.world.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(message), DelaySeconds=delay_s)

    def group(self, gallery_id: str, mode: str = "auto") -> None:
        self.send({"type": "group_gallery", "gallery_id": gallery_id, "mode": mode})

    def list_people(self, gallery_id: str) -> list[str]:
        found = self.world.database["people"].find({"gallery_id": gallery_id, "status": "active"}, ["person_id"])
        return sorted(one["person_id"] for one in found)

    def await_grouped(self, gallery_id: str) -> None:
        self._await(lambda: bool((state := self.galleries.find_gallery(gallery_id)) and state.last_run), "The run")

    def time_edit(self, gallery_id: str, number: int, person_id: str) -> float:
        """Seconds from the send until the edit is applied."""
        edit_id, began = f"timed-{number}", time.monotonic()
        self.send(make_edit(gallery_id, edit_id, {"op": "name", "person_id": person_id, "name": f"Name {number}"}))

        def is_applied() -> bool:
            edit = self.journal.find(gallery_id, edit_id)
            return edit is not None and edit.state is EditState.APPLIED

        self._await(is_applied, f"The edit {edit_id}")
        return time.monotonic() - began

    def is_running(self, gallery_id: str) -> bool:
        return (self.world.database["galleries"].find_one({"_id": gallery_id}) or {}).get("progress") is not None

    def _await(self, is_there: Any, what: str) -> None:  # noqa: ANN401 - a function without arguments
        until = time.monotonic() + PATIENCE_S
        while not is_there():
            if time.monotonic() > until:
                raise UnusableInput(f"{what} did not come within {PATIENCE_S:.0f} s.")
            time.sleep(0.01)


def make_edit(gallery_id: str, edit_id: str, *operations: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "edit_people", "gallery_id": gallery_id, "edit_id": edit_id, "by": "a user", "edits": operations}


def _measure_times(bench: Bench, faces: int) -> dict[str, Any]:
    bench.fill("small", 5, 6)
    bench.fill("large", faces // 100, 100)
    logs = bench.world.options.home / "logs"
    with Fleet(bench.world.environment, logs, {"grouping": 1}, lambda _slot, _last: {}):
        bench.group("small")
        bench.await_grouped("small")
        await_quiet(bench.world, PATIENCE_S)
        person = bench.list_people("small")[0]
        idle: list[float] = []
        beside: list[float] = []
        for number in range(30):
            idle.append(bench.time_edit("small", number, person))
            await_idle(bench)
        bench.group("large", "full")
        until = time.monotonic() + PATIENCE_S
        while not bench.is_running("large") and time.monotonic() < until:
            time.sleep(0.01)
        while bench.is_running("large") and len(beside) < 30:
            took = bench.time_edit("small", 1_000 + len(beside), person)
            # The run may have ended meanwhile.
            beside += [took] if bench.is_running("large") else []
            await_idle(bench, "small")
        await_quiet(bench.world, PATIENCE_S)
    return {
        "idle_median_ms": round(1000 * statistics.median(idle)),
        "idle_max_ms": round(1000 * max(idle)),
        "beside_a_run_median_ms": round(1000 * statistics.median(beside)) if beside else None,
        "beside_a_run_max_ms": round(1000 * max(beside)) if beside else None,
        "beside_a_run": len(beside),
    }


def await_idle(bench: Bench, gallery_id: str = "small") -> None:
    """Wait until nobody has the gallery's lease."""
    while (bench.world.database["leases"].find_one({"_id": gallery_id}) or {}).get("owner"):
        time.sleep(0.01)


def _run_storm(bench: Bench, edits: int, seconds: float) -> dict[str, Any]:
    names = [f"storm-{number}" for number in range(GALLERIES)]
    for number, gallery_id in enumerate(names):
        bench.fill(gallery_id, 4 + number, 6)
    points, is_over = cycle(POINTS), threading.Event()

    def choose_kill(_slot: Slot, last: Exit | None) -> dict[str, str]:
        # The first process gathers the people.
        if last is None or is_over.is_set():
            return {}
        return {"CHAOS_KILL_AT": f"{next(points)}:{bench.chance.randint(1, 3)}"}

    with Fleet(bench.world.environment, bench.world.options.home / "logs", {"grouping": 2}, choose_kill) as fleet:
        for gallery_id in names:
            bench.group(gallery_id)
        for gallery_id in names:
            bench.await_grouped(gallery_id)
        await_quiet(bench.world, PATIENCE_S)
        before = {gallery_id: _read_revision(bench, gallery_id) for gallery_id in names}
        sent = _send_edits(bench, fleet, names, edits, seconds)
        is_over.set()
        unrest = await_quiet(bench.world, PATIENCE_S)
        exits = list(fleet.exits)
    violations = [*([unrest] if unrest else []), *_check(bench, sent, before)]
    states = [edit.state for gallery_id, edit_id in sent if (edit := bench.journal.find(gallery_id, edit_id))]
    return {
        "edits": len(sent),
        "messages": sum(sent.values()),
        "applied": states.count(EditState.APPLIED),
        "refused": states.count(EditState.REFUSED),
        "kills": sum(one.code == -signal.SIGKILL for one in exits),
        "killed_at_points": sorted({str(one.killed_at) for one in exits if one.killed_at}),
        "violations": violations,
    }


def _send_edits(bench: Bench, fleet: Fleet, names: list[str], count: int, seconds: float) -> dict[tuple[str, str], int]:
    """Send random edits, each up to three times, and kill workers. Returns how often each was sent."""
    sent: dict[tuple[str, str], int] = {}
    ids: dict[str, list[str]] = {gallery_id: [] for gallery_id in names}
    people = {gallery_id: bench.list_people(gallery_id) for gallery_id in names}
    for number in range(count):
        gallery_id = bench.chance.choice(names)
        edit_id = f"e{number}"
        operation = _choose(bench.chance, people[gallery_id], ids[gallery_id], number)
        times = bench.chance.choice([1, 2, 3])
        for again in range(times):
            bench.send(make_edit(gallery_id, edit_id, operation), delay_s=bench.chance.choice([0, again, 3 * again]))
        sent[gallery_id, edit_id] = times
        ids[gallery_id].append(edit_id)
        if bench.chance.random() < 0.2:
            bench.group(bench.chance.choice(names))
        if number % 20 == 19:
            fleet.signal(bench.chance.choice(fleet.slots), signal.SIGKILL)
        time.sleep(seconds / count)
    return sent


def _choose(chance: random.Random, people: list[str], ids: list[str], number: int) -> dict[str, Any]:
    person, other = chance.sample(people, 2)
    op = chance.choice(["name", "name", "hide", "show", "merge", "keep_apart", "undo"])
    if op == "undo" and ids:
        return {"op": op, "edit_id": chance.choice(ids)}
    more: dict[str, dict[str, Any]] = {"merge": {"others": [other]}, "keep_apart": {"other": other}}
    if op in ("name", "undo"):
        return {"op": "name", "person_id": person, "name": f"Name {number}"}
    return {"op": op, "person_id": person, **more.get(op, {})}


def _read_revision(bench: Bench, gallery_id: str) -> int:
    state = bench.galleries.find_gallery(gallery_id)
    return state.revision if state else 0


def _check(bench: Bench, sent: Mapping[tuple[str, str], int], before: Mapping[str, int]) -> list[str]:
    """A sentence for each edit that is lost or left, and for each gallery in which one was applied twice."""
    found = {key: bench.journal.find(*key) for key in sent}
    wrong = [f"The edit {'/'.join(key)} is not in the journal." for key, edit in found.items() if edit is None]
    edits = sorted((edit for edit in found.values() if edit), key=lambda edit: edit.number)
    wrong += [
        f"The edit {one.edit_id} of {one.gallery_id} is queued." for one in edits if one.state is EditState.QUEUED
    ]
    applied = [edit for edit in edits if edit.state is EditState.APPLIED]
    for gallery_id, first in before.items():
        mine, grown = (
            [one for one in applied if one.gallery_id == gallery_id],
            _read_revision(bench, gallery_id) - first,
        )
        if grown != len(mine):
            wrong.append(f"{gallery_id} has {grown} changes for {len(mine)} applied edits.")
        if left := bench.journal.list_unsettled(gallery_id):
            wrong.append(f"Of {len(left)} edits of {gallery_id} nobody was told.")
        state = bench.galleries.find_gallery(gallery_id)
        if state and state.last_run and state.last_run["revision"] != state.revision:
            wrong.append(
                f"{gallery_id} is at revision {state.revision}, its last run saw {state.last_run['revision']}."
            )
        wrong += _check_names(bench, gallery_id, [change for edit in mine for change in edit.changes])
    return wrong


def _check_names(bench: Bench, gallery_id: str, changes: list[Any]) -> list[str]:
    """What the last edit that changed a person's name has left must be there."""
    last = {one.ids[0]: one.after["name"] for one in changes if one.kind == "person" and "name" in (one.after or {})}
    found = {
        one["person_id"]: one.get("name") for one in bench.world.database["people"].find({"gallery_id": gallery_id})
    }
    return [
        f"{person_id} of {gallery_id} is called {found.get(person_id)}, and was last called {name}."
        for person_id, name in last.items()
        if found.get(person_id) != name
    ]
