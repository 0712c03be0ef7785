"""Forgetting: from the message to the proof, over both servers and a bucket with versions, with kills."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_forgotten import MongoForgottenPhotos, list_index_erasures
from app.adapters.mongo_galleries import MongoGalleryStore, MongoOwnerMetadata
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_people import MongoPeopleStore
from app.adapters.mongo_proof import MongoProof
from app.adapters.mongo_tombstones import MongoTombstones
from app.adapters.s3 import S3Store
from app.admin.forget import Proof
from app.clustering.neighbours import NeighbourSearch
from app.core.arrays import Floats, Image
from app.core.errors import RejectMessage
from app.core.finds import FindAnswer, FindStatus
from app.core.kill_points import KillPoint, KillPoints
from app.core.pictures import PhotoLimits
from app.core.records import PhotoRef
from app.core.result_keys import ResultKeys
from app.core.roles import QualityBars
from app.core.thresholds import Threshold
from app.detection.analysis import Analyser
from app.detection.budget import Budget
from app.detection.changes import ChangeParts
from app.detection.device import Device
from app.detection.handle import DetectionParts, handle
from app.detection.photo_store import PhotoStore
from app.grouping.handle import handle as group
from app.grouping.index import GalleryIndex
from app.grouping.parts import ForgetParts, GroupingParts
from app.telemetry.interface import Telemetry
from app.vision.face_pack import FacePack
from app.vision.types import Detections
from tests import photos
from tests.conftest import REGION, aws_client
from tests.fakes import FakeQueue
from tests.stores import ON_SERVERS, Stores
from tests.toy_pack import toy_manifest

pytestmark = pytest.mark.usefixtures("aws")
ON_ONE_SERVER = pytest.mark.parametrize("stores", ["mongod"], indirect=True)
"""For what is the same on each; `python -m benchmarks erasure` kills processes on both servers."""

KEYS = ResultKeys()
SIDE_PX = 40
COLOURS = {"ann": (230, 20, 20), "bob": (20, 230, 20), "eve": (20, 20, 230)}
OTHER_FILES = {"detector.onnx": "2" * 64, "embedder.onnx": "3" * 64}


class Killed(Exception):
    """The worker has died here."""


class Dying(KillPoints):
    """Dies when a point is reached for the nth time."""

    def __init__(self, point: KillPoint, times: int = 1) -> None:
        super().__init__()
        self.point, self.times, self.reached = point, times, 0

    def reach(self, point: KillPoint) -> None:
        self.reached += point == self.point
        if point == self.point and self.reached == self.times:
            raise Killed(point)


class ColumnDetector:
    """Finds a face in each column of a picture."""

    view_px = 1024

    def detect(self, images: list[Image]) -> list[Detections]:
        return [self._find(image.shape[1] // SIDE_PX) for image in images]

    def _find(self, count: int) -> Detections:
        left = np.arange(count, dtype=np.float32) * SIDE_PX
        boxes = np.stack([left + 5, np.full_like(left, 5), left + 35, np.full_like(left, 35)], axis=-1)
        spots = np.array([(14, 15), (26, 15), (20, 21), (15, 27), (25, 27)], np.float32)
        landmarks = spots + np.stack([left, np.zeros_like(left)], axis=-1)[:, np.newaxis]
        return Detections(boxes, landmarks, np.linspace(0.99, 0.8, count, dtype=np.float32))


class ColourEmbedder:
    """Whoever has a colour is a person."""

    dimension = 8

    def compute_vectors(self, chips: Image) -> Floats:
        colours = np.array([chip.reshape(-1, 3).mean(axis=0) for chip in chips], np.float32).reshape(-1, 3)
        vectors = np.zeros((len(colours), self.dimension), np.float32)
        vectors[:, :3] = colours
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def picture(*people: str, shade: int = 0) -> bytes:
    """A photo with these people side by side; another shade is another file."""
    pixels = np.zeros((SIDE_PX, SIDE_PX * max(1, len(people)), 3), np.uint8)
    for row, name in enumerate(people):
        pixels[:, row * SIDE_PX : (row + 1) * SIDE_PX] = np.clip(np.array(COLOURS[name]) + shade, 0, 255)
    return photos.jpeg(pixels=pixels)


class World:
    """Both services over a database and S3 with versions."""

    def __init__(self, stores: Stores, folder: Path) -> None:
        assert stores.database is not None
        self.database, self.folder = stores.database, folder
        self.owner_database = stores.database.client[f"{stores.database.name}_owner"]
        self.s3 = aws_client("s3", REGION)
        self.photos, self.results = (f"{kind}-{uuid4().hex}" for kind in ("photos", "results"))
        for bucket in (self.photos, self.results):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
            self.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        self.objects = S3Store(self.results, REGION)
        self.queue = FakeQueue()
        self.owner = MongoOwnerMetadata(self.owner_database)
        self.proof = Proof(MongoProof(self.database, self.owner_database), self.objects, KEYS)
        self.detection = self._make_detection(toy_manifest())
        self.grouping = self._make_grouping()

    def _make_detection(self, manifest: Any) -> DetectionParts:
        faces = MongoFaceStore(self.database)
        pack = FacePack(manifest, ColumnDetector(), ColourEmbedder())
        changes = ChangeParts(MongoGalleryStore(self.database), self.queue, 1, manifest.model_id, Telemetry())
        forgotten = MongoForgottenPhotos(self.database)
        return DetectionParts(
            analyser=Analyser(Device(pack, calls=1, photos=4, faces=8), PhotoLimits(1_000_000, 1_000_000)),
            objects=self.objects,
            photos=PhotoStore(faces, self.owner, self.objects, changes, forgotten=forgotten),
            default_bucket=self.photos,
            output_bucket=self.results,
            readable_buckets=frozenset({self.photos}),
            preview_side_px=32,
            file_bytes=Budget(10_000_000),
            picture_bytes=Budget(100_000_000),
            kill_points=KillPoints(),
        )

    def _make_grouping(self) -> GroupingParts:
        faces = MongoFaceStore(self.database)
        return GroupingParts(
            queue=self.queue,
            objects=self.objects,
            faces=faces,
            galleries=MongoGalleryStore(self.database),
            people=MongoPeopleStore(self.database),
            editor=MongoPeopleEditor(self.database),
            journal=MongoEditJournal(self.database),
            model_id=toy_manifest().model_id,
            threshold=Threshold(0.8),
            quality=QualityBars(),
            uses_quality=False,
            grouping_delay_s=1,
            lease_s=60,
            search=NeighbourSearch(),
            index=GalleryIndex(self.folder, 10**9),
            forgetting=ForgetParts(MongoTombstones(self.database), faces, self.owner),
        )

    def upload(self, name: str, *people: str, gallery: str = "g", shade: int = 0) -> None:
        self.s3.put_object(Bucket=self.photos, Key=f"{gallery}/{name}.jpg", Body=picture(*people, shade=shade))

    def detect(self, name: str, gallery: str = "g", **fields: Any) -> None:
        order = {"type": "detect_image", "gallery_id": gallery, "image_id": name, "s3_key": f"{gallery}/{name}.jpg"}
        handle(json.dumps({**order, **fields}), self.detection)

    def add(self, name: str, *people: str, gallery: str = "g", shade: int = 0) -> None:
        self.owner_database["images"].insert_one({"gallery_id": gallery, "image_id": name})
        self.upload(name, *people, gallery=gallery, shade=shade)
        self.detect(name, gallery)

    def group(self, gallery: str = "g", mode: str = "auto") -> None:
        group(json.dumps({"type": "group_gallery", "gallery_id": gallery, "mode": mode}), self.grouping)

    def forget(self, request_id: str = "r1", **fields: Any) -> None:
        order = {"type": "forget", "request_id": request_id, "gallery_id": "g", **fields}
        group(json.dumps(order), self.grouping)

    def left(self) -> list[str]:
        return [what for one in self.proof.mongo.list_requests() for what in self.proof.list_left(one)]

    def people(self, gallery: str = "g") -> dict[str, str]:
        """Who is who: the name of a photo of a person alone → the person's id."""
        faces = self.database["faces"].find({"gallery_id": gallery, "person_id": {"$exists": True}})
        return {face["image_id"]: face["person_id"] for face in faces if face["image_id"] in COLOURS}

    def faces(self, gallery: str = "g") -> dict[str, tuple[Any, ...]]:
        """Face id → its person, digest and crop."""
        found = {}
        for face in self.database["faces"].find({"gallery_id": gallery}):
            crop = self.objects.read_part(face["crop_key"], *face["crop_range"])
            assert crop and crop[:2] == b"\xff\xd8"
            found[face["_id"]] = (face.get("person_id"), face["digest"], crop)
        return found

    def names(self, gallery: str = "g") -> dict[str, str | None]:
        return {one["person_id"]: one["name"] for one in self.database["people"].find({"gallery_id": gallery})}


