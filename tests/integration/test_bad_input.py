"""What customers really send. Each ends as a stored status or a dead letter with a reason, and the rest goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
import pytest
import skimage

from app.core.result_keys import ResultKeys
from tests import photos
from tests.integration.services import Services, wait_for


def astronaut() -> bytes:
    """A photo with one face: NASA's portrait of Eileen Collins, public domain."""
    return (Path(skimage.__file__).parent / "data" / "astronaut.png").read_bytes()


BAD_PHOTOS: dict[str, tuple[Callable[[], bytes | None], str]] = {
    "no-such-key": (lambda: None, "There is no object"),
    "zero-bytes": (lambda: b"", "empty"),
    "text-named-jpg": (photos.text_named_jpg, "not a picture"),
    "truncated": (photos.truncated_jpeg, "cut off"),
    "png-bomb": (photos.png_bomb, "900.0 megapixels"),
    "200-megapixels": (photos.jpeg_claiming_200_megapixels, "200.0 megapixels"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_a_bad_photo_is_stored_as_rejected_with_the_reason(services: Services, name: str) -> None:
    make, reason = BAD_PHOTOS[name]
    services.send_photo("bad", name, make())
    image = services.image("bad", name)
    assert image["status"] == "rejected"
    assert reason in image["reason"]


def test_the_rest_of_the_album_is_finished_and_the_bad_ones_are_listed(services: Services) -> None:
    services.send_photo("mixed", "broken", photos.truncated_jpeg())
    services.send_photo("mixed", "good", astronaut())
    services.send_photo("mixed", "empty-scene", photos.jpeg())
    groups = services.grouped("mixed", photos=3)
    assert [person["photo_count"] for person in groups["people"]] == [1]
    skipped = {photo["image_id"]: photo for photo in groups["skipped"]}
    assert skipped["broken"]["status"] == "rejected"
    assert "cut off" in skipped["broken"]["reason"]
    assert skipped["empty-scene"] == {
        "image_id": "empty-scene",
        "key": "mixed/empty-scene.jpg",
        "status": "no_faces",
        "reason": "No face was found.",
    }


def test_by_default_the_prefilter_notes_what_it_thinks_of_a_photo_and_loses_none(services: Services) -> None:
    services.send_photo("judged", "face", astronaut())
    services.send_photo("judged", "grey", photos.jpeg(pixels=np.full((240, 320, 3), 128, np.uint8)))
    face, grey = (services.image("judged", name) for name in ("face", "grey"))
    assert (face["status"], face["prefilter"]["reason"]) == ("indexed", None)
    assert face["prefilter"]["score"] >= 50 > grey["prefilter"]["score"]
    assert (grey["status"], grey["prefilter"]["reason"].partition(":")[0]) == ("no_faces", "The photo is nearly blank")


def test_an_animated_gif_is_looked_at_by_its_first_frame(services: Services) -> None:
    services.send_photo("gif", "animation", photos.animated_gif())
    assert services.image("gif", "animation")["status"] == "no_faces"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"type": "make_coffee", "gallery_id": "unknown-type"}', "'make_coffee' is not known"),
        ('{"type": "detect_image", "gallery_id": "cut', "not JSON"),
        ('{"type":"detect_image","gallery_id":"g","image_id":"climb","s3_key":"g/../../climb.jpg"}', "path segment"),
        ('{"type":"detect_image","gallery_id":"g","image_id":"i","s3_key":"g/foreign.jpg","bucket":"foreign"}', "list"),
        ('{"type":"detect_image","version":2,"gallery_id":"g","image_id":"v2","s3_key":"g/v2.jpg"}', "version"),
    ],
)
def test_a_message_that_can_never_succeed_is_dead_lettered_with_the_reason(
    services: Services, body: str, reason: str
) -> None:
    services.send(body)
    attributes = services.dead_letter(body)
    assert reason in attributes["reason"]
    assert attributes["receive_count"] == "1"


def test_the_s3_test_event_is_acknowledged(services: Services) -> None:
    services.send({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"})
    wait_for(services.queue_is_empty, "an empty queue")


@pytest.mark.parametrize("name", ["Braut & Bräutigam 1", "写真 ①", "100% real+true"])
def test_an_s3_notification_with_an_odd_key_is_indexed(services: Services, name: str) -> None:
    key = f"odd keys/{name}.jpg"
    services.put_photo(key, astronaut(), bucket="second-bucket")
    record = {"bucket": {"name": "second-bucket"}, "object": {"key": quote_plus(key), "eTag": "x"}}
    services.send({"Records": [{"eventName": "ObjectCreated:Put", "s3": record}]})
    assert services.image("odd keys", name)["face_count"] == 1


def test_a_gallery_without_faces_gets_an_empty_result_and_a_page(services: Services) -> None:
    services.send_photo("faceless", "scene", photos.jpeg())
    groups = services.grouped("faceless", photos=1)
    assert groups["people"] == []
    assert groups["skipped"][0]["image_id"] == "scene"
    page = services.s3.get_object(
        Bucket=services.environment["FACE_GROUP_BUCKET_NAME"], Key=ResultKeys().page("faceless")
    )
    assert b"<html" in page["Body"].read()


def test_a_grouping_message_for_a_gallery_that_does_not_exist_gives_an_empty_result(services: Services) -> None:
    services.send({"type": "group_gallery", "gallery_id": "nobody", "mode": "full"}, queue="GROUP_FACE_QUEUE_URL")
    wait_for(lambda: services.database["galleries"].find_one({"_id": "nobody", "last_run": {"$ne": None}}), "the run")
    assert services.groups("nobody")["people"] == []


def test_the_same_content_under_two_names_is_one_person_twice(services: Services) -> None:
    services.send_photo("twins", "one", astronaut())
    services.send_photo("twins", "two", astronaut())
    people = services.grouped("twins", photos=2)["people"]
    assert [(person["face_count"], person["photo_count"]) for person in people] == [(2, 2)]


def test_people_keep_their_ids_and_names_when_the_gallery_grows(services: Services) -> None:
    services.send_photo("stay", "one", astronaut())
    before = services.grouped("stay", photos=1)["people"][0]["person_id"]
    services.database["people"].update_one({"_id": f"stay/{before}"}, {"$set": {"name": "Eileen"}})
    services.send_photo("stay", "two", astronaut())
    person = services.grouped("stay", photos=2)["people"][0]
    assert (person["person_id"], person["name"], person["photo_count"]) == (before, "Eileen", 2)


def test_the_owners_document_gets_its_face_index_and_nothing_else(services: Services) -> None:
    owned = {"gallery_id": "owned", "image_id": "portrait", "title": "At work"}
    services.owner_images.insert_one(dict(owned))
    services.send_photo("owned", "portrait", astronaut())
    services.image("owned", "portrait")

    def with_index() -> dict | None:
        return services.owner_images.find_one({"image_id": "portrait", "face_index": {"$exists": True}}, {"_id": 0})

    document = wait_for(with_index, "face_index")
    assert document["face_index"]["face_count"] == 1
    assert {name: value for name, value in document.items() if name != "face_index"} == owned


def test_every_line_of_both_logs_is_json(services: Services) -> None:
    for name, processes in {"detection": {"detection", "find"}, "grouping": {"grouping"}}.items():
        lines = (services.stack.logs / f"{name}.log").read_text("utf-8").splitlines()
        assert lines
        assert {json.loads(line)["service"] for line in lines} == processes
