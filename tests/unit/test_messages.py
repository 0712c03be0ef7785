import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.errors import RejectMessage
from app.core.messages import (
    DetectionWork,
    GroupGallery,
    PhotoRequest,
    make_image_id,
    make_json_schemas,
    parse_detection,
    parse_grouping,
)
from app.core.records import PhotoRef


def detect(**fields: Any) -> str:
    return json.dumps(
        {"type": "detect_image", "version": 1, "gallery_id": "g", "image_id": "a", "s3_key": "g/a.jpg", **fields}
    )


def s3_event(key: str, event: str = "ObjectCreated:Put", **item: Any) -> str:
    record = {"eventName": event, "s3": {"bucket": {"name": "photos"}, "object": {"key": key, **item}}}
    return json.dumps({"Records": [record]})


def read(body: str) -> DetectionWork:
    return parse_detection(body, "photos")


def reason(body: str, parse: Callable[[str], Any] = read) -> str:
    with pytest.raises(RejectMessage) as caught:
        parse(body)
    return str(caught.value)


def test_a_full_message_names_its_photo() -> None:
    body = detect(bucket="other", etag="e", version_id="v", sequencer="0A", force=True)
    (request,) = read(body).requests
    photo = PhotoRef("g", "a", "other", "g/a.jpg", "a")
    assert request == PhotoRequest(photo, is_event=False, force=True, sequencer="0A", body=body)


def test_a_message_without_a_bucket_means_the_default_one() -> None:
    (request,) = read(detect()).requests
    assert request.photo.bucket == "photos"


def test_an_id_that_the_sender_chose_names_the_photo_by_itself() -> None:
    (request,) = read(detect(image_id="42")).requests
    assert (request.photo.image_id, request.photo.name) == ("42", None)


def test_fields_of_a_newer_sender_are_ignored() -> None:
    assert read(detect(priority="high", trace={"id": 1})).requests[0].photo == read(detect()).requests[0].photo


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", "The message is not JSON"),
        ("not json", "The message is not JSON"),
        ("[1, 2]", "The message is JSON, but not an object."),
        ("null", "The message is JSON, but not an object."),
        ("{}", "Message type None is not known to this queue; it takes 'detect_image'."),
        ('{"type": ["detect_image"]}', "Message type ['detect_image'] is not known"),
        (detect(type="group_gallery"), "Message type 'group_gallery' is not known to this queue"),
        (detect(version=2), "version Input should be 1"),
        (detect(gallery_id=""), "gallery_id String should have at least 1 character"),
        (detect(gallery_id=7), "gallery_id Input should be a valid string"),
        (detect(gallery_id="g" * 201), "gallery_id String should have at most 200 characters"),
        (detect(gallery_id="a/b"), "gallery_id String should match pattern"),
        (detect(gallery_id=".."), "gallery_id has a '.' or '..' path segment"),
        (detect(image_id="x" * 401), "image_id String should have at most 400 characters"),
        (detect(image_id="../secret"), "image_id has a '.' or '..' path segment"),
        (detect(image_id="a\nb"), "image_id has a control character"),
        (detect(image_id="a\x7fb"), "image_id has a control character"),
        (detect(s3_key="g/../../etc/passwd"), "s3_key has a '.' or '..' path segment"),
        (detect(s3_key="é" * 513), "s3_key is longer than 1024 bytes"),
        (detect(s3_key="\ud800"), "s3_key Input should be a valid string"),
        (detect(s3_key=None), "s3_key Input should be a valid string"),
    ],
)
def test_a_message_that_can_never_succeed_is_rejected_with_what_is_wrong(body: str, expected: str) -> None:
    assert expected in reason(body)


def test_all_that_is_wrong_is_said_at_once() -> None:
    told = reason(json.dumps({"type": "detect_image", "gallery_id": "", "s3_key": "g/a.jpg"}))
    assert "gallery_id" in told
    assert "image_id Field required" in told


def test_a_key_of_exactly_the_longest_size_is_taken() -> None:
    (request,) = read(detect(s3_key="é" * 512)).requests
    assert len(request.photo.key.encode()) == 1024


