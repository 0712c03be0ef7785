"""Photos and results on S3."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from app.adapters.aws import DENIED, open_client, open_session, read_error_code, translate_aws_errors
from app.adapters.quick_s3 import QuickS3
from app.core.errors import BadPhoto, PhotoGone, RetryLater, StaleFence, StoreUnavailable
from app.core.messages import Selfie
from app.core.ports import ObjectVersion, OpenObject, StoredObject
from app.core.records import PhotoRef

if TYPE_CHECKING:
    from obstore import GetResult

DELETE_BATCH = 1000
"""https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html"""
GONE = {"NoSuchKey", "404", "NoSuchVersion", "NotFound"}
SSE_C = (
    "{where} is encrypted with a key that its owner keeps (SSE-C), so this system can't read it: store it with SSE-S3 "
    "or SSE-KMS."
)
UNREADABLE = {
    "InvalidObjectState": "{where} is archived (S3 Glacier): restore it, and send a message for it.",
    "InvalidRequest": SSE_C,
    "400": SSE_C,  # The answer to a HEAD says no more.
}
"""Why S3 may refuse to hand out an object that is there:
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""
OVERTAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}
"""How a conditional write fails when the object was written or removed meanwhile:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""
REPLACE_TRIES = 5


class S3Store:
    """Reads photos from any bucket, writes to the output bucket."""

    def __init__(self, output_bucket: str, region: str) -> None:
        self._output_bucket = output_bucket
        self._s3 = open_client("s3", region)
        self._quick = QuickS3(self._s3.meta.endpoint_url, region, open_session(region).get_credentials())

    def ping(self) -> None:
        """Raises RetryLater while S3 does not answer, or refuses the output bucket."""
        with translate_aws_errors(f"Asking for s3://{self._output_bucket}", "S3"):
            self._s3.head_bucket(Bucket=self._output_bucket)

    def describe(self, photo: PhotoRef) -> StoredObject:
        try:
            return StoredObject(*_read_identity(self._request(self._s3.head_object, photo)))
        except PhotoGone:
            # The answer to a HEAD doesn't tell a missing object from a missing bucket, whose photos are not gone.
            answer = self._request(self._s3.get_object, photo)
            answer["Body"].close()
            return StoredObject(*_read_identity(answer))

    @contextmanager
    def open(self, photo: PhotoRef, max_bytes: int) -> Iterator[OpenObject]:
        where = _locate(photo)
        if quick := self._quick.get(photo.bucket, photo.key):
            meta, read_quickly = quick.meta, partial(self._read_quickly, quick, where)
            _check_size(meta["size"], max_bytes)
            yield OpenObject(meta["size"], (meta["e_tag"] or "").strip('"'), meta["last_modified"], read_quickly)
            return
        answer = self._request(self._s3.get_object, photo)
        size, etag, last_modified = _read_identity(answer)
        with answer["Body"] as body:
            _check_size(size, max_bytes)

            def read() -> bytes:
                with translate_aws_errors(f"Reading {where}", "S3"):
                    return bytes(body.read())

            yield OpenObject(size, etag, last_modified, read)

    def _read_quickly(self, quick: "GetResult", where: str) -> bytes:
        data = self._quick.read(quick)
        if data is None:
            raise StoreUnavailable("S3", f"Reading {where} failed: its bytes ended early.")
        return data

    def _request(self, operation: Callable[..., Any], photo: PhotoRef) -> dict[str, Any]:
        where = _locate(photo)
        with translate_aws_errors(f"Reading {where}", "S3"):
            try:
                answer: dict[str, Any] = operation(Bucket=photo.bucket, Key=photo.key)
            except ClientError as error:
                code = read_error_code(error)
                if code in GONE:
                    raise PhotoGone(f"There is no object {where}.") from error
                if code in UNREADABLE:
                    raise BadPhoto(UNREADABLE[code].format(where=where), "not readable") from error
                if code in DENIED:
                    raise RetryLater(
                        f"S3 refuses to read {where} ({code}: {error.response['Error'].get('Message', '')}): give the "
                        "task's role s3:GetObject on it and kms:Decrypt on its key; a requester-pays bucket must be "
                        "read with an account that its owner does not charge."
                    ) from error
                raise
        return answer

    def read_selfie(self, selfie: Selfie, max_bytes: int) -> bytes:
        photo = PhotoRef("", "", selfie.bucket, selfie.s3_key)
        if selfie.version_id is None:
            with self.open(photo, max_bytes) as opened:
                return opened.read()
        answer = self._request(partial(self._s3.get_object, VersionId=selfie.version_id), photo)
        with answer["Body"] as body:
            _check_size(int(answer["ContentLength"]), max_bytes)
            with translate_aws_errors(f"Reading {_locate(photo)}", "S3"):
                return bytes(body.read())

    def remove_selfie(self, selfie: Selfie) -> None:
        version = {"VersionId": selfie.version_id} if selfie.version_id else {}
        with translate_aws_errors(f"Removing s3://{selfie.bucket}/{selfie.s3_key}", "S3"):
            self._s3.delete_object(Bucket=selfie.bucket, Key=selfie.s3_key, **version)

    def put(self, key: str, data: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        if not tags and self._quick.put(self._output_bucket, key, data, content_type):
            return
        tagging = {"Tagging": urlencode(tags)} if tags else {}
        with translate_aws_errors(f"Writing s3://{self._output_bucket}/{key}", "S3"):
            self._s3.put_object(Bucket=self._output_bucket, Key=key, Body=data, ContentType=content_type, **tagging)

    def replace(self, key: str, data: bytes, content_type: str, fence: int) -> None:
        where = f"s3://{self._output_bucket}/{key}"
        with translate_aws_errors(f"Replacing {where}", "S3"):
            for _ in range(REPLACE_TRIES):
                if self._replace_unchanged(key, data, content_type, fence):
                    return
        raise RetryLater(f"{where} was written by others {REPLACE_TRIES} times while it was to be replaced.")

    def _replace_unchanged(self, key: str, data: bytes, content_type: str, fence: int) -> bool:
        """False where the object was written between the read of its fence and this write."""
        head = self._read_head(key)
        stored = int(head["Metadata"].get("fence", 0)) if head else 0
        if stored > fence:
            reason = f"s3://{self._output_bucket}/{key} was written with fence {stored}, this run has {fence}."
            raise StaleFence(reason, stored_fence=stored)
        condition = {"IfMatch": head["ETag"]} if head else {"IfNoneMatch": "*"}
        try:
            self._s3.put_object(
                Bucket=self._output_bucket,
                Key=key,
                Body=data,
                ContentType=content_type,
                Metadata={"fence": str(fence)},
                **condition,
            )
        except ClientError as error:
            if read_error_code(error) in OVERTAKEN:
                return False
            raise
        return True

    def _read_head(self, key: str) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = self._s3.head_object(Bucket=self._output_bucket, Key=key)
        except ClientError as error:
            if read_error_code(error) in GONE:
                return None
            raise
        return head

    def fetch(self, key: str) -> bytes | None:
        with translate_aws_errors(f"Reading s3://{self._output_bucket}/{key}", "S3"):
            try:
                answer = self._s3.get_object(Bucket=self._output_bucket, Key=key)
            except ClientError as error:
                if read_error_code(error) in GONE:
                    return None
                raise
            return bytes(answer["Body"].read())

    def read_part(self, key: str, start: int, length: int) -> bytes | None:
        quick = self._quick.get_part(self._output_bucket, key, start, length)
        if quick is not None and len(quick) == length:
            return quick
        part = f"bytes={start}-{start + length - 1}"
        with translate_aws_errors(f"Reading s3://{self._output_bucket}/{key}", "S3"):
            try:
                answer = self._s3.get_object(Bucket=self._output_bucket, Key=key, Range=part)
            except ClientError as error:
                if read_error_code(error) in {*GONE, "InvalidRange"}:
                    return None
                raise
            data = bytes(answer["Body"].read())
        return data if len(data) == length else None

    def list_keys(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        with translate_aws_errors(f"Listing s3://{self._output_bucket}/{prefix}", "S3"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._output_bucket, Prefix=prefix)
            for page in pages:
                yield from ((item["Key"], item["LastModified"]) for item in page.get("Contents", []))

    def list_versions(self, prefix: str) -> Iterator[ObjectVersion]:
        with translate_aws_errors(f"Listing versions of s3://{self._output_bucket}/{prefix}", "S3"):
            pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self._output_bucket, Prefix=prefix)
            for page in pages:
                for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    # A bucket without versions has "null" as the version of each object.
                    yield ObjectVersion(
                        item["Key"],
                        item.get("VersionId") or "null",
                        item["LastModified"],
                        item.get("Size", 0),
                        item["IsLatest"] and "Size" in item,
                    )

    def read_version(self, version: ObjectVersion) -> bytes | None:
        with translate_aws_errors(f"Reading a version of s3://{self._output_bucket}/{version.key}", "S3"):
            try:
                answer = self._s3.get_object(Bucket=self._output_bucket, Key=version.key, VersionId=version.version_id)
            except ClientError as error:
                if read_error_code(error) in {*GONE, "MethodNotAllowed"}:  # A mark of deletion has no content.
                    return None
                raise
            return bytes(answer["Body"].read())

    def erase(self, versions: Iterable[ObjectVersion]) -> None:
        self._delete([{"Key": one.key, "VersionId": one.version_id} for one in versions])

    def remove(self, keys: Iterable[str]) -> None:
        self._delete([{"Key": key} for key in keys])

    def _delete(self, listed: list[dict[str, str]]) -> None:
        for start in range(0, len(listed), DELETE_BATCH):
            objects = listed[start : start + DELETE_BATCH]
            with translate_aws_errors(f"Removing objects of s3://{self._output_bucket}", "S3"):
                answer = self._s3.delete_objects(Bucket=self._output_bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                raise RetryLater(f"Removing objects of s3://{self._output_bucket} failed: {answer['Errors'][0]}")


def _check_size(size: int, max_bytes: int) -> None:
    """Raises BadPhoto for a file that is too large."""
    if size > max_bytes:
        raise BadPhoto(f"The file has {size / 1e6:.1f} MB; at most {max_bytes / 1e6:.1f} MB are accepted.", "too large")


def _locate(photo: PhotoRef) -> str:
    return f"s3://{photo.bucket}/{photo.key}"


def _read_identity(answer: dict[str, Any]) -> tuple[int, str, datetime]:
    """Size in bytes, ETag and upload time."""
    return int(answer["ContentLength"]), answer["ETag"].strip('"'), answer["LastModified"]
