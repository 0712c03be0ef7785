"""Process a folder of photos as the photos' owner would: upload them, send a message for each, wait, collect."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo import MongoClient, UpdateOne

from app.adapters.aws import open_client
from app.core.messages import DetectImage, make_image_id
from app.core.pictures import PICTURE_ENDINGS, is_picture
from app.core.result_keys import ResultKeys
from app.grouping.output import Groups
from local.stack import LocalStackError

PATIENCE_S = 180.0
POLL_S = 0.3
TRANSFERS = 8


@dataclass(frozen=True)
class AlbumProgress:
    """How far an album is: photos that are stored, their faces, and the people of the last run."""

    photos: int
    faces: int
    people: int
    grouped: bool


class Album:
    """One folder as one gallery, with the AWS and the MongoDB that the environment names."""

    def __init__(self, folder: Path, environment: Mapping[str, str], gallery_id: str | None = None) -> None:
        self.photos = find_photos(folder)
        self.gallery_id = gallery_id or make_gallery_id(folder)
        region = environment["AWS_DEFAULT_REGION"]
        self._s3, self._sqs = open_client("s3", region), open_client("sqs", region)
        self._queue_url = environment["QUEUE_URL"]
        self._results_prefix = environment.get("RESULTS_PREFIX", ResultKeys().prefix)
        self._bucket, self._output = environment["BUCKET_NAME"], environment["FACE_GROUP_BUCKET_NAME"]
        self._mongo: MongoClient[dict[str, Any]] = MongoClient(environment["GALLERY_IMAGES_MONGO_URI"], tz_aware=True)
        self._database = self._mongo.get_default_database("gallery_images")
        self._owner: MongoClient[dict[str, Any]] = MongoClient(environment["HUEMN_MONGO_URI"])
        self._owner_images = self._owner.get_default_database("huemn")["images"]
        self._sent_at = datetime.now(UTC)
        self._revision_before = 0

    def __enter__(self) -> "Album":
        return self

    def __exit__(self, *_: object) -> None:
        self._mongo.close()
        self._owner.close()

    def send(self) -> None:
        """Upload all photos and send one message each."""
        self._remove_former_photos()
        self._write_owner_documents()
        gallery = self._database["galleries"].find_one({"_id": self.gallery_id}) or {}
        self._revision_before = int(gallery.get("revision", 0))
        self._sent_at = datetime.now(UTC)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(self._send_one, self.photos.items()))

    def follow(self, check: Callable[[], None]) -> Iterator[AlbumProgress]:
        """Yields the progress until all photos are grouped. `check` is called often, and raises to end the wait."""
        changed_at, last = time.monotonic(), None
        while True:
            progress = self._get_progress()
            yield progress
            if progress.grouped:
                return
            if progress != last:
                changed_at, last = time.monotonic(), progress
            if time.monotonic() - changed_at > PATIENCE_S:
                raise LocalStackError(f"No progress for {PATIENCE_S:.0f} s; see the logs of the services.")
            check()
            time.sleep(POLL_S)

    def collect(self, out: Path) -> Groups:
        """Download groups.json, the page and its pictures into a folder. Returns the groups."""
        prefix = f"{self._results_prefix}{self.gallery_id}/"
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._output, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda key: self._download(key, out / key.removeprefix(prefix)), keys))
        return Groups.model_validate_json(list_outputs(out)[0].read_bytes())

    def _send_one(self, item: tuple[str, Path]) -> None:
        image_id, path = item
        key = f"{self.gallery_id}/{path.name}"
        self._s3.upload_file(str(path), self._bucket, key)
        message = DetectImage(gallery_id=self.gallery_id, image_id=image_id, s3_key=key)
        self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=message.model_dump_json())

    def _download(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._s3.download_file(self._output, key, str(target))

    def _get_progress(self) -> AlbumProgress:
        of_this = {"gallery_id": self.gallery_id}
        done = self._database["images"].find({**of_this, "processed_at": {"$gte": self._sent_at}}, ["face_count"])
        counts = [image["face_count"] for image in done]
        gallery = self._database["galleries"].find_one({"_id": self.gallery_id}) or {}
        run = gallery.get("last_run") or {}
        # Each photo is stored first, and then counted as a change of its gallery.
        changes = gallery.get("revision", 0) - self._revision_before
        all_in = len(counts) == len(self.photos) <= changes
        all_grouped = all_in and run.get("revision") == gallery["revision"]
        return AlbumProgress(len(counts), sum(counts), run.get("people", 0), all_grouped)

    def _remove_former_photos(self) -> None:
        """Remove what is stored of photos that are no longer in the folder."""
        gone = {"gallery_id": self.gallery_id, "image_id": {"$nin": list(self.photos)}}
        self._database["images"].delete_many(gone)
        self._database["faces"].delete_many(gone)

    def _write_owner_documents(self) -> None:
        """Write the documents that the owner's upload would write; the services add `face_index` to them."""
        updates = [
            UpdateOne(
                {"gallery_id": self.gallery_id, "image_id": image_id}, {"$set": {"file_name": path.name}}, upsert=True
            )
            for image_id, path in self.photos.items()
        ]
        self._owner_images.bulk_write(updates, ordered=False)


def find_photos(folder: Path) -> dict[str, Path]:
    """Image id → file, for each picture in the folder. Raises LocalStackError for none, or for two of one image id."""
    if not folder.is_dir():
        raise LocalStackError(f"{folder} is not a folder; name one with photos in it.")
    photos: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not is_picture(path):
            continue
        image_id = make_image_id(path.name)
        if image_id in photos:
            raise LocalStackError(f"{photos[image_id].name} and {path.name} would be one photo; rename one of them.")
        photos[image_id] = path
    if not photos:
        raise LocalStackError(f"There is no photo in {folder}: nothing ends in {', '.join(sorted(PICTURE_ENDINGS))}.")
    return photos


def make_gallery_id(folder: Path) -> str:
    """A readable id that is different for two folders of the same name."""
    path = folder.resolve()
    name = re.sub(r"[^\w.-]+", "-", path.name).strip("-.") or "album"
    return f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


def list_outputs(out: Path) -> tuple[Path, Path]:
    """Where `collect` puts groups.json and the people page."""
    return out / Path(ResultKeys().groups("x")).name, out / Path(ResultKeys().page("x")).name