def test_a_long_type_is_cut_in_the_reason() -> None:
    assert len(reason(json.dumps({"type": "x" * 10_000}))) < 300


@pytest.mark.parametrize(
    ("encoded", "key", "image_id"),
    [
        ("g/a.jpg", "g/a.jpg", "a"),
        ("g/day+1/My+Photo+%282%29.JPG", "g/day 1/My Photo (2).JPG", "day 1/My Photo (2)"),
        ("%C3%84lbum/%E5%86%99%E7%9C%9F.heic", "Älbum/写真.heic", "写真"),
        ("g/100%25+sure%2Byes.png", "g/100% sure+yes.png", "100% sure+yes"),
        ("g/archive.tar.gz", "g/archive.tar.gz", "archive.tar"),
        ("g/noending", "g/noending", "noending"),
        ("g/.hidden", "g/.hidden", ".hidden"),
    ],
)
def test_an_s3_notification_names_the_photo_by_its_decoded_key(encoded: str, key: str, image_id: str) -> None:
    (request,) = read(s3_event(encoded, eTag="abc", versionId="v1", sequencer="0A")).requests
    gallery = key.split("/")[0]
    assert request.photo == PhotoRef(gallery, image_id, "photos", key, image_id)
    assert (request.is_event, request.sequencer) == (True, "0A")


def test_a_notification_of_several_photos_asks_for_all_of_them() -> None:
    requests = read(notification("g/a.jpg", "h/b.jpg")).requests
    assert [request.photo.document_id for request in requests] == ["g/a", "h/b"]
    assert [read(request.body).requests[0].photo for request in requests] == [request.photo for request in requests]


def notification(*keys: object) -> str:
    return json.dumps({"Records": [json.loads(s3_event(key))["Records"][0] for key in keys]})


def by_sns(body: str) -> str:
    return json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-central-1:1:t", "Message": body})


def by_eventbridge(key: str, detail_type: str = "Object Created", **item: Any) -> str:
    detail = {"bucket": {"name": "photos"}, "object": {"key": key, "size": 5, "sequencer": "0A", **item}}
    return json.dumps({"version": "0", "source": "aws.s3", "detail-type": detail_type, "detail": detail})


@pytest.mark.parametrize(
    "body",
    [
        s3_event("g/a+b.jpg", sequencer="0A"),
        s3_event("g/a+b.jpg", "s3:ObjectCreated:Copy", sequencer="0A"),
        s3_event("g/a+b.jpg", "ObjectRemoved:DeleteMarkerCreated", sequencer="0A"),
        s3_event("g/a+b.jpg", "LifecycleExpiration:Delete", sequencer="0A"),
        s3_event("g/a+b.jpg", "ObjectRestore:Completed", sequencer="0A"),
        "\ufeff" + s3_event("g/a+b.jpg", sequencer="0A"),
        by_sns(s3_event("g/a+b.jpg", sequencer="0A")),
        by_sns(by_sns(s3_event("g/a+b.jpg", sequencer="0A"))),
        by_eventbridge("g/a b.jpg"),
        by_eventbridge("g/a b.jpg", "Object Deleted"),
        by_eventbridge("g/a b.jpg", "Object Restore Completed"),
        by_sns(by_eventbridge("g/a b.jpg")),
    ],
)
def test_an_event_is_understood_by_whichever_way_it_comes(body: str) -> None:
    (request,) = read(body).requests
    assert request.photo == PhotoRef("g", "a b", "photos", "g/a b.jpg", "a b")
    assert (request.is_event, request.sequencer) == (True, "0A")
    assert read(request.body).requests[0].photo == request.photo