@pytest.fixture
def world(stores: Stores, tmp_path: Path) -> Iterator[World]:
    """The gallery g has Ann, Bob and Eve alone and together, and h has Ann and Bob on a copy of one of these photos."""
    world = World(stores, tmp_path)
    for number, name in enumerate(COLOURS):
        world.add(name, name, shade=number)
    world.add("all", "ann", "bob", "eve")
    world.add("pair", "ann", "bob", shade=5)
    world.add("pair", "ann", "bob", shade=5, gallery="h")
    world.group()
    world.group("h")
    people = world.people()
    assert len(set(people.values())) == 3
    for name, person_id in people.items():
        world.database["people"].update_one({"_id": f"g/{person_id}"}, {"$set": {"name": name}})
    world.group(mode="full")
    yield world
    world.database.client.drop_database(world.owner_database)


SCOPES: dict[str, Callable[[World], dict[str, str]]] = {
    "photo": lambda _: {"scope": "photo", "image_id": "all"},
    "person": lambda world: {"scope": "person", "person_id": world.people()["ann"]},
    "gallery": lambda _: {"scope": "gallery", "confirm": "g"},
}


def is_kept(world: World, before: dict[str, tuple[Any, ...]], scope: str, ann: str) -> bool:
    """Whether of the others' faces each is as it was, with its id, person, vector and crop."""
    stays = {
        "photo": lambda face, _: "/all/" not in face,
        "person": lambda _, fields: fields[0] != ann,
        "gallery": lambda *_: False,
    }[scope]
    return world.faces() == {face: fields for face, fields in before.items() if stays(face, fields)}


