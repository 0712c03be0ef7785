"""`python -m app.admin repair`: find what former versions have left wrong in galleries, and have it mended.

Former versions let a file that is no photo take a photo's id, whose own message became a dead letter; they could leave
the crops of one version of a photo beside the faces of another; and they did not follow deletions. The command compares
MongoDB with the photos' bucket, and sends a message for each photo that must be looked at again. What is right already
is left alone, so the command may be given again at any time.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from app.adapters.mongo import MongoDatabase, open_database
from app.adapters.mongo_records import read_image_record
from app.adapters.s3 import S3Store
from app.adapters.sqs import SqsQueue
from app.admin.people import SEND_VISIBILITY_S
from app.admin.printing import Say
from app.config import read_setting
from app.core.errors import WorkerError
from app.core.messages import DetectImage
from app.core.records import ImageRecord, PhotoRef


@dataclass(frozen=True)
class Fault:
    """What is wrong with a photo, and the message that has it mended."""

    what: str
    bucket: str
    key: str
    body: str


def repair_galleries(options: argparse.Namespace, say: Say) -> None:
    region, bucket = read_setting("aws_default_region"), read_setting("bucket_name")
    queue = None if options.dry_run else SqsQueue(read_setting("queue_url"), region, SEND_VISIBILITY_S)
    database = open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    counts: Counter[str] = Counter()
    with database.client:
        known = sorted(database["images"].distinct("gallery_id"))
        if options.gallery and options.gallery not in known:
            raise WorkerError(f"MongoDB knows no photo of the gallery {options.gallery}.")
        galleries = [options.gallery] if options.gallery else known
        for gallery_id in galleries:
            for fault in find_faults(gallery_id, database, bucket, region):
                counts[fault.what] += 1
                say(f"{fault.what}: s3://{fault.bucket}/{fault.key}", {"fault": fault.what, "key": fault.key})
                if queue:
                    queue.send(fault.body)
    if not options.json:
        done = "would be sent" if options.dry_run else "sent"
        say(f"{counts.total()} messages {done}, {len(galleries)} galleries looked at.", {})


def find_faults(gallery_id: str, database: MongoDatabase, bucket: str, region: str) -> Iterator[Fault]:
    """Everything of a gallery that a message must have mended."""
    # The bucket is listed first: a photo that is uploaded and stored meanwhile has a record then, and one that is
    # removed meanwhile has a message of its own.
    objects = {key for key, _ in S3Store(bucket, region).list_keys(f"{gallery_id}/")}
    # Photos whose crops are objects of their own, which may be another version's. Where photos and results share a
    # bucket, these and the files are no photos.
    former = database["faces"].find({"gallery_id": gallery_id, "crop_range": None}, ["image_id", "crop_key"])
    crops = {face["crop_key"]: face["image_id"] for face in former if face["crop_key"]}
    former_crops = set(crops.values())
    known = {f"{gallery_id}/groups.json", f"{gallery_id}/people.html", *crops}
    for document in database["images"].find({"gallery_id": gallery_id}):
        image = read_image_record(document)
        if image.photo.bucket == bucket:
            known.add(image.photo.key)
        if image.preview_key:
            known.add(image.preview_key)
        if what := _judge(image, "name" in document, image.photo.image_id in former_crops, objects, bucket):
            yield what
    for key in sorted(objects - known):
        if not key.endswith("/"):
            yield Fault("photo without a record", bucket, key, make_event(bucket, key))


def _judge(
    image: ImageRecord, is_current: bool, has_former_crops: bool, objects: set[str], bucket: str
) -> Fault | None:
    photo = image.photo
    is_listed = photo.bucket == bucket and photo.key.startswith(f"{photo.gallery_id}/")
    if is_listed and photo.key not in objects:
        return Fault("record without a photo", photo.bucket, photo.key, make_event(photo.bucket, photo.key))
    if has_former_crops:
        return Fault("pictures of a former version", photo.bucket, photo.key, _make_order(photo))
    if not is_current:
        return Fault("record of a former version", photo.bucket, photo.key, make_event(photo.bucket, photo.key))
    return None


def make_event(bucket: str, key: str) -> str:
    """As S3 announces it: the photo is looked at, and removed where its object is gone."""
    detail = {"bucket": {"name": bucket}, "object": {"key": key}}
    return json.dumps({"source": "aws.s3", "detail-type": "Object Created", "detail": detail})


def _make_order(photo: PhotoRef) -> str:
    message = DetectImage(
        gallery_id=photo.gallery_id,
        image_id=photo.plain_id,
        s3_key=photo.key,
        bucket=photo.bucket,
        redo_pictures=True,
    )
    return message.model_dump_json(exclude_none=True)
