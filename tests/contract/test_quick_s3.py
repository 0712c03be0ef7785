"""The quick way to S3, against moto's server: it is used where it can be, and boto3 does the rest."""

from typing import Any
from uuid import uuid4

import pytest
from botocore.credentials import Credentials

from app.adapters import quick_s3
from app.adapters.quick_s3 import FAILURES, QuickS3
from app.adapters.s3 import S3Store
from app.core.errors import StoreUnavailable
from app.core.records import PhotoRef
from local.ports import find_free_port
from tests.conftest import REGION, aws_client

HELD = Credentials("test", "test")


@pytest.fixture
def bucket(aws: str) -> str:
    name = f"bucket-{uuid4().hex}"
    aws_client("s3", REGION).create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return name


class Deaf:
    """A boto3 client that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"boto3 was asked for {name}")


def test_ordinary_objects_are_read_and_written_without_boto3(bucket: str) -> None:
    store = S3Store(bucket, REGION)
    real, store._s3 = store._s3, Deaf()
    store.put("g/a.jpg", b"hello", "image/jpeg")
    assert store.read_part("g/a.jpg", 1, 3) == b"ell"
    with store.open(PhotoRef("g", "a", bucket, "g/a.jpg"), 100) as opened:
        assert (opened.read(), opened.size_bytes) == (b"hello", 5)
    head = real.head_object(Bucket=bucket, Key="g/a.jpg")
    assert (head["ContentType"], head["ETag"].strip('"')) == ("image/jpeg", opened.etag)
    assert head["LastModified"] == opened.last_modified


def test_a_large_object_is_written_in_one_request_and_read_whole(bucket: str) -> None:
    store, data = S3Store(bucket, REGION), bytes(range(256)) * 50_000
    store.put("large", data, "application/octet-stream")
    with store.open(PhotoRef("g", "a", bucket, "large"), len(data)) as opened:
        assert opened.read() == data
    assert "-" not in opened.etag  # as of an object that was written in parts


def test_what_obstore_cannot_name_it_leaves_alone(aws: str, bucket: str) -> None:
    quick, s3 = QuickS3(aws, REGION, HELD), aws_client("s3", REGION)
    for key in ("/a", "a/", "a//b", "a/../b", "a\nb"):
        assert quick.put(bucket, key, b"x", "text/plain") is None
        assert quick.get(bucket, key) is None
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert quick.put(bucket, "a", b"x", "text/plain"), "it was left out for keys that are not its own"


def test_after_some_failures_in_a_row_it_is_left_out_for_a_while(
    aws: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = QuickS3(f"http://127.0.0.1:{find_free_port()}", REGION, HELD)
    for _ in range(FAILURES):
        assert quick.get(bucket, "a") is None
    monkeypatch.setattr(quick, "_open", Deaf())
    assert quick.get(bucket, "a") is None
    monkeypatch.undo()
    monkeypatch.setattr(quick_s3.time, "monotonic", lambda: quick._left_out_until)
    aws_client("s3", REGION).put_object(Bucket=bucket, Key="a", Body=b"x")
    quick._endpoint, quick._buckets = aws, {}
    assert quick.get(bucket, "a")


def test_objects_that_are_not_there_are_no_failures(aws: str, bucket: str) -> None:
    quick = QuickS3(aws, REGION, HELD)
    for _ in range(FAILURES + 1):
        assert quick.get(bucket, "nothing") is None
    assert quick._left_out_until == 0


def test_without_credentials_nothing_succeeds(aws: str, bucket: str) -> None:
    assert QuickS3(aws, REGION, None).put(bucket, "a", b"x", "text/plain") is None


def test_bytes_that_end_early_are_said_to(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(bucket, REGION)
    store.put("a", b"x", "text/plain")
    monkeypatch.setattr(store._quick, "read", lambda _: None)
    with (
        store.open(PhotoRef("g", "a", bucket, "a"), 100) as opened,
        pytest.raises(StoreUnavailable, match=rf"Reading s3://{bucket}/a failed"),
    ):
        opened.read()


@pytest.mark.parametrize(
    ("endpoint", "name", "expected"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "photos", "https://photos.s3.eu-west-1.amazonaws.com"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "photos", "https://photos.s3.cn-north-1.amazonaws.com.cn"),
        ("https://s3.eu-west-1.amazonaws.com", "photos.example.com", "https://s3.eu-west-1.amazonaws.com"),
        ("http://127.0.0.1:9000", "photos", "http://127.0.0.1:9000"),
    ],
)
def test_a_bucket_stands_in_the_hosts_name_where_its_certificate_allows_it(
    endpoint: str, name: str, expected: str
) -> None:
    config: Any = QuickS3(endpoint, "eu-west-1", HELD)._open(name).config
    assert config["endpoint"] == expected
    assert config["virtual_hosted_style_request"] == ("false" if expected == endpoint else "true")
