"""ObjectStore: what the services rely on, of the fake and of S3."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from app.adapters.s3 import S3Store
from app.core.errors import BadPhoto, PhotoGone, RetryLater, StaleFence
from app.core.messages import Selfie
from app.core.ports import ObjectStore, OpenObject, SelfieStore, StoredObject
from app.core.records import PhotoRef
from tests.conftest import REGION, aws_client
from tests.fakes import FakeObjectStore

KEYS = ["g/a.jpg", "g/day 1/My Photo (2).jpg", "g/Ärzte & Fête/写真 🎉.jpg", "g/100%+sure=yes?.jpg", "g/%2e%2e.jpg"]
KEYS += ["/g/a.jpg", "g//a.jpg", "g/./a.jpg", "g/a.jpg/", "g/a\tb.jpg", "g/~*'()[]{}|^`<>\"\\.jpg"]


@dataclass(frozen=True)
class Rig:
    """`upload(bucket, key, data)` is the photos' owner's; `content_type` is of an output."""

    store: ObjectStore
    photos: str
    output: str
    upload: Callable[[str, str, bytes], object]
    content_type: Callable[[str], str]
    selfies: SelfieStore

    def photo(self, key: str) -> PhotoRef:
        return PhotoRef("g", "a", self.photos, key)

    def read(self, photo: PhotoRef, max_bytes: int = 100) -> bytes:
        with self.store.open(photo, max_bytes) as stored:
            data = stored.read()
            assert len(data) == stored.size_bytes
            return data

    def opened(self, photo: PhotoRef) -> OpenObject:
        with self.store.open(photo, 100) as stored:
            return stored

    def result(self, key: str) -> bytes:
        return self.read(PhotoRef("g", "a", self.output, key), 10_000)


def fake_rig() -> Rig:
    store = FakeObjectStore("results")
    return Rig(store, "photos", "results", store.upload, lambda key: store.content_types[key], store)


def s3_rig() -> Rig:
    s3 = aws_client("s3", REGION)
    photos, output = (f"{kind}-{uuid4().hex}" for kind in ("photos", "results"))
    for bucket in (photos, output):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=photos, VersioningConfiguration={"Status": "Enabled"})

    def upload(bucket: str, key: str, data: bytes) -> object:
        return s3.put_object(Bucket=bucket, Key=key, Body=data)

    store = S3Store(output, REGION)
    return Rig(
        store,
        photos,
        output,
        upload,
        lambda key: str(s3.head_object(Bucket=output, Key=key)["ContentType"]),
        store,
    )


@pytest.fixture(params=["fake", "s3"])
def rig(request: pytest.FixtureRequest) -> Rig:
    if request.param == "fake":
        return fake_rig()
    request.getfixturevalue("aws")
    return s3_rig()


@pytest.mark.parametrize("key", KEYS)
def test_what_was_uploaded_is_fetched_under_any_key(rig: Rig, key: str) -> None:
    rig.upload(rig.photos, key, b"pixels")
    assert rig.read(rig.photo(key), 100) == b"pixels"


def test_the_etag_names_the_content_and_has_no_quotes(rig: Rig) -> None:
    for key, data in (("g/a", b"one"), ("g/b", b"one"), ("g/c", b"two")):
        rig.upload(rig.photos, key, data)
    a, b, c = (rig.opened(rig.photo(key)).etag for key in ("g/a", "g/b", "g/c"))
    assert a == b != c
    assert '"' not in a


def test_the_time_of_an_object_has_a_zone(rig: Rig) -> None:
    rig.upload(rig.photos, "g/a", b"one")
    assert rig.opened(rig.photo("g/a")).last_modified.utcoffset() == timedelta(0)


def test_of_several_versions_the_one_that_is_there_now_is_read(rig: Rig) -> None:
    rig.upload(rig.photos, "g/a", b"first")
    rig.upload(rig.photos, "g/a", b"second")
    assert rig.read(rig.photo("g/a"), 100) == b"second"


def test_an_object_that_is_not_there_is_gone(rig: Rig) -> None:
    with pytest.raises(PhotoGone, match=r"no object .*g/gone\.jpg"):
        rig.read(rig.photo("g/gone.jpg"))
    with pytest.raises(PhotoGone, match=r"no object .*g/gone\.jpg"):
        rig.store.describe(rig.photo("g/gone.jpg"))


def test_an_object_behind_a_delete_marker_is_gone(aws: str) -> None:
    rig = s3_rig()
    rig.upload(rig.photos, "g/a", b"first")
    aws_client("s3", REGION).delete_object(Bucket=rig.photos, Key="g/a")
    with pytest.raises(PhotoGone):
        rig.read(rig.photo("g/a"))


def test_an_archived_object_cannot_be_read_and_says_what_to_do(aws: str) -> None:
    rig, s3 = s3_rig(), aws_client("s3", REGION)
    s3.put_object(Bucket=rig.photos, Key="g/a", Body=b"photo", StorageClass="GLACIER")
    with pytest.raises(BadPhoto, match=r"g/a is archived \(S3 Glacier\): restore it"):
        rig.read(rig.photo("g/a"))


@pytest.mark.parametrize(
    ("code", "message", "error", "told"),
    [
        (
            "InvalidRequest",
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided.",
            BadPhoto,
            "encrypted with a key that its owner keeps",
        ),
        ("AccessDenied", "User is not authorized to perform: kms:Decrypt", RetryLater, "kms:Decrypt on its key"),
        ("AccessDenied", "Access Denied", RetryLater, "requester-pays"),
        ("KMS.DisabledException", "The key is disabled.", RetryLater, "KMS.DisabledException: The key is disabled"),
    ],
)
def test_an_object_that_s3_refuses_to_hand_out_says_why(
    code: str, message: str, error: type[Exception], told: str
) -> None:
    class Client:
        def get_object(self, **_: str) -> None:
            raise ClientError({"Error": {"Code": code, "Message": message}}, "GetObject")

    store = S3Store("results", REGION)
    store._s3 = Client()
    with pytest.raises(error, match=told), store.open(PhotoRef("g", "a", "photos", "g/a"), 100):
        pass


def test_a_part_of_an_object_is_read(rig: Rig) -> None:
    rig.store.put("face-worker/g/x", b"0123456789", "application/octet-stream")
    assert rig.store.read_part("face-worker/g/x", 2, 3) == b"234"
    assert rig.store.read_part("face-worker/g/x", 8, 2) == b"89"
    assert rig.store.read_part("face-worker/g/x", 8, 3) is None
    assert rig.store.read_part("face-worker/g/x", 80, 3) is None
    assert rig.store.read_part("face-worker/g/never", 0, 1) is None


def test_keys_are_listed_by_their_beginning(rig: Rig) -> None:
    for key in ("p/g/a", "p/g/b c", "p/h/a"):
        rig.store.put(key, b"x", "image/webp")
    listed = dict(rig.store.list_keys("p/g/"))
    assert list(listed) == ["p/g/a", "p/g/b c"]
    assert all(time.utcoffset() == timedelta(0) for time in listed.values())
    assert list(rig.store.list_keys("p/x/")) == []


def test_a_file_of_the_limit_is_fetched_and_one_byte_more_is_a_bad_photo(rig: Rig) -> None:
    rig.upload(rig.photos, "g/a", b"12345")
    assert rig.read(rig.photo("g/a"), 5) == b"12345"
    with pytest.raises(BadPhoto):
        rig.read(rig.photo("g/a"), 4)


def test_a_file_that_is_too_large_is_not_read() -> None:
    class Unread:
        closed = False

        def __enter__(self) -> "Unread":
            return self

        def __exit__(self, *_: object) -> None:
            self.closed = True

        def read(self) -> bytes:
            raise AssertionError("a file over the limit was read")

    class Client:
        def get_object(self, **_: str) -> dict[str, object]:
            return {"Body": body, "ContentLength": 3_000_000, "ETag": '"abc"', "LastModified": datetime.now(UTC)}

    body, store = Unread(), S3Store("results", REGION)
    store._s3 = Client()
    with (
        pytest.raises(BadPhoto, match=r"3\.0 MB; at most 2\.0 MB"),
        store.open(PhotoRef("g", "a", "photos", "g/a"), 2_000_000),
    ):
        pass
    assert body.closed


@pytest.mark.parametrize("key", KEYS)
def test_what_is_put_lies_in_the_output_bucket_with_its_content_type(rig: Rig, key: str) -> None:
    rig.store.put(key, b"crop", "image/webp")
    assert rig.result(key) == b"crop"
    assert rig.content_type(key) == "image/webp"


def test_putting_again_replaces(rig: Rig) -> None:
    rig.store.put("g/groups.json", b"old", "application/json")
    rig.store.put("g/groups.json", b"new", "application/json")
    assert rig.result("g/groups.json") == b"new"


def replace_groups(store: ObjectStore, data: bytes, fence: int) -> None:
    store.replace("g/groups.json", data, "application/json", fence)


def test_an_object_is_replaced_by_the_same_and_by_higher_fences(rig: Rig) -> None:
    for data, fence in ((b"first", 1), (b"again", 1), (b"next", 2), (b"much later", 10)):
        replace_groups(rig.store, data, fence)
        assert rig.result("g/groups.json") == data
    assert rig.content_type("g/groups.json") == "application/json"


def test_a_lower_fence_is_refused_and_changes_nothing(rig: Rig) -> None:
    replace_groups(rig.store, b"new", 10)
    with pytest.raises(StaleFence):
        replace_groups(rig.store, b"old", 9)
    assert rig.result("g/groups.json") == b"new"


def test_an_object_without_a_fence_is_replaced(rig: Rig) -> None:
    rig.store.put("g/groups.json", b"before fences", "application/json")
    replace_groups(rig.store, b"new", 1)
    assert rig.result("g/groups.json") == b"new"


def test_a_removed_object_forgets_its_fence(rig: Rig) -> None:
    replace_groups(rig.store, b"new", 10)
    rig.store.remove(["g/groups.json"])
    replace_groups(rig.store, b"anew", 1)
    assert rig.result("g/groups.json") == b"anew"


class Interrupted:
    """A client of S3 that lets `meanwhile` happen `times` times between the look at an object and its write."""

    def __init__(self, store: S3Store, meanwhile: Callable[[], None], times: int = 1) -> None:
        self._s3, self._meanwhile, self._left = store._s3, meanwhile, times

    def put_object(self, **request: Any) -> Any:
        if self._left:
            self._left -= 1
            self._meanwhile()
        return self._s3.put_object(**request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)


@pytest.fixture
def race(aws: str) -> tuple[Rig, S3Store]:
    """The fake has no moment between look and write, so these run on S3 alone. Two workers with one bucket."""
    rig = s3_rig()
    return rig, S3Store(rig.output, REGION)


@pytest.mark.parametrize("there", [True, False])
def test_a_newer_run_that_writes_between_read_and_write_wins(race: tuple[Rig, S3Store], there: bool) -> None:
    rig, zombie = race
    if there:
        replace_groups(rig.store, b"first", 1)
    zombie._s3 = Interrupted(zombie, lambda: replace_groups(rig.store, b"newer", 3))
    with pytest.raises(StaleFence):
        replace_groups(zombie, b"stale", 2)
    assert rig.result("g/groups.json") == b"newer"


@pytest.mark.parametrize("there", [True, False])
def test_an_older_run_that_writes_between_read_and_write_is_replaced(race: tuple[Rig, S3Store], there: bool) -> None:
    rig, newer = race
    if there:
        replace_groups(rig.store, b"first", 1)
    newer._s3 = Interrupted(newer, lambda: replace_groups(rig.store, b"older", 2))
    replace_groups(newer, b"newer", 3)
    assert rig.result("g/groups.json") == b"newer"
    with pytest.raises(StaleFence):
        replace_groups(rig.store, b"older", 2)


def test_an_object_removed_between_read_and_write_is_written(race: tuple[Rig, S3Store]) -> None:
    rig, store = race
    replace_groups(rig.store, b"first", 1)
    store._s3 = Interrupted(store, lambda: rig.store.remove(["g/groups.json"]))
    replace_groups(store, b"second", 2)
    assert rig.result("g/groups.json") == b"second"


def test_an_object_others_write_without_end_is_left_for_later(race: tuple[Rig, S3Store]) -> None:
    rig, store = race
    replace_groups(rig.store, b"first", 1)
    writes = iter(range(100))
    store._s3 = Interrupted(store, lambda: rig.store.put("g/groups.json", b"%d" % next(writes), "a/b"), times=100)
    with pytest.raises(RetryLater, match="written by others 5 times"):
        replace_groups(store, b"second", 2)


def test_a_write_that_collides_with_another_is_tried_again(race: tuple[Rig, S3Store]) -> None:
    rig, store = race

    def collide() -> None:
        raise ClientError({"Error": {"Code": "ConditionalRequestConflict", "Message": ""}}, "PutObject")

    store._s3 = Interrupted(store, collide)
    replace_groups(store, b"second", 2)
    assert rig.result("g/groups.json") == b"second"


@pytest.mark.parametrize("key", KEYS)
def test_removing_removes_and_may_be_done_again(rig: Rig, key: str) -> None:
    rig.store.put(key, b"crop", "image/webp")
    rig.store.put("g/other", b"stays", "image/webp")
    for _ in range(2):
        rig.store.remove([key, "g/never-there"])
        with pytest.raises(PhotoGone):
            rig.result(key)
    assert rig.result("g/other") == b"stays"


def test_removing_nothing_is_fine(rig: Rig) -> None:
    rig.store.remove([])


def test_more_objects_than_one_call_takes_are_removed(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.s3.DELETE_BATCH", 2)
    rig = s3_rig()
    keys = [f"g/{number}" for number in range(5)]
    for key in keys:
        rig.store.put(key, b"crop", "image/webp")
    rig.store.remove(iter(keys))
    for key in keys:
        with pytest.raises(PhotoGone):
            rig.result(key)


def test_the_description_of_an_object_is_what_its_reader_gets(rig: Rig) -> None:
    rig.upload(rig.photos, "g/a", b"second one")
    opened, described = rig.opened(rig.photo("g/a")), rig.store.describe(rig.photo("g/a"))
    assert described == StoredObject(10, opened.etag, opened.last_modified)


def test_a_missing_bucket_asks_to_retry_later_for_that_is_not_the_photos_fault(aws: str) -> None:
    store = S3Store("nobody-made-this", REGION)
    with (
        pytest.raises(RetryLater, match="NoSuchBucket"),
        store.open(PhotoRef("g", "a", "nobody-made-this", "g/a"), 100),
    ):
        pass
    with pytest.raises(RetryLater, match="NoSuchBucket"):
        store.describe(PhotoRef("g", "a", "nobody-made-this", "g/a"))
    with pytest.raises(RetryLater, match="NoSuchBucket"):
        store.put("g/a", b"", "image/webp")
    with pytest.raises(RetryLater, match="NoSuchBucket"):
        replace_groups(store, b"", 1)


def test_a_whole_object_is_fetched_and_one_that_is_not_there_is_none(rig: Rig) -> None:
    assert rig.store.fetch("g/index.json") is None
    rig.store.put("g/index.json", b"whole", "application/json")
    assert rig.store.fetch("g/index.json") == b"whole"


def test_a_selfie_is_read_and_removed_with_its_bucket(rig: Rig) -> None:
    rig.upload(rig.photos, "me.jpg", b"pixels")
    selfie = Selfie(bucket=rig.photos, s3_key="me.jpg")
    assert rig.selfies.read_selfie(selfie, 6) == b"pixels"
    with pytest.raises(BadPhoto):
        rig.selfies.read_selfie(selfie, 5)
    rig.selfies.remove_selfie(selfie)
    with pytest.raises(PhotoGone):
        rig.selfies.read_selfie(selfie, 6)
    rig.selfies.remove_selfie(selfie)


def test_a_selfies_version_is_read_and_removed_alone(aws: object) -> None:
    rig, s3 = s3_rig(), aws_client("s3", REGION)
    old, new = (s3.put_object(Bucket=rig.photos, Key="me.jpg", Body=data)["VersionId"] for data in (b"old", b"new"))
    selfie = Selfie(bucket=rig.photos, s3_key="me.jpg", version_id=old)
    assert rig.selfies.read_selfie(selfie, 10) == b"old"
    rig.selfies.remove_selfie(selfie)
    left = s3.list_object_versions(Bucket=rig.photos, Prefix="me.jpg")
    assert [version["VersionId"] for version in left["Versions"]] == [new]
    assert "DeleteMarkers" not in left


def test_an_object_has_the_tags_that_it_was_put_with(aws: object) -> None:
    rig, s3 = s3_rig(), aws_client("s3", REGION)
    rig.store.put("a", b"1", "text/plain", {"kind": "find"})
    assert s3.get_object_tagging(Bucket=rig.output, Key="a")["TagSet"] == [{"Key": "kind", "Value": "find"}]