@ON_SERVERS
@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_is_left_of_what_is_forgotten_and_everything_else_stays(world: World, scope: str) -> None:
    before, other, ann = world.faces(), (world.faces("h"), world.names("h")), world.people()["ann"]
    fields = SCOPES[scope](world)
    world.forget(**fields)
    assert world.left() == []
    assert is_kept(world, before, scope, ann)
    assert (world.faces("h"), world.names("h")) == other
    # Second look, a repeated request, late and repeated messages, and another grouping.
    world.forget(**fields)
    world.forget(**fields)
    for name in [*COLOURS, "all", "pair"]:
        world.detect(name)
        world.detect(name, force=True)
    world.group()
    world.group(mode="full")
    assert world.left() == []
    assert is_kept(world, before, scope, ann)
    assert (world.faces("h"), world.names("h")) == other


POINTS: list[tuple[str, KillPoint, int]] = [
    *(("photo", point, 1) for point in ("after-tombstone", "mid-erasure", "after-groups", "after-erasure")),
    *(("person", point, 1) for point in ("after-tombstone", "after-put")),
    *(("person", "mid-erasure", times) for times in (1, 2, 4)),
    *(("person", point, 1) for point in ("after-groups", "after-erasure")),
    *(("gallery", point, 1) for point in ("after-tombstone", "mid-erasure", "after-erasure")),
    ("gallery", "mid-erasure", 2),
]


