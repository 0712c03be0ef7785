"""`python -m app.admin sweep`: remove crops and previews that no record names.

A worker that is killed between writing pictures and storing its result leaves them behind. They show people's faces,
so they must not stay. See docs/decisions.md for why none is removed that a worker might still need.
"""

import argparse
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from pymongo.client_session import ClientSession

from app.adapters.mongo import Document, MongoDatabase, open_database, run_in_transaction, translate_mongo_errors
from app.adapters.mongo_records import read_image_record
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


class _Unreadable(WorkerError):
    """A record that can't be read: what it names is not known."""


@dataclass(frozen=True)
class Named:
    """The pictures that a gallery's records and faces name, and the edition of each of its photos, by slot."""

    keys: frozenset[str]
    editions: dict[str, int]


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
        for gallery_id in [options.gallery] if options.gallery else _list_galleries(database):
            # Listed before the records are read: what is named later was written later.
            listed = list(_list_pictures(gallery_id, objects, keys))
            try:
                named = _read_named(gallery_id, database)
            except _Unreadable as error:
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


def _list_galleries(database: MongoDatabase) -> list[str]:
    with translate_mongo_errors("Listing galleries"):
        of_photos = database["images"].distinct("gallery_id")
        return sorted({*of_photos, *(one["_id"] for one in database["galleries"].find({}, ["_id"]))})


def _list_pictures(gallery_id: str, objects: S3Store, keys: ResultKeys) -> Iterator[tuple[str, datetime]]:
    """Crops and previews, also crops where former versions put them. Former previews are left: in a bucket that also
    holds photos, their keys may be those of photos."""
    yield from chain.from_iterable(map(objects.list_keys, keys.picture_folders(gallery_id)))
    former = f"{gallery_id}/faces/"
    if former not in keys.picture_folders(gallery_id):
        yield from ((key, at) for key, at in objects.list_keys(former) if keys.is_result(key))


def _read_named(gallery_id: str, database: MongoDatabase) -> Named:
    """Read in one transaction: the faces of a photo that gets another id meanwhile would be missed otherwise."""
    of_this: Document = {"gallery_id": gallery_id}
    names = {"_id": {"$gte": f"{gallery_id}/", "$lt": f"{gallery_id}0"}}  # `0` is the character after `/`.

    def read(session: ClientSession) -> tuple[list[Document], set[str], list[Document]]:
        return (
            list(database["images"].find(of_this, session=session)),
            {face["crop_key"] for face in database["faces"].find(of_this, ["crop_key"], session=session)},
            list(database["photo_names"].find(names, ["editions"], session=session)),
        )

    with translate_mongo_errors("Reading what a gallery names"):
        images, crops, groups = run_in_transaction(database.client, read)
    previews = {key for image in images if (key := _read_preview(image))}
    editions: dict[str, int] = {}
    for slot, edition in chain.from_iterable(group.get("editions", {}).items() for group in groups):
        editions[slot] = min(edition, editions.get(slot, edition))
    return Named(frozenset({*crops, *previews}), editions)


def _read_preview(image: Document) -> str | None:
    try:
        return read_image_record(image).preview_key
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Unreadable(
            f"The record {image['_id']} can't be read ({error!r:.100}), so nobody knows which pictures it names."
        ) from error


def is_over(key: str, age_s: float, named: Named) -> bool:
    """Whether no worker can name the picture any more: its photo has another edition since, or all messages are gone
    for which it can have been written."""
    found = _NUMBERED.fullmatch(key.rpartition("/")[2])
    return found is None or int(found[2]) < named.editions.get(found[1], 0) or age_s > MESSAGE_LIFE_S
