"""Process a folder of photos as the photos' owner would: upload them, send a message for each, wait, collect."""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo import MongoClient, UpdateOne

from app.adapters.aws import open_client
from app.core.messages import DetectImage, GroupGallery, make_image_id
from app.core.pictures import PICTURE_ENDINGS, is_picture
from app.core.records import make_groups_key, make_page_key
from app.grouping.output import Groups
from app.packs.store import PackStore
from local.stack import ROOT, LocalStackError

PATIENCE_S = 180.0
POLL_S = 0.3
TRANSFERS = 8
FIRST_ENDINGS = (".jpg", ".jpeg", ".heic", ".heif", ".avif", ".webp", ".png", ".tif", ".tiff")
"""Of two files with one name, the one whose ending comes first has the plain id. Other endings come after these."""

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
        self._bucket, self._output = environment["BUCKET_NAME"], environment["FACE_GROUP_BUCKET_NAME"]
        self._mongo: MongoClient[Document] = MongoClient(environment["GALLERY_IMAGES_MONGO_URI"], tz_aware=True)
        self._database = self._mongo.get_default_database("gallery_images")
        self._owner: MongoClient[Document] = MongoClient(environment["HUEMN_MONGO_URI"])
        self._owner_images = self._owner.get_default_database("huemn")["images"]
        self._sent_at = datetime.now(UTC)
        self._etags: dict[str, str] = {}
        """Image id → the version of its object that was uploaded."""
        self._anew: frozenset[str] = frozenset()
        """Ids of photos whose stored pictures are gone from S3."""
        self._files_are_lost = False
        self._revision_before, self._changes_needed = 0, 0
        self._grouped_revision: int | None = None

    def __enter__(self) -> "Album":
        return self

    def __exit__(self, *_: object) -> None:
        self._mongo.close()
        self._owner.close()

    def send(self) -> None:
        """Upload all photos and send one message each. What is stored already stays as it is.

        S3 may have forgotten what MongoDB still knows, as the local one does when it is stopped. Then the photos whose
        pictures are gone are analysed anew, and a full grouping run writes the files again.
        """
        is_fewer = self._remove_former_photos()
        self._write_owner_documents()
        gallery = self._read_gallery()
        self._revision_before = int(gallery.get("revision", 0))
        kept = set(self._list_results())
        of_this = {"gallery_id": self.gallery_id, "model": self._model_id}
        faces = self._database["faces"].find(of_this, ["image_id", "crop_key"])
        self._anew = frozenset(face["image_id"] for face in faces if face["crop_key"] not in kept)
        self._files_are_lost = "last_run" in gallery and make_groups_key(self.gallery_id) not in kept
        self._sent_at = datetime.now(UTC)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            self._etags = dict(pool.map(self._upload, self.photos.items()))
            done = self._find_done()
            self._changes_needed = max(len(self.photos) - len(done), int(is_fewer))
            list(pool.map(self._send, self.photos.items()))
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
        """Download groups.json, the page and its pictures into a folder. Returns the groups."""
        prefix = f"{self.gallery_id}/"
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda key: self._download(key, out / key.removeprefix(prefix)), self._list_results()))
        return Groups.model_validate_json(list_outputs(out)[0].read_bytes())

    def _list_results(self) -> list[str]:
        """Keys of all that is stored as the gallery's results."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._output, Prefix=f"{self.gallery_id}/")
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def _upload(self, item: tuple[str, Path]) -> tuple[str, str]:
        image_id, path = item
        with path.open("rb") as data:
            answer = self._s3.put_object(Bucket=self._bucket, Key=self._make_key(path), Body=data)
        return image_id, answer["ETag"].strip('"')

    def _send(self, item: tuple[str, Path]) -> None:
        image_id, path = item
        message = DetectImage(
            gallery_id=self.gallery_id, image_id=image_id, s3_key=self._make_key(path), force=image_id in self._anew
        )
        self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=message.model_dump_json())

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
        all_in = len(done) == len(self.photos) and changes >= self._changes_needed
        all_grouped = all_in and (run.get("revision"), run.get("model")) == (revision, self._model_id)
        if all_grouped and self._files_are_lost:
            all_grouped = make_groups_key(self.gallery_id) in self._list_results()
        # Messages for photos that were stored already are counted, too. So a new photo may be stored, and not be
        # counted yet, while enough is; a moment later it is.
        is_settled = all_grouped and self._grouped_revision == revision
        self._grouped_revision = revision if all_grouped else None
        faces = sum(image["face_count"] for image in done)
        return AlbumProgress(len(done), faces, run.get("people", 0), is_settled)

    def _find_done(self) -> list[Document]:
        """The records of the photos that are stored as they were uploaded, by this model."""
        fields = ["image_id", "etag", "model", "processed_at", "face_count"]
        images = self._database["images"].find({"gallery_id": self.gallery_id}, fields)
        return [image for image in images if image["image_id"] in self._etags and self._is_done(image)]

    def _is_done(self, image: Document) -> bool:
        image_id, etag = image["image_id"], image.get("etag")
        if image.get("model") != self._model_id:
            return False
        # A photo that was rejected before it was read has no version; nor has the time to tell where nothing is new.
        is_new = bool(image["processed_at"] >= self._sent_at)
        return is_new if etag is None else etag == self._etags[image_id] and (is_new or image_id not in self._anew)

    def _read_gallery(self) -> Document:
        return self._database["galleries"].find_one({"_id": self.gallery_id}) or {}

    def _remove_former_photos(self) -> bool:
        """Remove what is stored of photos that are no longer in the folder. Returns whether there was any."""
        gone = {"gallery_id": self.gallery_id, "image_id": {"$nin": list(self.photos)}}
        removed = self._database["images"].delete_many(gone).deleted_count
        return bool(self._database["faces"].delete_many(gone).deleted_count + removed)

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
    """Image id → file, for each picture in the folder: its name without its ending.

    Where pictures share a name, the first by FIRST_ENDINGS has it, and the others keep their endings in their ids.
    Raises LocalStackError where there is none.
    """
    names = {path.name: path for path in list_files(folder) if _is_photo(path)}
    if not names:
        raise LocalStackError(f"There is no photo in {folder}: nothing ends in {', '.join(sorted(PICTURE_ENDINGS))}.")
    photos: dict[str, Path] = {}
    for name in sorted(names, key=_order_by_ending):
        plain = make_image_id(name)
        # A file `a.png.jpg` leaves the id `a.png` to the file of that name.
        photos[name if plain in photos or plain in names else plain] = names[name]
    return dict(sorted(photos.items()))


def count_left_out(folder: Path) -> dict[str, int]:
    """Ending → how many files of the folder are no pictures, such as videos and the sidecars of other programs."""
    others = [path.name for path in list_files(folder) if not _is_photo(path)]
    endings = Counter("hidden" if name.startswith(".") else Path(name).suffix.lower() or name for name in others)
    return dict(sorted(endings.items()))


def list_files(folder: Path) -> list[Path]:
    """The files of a folder, but not of the folders in it. Raises LocalStackError where it is none."""
    if not folder.is_dir():
        raise LocalStackError(f"{folder} is not a folder; name one with photos in it.")
    return sorted(path for path in folder.iterdir() if path.is_file())


def _is_photo(path: Path) -> bool:
    # macOS writes a file `._IMG_1.jpg` beside `IMG_1.jpg` where a disk can't store what it wants to keep of it.
    return is_picture(path) and not path.name.startswith(".")


def _order_by_ending(name: str) -> tuple[int, str]:
    ending = Path(name).suffix.lower()
    return (FIRST_ENDINGS.index(ending) if ending in FIRST_ENDINGS else len(FIRST_ENDINGS), name)


def make_gallery_id(folder: Path) -> str:
    """A readable id that is different for two folders of the same name."""
    path = folder.resolve()
    name = re.sub(r"[^\w.-]+", "-", path.name).strip("-.") or "album"
    return f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


def list_outputs(out: Path) -> tuple[Path, Path]:
    """Where `collect` puts groups.json and the people page."""
    return out / Path(make_groups_key("x")).name, out / Path(make_page_key("x")).name