@ON_ONE_SERVER
@pytest.mark.parametrize(("scope", "point", "times"), POINTS)
def test_a_worker_that_is_killed_anywhere_is_followed_by_one_that_ends_it(
    world: World, scope: str, point: KillPoint, times: int
) -> None:
    before, ann = world.faces(), world.people()["ann"]
    fields = SCOPES[scope](world)
    whole, dying = world.grouping, Dying(point, times)
    world.grouping = replace(whole, kill_points=dying)
    with suppress(Killed):
        world.forget(**fields)
    assert dying.reached >= times
    world.grouping = whole
    # Somebody else's message comes first, then the request again.
    world.group()
    world.forget(**fields)
    assert world.left() == []
    assert is_kept(world, before, scope, ann)


@ON_SERVERS
@pytest.mark.parametrize("scope", SCOPES)
def test_a_restored_database_is_erased_again(world: World, scope: str) -> None:
    before, ann = world.faces(), world.people()["ann"]
    backup = {name: list(world.database[name].find()) for name in world.database.list_collection_names()}
    world.forget(**SCOPES[scope](world))
    for name in world.database.list_collection_names():
        world.database[name].delete_many({})
        if backup.get(name):
            world.database[name].insert_many(backup[name])
    world.group()
    assert world.left() == []
    assert is_kept(world, before, scope, ann)


@ON_SERVERS
def test_a_photo_that_is_uploaded_later_is_a_new_one(world: World) -> None:
    world.forget(scope="photo", image_id="all")
    time.sleep(1.1)
    world.upload("all", "ann", "eve", shade=9)
    world.detect("all")
    assert len([face for face in world.faces() if "/all/" in face]) == 2
    world.forget(scope="photo", image_id="all")
    world.forget(scope="photo", image_id="all")
    assert len([face for face in world.faces() if "/all/" in face]) == 2
    world.forget("r2", scope="photo", image_id="all")
    assert [face for face in world.faces() if "/all/" in face] == []


@ON_SERVERS
def test_a_gallery_that_gets_new_photos_lives_again(world: World) -> None:
    world.forget(scope="gallery", confirm="g")
    time.sleep(1.1)
    world.upload("new", "bob", "eve")
    world.detect("new")
    world.group()
    world.forget(scope="gallery", confirm="g")
    world.detect("all")
    world.group()
    assert [face["image_id"] for face in world.database["faces"].find({"gallery_id": "g"})] == ["new", "new"]
    assert len(world.names()) == 2
    assert world.left() == []


@ON_SERVERS
def test_a_forgotten_face_is_not_found_again_by_another_model(world: World) -> None:
    world.forget(scope="person", person_id=world.people()["ann"])
    world.detection = world._make_detection(toy_manifest(files=OTHER_FILES))
    for name in [*COLOURS, "all", "pair"]:
        world.detect(name)
    found = {
        image["image_id"]: (image["face_count"], image["status"])
        for image in world.database["images"].find({"gallery_id": "g"})
    }
    assert found == {
        "ann": (0, "no_faces"),
        "bob": (1, "indexed"),
        "eve": (1, "indexed"),
        "all": (2, "indexed"),
        "pair": (1, "indexed"),
    }
    assert world.left() == []
    # The same photo in another gallery, where nobody asked, has both.
    world.detect("pair", "h", force=True)
    assert world.database["images"].find_one({"_id": "h/pair"})["face_count"] == 2  # type: ignore[index]


@ON_SERVERS
def test_pictures_that_a_killed_worker_has_left_of_a_forgotten_persons_photo_go_with_its_message(world: World) -> None:
    world.forget(scope="person", person_id=world.people()["ann"])
    pair = PhotoRef("g", "pair", world.photos, "g/pair.jpg", "pair")
    found, edition = MongoFaceStore(world.database).find_image(pair)
    assert found
    for model_id in (found.model_id, "other-000000000000"):
        key = KEYS.crops(found.photo, edition - 1, "c0ffee" * 10, model_id)
        world.objects.put(key, b"crops", "application/octet-stream")
    faces = world.faces()
    assert len(world.left()) == 2
    world.detect("pair")
    assert world.left() == []
    assert world.faces() == faces


@ON_SERVERS
def test_all_ids_of_a_merged_person_are_forgotten(world: World) -> None:
    people = world.people()
    merged = {"status": "merged", "merged_into": people["ann"]}
    world.database["people"].insert_one(
        {
            **world.database["people"].find_one({"_id": f"g/{people['ann']}"}),
            "_id": "g/p-old",
            "person_id": "p-old",
            **merged,
        }
    )  # type: ignore[dict-item]
    world.forget(scope="person", person_id="p-old")
    assert set(world.names()) == {people["bob"], people["eve"]}
    assert world.left() == []


