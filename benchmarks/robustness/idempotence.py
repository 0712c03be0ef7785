"""Is a photo's result the same however often, and in whatever order, its message is received? One line of JSON.

Every photo's message is sent once, and then five times more in random order. All documents and objects are compared
byte for byte, without the fields that are times.

`python -m benchmarks idempotence --images DIR [--pack PACK] [--times 5]`
"""

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bson
from pymongo import MongoClient

from app.adapters.aws import open_client
from app.core.errors import WorkerError
from app.core.messages import DetectImage
from app.core.result_keys import ResultKeys
from benchmarks.common.running import run_local_stack, wait_until_grouped
from local.album import Album
from local.stack import LocalStack

TIMES = ("processed_at", "timings_s")
KEYS = ("crop_key", "preview_key")
GALLERY = "idempotence"
TIMEOUT_S = 600


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks idempotence", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder with photos")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args(arguments)
    try:
        with run_local_stack(options.pack) as stack:
            result = measure(stack, options.images, options.times)
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0 if result["different"] == 0 else 1


def measure(stack: LocalStack, images: Path, times: int) -> dict[str, int]:
    """How many messages were sent, how many documents and objects were compared, and how many of these differ."""
    with Album(images, stack.environment, GALLERY) as album:
        album.send()
        wait_until_grouped(album, stack)
        before = take_snapshot(stack.environment)
        messages = _send_again(album, stack.environment, times)
    _wait_until_empty(stack)
    after = take_snapshot(stack.environment)
    different = sum(before.get(name) != after.get(name) for name in before.keys() | after.keys())
    return {"messages": messages, "compared": len(before), "different": different}


def take_snapshot(environment: Mapping[str, str]) -> dict[str, str]:
    """Name → hash of every document that detection writes and of every crop and preview."""
    hashes = {}
    with MongoClient[dict[str, Any]](environment["GALLERY_IMAGES_MONGO_URI"]) as mongo:
        for collection in ("images", "faces"):
            for document in mongo.get_default_database()[collection].find({"gallery_id": GALLERY}):
                fields = {name: value for name, value in document.items() if name not in TIMES}
                fields |= {name: _remove_edition(fields[name]) for name in KEYS if fields.get(name)}
                hashes[f"{collection}/{document['_id']}"] = hashlib.sha256(bson.encode(fields)).hexdigest()
    s3 = open_client("s3", environment["AWS_DEFAULT_REGION"])
    bucket = environment["FACE_GROUP_BUCKET_NAME"]
    for prefix in ResultKeys().picture_folders(GALLERY):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            hashes |= {_remove_edition(item["Key"]): item["ETag"] for item in page.get("Contents", [])}
    return hashes


def _remove_edition(key: str) -> str:
    """The key of a picture without how often its photo was written, which is all that may differ."""
    folder, slash, file = key.rpartition("/")
    slot, _, rest = file.split("-", 2)
    return f"{folder}{slash}{slot}-{rest}"


def _send_again(album: Album, environment: Mapping[str, str], times: int) -> int:
    messages = [
        DetectImage(
            gallery_id=GALLERY, image_id=image_id, s3_key=f"{GALLERY}/{path.name}", force=True
        ).model_dump_json()
        for image_id, path in album.photos.items()
    ] * times
    random.Random(0).shuffle(messages)  # noqa: S311 - a fixed order, not a secret
    sqs = open_client("sqs", environment["AWS_DEFAULT_REGION"])
    for body in messages:
        sqs.send_message(QueueUrl=environment["QUEUE_URL"], MessageBody=body)
    return len(messages)


def _wait_until_empty(stack: LocalStack) -> None:
    names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
    sqs = open_client("sqs", stack.environment["AWS_DEFAULT_REGION"])
    until = time.monotonic() + TIMEOUT_S
    for variable in ("QUEUE_URL", "GROUP_FACE_QUEUE_URL"):
        while time.monotonic() < until:
            stack.check_services()
            answer = sqs.get_queue_attributes(QueueUrl=stack.environment[variable], AttributeNames=names)
            if not any(int(count) for count in answer["Attributes"].values()):
                break
            time.sleep(0.5)
        else:
            raise WorkerError(f"The queue of {variable} is not empty after {TIMEOUT_S} s.")


if __name__ == "__main__":
    sys.exit(main())
