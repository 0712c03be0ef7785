"""Is what was forgotten gone, does it stay gone, and is everything else as it was? Prints one line of JSON.

Photos, a person and a gallery are forgotten while the grouping workers are killed again and again, each time at another
point. Then MongoDB is put back to a copy from before, as after a disaster, every message is sent once more, and photos
are examined anew by force. `left` counts what a proof finds after the kills, `revived` what it finds after the restored
copy and the replays, and `neighbours_changed` faces, names, pictures and documents of others that are not as they were.

The exit code is 1 where one of the three is not 0.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import bson
from PIL import Image

from app.adapters.mongo_proof import MongoProof
from app.adapters.s3 import S3Store
from app.admin.forget import Proof
from app.core.errors import WorkerError
from app.core.messages import DetectImage
from app.core.result_keys import ResultKeys
from app.core.tombstones import make_order
from benchmarks.chaos.fleet import Exit, Fleet, Slot
from benchmarks.chaos.snapshot import read_dead_letters
from benchmarks.chaos.storm import await_quiet
from benchmarks.chaos.workload import make_picture
from benchmarks.chaos.world import SETTINGS, Environment, World, WorldOptions
from local.database import DATABASE_NAMES, DatabaseName
from local.stack import ROOT, LocalStackError

SCOPES = ("photo", "person", "gallery")
NEIGHBOUR = "neighbour"
GALLERIES = (*SCOPES, NEIGHBOUR)
KILLS = {
    "photo": ("after-tombstone:1", "mid-erasure:1", "after-groups:1", "after-erasure:1"),
    "person": (
        "after-tombstone:1",
        "after-put:1",
        "mid-erasure:1",
        "mid-erasure:3",
        "after-groups:1",
        "after-erasure:1",
    ),
    "gallery": ("after-tombstone:1", "mid-erasure:1", "mid-erasure:2", "after-erasure:1"),
}
REPLAY_KILLS = ("after-put:1", "after-save:1")
FACES = (5, 6, 7, 8, 10)
"""Rows of every twelve pictures of the chaos workload that show a passer-by; those below 4 show one woman."""
PATIENCE_S = 300.0
TRIES = 12
"""The queues' maxReceiveCount: every kill costs a message one of its tries."""
BOOKKEEPING = ("version", "was", "since")


@dataclass(frozen=True)
class Options:
    photos: int
    most_kills: int
    pack: str


class Killer:
    """Starts each grouping worker with the next point at which it is to die, and counts the deaths."""

    def __init__(self) -> None:
        self.kills_at: dict[str, int] = {}
        self._points: dict[str, list[str]] = {"grouping": [], "detection": []}
        self._lock = threading.Lock()

    def make_environment(self, slot: Slot, last: Exit | None) -> Mapping[str, str]:
        with self._lock:
            if last and last.killed_at:
                self.kills_at[last.killed_at] = self.kills_at.get(last.killed_at, 0) + 1
            points = self._points[slot.service]
            return {"CHAOS_KILL_AT": points.pop(0)} if points else {}

    def arm(self, fleet: Fleet, service: str, points: Iterable[str]) -> None:
        """Restart one worker of the service with the first point; each of its next lives gets the next one."""
        with self._lock:
            self._points[service] = list(points)
        slot = next(slot for slot in fleet.slots if slot.service == service)
        life = slot.life
        fleet.signal(slot, signal.SIGKILL)
        _await(lambda: slot.life > life and fleet.is_ready(slot), "the restart of a worker")