@ON_SERVERS
def test_what_owners_said_of_the_person_goes_from_the_journal(world: World) -> None:
    people = world.people()
    for edit_id, name in (("e1", "ann"), ("e2", "bob")):
        edits = [{"op": "name", "person_id": people[name], "name": f"Miss {name}"}]
        edit = {"type": "edit_people", "gallery_id": "g", "edit_id": edit_id, "by": "owner", "edits": edits}
        group(json.dumps(edit), world.grouping)
    assert world.names()[people["ann"]] == "Miss ann"
    world.forget(scope="person", person_id=people["ann"])
    assert world.left() == []
    journal = {one["edit_id"]: one for one in world.database["edits"].find({"gallery_id": "g"})}
    assert (journal["e1"]["operations"], journal["e1"]["inverse"]) == ([], [])
    assert journal["e2"]["operations"][0]["name"] == "Miss bob"
    assert world.names() == {people["bob"]: "Miss bob", people["eve"]: "eve"}


@ON_SERVERS
@pytest.mark.parametrize("scope", ["photo", "person"])
def test_answers_to_guests_that_name_what_is_forgotten_go(world: World, scope: str) -> None:
    people = world.people()
    answers = {
        "mine": {"people": [{"person_id": people["ann"]}], "photos": [{"image_id": "all"}]},
        "other": {"people": [{"person_id": people["bob"]}], "photos": [{"image_id": "bob"}]},
    }
    for name, answer in answers.items():
        world.objects.put(f"{KEYS.finds('g')}{name}.json", json.dumps(answer).encode(), "application/json")
    world.forget(**SCOPES[scope](world))
    assert [key for key, _ in world.objects.list_keys(KEYS.finds("g"))] == [f"{KEYS.finds('g')}other.json"]
    assert world.left() == []


@ON_SERVERS
def test_a_gallery_is_forgotten_until_it_gets_new_photos(world: World) -> None:
    forgotten = MongoForgottenPhotos(world.database)
    assert not forgotten.is_forgotten("g")
    world.forget(scope="gallery", confirm="g")
    assert forgotten.is_forgotten("g")
    assert not forgotten.is_forgotten("h")
    answer = FindAnswer(key="k", request_id="r", gallery_id="g", status=FindStatus.FORGOTTEN, model="m")
    world.objects.put(f"{KEYS.finds('g')}r.json", answer.model_dump_json().encode(), "application/json")
    assert world.left() == []
    time.sleep(1.1)
    world.upload("new", "bob")
    world.detect("new")
    assert not forgotten.is_forgotten("g")


@ON_SERVERS
def test_a_request_waits_while_the_gallery_is_being_grouped(world: World) -> None:
    lease = world.grouping.galleries.take_lease("g", "another", 60)
    assert lease
    world.queue.letters.clear()
    world.forget(scope="gallery", confirm="g")
    assert [json.loads(body)["type"] for body in world.queue.bodies] == ["forget"]
    assert world.faces()
    world.grouping.galleries.release(lease)
    group(world.queue.bodies[0], world.grouping)
    assert world.left() == []


@ON_SERVERS
def test_files_of_the_index_go_on_every_host(world: World, tmp_path: Path) -> None:
    elsewhere = GalleryIndex(tmp_path / "elsewhere", 10**9)
    elsewhere.folder.mkdir()
    for path in world.folder.glob("*.npz"):
        (elsewhere.folder / path.name).write_bytes(path.read_bytes())
    world.forget(scope="person", person_id=world.people()["ann"])

    def list_erasures(some: Any) -> Any:
        return list_index_erasures(world.database, some)

    assert elsewhere.remove_outdated(list_erasures, 3600) == []
    assert len(elsewhere.remove_outdated(list_erasures)) == 1
    assert len(list(elsewhere.folder.glob("*.npz"))) == 1
    assert world.grouping.index and world.grouping.index.remove_outdated(list_erasures) == []
    world.forget("r2", scope="gallery", confirm="g")
    assert len(list(world.folder.glob("*.npz"))) == 1


