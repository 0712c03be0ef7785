"""Do people keep their ids and names whatever happens to a gallery's photos or to the model?

`python -m benchmarks continuity --images DIR [--pack PACK] [--other-pack PACK] [--people N] [--rounds N] [--seed N]
[--only WAY,…] [--database NAME] [--json]`

DIR has a folder of photos for each person. A gallery is drawn of them: half of the people with one photo, the others
with two to five. It is examined and grouped by the services' own handlers, in this process, against the local stack's
S3, SQS and MongoDB. Each person gets the name of whom most of its faces show. Then, each `--rounds` times in a row (3):

another_model           all photos are examined under the other pack, and grouped; and back under the first; and so on
exported_at_once        all photos are put again under their keys in another size and compression, then grouped
exported_one_by_one     the same, but the gallery is grouped after each photo
renamed                 all photos are removed, and others come: another export under keys that have nothing in common
                        with the former ones; in every second round the new ones come first. Then it is grouped.

Every export is made of the original, as a photographer's program does. After all rounds:

kept            share of the people with two photos or more at the start whose id has their name, and shows them
kept_single     the same of those with one photo
wrong_names     people whose name is not that of whom most of their faces show; where two are shown equally often, both
                names are right
least_…         the least of each after any round, where that differs
photos, seconds of all rounds

The exit code is 1 where `kept` is below 0.99, `kept_single` below 0.95, or any name is wrong.
"""

import argparse
import io
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.adapters.aws import open_client
from app.adapters.mongo import MongoDatabase, ensure_indexes, open_database, split_into_batches
from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore, MongoOwnerMetadata
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_people import MongoPeopleStore
from app.adapters.s3 import S3Store
from app.adapters.sqs import SqsQueue
from app.admin.repair import make_event
from app.clustering.neighbours import NeighbourSearch
from app.core.edits import MOST_OPERATIONS, NamePerson
from app.core.kill_points import KillPoints
from app.core.messages import EditPeople, GroupGallery
from app.detection import handle as detection
from app.detection.analysis import Analyser
from app.detection.budget import Budget
from app.detection.changes import ChangeParts
from app.detection.device import open_device
from app.detection.photo_store import PhotoStore
from app.grouping import handle as grouping
from app.grouping.index import GalleryIndex
from app.grouping.parts import GroupingParts
from app.host import count_cores
from app.packs.store import PackStore
from app.telemetry.interface import Telemetry
from benchmarks.accuracy.verification_pairs import find_people
from benchmarks.common.command import UnusableInput, add_database_option, print_result
from benchmarks.common.running import run_local_stores
from benchmarks.speed.detection import LIMITS

LEAST_KEPT, LEAST_KEPT_SINGLE = 0.99, 0.95
MOST_PHOTOS = 5
EXPORTS = ((200, 75), (350, 88), (250, 60), (300, 92))
"""Side in pixels and quality of the JPEGs, one after the other."""
LEASE_S = 60.0


@dataclass
class Gallery:
    """A gallery's photos: key → original, and original → the person that it shows."""

    gallery_id: str
    photos: dict[str, Path]
    people: dict[Path, str]

    def get_image_ids(self) -> dict[str, str]:
        """Image id → the person that the photo shows."""
        start = len(self.gallery_id) + 1
        return {key[start:].removesuffix(".jpg"): self.people[original] for key, original in self.photos.items()}


@dataclass(frozen=True)
class People:
    """The people of a gallery as they are published: id → name, whom most of its faces show (several people where they
    are shown equally often), and its photos."""

    names: dict[str, str | None]
    shown: dict[str, set[str]]
    photos: dict[str, int]


@dataclass(frozen=True)
class Figures:
    """People of several photos and of one who were kept, and names that are wrong."""

    kept: float
    kept_single: float
    wrong_names: int


