"""Photos and results on S3."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from app.adapters.aws import open_client, read_error_code, translate_aws_errors
from app.core.errors import BadPhoto, RetryLater, StaleFence
from app.core.ports import OpenObject, StoredObject
from app.core.records import PhotoRef

DELETE_BATCH = 1000
"""https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html"""
GONE = {"NoSuchKey", "404", "NoSuchVersion", "NotFound"}
OVERTAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}
"""How a conditional write fails when the object was written or removed meanwhile:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""
REPLACE_TRIES = 5


class S3Store:
    """Reads photos from any bucket, writes to the output bucket."""

    def __init__(self, output_bucket: str, region: str) -> None:
        self._output_bucket = output_bucket
        self._s3 = open_client("s3", region)

    def ping(self) -> None:
        """Raises RetryLater while S3 does not answer, or refuses the output bucket."""
        with translate_aws_errors(f"Asking for s3://{self._output_bucket}", "S3"):
            self._s3.head_bucket(Bucket=self._output_bucket)

    def describe(self, photo: PhotoRef) -> StoredObject:
        return StoredObject(*_read_identity(self._request(self._s3.head_object, photo)))

    @contextmanager
    def open(self, photo: PhotoRef, max_bytes: int) -> Iterator[OpenObject]:
        where = _locate(photo)
        answer = self._request(self._s3.get_object, photo)
        size, etag, last_modified = _read_identity(answer)
        with answer["Body"] as body:
            if size > max_bytes:
                raise BadPhoto(
                    f"The file has {size / 1e6:.1f} MB; at most {max_bytes / 1e6:.1f} MB are accepted.", "too large"
                )

            def read() -> bytes:
                with translate_aws_errors(f"Reading {where}", "S3"):
                    return bytes(body.read())

            yield OpenObject(size, etag, last_modified, read)

    def _request(self, operation: Callable[..., Any], photo: PhotoRef) -> dict[str, Any]:
        version = {"VersionId": photo.version_id} if photo.version_id else {}
        with translate_aws_errors(f"Reading {_locate(photo)}", "S3"):
            try:
                answer: dict[str, Any] = operation(Bucket=photo.bucket, Key=photo.key, **version)
            except ClientError as error:
                if read_error_code(error) in GONE:
                    raise BadPhoto(f"There is no object {_locate(photo)}.", "missing") from error
                raise
        return answer

    def put(self, key: str, data: bytes, content_type: str) -> None:
        with translate_aws_errors(f"Writing s3://{self._output_bucket}/{key}", "S3"):
            self._s3.put_object(Bucket=self._output_bucket, Key=key, Body=data, ContentType=content_type)

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

    def remove(self, keys: Iterable[str]) -> None:
        listed = list(keys)
        for start in range(0, len(listed), DELETE_BATCH):
            objects = [{"Key": key} for key in listed[start : start + DELETE_BATCH]]
            with translate_aws_errors(f"Removing objects of s3://{self._output_bucket}", "S3"):
                answer = self._s3.delete_objects(Bucket=self._output_bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                raise RetryLater(f"Removing objects of s3://{self._output_bucket} failed: {answer['Errors'][0]}")


def _locate(photo: PhotoRef) -> str:
    return f"s3://{photo.bucket}/{photo.key}"


def _read_identity(answer: dict[str, Any]) -> tuple[int, str, datetime]:
    """Size in bytes, ETag and upload time."""
    return int(answer["ContentLength"]), answer["ETag"].strip('"'), answer["LastModified"]
