"""`python -m app.admin sweep`: remove crops and previews that no record names.

A worker that is killed between writing pictures and storing its result leaves them behind. They show people's faces,
so they must not stay. See docs/decisions.md for why none is removed that a worker might still need.
"""

import argparse
import re
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import chain

from app.adapters.mongo import open_database
from app.adapters.mongo_pictures import NamedPictures, UnreadableRecord, list_galleries, read_named_pictures
from app.adapters.s3 import S3Store
from app.admin.printing import Say
from app.config import read_setting
from app.core.errors import WorkerError
from app.core.result_keys import ResultKeys

OLDER_THAN_S = 3600
MESSAGE_LIFE_S = 28 * 24 * 3600
"""No message is older: 14 days in its queue and 14 in the dead-letter queue are the most that SQS keeps one.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""
_NUMBERED = re.compile(r"([0-9a-f]{8})-([0-9]+)-[^/]*")
"""The last part of a picture's key: its photo's slot, and the edition with which it was written."""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", every: argparse.ArgumentParser
) -> None:
    sweep = commands.add_parser("sweep", parents=[every], help="remove crops and previews that no record names")
    sweep.add_argument("--gallery", help="of this gallery alone")
    sweep.add_argument(
        "--older-than-s", type=float, default=OLDER_THAN_S, metavar="S", help="those written so long ago (3600)"
    )
    sweep.set_defaults(run=sweep_pictures)


def sweep_pictures(options: argparse.Namespace, say: Say) -> None:
    objects = S3Store(read_setting("face_group_bucket_name"), read_setting("aws_default_region"))
    keys = ResultKeys(read_setting("results_prefix"))
    database = open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    removed, unreadable = 0, []
    with database.client:
        for gallery_id in [options.gallery] if options.gallery else list_galleries(database):
            # Listed before the records are read: what is named later was written later.
            listed = list(_list_pictures(gallery_id, objects, keys))
            try:
                named = read_named_pictures(gallery_id, database)
            except UnreadableRecord as error:
                unreadable.append(str(error))
                continue
            now = time.time()
            old = [(key, now - at.timestamp()) for key, at in listed if now - at.timestamp() >= options.older_than_s]
            gone = [key for key, age_s in old if key not in named.keys and is_over(key, age_s, named)]
            objects.remove(gone)
            removed += len(gone)
            for key in gone:
                say(f"removed: {key}", {"gallery_id": gallery_id, "key": key})
    say(f"{removed} pictures removed that no record names", {"removed": removed})
    if unreadable:
        raise WorkerError(" ".join([*unreadable, "Nothing was removed there."]))


def _list_pictures(gallery_id: str, objects: S3Store, keys: ResultKeys) -> Iterator[tuple[str, datetime]]:
    """Crops and previews, also crops where former versions put them. Former previews are left: in a bucket that also
    holds photos, their keys may be those of photos."""
    yield from chain.from_iterable(map(objects.list_keys, keys.picture_folders(gallery_id)))
    former = f"{gallery_id}/faces/"
    if former not in keys.picture_folders(gallery_id):
        yield from ((key, at) for key, at in objects.list_keys(former) if keys.is_result(key))


def is_over(key: str, age_s: float, named: NamedPictures) -> bool:
    """Whether no worker can name the picture any more: its photo has another edition since, or all messages are gone
    for which it can have been written."""
    found = _NUMBERED.fullmatch(key.rpartition("/")[2])
    return found is None or int(found[2]) < named.editions.get(found[1], 0) or age_s > MESSAGE_LIFE_S