@dataclass
class World:
    """Both services' parts by the name of a pack, and what they write to."""

    database: MongoDatabase
    bucket: str
    s3: Any
    detections: dict[str, detection.DetectionParts] = field(default_factory=dict)
    groupings: dict[str, GroupingParts] = field(default_factory=dict)

    def put(self, gallery: Gallery, key: str, data: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.s3.delete_object(Bucket=self.bucket, Key=key)

    def examine(self, keys: Sequence[str], pack: str) -> None:
        """What detection does for an event of each of these objects."""
        with ThreadPoolExecutor(count_cores()) as pool:
            bodies = [make_event(self.bucket, key) for key in keys]
            list(pool.map(partial(detection.handle, parts=self.detections[pack]), bodies))

    def group(self, gallery: Gallery, pack: str) -> None:
        grouping.handle(GroupGallery(gallery_id=gallery.gallery_id).model_dump_json(), self.groupings[pack])

    def name_people(self, gallery: Gallery, people: People, pack: str) -> None:
        """What an owner's message does."""
        names = [NamePerson(person_id=person_id, name=min(shown)) for person_id, shown in people.shown.items()]
        for number, some in enumerate(split_into_batches(names, MOST_OPERATIONS)):
            order = EditPeople(gallery_id=gallery.gallery_id, edit_id=f"names-{number}", by="owner", edits=some)
            grouping.handle(order.model_dump_json(), self.groupings[pack])

    def read_people(self, gallery: Gallery, pack: str) -> People:
        """The published people. Of each photo the face nearest to its centre is the labelled one."""
        of_this = {"gallery_id": gallery.gallery_id}
        sizes = {one["image_id"]: (one["width"], one["height"]) for one in self.database["images"].find(of_this)}
        labels = gallery.get_image_ids()
        of_photo: dict[str, list[tuple[float, str | None]]] = defaultdict(list)
        for face in self.database["faces"].find({**of_this, "model": self.groupings[pack].model_id}):
            x1, y1, x2, y2 = face["box"]
            width, height = sizes[face["image_id"]]
            away = float(np.hypot((x1 + x2) / 2 / width - 0.5, (y1 + y2) / 2 / height - 0.5))
            of_photo[face["image_id"]].append((away, face.get("person_id")))
        shown: dict[str, Counter[str]] = defaultdict(Counter)
        for image_id, faces in of_photo.items():
            _, person_id = min(faces, key=lambda one: one[0])
            if person_id is not None:
                shown[person_id][labels[image_id]] += 1
        found = self.database["people"].find({**of_this, "status": "active"})
        names = {one["person_id"]: one.get("name") for one in found}
        most = {one: _find_most(counted) for one, counted in shown.items() if one in names}
        return People(names, most, {one: counted.total() for one, counted in shown.items()})


def _find_most(counted: Counter[str]) -> set[str]:
    return {one for one, count in counted.items() if count == max(counted.values())}


Way = Callable[[World, Gallery, int, Sequence[str]], str]
"""Does one round to a gallery, and returns the pack that it is grouped under then."""


def change_model(world: World, gallery: Gallery, number: int, packs: Sequence[str]) -> str:
    pack = packs[(number + 1) % len(packs)]
    world.examine(list(gallery.photos), pack)
    world.group(gallery, pack)
    return pack


def export_at_once(world: World, gallery: Gallery, number: int, packs: Sequence[str]) -> str:
    for key, original in gallery.photos.items():
        world.put(gallery, key, export(original, number))
    world.examine(list(gallery.photos), packs[0])
    world.group(gallery, packs[0])
    return packs[0]


def export_one_by_one(world: World, gallery: Gallery, number: int, packs: Sequence[str]) -> str:
    for key, original in gallery.photos.items():
        world.put(gallery, key, export(original, number))
        world.examine([key], packs[0])
        world.group(gallery, packs[0])
    return packs[0]


def rename(world: World, gallery: Gallery, number: int, packs: Sequence[str]) -> str:
    former = gallery.photos
    numbered = enumerate(sorted(former.values(), key=lambda one: hash_name(one, number)))
    gallery.photos = {f"{gallery.gallery_id}/{number}/{7_000 + row}.jpg": one for row, one in numbered}
    for key, original in gallery.photos.items():
        world.put(gallery, key, export(original, number))
    world.remove(list(former))
    first, second = (list(former), list(gallery.photos))[:: -1 if number % 2 else 1]
    world.examine(first, packs[0])
    world.examine(second, packs[0])
    world.group(gallery, packs[0])
    return packs[0]


WAYS: dict[str, Way] = {
    "another_model": change_model,
    "exported_at_once": export_at_once,
    "exported_one_by_one": export_one_by_one,
    "renamed": rename,
}


def export(original: Path, number: int) -> bytes:
    """The photo in the size and compression of this round."""
    side, quality = EXPORTS[number % len(EXPORTS)]
    with Image.open(original) as photo:
        smaller = photo.convert("RGB").resize(
            (side, round(side * photo.height / photo.width)), Image.Resampling.LANCZOS
        )
    data = io.BytesIO()
    smaller.save(data, "JPEG", quality=quality)
    return data.getvalue()


def hash_name(original: Path, number: int) -> float:
    return random.Random(f"{original.name} {number}").random()  # noqa: S311 - a fixed order, not a secret


def draw_gallery(gallery_id: str, images: Path, count: int, seed: int) -> Gallery:
    """Half of the people with one photo. Raises UnusableInput where the folder has too few."""
    chance = random.Random(seed)  # noqa: S311 - a fixed choice, not a secret
    everybody = find_people(images)
    several = sorted(one for one, photos in everybody.items() if len(photos) >= 2)
    single = sorted(one for one, photos in everybody.items() if len(photos) == 1)
    if min(len(several), len(single)) < count // 2:
        raise UnusableInput(f"{images} has too few people of one photo, or of several, for {count} people.")
    chosen = [(one, everybody[one][:1]) for one in chance.sample(single, count // 2)]
    for one in chance.sample(several, count - count // 2):
        photos = everybody[one]
        chosen.append((one, chance.sample(photos, min(len(photos), chance.randint(2, MOST_PHOTOS)))))
    people = {photo: person.name for person, photos in chosen for photo in photos}
    return Gallery(gallery_id, {f"{gallery_id}/{photo.stem}.jpg": photo for photo in people}, people)


def judge(before: People, now: People) -> Figures:
    def share(people: list[str]) -> float:
        names = ((before.names[one], now.names.get(one), now.shown.get(one, set())) for one in people)
        kept = sum(name == was and name in shown for was, name, shown in names)
        return round(kept / len(people), 4) if people else 1.0

    several = [one for one in before.shown if before.photos[one] >= 2]
    single = [one for one in before.shown if before.photos[one] == 1]
    wrong = sum(name is not None and name not in now.shown.get(one, {name}) for one, name in now.names.items())
    return Figures(share(several), share(single), wrong)


def measure_way(name: str, world: World, gallery: Gallery, rounds: int, packs: Sequence[str]) -> dict[str, Any]:
    began = time.perf_counter()
    for key, original in gallery.photos.items():
        world.put(gallery, key, original.read_bytes())
    world.examine(list(gallery.photos), packs[0])
    world.group(gallery, packs[0])
    world.name_people(gallery, world.read_people(gallery, packs[0]), packs[0])
    before = world.read_people(gallery, packs[0])
    figures = []
    for number in range(rounds):
        pack = WAYS[name](world, gallery, number, packs)
        figures.append(judge(before, world.read_people(gallery, pack)))
        print(f"{name}, round {number + 1}: {figures[-1]}", file=sys.stderr)
    last = figures[-1]
    return {
        "people": sum(count >= 2 for count in before.photos.values()),
        "people_single": sum(count == 1 for count in before.photos.values()),
        "kept": last.kept,
        "kept_single": last.kept_single,
        "wrong_names": last.wrong_names,
        "least_kept": min(one.kept for one in figures),
        "least_kept_single": min(one.kept_single for one in figures),
        "most_wrong_names": max(one.wrong_names for one in figures),
        "photos": len(gallery.photos),
        "seconds": round(time.perf_counter() - began, 1),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    packs, ways = [options.pack, options.other_pack], options.only.split(",") if options.only else list(WAYS)
    if unknown := [one for one in ways if one not in WAYS]:
        raise UnusableInput(f"There is no way {unknown[0]!r}; there are {', '.join(WAYS)}.")
    result: dict[str, Any] = {"pack": options.pack, "other_pack": options.other_pack, "rounds": options.rounds}
    with run_local_stores(database=options.database) as stack, ExitStack() as opened:
        wanted = packs if "another_model" in ways else packs[:1]
        world = _open_world(stack.environment, wanted, opened)
        for name in ways:
            gallery = draw_gallery(name.replace("_", "-"), options.images, options.people, options.seed)
            result[name] = measure_way(name, world, gallery, options.rounds, packs)
    return result


def _open_world(environment: dict[str, str], packs: Sequence[str], opened: ExitStack) -> World:
    region = environment["AWS_DEFAULT_REGION"]
    database = open_database(environment["GALLERY_IMAGES_MONGO_URI"], "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    owners = open_database(environment["HUEMN_MONGO_URI"], "huemn", "HUEMN_MONGO_URI")
    for one in (database, owners):
        opened.callback(one.client.close)
    ensure_indexes(database)
    world = World(database, environment["BUCKET_NAME"], open_client("s3", region))
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="continuity-")))
    objects = S3Store(environment["FACE_GROUP_BUCKET_NAME"], region)
    queue = SqsQueue(environment["GROUP_FACE_QUEUE_URL"], region, 60)
    faces, owner = MongoFaceStore(database), MongoOwnerMetadata(owners)
    store = PackStore(Path("models"), accept_research_licence=True)
    for pack in packs:
        installed = store.install(pack)
        device = opened.enter_context(open_device(installed, "cpu"))
        changes = ChangeParts(MongoGalleryStore(database), queue, 0, installed.manifest.model_id, Telemetry())
        world.detections[pack] = detection.DetectionParts(
            analyser=Analyser(device, LIMITS),
            objects=objects,
            photos=PhotoStore(faces, owner, objects, changes),
            default_bucket=world.bucket,
            output_bucket=environment["FACE_GROUP_BUCKET_NAME"],
            readable_buckets=frozenset({world.bucket}),
            preview_side_px=256,
            file_bytes=Budget(1 << 30),
            picture_bytes=Budget(1 << 30),
            kill_points=KillPoints(),
        )
        world.groupings[pack] = GroupingParts(
            queue=queue,
            objects=objects,
            faces=faces,
            galleries=MongoGalleryStore(database),
            people=MongoPeopleStore(database),
            editor=MongoPeopleEditor(database),
            journal=MongoEditJournal(database),
            model_id=installed.manifest.model_id,
            threshold=installed.manifest.threshold,
            quality=installed.manifest.quality,
            uses_quality=True,
            grouping_delay_s=0,
            lease_s=LEASE_S,
            search=NeighbourSearch(),
            index=GalleryIndex(folder, 10**9),
            telemetry=Telemetry(),
        )
    return world


def is_reached(result: dict[str, Any]) -> bool:
    """Whether every way has the figures that are asked for."""
    ways = [one for one in result.values() if isinstance(one, dict)]
    return all(
        one["kept"] >= LEAST_KEPT and one["kept_single"] >= LEAST_KEPT_SINGLE and not one["wrong_names"] for one in ways
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    result = print_result(partial(measure, options), as_json=options.json)
    return 0 if result is not None and is_reached(dict(result)) else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks continuity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with a folder of photos for each person")
    parser.add_argument("--pack", default="open", help="pack name or manifest (open)")
    parser.add_argument("--other-pack", default="open-1", help="the other model's (open-1)")
    parser.add_argument("--people", type=int, default=120, help="half of them with one photo (120)")
    parser.add_argument("--rounds", type=int, default=3, help="of each way, one after the other (3)")
    parser.add_argument("--seed", type=int, default=0, help="of people and photos (0)")
    parser.add_argument("--only", help=f"some of {','.join(WAYS)}")
    add_database_option(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