@ON_SERVERS
def test_a_removed_object_erases_what_a_request_erases(world: World) -> None:
    before, ann = world.faces(), world.people()["ann"]
    starts = tuple(KEYS.pictures_of(MongoFaceStore(world.database).find_by_id("g", "all").photo))  # type: ignore[union-attr]
    world.s3.delete_object(Bucket=world.photos, Key="g/all.jpg")
    record = {
        "eventName": "ObjectRemoved:DeleteMarkerCreated",
        "s3": {"bucket": {"name": world.photos}, "object": {"key": "g/all.jpg"}},
    }
    handle(json.dumps({"Records": [record]}), world.detection)
    assert is_kept(world, before, "photo", ann)
    assert [one for one in world.objects.list_versions(KEYS.folder("g")) if one.key.startswith(starts)] == []
    owner = world.owner_database["images"].find_one({"gallery_id": "g", "image_id": "all"})
    assert owner is not None
    assert "face_index" not in owner


@ON_ONE_SERVER
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"scope": "photo", "image_id": "nobody"}, "no photo nobody"),
        ({"scope": "person", "person_id": "p0"}, "no person p0"),
        ({"scope": "gallery", "gallery_id": "x", "confirm": "x"}, "knows no gallery x"),
        ({"scope": "gallery"}, "lacks confirm"),
        ({"scope": "gallery", "confirm": "h"}, "confirm must be the gallery's id"),
        ({"scope": "photo", "image_id": "all", "confirm": "g"}, "must not have"),
        ({"scope": "person", "person_id": "p0", "image_id": "all"}, "must not have"),
        ({"scope": "photo", "image_id": "all", "soon": True}, "soon"),
        ({"scope": "everything"}, "scope"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_changes(world: World, fields: dict[str, Any], reason: str) -> None:
    before = world.faces()
    with pytest.raises(RejectMessage, match=reason):
        world.forget(**fields)
    assert world.faces() == before
    assert world.database["tombstones"].count_documents({}) == 0


@ON_SERVERS
def test_a_request_id_is_used_once(world: World) -> None:
    world.forget(scope="photo", image_id="all")
    with pytest.raises(RejectMessage, match="was sent before"):
        world.forget(scope="person", person_id=world.people()["ann"])


@ON_SERVERS
def test_without_the_owners_database_nothing_is_forgotten(world: World) -> None:
    assert world.grouping.forgetting
    world.grouping = replace(world.grouping, forgetting=replace(world.grouping.forgetting, owner=None))
    with pytest.raises(RejectMessage, match="HUEMN_MONGO_URI"):
        world.forget(scope="gallery", confirm="g")
    assert world.faces()


@ON_SERVERS
def test_a_gallery_expires_by_its_own_days_or_by_the_settings(world: World) -> None:
    assert world.grouping.forgetting
    world.queue.letters.clear()
    group('{"type": "expire"}', world.grouping)
    assert world.queue.bodies == []
    world.database["galleries"].update_one({"_id": "h"}, {"$set": {"retention_days": 3}})
    long_ago = world.database["images"].find_one({"gallery_id": "h"})["processed_at"].replace(year=2000)  # type: ignore[index]
    world.database["images"].update_many({}, {"$set": {"processed_at": long_ago}})
    group('{"type": "expire"}', world.grouping)
    group('{"type": "expire"}', world.grouping)
    asked = [json.loads(body) for body in world.queue.bodies]
    assert {order["gallery_id"] for order in asked} == {"h"}
    assert asked[0] == asked[1]
    world.grouping = replace(world.grouping, forgetting=replace(world.grouping.forgetting, retention_days=30))
    group('{"type": "expire"}', world.grouping)
    assert {json.loads(body)["gallery_id"] for body in world.queue.bodies[2:]} == {"g", "h"}
    for body in world.queue.bodies:
        group(body, world.grouping)
    assert world.left() == []
    assert world.database["galleries"].count_documents({}) == 0
