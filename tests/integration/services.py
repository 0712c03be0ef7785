"""What the process tests say to the running services, and what they wait for."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from pymongo import MongoClient

from app.adapters.aws import open_client
from app.core.result_keys import ResultKeys
from app.grouping.output import read_groups
from local.stack import LocalStack

PATIENCE_S = 90.0


class Services:
    """A running local stack, seen as its users see it: buckets, queues and documents."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.environment = dict(stack.environment)
        region = self.environment["AWS_DEFAULT_REGION"]
        self.s3, self.sqs = open_client("s3", region), open_client("sqs", region)
        self._mongo: MongoClient[dict[str, Any]] = MongoClient(self.environment["GALLERY_IMAGES_MONGO_URI"])
        self.database = self._mongo.get_default_database("gallery_images")
        self.owner_images = self._mongo["huemn"]["images"]

    def __enter__(self) -> "Services":
        return self

    def __exit__(self, *_: object) -> None:
        self._mongo.close()

    def put_photo(self, key: str, data: bytes, bucket: str | None = None) -> None:
        self.s3.put_object(Bucket=bucket or self.environment["BUCKET_NAME"], Key=key, Body=data)

    def send(self, body: str | Mapping[str, Any], queue: str = "QUEUE_URL") -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.sqs.send_message(QueueUrl=self.environment[queue], MessageBody=text)

    def send_photo(self, gallery_id: str, image_id: str, data: bytes | None) -> None:
        """Upload (unless there is nothing to upload) and send the message."""
        key = f"{gallery_id}/{image_id}.jpg"
        if data is not None:
            self.put_photo(key, data)
        self.send({"type": "detect_image", "gallery_id": gallery_id, "image_id": image_id, "s3_key": key})

    def image(self, gallery_id: str, image_id: str) -> dict[str, Any]:
        """The photo's document, once it is there."""
        wanted = {"_id": f"{gallery_id}/{image_id}"}
        return wait_for(lambda: self.database["images"].find_one(wanted), f"the document of {image_id}")

    def grouped(self, gallery_id: str, photos: int) -> dict[str, Any]:
        """groups.json and the files that it names as one, once this many photos are in and grouped."""

        def up_to_date() -> bool:
            gallery = self.database["galleries"].find_one({"_id": gallery_id}) or {}
            run = gallery.get("last_run") or {}
            indexed = self.database["images"].count_documents({"gallery_id": gallery_id})
            all_in = indexed == photos <= gallery.get("revision", 0) and self.queue_is_empty()
            return all_in and run.get("revision") == gallery["revision"]

        wait_for(up_to_date, "the grouping run")
        return self.groups(gallery_id)

    def groups(self, gallery_id: str) -> dict[str, Any]:
        keys = ResultKeys()
        groups = read_groups(
            self.output(keys.groups(gallery_id)), lambda path: self.output(keys.folder(gallery_id) + path)
        )
        return groups.model_dump(mode="json")

    def output(self, key: str) -> bytes:
        answer = self.s3.get_object(Bucket=self.environment["FACE_GROUP_BUCKET_NAME"], Key=key)
        return bytes(answer["Body"].read())

    def dead_letter(self, containing: str, queue: str = "detection") -> dict[str, str]:
        """Attributes of the dead letter whose body contains this, once it is there."""
        url = self.sqs.get_queue_url(QueueName=f"{queue}-dead-letters")["QueueUrl"]

        def find() -> dict[str, str] | None:
            answer = self.sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
            )
            for message in answer.get("Messages", []):
                if containing in message["Body"]:
                    return {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
            return None

        return wait_for(find, f"the dead letter with {containing!r}")

    def queue_is_empty(self, queue: str = "QUEUE_URL") -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.environment[queue], AttributeNames=names)
        return not any(int(count) for count in answer["Attributes"].values())


def wait_for(find: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true value of `find`; fails the test where there is none in time."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if found := find():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come within {patience_s:.0f} s")
