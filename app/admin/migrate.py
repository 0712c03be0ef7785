"""`python -m app.admin migrate --to PACK (--gallery G | --all)`: have galleries examined under another model.

Only photos whose record is of another model are sent, so the command may be stopped and given again at any time. They
are sent in batches, and the next batch once half of the one before is examined: so uploads never wait behind more than
that, and workers that can't follow are noticed. The people of the former model stay published until grouping, under the
new one, has all photos of the gallery; then their ids and names go over (app/grouping/carrying.py).
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.adapters.mongo import MongoDatabase, open_database, split_into_batches, translate_mongo_errors
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.mongo_pictures import list_galleries
from app.adapters.mongo_records import read_image_record
from app.adapters.sqs import SqsQueue
from app.admin.people import SEND_VISIBILITY_S, make_grouping_order, send_grouping
from app.admin.printing import Say
from app.admin.repair import make_event
from app.config import read_setting
from app.core.errors import WorkerError
from app.core.messages import DetectImage, make_image_id
from app.core.records import ImageRecord, PhotoRef
from app.packs.store import PackStore

PHOTOS_PER_S = 50.0
BATCH = 500
PATIENCE_S = 600.0
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Migration:
    """What the command works with: photos are sent to `queue`, `per_s` a second, `batch` at a time."""

    database: MongoDatabase
    queue: SqsQueue
    model_id: str
    per_s: float
    batch: int
    patience_s: float

    def migrate(self, gallery_id: str, say: Say) -> bool:
        """Have a gallery's photos examined. Returns whether its grouping is to be ordered: some photo was not of the
        model, or its last run is not."""
        faces = MongoFaceStore(self.database)
        left = faces.count_unexamined(gallery_id, self.model_id)
        sent: list[str] = []
        for images in split_into_batches(self._read_unexamined(gallery_id), self.batch):
            self._wait(sent, len(sent) // 2, gallery_id)
            for image in images:
                began = time.monotonic()
                self.queue.send(make_order(image.photo))
                time.sleep(max(0.0, 1 / self.per_s - (time.monotonic() - began)))
            sent = [image.photo.document_id for image in images]
            now = faces.count_unexamined(gallery_id, self.model_id)
            say(f"{gallery_id}: {now} of {left} photos wait", {"gallery_id": gallery_id, "photos": left, "left": now})
        self._wait(sent, 0, gallery_id)
        return left > 0 or self._is_grouped_otherwise(gallery_id)

    def _read_unexamined(self, gallery_id: str) -> Iterator[ImageRecord]:
        """Read as a whole at once: a cursor would end while the photos are waited for."""
        others = {"gallery_id": gallery_id, "model": {"$ne": self.model_id}}
        with translate_mongo_errors("Reading photos of another model"):
            documents = list(self.database["images"].find(others, {"timings_s": 0, "left_out": 0}))
        yield from (read_image_record({**one, "timings_s": {}}) for one in documents)

    def _wait(self, sent: list[str], most: int, gallery_id: str) -> None:
        """Wait until at most so many of these photos are not examined yet. Raises WorkerError where none comes."""
        unexamined = {"_id": {"$in": sent}, "model": {"$ne": self.model_id}}
        before, since = len(sent), time.monotonic()
        while before > most:
            with translate_mongo_errors("Counting photos that wait"):
                left = self.database["images"].count_documents(unexamined)
            if left < before:
                before, since = left, time.monotonic()
            elif time.monotonic() - since > self.patience_s:
                raise WorkerError(
                    f"For {self.patience_s:.0f} s none of {left} photos of the gallery {gallery_id} was examined under "
                    f"{self.model_id}. Start detection workers with that pack as MODEL_PACK, look at the dead letters, "
                    "and give the command again: it sends only what is left."
                )
            else:
                time.sleep(min(LOOK_EVERY_S, self.patience_s))

    def _is_grouped_otherwise(self, gallery_id: str) -> bool:
        state = MongoGalleryStore(self.database).find_gallery(gallery_id)
        return state is not None and state.last_run is not None and state.last_run["model"] != self.model_id


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", every: argparse.ArgumentParser
) -> None:
    migrate = commands.add_parser("migrate", parents=[every], help="have galleries examined under another model")
    migrate.add_argument("--to", required=True, metavar="PACK", help="the pack: its name, or its manifest's path")
    which = migrate.add_mutually_exclusive_group(required=True)
    which.add_argument("--gallery", help="this gallery alone")
    which.add_argument("--all", action="store_true", help="all galleries, one after the other")
    migrate.add_argument(
        "--per-second", type=float, default=PHOTOS_PER_S, metavar="N", help=f"photos sent a second ({PHOTOS_PER_S:g})"
    )
    migrate.add_argument(
        "--batch", type=int, default=BATCH, metavar="N", help=f"photos that are sent before any is waited for ({BATCH})"
    )
    migrate.add_argument(
        "--patience-s",
        type=float,
        default=PATIENCE_S,
        metavar="S",
        help=f"end where no photo is examined for so long ({PATIENCE_S:g})",
    )
    migrate.set_defaults(run=migrate_galleries)


def migrate_galleries(options: argparse.Namespace, say: Say) -> None:
    if options.per_second <= 0 or options.batch < 1:
        raise WorkerError("--per-second must be above 0, and --batch at least 1.")
    model_id = PackStore(Path(read_setting("models_dir")), accept_research_licence=True).read(options.to).model_id
    queue = SqsQueue(read_setting("queue_url"), read_setting("aws_default_region"), SEND_VISIBILITY_S)
    read_setting("group_face_queue_url")
    database = open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    with database.client:
        known = list_galleries(database)
        if options.gallery and options.gallery not in known:
            raise WorkerError(f"MongoDB knows no gallery {options.gallery}.")
        make = partial(Migration, database, queue, model_id, options.per_second, options.batch)
        migration, moved = make(options.patience_s), 0
        for gallery_id in [options.gallery] if options.gallery else known:
            if migration.migrate(gallery_id, say):
                send_grouping(make_grouping_order(gallery_id, "auto"))
                moved += 1
    if not options.json:
        say(f"All photos are of {model_id}; {moved} galleries are to be grouped under it.", {})


def make_order(photo: PhotoRef) -> str:
    """The message for a photo. One that may be gone meanwhile is announced as S3 announces it: then it is removed."""
    gallery_id, _, rest = photo.key.partition("/")
    if gallery_id == photo.gallery_id and photo.name == make_image_id(rest):
        return make_event(photo.bucket, photo.key)
    message = DetectImage(gallery_id=photo.gallery_id, image_id=photo.plain_id, s3_key=photo.key, bucket=photo.bucket)
    return message.model_dump_json(exclude_none=True)