def test_an_own_message_is_understood_by_way_of_sns_too() -> None:
    assert read(by_sns(detect())).requests[0].photo == read(detect()).requests[0].photo
    assert parse_grouping(by_sns('{"type": "group_gallery", "gallery_id": "g"}')).gallery_id == "g"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}', "test"),
        (s3_event("g/day+1/", size=0), "folder"),
        (s3_event("g/day+1/", "ObjectRemoved:Delete"), "folder"),
        (s3_event("g/a.jpg", "ObjectTagging:Put"), "other event"),
        (s3_event("g/a.jpg", "s3:ObjectRestore:Post"), "other event"),
        (by_eventbridge("g/a.jpg", "Object Tags Added"), "other event"),
    ],
)
def test_an_event_that_asks_for_nothing_is_only_counted(body: str, kind: str) -> None:
    assert read(body) == DetectionWork([], [], ignored={kind: 1})


def test_a_bad_record_is_set_aside_as_a_notification_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    work = read(notification("g/1.jpg", "nogallery.jpg", "g/day+1/", "g/%FF.jpg", 5, "g/2.jpg"))
    assert [request.photo.image_id for request in work.requests] == ["1", "2"]
    assert [json.loads(one.body)["Records"][0]["s3"]["object"]["key"] for one in work.letters] == [
        "g/%FF.jpg",
        5,
        "nogallery.jpg",
    ]
    for letter in work.letters:
        (again,) = read(letter.body).letters
        assert again == letter


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (s3_event("g/a.jpg", "ObjectPainted"), "S3 event 'ObjectPainted' is not known; restrict the bucket"),
        (s3_event("photo.jpg"), "The key 'photo.jpg' names no gallery; photos belong under <gallery>/<photo>."),
        (s3_event("/a.jpg"), "names no gallery"),
        (s3_event("g/%2E%2E/%2E%2E/a.jpg"), "'.' or '..' path segment"),
        (s3_event("g/a%00b.jpg"), "has a control character"),
        (s3_event("g/%E4.jpg"), "is not UTF-8"),
        ('{"Records": [1]}', "is not an object"),
        ('{"Records": [{}]}', "S3 event '' is not known"),
        ('{"Records": [{"eventName": "ObjectCreated:Put"}]}', "The S3 notification lacks"),
        ('{"Records": [{"eventName": "ObjectCreated:Put", "s3": []}]}', "The S3 notification lacks"),
        (s3_event(5), "The S3 notification lacks"),
        (s3_event("g/\ud800.jpg"), "valid string"),
    ],
)
def test_a_record_that_can_never_succeed_is_set_aside_with_what_is_wrong(body: str, expected: str) -> None:
    work = read(body)
    assert work.requests == []
    assert expected in work.letters[0].reason


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"Records": {}}', "Records is not a list"),
        (by_eventbridge("g/a.jpg", "Object Painted"), "EventBridge's event 'Object Painted' of S3 is not known"),
        ('{"source": "aws.s3", "detail-type": "Object Created"}', "The S3 notification lacks"),
        ('{"Type": "SubscriptionConfirmation", "Token": "t", "TopicArn": "arn:x"}', "aws sns confirm-subscription"),
    ],
)
def test_a_notification_that_can_never_succeed_is_rejected_with_what_is_wrong(body: str, expected: str) -> None:
    assert expected in reason(body)


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 10_000, 100_000])
@pytest.mark.parametrize("begin", ['{"type": ', '{"Records": [{"eventName": ', '{"gallery_id": '])
def test_json_nested_without_end_is_rejected_in_a_worker_thread_too(begin: str, depth: int) -> None:
    body = begin + "[" * depth + "]" * depth + begin[1:].count("{") * "}" + begin.count("[") * "]" + "}"
    caught: list[BaseException] = []

    def parse() -> None:
        try:
            caught.extend(RejectMessage(letter.reason) for letter in read(body).letters)
        except Exception as error:  # noqa: BLE001 - the test is about which one it is
            caught.append(error)

    thread = threading.Thread(target=parse)
    thread.start()
    thread.join()
    assert [type(error) for error in caught] == [RejectMessage]


@pytest.mark.parametrize(("mode", "expected"), [({}, "auto"), ({"mode": "auto"}, "auto"), ({"mode": "full"}, "full")])
def test_a_grouping_message_names_its_gallery_and_mode(mode: dict[str, str], expected: str) -> None:
    request = parse_grouping(json.dumps({"type": "group_gallery", "gallery_id": "g", **mode}))
    assert (request.gallery_id, request.mode) == ("g", expected)