class Round:
    """All of it on one database."""

    def __init__(self, world: World, fleet: Fleet, killer: Killer, options: Options) -> None:
        self.world, self.fleet, self.killer, self.options = world, fleet, killer, options
        self.bucket, self.results = SETTINGS["BUCKET_NAME"], SETTINGS["FACE_GROUP_BUCKET_NAME"]
        self.names = [f"photo-{row:02}" for row in range(options.photos)]
        with Environment(world.straight):
            self.objects = S3Store(self.results, world.straight["AWS_DEFAULT_REGION"])
        self.proof = Proof(MongoProof(world.database, world.mongo["huemn"]), self.objects, ResultKeys())

    def run(self) -> dict[str, Any]:
        self._fill()
        person = self._choose_person()
        forgotten = self.names[: max(1, len(self.names) // 3)]
        before = self._look(person, forgotten)
        backup = self._back_up()
        self._forget(person, forgotten)
        left = self._prove()
        changed = self._compare(before, self._look(person, forgotten))
        self._restore(backup)
        revived = self._prove()
        changed += self._compare(before, self._look(person, forgotten))
        self._replay()
        revived += self._prove()
        changed += self._compare(before, self._look(person, forgotten))
        letters = [f"{one.queue}: {one.reason}" for one in read_dead_letters(self.world)]
        return {
            "left": len(left),
            "revived": len(revived),
            "neighbours_changed": len(changed),
            "kills": sum(self.killer.kills_at.values()),
            "kills_at": self.killer.kills_at,
            "requests": len(self.proof.mongo.list_requests()),
            "faces_of_others": len(before),
            "dead_letters": letters,
            "examples": [*left, *revived, *changed][:10],
        }

    def _fill(self) -> None:
        for gallery in GALLERIES:
            for row, name in enumerate(self.names):
                self.world.s3.put_object(Bucket=self.bucket, Key=f"{gallery}/{name}.jpg", Body=_make_photo(row))
                self._send("detection", self._detect(gallery, name))
        self._await_quiet()

    def _choose_person(self) -> str:
        faces = self.world.database["faces"].find({"gallery_id": "person", "person_id": {"$exists": True}})
        counts: dict[str, int] = {}
        for face in faces:
            counts[face["person_id"]] = counts.get(face["person_id"], 0) + 1
        if not counts:
            raise LocalStackError("Nobody was found in the photos, so nobody can be forgotten.")
        return max(counts, key=lambda one: (counts[one], one))

    def _forget(self, person: str, photos: list[str]) -> None:
        orders: dict[str, list[dict[str, str]]] = {
            "photo": [{"request_id": f"photo-{name}", "image_id": name} for name in photos],
            "person": [{"request_id": "person", "person_id": person}],
            "gallery": [{"request_id": "gallery", "confirm": "gallery"}],
        }
        for scope, requests in orders.items():
            self.killer.arm(self.fleet, "grouping", KILLS[scope][: self.options.most_kills])
            for order in requests:
                self._send("grouping", json.dumps({"type": "forget", "scope": scope, "gallery_id": scope, **order}))
            self._await_quiet()

    def _replay(self) -> None:
        """Late and repeated messages of all kinds, with detection workers that die."""
        self.killer.arm(self.fleet, "detection", REPLAY_KILLS)
        for gallery in GALLERIES:
            for name in self.names:
                self._send("detection", self._detect(gallery, name))
                if gallery != NEIGHBOUR:
                    self._send("detection", self._detect(gallery, name, force=True))
            if gallery != NEIGHBOUR:
                self._send("grouping", json.dumps({"type": "group_gallery", "gallery_id": gallery}))
        for scope in SCOPES:
            for tombstone in self.proof.mongo.list_requests(scope):
                self._send("grouping", make_order(tombstone).model_dump_json(exclude_none=True))
        self._await_quiet()

    def _back_up(self) -> dict[str, list[dict[str, Any]]]:
        return {name: list(self.world.database[name].find()) for name in self.world.database.list_collection_names()}

    def _restore(self, backup: dict[str, list[dict[str, Any]]]) -> None:
        for name in self.world.database.list_collection_names():
            self.world.database[name].delete_many({})
            if backup.get(name):
                self.world.database[name].insert_many(backup[name])
        run_admin(self.world, "forget", "again", "--json")
        self._await_quiet()

    def _prove(self) -> list[str]:
        return [what for one in self.proof.mongo.list_requests() for what in self.proof.list_left(one)]

    def _look(self, person: str, forgotten: list[str]) -> dict[str, object]:
        """All that must stay, by name: others' faces with their person, vector and crop, names, and the neighbour."""
        found: dict[str, object] = {}
        database = self.world.database
        for face in database["faces"].find({"gallery_id": {"$in": ["photo", "person", NEIGHBOUR]}}):
            is_meant = face.get("person_id") == person or (
                face["gallery_id"] == "photo" and face["image_id"] in forgotten
            )
            if not is_meant:
                crop = self.objects.read_part(face["crop_key"], *face["crop_range"])
                found[f"face {face['_id']}"] = (face.get("person_id"), bytes(face["embedding"]), crop)
        for one in database["people"].find({"gallery_id": NEIGHBOUR}):
            found[f"person {one['_id']}"] = bson.encode(
                {name: value for name, value in one.items() if name not in BOOKKEEPING}
            )
        for one in database["images"].find({"gallery_id": NEIGHBOUR}):
            found[f"image {one['_id']}"] = (one["etag"], one["face_count"], one["status"])
        return found

    def _compare(self, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
        return [f"changed: {name}" for name in before if after.get(name) != before[name]]

    def _detect(self, gallery: str, name: str, *, force: bool = False) -> str:
        key = f"{gallery}/{name}.jpg"
        return DetectImage(gallery_id=gallery, image_id=name, s3_key=key, force=force).model_dump_json()

    def _send(self, queue: str, body: str) -> None:
        self.world.sqs.send_message(QueueUrl=self.world.queues[queue], MessageBody=body)

    def _await_quiet(self) -> None:
        unrest = await_quiet(self.world, PATIENCE_S)
        if unrest:
            raise LocalStackError(unrest)


def measure(databases: Iterable[DatabaseName], options: Options, home: Path) -> dict[str, Any]:
    began = time.monotonic()
    results = {name: _run_on(name, options, home / name) for name in databases}
    sums = {name: sum(one[name] for one in results.values()) for name in ("left", "revived", "neighbours_changed")}
    return {**sums, "databases": results, "seconds": round(time.monotonic() - began, 1)}


def _run_on(name: DatabaseName, options: Options, home: Path) -> dict[str, Any]:
    world_options = WorldOptions(home, options.pack, max_receives=TRIES, database=name)
    killer = Killer()
    with World(world_options) as world:
        enabled = {"Status": "Enabled"}
        world.s3.put_bucket_versioning(Bucket=SETTINGS["FACE_GROUP_BUCKET_NAME"], VersioningConfiguration=enabled)
        indexes = {"GALLERY_INDEX_DIR": str(home / "index")}
        fleet = Fleet(
            {**world.environment, **indexes}, home / "logs", {"detection": 1, "grouping": 1}, killer.make_environment
        )
        with fleet:
            return Round(world, fleet, killer, options).run()


def _make_photo(row: int) -> bytes:
    """The same woman in each, beside somebody else; each file is different."""
    woman = make_picture(12 * (row // 4) + row % 4)
    passer_by = make_picture(12 * (row // len(FACES)) + FACES[row % len(FACES)])
    photo = Image.new("RGB", (woman.width + passer_by.width, max(woman.height, passer_by.height)), (90, 120, 90))
    photo.paste(woman, (0, 0))
    photo.paste(passer_by, (woman.width, 0))
    buffer = BytesIO()
    photo.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def run_admin(world: World, *arguments: str) -> None:
    command = [sys.executable, "-m", "app.admin", *arguments]
    environment = {**os.environ, **world.environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalStackError(f"{' '.join(arguments)} failed: {done.stderr.strip()}")


def _await(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise LocalStackError(f"{what} did not come within {PATIENCE_S:.0f} s.")
        time.sleep(0.2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks erasure", description=__doc__)
    parser.add_argument("--databases", nargs="+", choices=DATABASE_NAMES, default=list(DATABASE_NAMES))
    parser.add_argument("--photos", type=int, default=9, help="photos of each of the four galleries (9)")
    parser.add_argument("--kills", type=int, default=9, help="kills of a request's workers at most (9)")
    parser.add_argument("--pack", default="open", help="model pack (open)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep all logs here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="erasure-") as temporary:
        home = (options.keep or Path(temporary)).resolve()
        try:
            result = measure(options.databases, Options(options.photos, options.kills, options.pack), home)
        except WorkerError as error:
            print(error, file=sys.stderr)
            return 1
    print(json.dumps(result))
    return 1 if result["left"] or result["revived"] or result["neighbours_changed"] else 0


if __name__ == "__main__":
    sys.exit(main())
