"""Photos and results on S3."""

from collections.abc import Iterable

from botocore.exceptions import ClientError

from app.adapters.aws import aws_errors, client, error_code
from app.errors import BadPhoto, RetryLater
from app.ports import StoredObject
from app.records import PhotoRef

DELETE_BATCH = 1000
"""https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html"""
GONE = {"NoSuchKey", "404", "NoSuchVersion", "NotFound"}


class S3Store:
    """Reads photos from any bucket, writes to the output bucket."""

    def __init__(self, output_bucket: str, region: str) -> None:
        self._output_bucket = output_bucket
        self._s3 = client("s3", region)

    def fetch(self, photo: PhotoRef, max_bytes: int) -> StoredObject:
        where = f"s3://{photo.bucket}/{photo.key}"
        version = {"VersionId": photo.version_id} if photo.version_id else {}
        with aws_errors(f"Reading {where}"):
            try:
                answer = self._s3.get_object(Bucket=photo.bucket, Key=photo.key, **version)
            except ClientError as error:
                if error_code(error) in GONE:
                    raise BadPhoto(f"There is no object {where}.") from error
                raise
            with answer["Body"] as body:
                if answer["ContentLength"] > max_bytes:
                    size_mb = answer["ContentLength"] / 1e6
                    raise BadPhoto(f"The file has {size_mb:.1f} MB; at most {max_bytes / 1e6:.1f} MB are accepted.")
                data = body.read()
        return StoredObject(data, answer["ETag"].strip('"'), answer["LastModified"])

    def put(self, key: str, data: bytes, content_type: str) -> None:
        with aws_errors(f"Writing s3://{self._output_bucket}/{key}"):
            self._s3.put_object(Bucket=self._output_bucket, Key=key, Body=data, ContentType=content_type)

    def remove(self, keys: Iterable[str]) -> None:
        listed = list(keys)
        for start in range(0, len(listed), DELETE_BATCH):
            objects = [{"Key": key} for key in listed[start : start + DELETE_BATCH]]
            with aws_errors(f"Removing objects of s3://{self._output_bucket}"):
                answer = self._s3.delete_objects(Bucket=self._output_bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                raise RetryLater(f"Removing objects of s3://{self._output_bucket} failed: {answer['Errors'][0]}")
