"""Process a folder of photos as the photos' owner would: upload them, send a message for each, wait, collect."""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from pymongo import MongoClient, UpdateOne

from app.adapters.aws import open_client
from app.core.messages import DetectImage, GroupGallery, make_image_id
from app.core.naming import settle_names
from app.core.pictures import PICTURE_ENDINGS, is_picture
from app.core.records import ImageRecord, ImageStatus, PhotoRef
from app.core.result_keys import ResultKeys
from app.grouping.output import Groups, read_groups
from app.packs.store import PackStore
from local.stack import ROOT, LocalStackError

PATIENCE_S = 180.0
POLL_S = 0.3
TRANSFERS = 8

Document = dict[str, Any]


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
        packs = PackStore(ROOT / environment.get("MODELS_DIR", "models"))
        self._model_id = packs.read(environment.get("MODEL_PACK", "open")).model_id
        region = environment["AWS_DEFAULT_REGION"]
        self._s3, self._sqs = open_client("s3", region), open_client("sqs", region)
        self._queue_url, self._grouping_url = environment["QUEUE_URL"], environment["GROUP_FACE_QUEUE_URL"]
        self._keys = ResultKeys(environment.get("RESULTS_PREFIX", ResultKeys().prefix))
        self._bucket, self._output = environment["BUCKET_NAME"], environment["FACE_GROUP_BUCKET_NAME"]
        self._mongo: MongoClient[Document] = MongoClient(environment["GALLERY_IMAGES_MONGO_URI"], tz_aware=True)
        self._database = self._mongo.get_default_database("gallery_images")
        self._owner: MongoClient[Document] = MongoClient(environment["HUEMN_MONGO_URI"])
        self._owner_images = self._owner.get_default_database("huemn")["images"]
        self._sent_at = datetime.now(UTC)
        self._etags: dict[str, str] = {}
        """Key of each photo → the version of its object that was uploaded."""
        self._anew: frozenset[str] = frozenset()
        """Keys of photos whose stored pictures are gone from S3."""
        self._files_are_lost = False
        self._revision_before, self._changes_needed = 0, 0
        self._grouped_revision: int | None = None

    def __enter__(self) -> "Album":
        return self

    def __exit__(self, *_: object) -> None:
        self._mongo.close()
        self._owner.close()

    def send(self) -> None:
        """Upload all photos, delete those that are no longer in the folder, and send one message for each. What is
        stored already stays as it is.

        S3 may have forgotten what MongoDB still knows, as the local one does when it is stopped. Then the pictures that
        are gone are made anew, and a full grouping run writes the files again.
        """
        self._write_owner_documents()
        gallery = self._read_gallery()
        self._revision_before = int(gallery.get("revision", 0))
        kept = set(self._list_results())
        self._anew = self._find_photos_without_pictures(kept)
        self._files_are_lost = "last_run" in gallery and self._keys.groups(self.gallery_id) not in kept
        self._sent_at = datetime.now(UTC)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            self._etags = dict(pool.map(self._upload, self.photos.values()))
            former = self._find_former_keys()
            self._changes_needed = len(self.photos) - len(self._find_done()) + len(former)
            list(pool.map(self._send, self.photos.values()))
            list(pool.map(self._delete, former))
        if self._files_are_lost:
            # Any other run would find that they come out as they were, and not write them.
            order = GroupGallery(gallery_id=self.gallery_id, mode="full")
            self._sqs.send_message(QueueUrl=self._grouping_url, MessageBody=order.model_dump_json())

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
        """Download groups.json with its files, the page and its pictures into a folder. Returns the groups."""
        prefix = f"{self._keys.prefix}{self.gallery_id}/"
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda key: self._download(key, out / key.removeprefix(prefix)), self._list_results()))
        return read_groups(list_outputs(out)[0].read_bytes(), lambda path: (out / path).read_bytes())

    def _list_results(self) -> list[str]:
        """Keys of all that is stored as the gallery's results for people to look at. The file of vectors is not: it is
        biometric data, which stays where the services put it."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._output, Prefix=f"{self._keys.prefix}{self.gallery_id}/"
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key for key in keys if key != self._keys.vectors(self.gallery_id)]

    def _upload(self, path: Path) -> tuple[str, str]:
        key = self._make_key(path)
        with path.open("rb") as data:
            answer = self._s3.put_object(Bucket=self._bucket, Key=key, Body=data)
        return key, answer["ETag"].strip('"')

    def _send(self, path: Path) -> None:
        key = self._make_key(path)
        message = DetectImage(
            gallery_id=self.gallery_id,
            image_id=make_image_id(path.name),
            s3_key=key,
            redo_pictures=key in self._anew,
        )
        self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=message.model_dump_json())

    def _delete(self, key: str) -> None:
        """Delete a photo, and announce it as S3 would."""
        self._s3.delete_object(Bucket=self._bucket, Key=key)
        s3 = {"bucket": {"name": self._bucket}, "object": {"key": quote_plus(key, safe="/")}}
        body = json.dumps({"Records": [{"eventName": "ObjectRemoved:Delete", "s3": s3}]})
        self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=body)

    def _make_key(self, path: Path) -> str:
        return f"{self.gallery_id}/{path.name}"

    def _download(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._s3.download_file(self._output, key, str(target))

    def _get_progress(self) -> AlbumProgress:
        done, gallery = self._find_done(), self._read_gallery()
        run, revision = gallery.get("last_run") or {}, gallery.get("revision", 0)
        # Each photo is stored first, and then counted as a change of its gallery.
        changes = revision - self._revision_before
        all_in = len(done) == len(self.photos) and not self._find_former_keys() and changes >= self._changes_needed
        all_grouped = all_in and (run.get("revision"), run.get("model")) == (revision, self._model_id)
        if all_grouped and self._files_are_lost:
            all_grouped = self._keys.groups(self.gallery_id) in self._list_results()
        # Messages for photos that were stored already are counted, too. So a new photo may be stored, and not be
        # counted yet, while enough is; a moment later it is.
        is_settled = all_grouped and self._grouped_revision == revision
        self._grouped_revision = revision if all_grouped else None
        faces = sum(image["face_count"] for image in done)
        return AlbumProgress(len(done), faces, run.get("people", 0), is_settled)

    def _find_done(self) -> list[Document]:
        """The records of the photos that are stored as they were uploaded, by this model."""
        fields = ["s3.key", "etag", "model", "processed_at", "face_count"]
        images = self._database["images"].find({"gallery_id": self.gallery_id}, fields)
        return [image for image in images if image["s3"]["key"] in self._etags and self._is_done(image)]

    def _is_done(self, image: Document) -> bool:
        key, etag = image["s3"]["key"], image.get("etag")
        if image.get("model") != self._model_id:
            return False
        # A photo that was rejected before it was read has no version; nor has the time to tell where nothing is new.
        is_new = bool(image["processed_at"] >= self._sent_at)
        return is_new if etag is None else etag == self._etags[key] and (is_new or key not in self._anew)

    def _find_photos_without_pictures(self, kept: set[str]) -> frozenset[str]:
        """Keys of the photos that have faces and whose crops are not among these keys."""
        of_this = {"gallery_id": self.gallery_id, "model": self._model_id}
        faces = self._database["faces"].find(of_this, ["image_id", "crop_key"])
        lost = {face["image_id"] for face in faces if face["crop_key"] not in kept}
        images = self._database["images"].find({"gallery_id": self.gallery_id}, ["image_id", "s3.key"])
        return frozenset(image["s3"]["key"] for image in images if image["image_id"] in lost)

    def _read_gallery(self) -> Document:
        return self._database["galleries"].find_one({"_id": self.gallery_id}) or {}

    def _find_former_keys(self) -> list[str]:
        """Keys of the photos that are stored, and no longer in the folder."""
        images = self._database["images"].find({"gallery_id": self.gallery_id}, ["s3.key"])
        return sorted({image["s3"]["key"] for image in images} - self._etags.keys())

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
    """Image id → file, for each picture in the folder. Raises LocalStackError where there is none."""
    files = [path for path in list_files(folder) if is_picture(path)]
    if not files:
        raise LocalStackError(f"There is no photo in {folder}: nothing ends in {', '.join(sorted(PICTURE_ENDINGS))}.")
    groups: dict[str, list[ImageRecord]] = {}
    for path in files:
        name = make_image_id(path.name)
        photo = PhotoRef("", name, "", path.name, name)
        groups.setdefault(name, []).append(ImageRecord(photo, ImageStatus.INDEXED))
    photos: dict[str, Path] = {}
    for name, members in groups.items():
        settled = settle_names(members, name, [*photos, *(groups.keys() - {name})])
        photos |= {one.photo.image_id: folder / one.photo.key for one in settled}
    return dict(sorted(photos.items()))


def count_left_out(folder: Path) -> dict[str, int]:
    """Ending → how many files of the folder are no pictures, such as videos and the sidecars of other programs."""
    others = [path.name for path in list_files(folder) if not is_picture(path)]
    endings = Counter("hidden" if name.startswith(".") else Path(name).suffix.lower() or name for name in others)
    return dict(sorted(endings.items()))


def list_files(folder: Path) -> list[Path]:
    """The files of a folder, but not of the folders in it. Raises LocalStackError where it is none."""
    if not folder.is_dir():
        raise LocalStackError(f"{folder} is not a folder; name one with photos in it.")
    return sorted(path for path in folder.iterdir() if path.is_file())


def make_gallery_id(folder: Path) -> str:
    """A readable id that is different for two folders of the same name."""
    path = folder.resolve()
    name = re.sub(r"[^\w.-]+", "-", path.name).strip("-.") or "album"
    return f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


def list_outputs(out: Path) -> tuple[Path, Path]:
    """Where `collect` puts groups.json and the people page."""
    return out / Path(ResultKeys().groups("x")).name, out / Path(ResultKeys().page("x")).name