def test_what_detection_sends_is_what_grouping_reads() -> None:
    sent = GroupGallery(gallery_id="Ä 1", mode="full")
    assert parse_grouping(sent.model_dump_json()) == sent


def forget(scope: str, **fields: str) -> str:
    return json.dumps({"type": "forget", "request_id": "r1", "scope": scope, "gallery_id": "g", **fields})


def edit(*operations: dict[str, object]) -> str:
    return json.dumps({"type": "edit_people", "gallery_id": "g", "edit_id": "e1", "by": "Ann", "edits": operations})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (detect(), "Message type 'detect_image' is not known to this queue; it takes 'group_gallery' or 'edit_people'"),
        ('{"type": "group_gallery"}', "gallery_id Field required"),
        ('{"type": "group_gallery", "gallery_id": "g", "mode": "some"}', "mode Input should be 'auto' or 'full'"),
        ('{"type": "group_gallery", "gallery_id": "../x"}', "gallery_id String should match pattern"),
        (forget("photo"), "lacks image_id, which the scope photo needs"),
        (forget("photo", image_id="i", person_id="p"), "has person_id, which the scope photo must not have"),
        (forget("person", person_id="p", confirm="g"), "has confirm, which the scope person must not have"),
        (forget("gallery"), "lacks confirm, which the scope gallery needs"),
        (forget("gallery", confirm="h"), "confirm must be the gallery's id"),
        (forget("gallery", confirm="g", also="h"), "also Extra inputs are not permitted"),
        (edit({"op": "shout"}), "does not match any of the expected tags"),
        (edit(), "edits List should have at least 1 item"),
        (edit({"op": "hide", "person_id": "p", "for": "ever"}), "edits.0.hide.for Extra inputs are not permitted"),
        (edit({"op": "name", "person_id": "p", "name": " "}), "edits.0.name.name String should have at least 1"),
        ('{"type": "set_gallery", "gallery_id": "g", "request_id": "r"}', "sets nothing"),
    ],
)
def test_a_grouping_message_that_can_never_succeed_is_rejected(body: str, expected: str) -> None:
    assert expected in reason(body, parse_grouping)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.fixed_dictionaries(
    {"eventName": st.just("ObjectCreated:Put") | JSON},
    optional={"s3": st.fixed_dictionaries({}, optional={"bucket": JSON, "object": JSON}) | JSON},
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("detect_image") | JSON,
        "version": JSON,
        "gallery_id": st.text() | JSON,
        "image_id": st.text() | JSON,
        "s3_key": st.text() | JSON,
        "Records": st.lists(RECORDS, max_size=3) | JSON,
        "Event": JSON,
    },
)


@given(st.text() | (JSON | MESSAGES).map(json.dumps))
@example('{"type": "detect_image", "version": NaN}')
@example("9" * 5_000)
def test_any_text_is_either_understood_or_rejected(body: str) -> None:
    try:
        work = read(body)
    except RejectMessage as reject:
        assert str(reject)
    else:
        assert all(letter.reason for letter in work.letters)
        for part in (*work.requests, *work.letters):
            again = read(part.body)
            assert (len(again.requests), len(again.letters)) == ((1, 0) if part in work.requests else (0, 1))


@given(st.text(min_size=1))
def test_an_image_id_is_the_name_up_to_its_ending(name: str) -> None:
    image_id = make_image_id(name)
    assert name.startswith(image_id)
    assert "/" not in name[len(image_id) :]


def test_every_message_has_a_schema_that_names_its_fields() -> None:
    schemas = make_json_schemas()
    orders = {"group_gallery", "edit_people", "set_gallery", "forget", "expire"}
    assert set(schemas) == {"detect_image", "find_person", *orders}
    assert {"gallery_id", "image_id", "s3_key"} == set(schemas["detect_image"]["required"])
