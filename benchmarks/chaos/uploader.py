"""Carries out an album's plan: changes the buckets, and sends the messages that announce it."""

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

from app.core.pictures import split_ending
from benchmarks.chaos.album import AlbumPlan, Change, Delivery, Place, make_file
from benchmarks.chaos.world import World

EVENT_NAMES = {
    "put": "ObjectCreated:Put",
    "put in parts": "ObjectCreated:CompleteMultipartUpload",
    "delete": "ObjectRemoved:Delete",
    "restore": "ObjectRemoved:Delete",
    "roll back": "ObjectRemoved:Delete",
}
BAD_KEY = "bad-record-{}.jpg"
"""A key that names no gallery: its record is rejected."""


@dataclass(frozen=True)
class Moment:
    """What a place has from `at` (seconds since the epoch) on: the file's bytes, None for none."""

    at: float
    data: bytes | None


@dataclass
class Uploader:
    """`history` has, by place, its moments in their order; `sent` counts the messages."""

    world: World
    plan: AlbumPlan
    seed: int
    history: dict[Place, list[Moment]] = field(default_factory=dict)
    sent: int = 0
    _records: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self) -> None:
        steps: list[tuple[float, int, Change | Delivery]] = [
            *((change.at_s, 0, change) for change in self.plan.changes),
            *((delivery.at_s, 1, delivery) for delivery in self.plan.deliveries),
        ]
        chance, began = random.Random(self.seed), time.monotonic()  # noqa: S311 - a fixed order, not a secret
        for at_s, _, step in sorted(steps, key=lambda step: step[:2]):
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            if isinstance(step, Change):
                self._records[step.number] = self._change(step)
            else:
                self._send(step, chance)

    def _change(self, change: Change) -> dict[str, Any]:
        """Change the bucket. Returns the record with which S3 announces it."""
        bucket, key = change.place
        s3, where = self.world.s3, {"Bucket": bucket, "Key": key}
        moments = self.history.setdefault(change.place, [])
        data = None if change.picture is None else make_file(change.picture, split_ending(key)[1])
        described: dict[str, Any] = {"key": quote_plus(key), "sequencer": f"{change.number:016X}"}
        if change.kind in ("restore", "roll back"):
            # What is there afterwards is read from the bucket: until then, it may be anything.
            moments.append(Moment(time.time(), None))
            described["versionId"] = self._remove_newest(change.place)
            data = s3.get_object(**where)["Body"].read()
        moments.append(Moment(time.time(), data))
        if change.kind == "put":
            answer = s3.put_object(**where, Body=data)
        elif change.kind == "put in parts":
            answer = self._put_in_parts(where, data)
        elif change.kind == "delete":
            answer = s3.delete_object(**where)
        else:
            answer = {}
        name = EVENT_NAMES[change.kind]
        if change.kind == "delete" and answer.get("DeleteMarker"):
            name += "MarkerCreated"
        if "VersionId" in answer:
            described["versionId"] = answer["VersionId"]
        if "ETag" in answer:
            described |= {"eTag": answer["ETag"].strip('"'), "size": len(data or b"")}
        return _make_record(name, bucket, described)

    def _remove_newest(self, place: Place) -> str:
        bucket, key = place
        listed = self.world.s3.list_object_versions(Bucket=bucket, Prefix=key)
        versions = [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
        (newest,) = [one["VersionId"] for one in versions if one["Key"] == key and one["IsLatest"]]
        self.world.s3.delete_object(Bucket=bucket, Key=key, VersionId=newest)
        return str(newest)

    def _put_in_parts(self, where: dict[str, str], data: bytes | None) -> dict[str, Any]:
        upload = {**where, "UploadId": self.world.s3.create_multipart_upload(**where)["UploadId"]}
        part = self.world.s3.upload_part(**upload, PartNumber=1, Body=data)
        parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        return dict(self.world.s3.complete_multipart_upload(**upload, MultipartUpload=parts))

    def _send(self, delivery: Delivery, chance: random.Random) -> None:
        records = [self._records[number] for number in delivery.changes]
        for number in delivery.bad:
            bad = _make_record("ObjectCreated:Put", records[0]["s3"]["bucket"]["name"], {"key": BAD_KEY.format(number)})
            records.insert(chance.randrange(len(records) + 1), bad)
        body = json.dumps({"Records": records, "n": self.sent})
        self.world.sqs.send_message(QueueUrl=self.world.queues["detection"], MessageBody=body)
        self.sent += 1


def _make_record(name: str, bucket: str, described: dict[str, Any]) -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": name,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket}, "object": described},
    }
