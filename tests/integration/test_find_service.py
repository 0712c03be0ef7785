"""Guests and their selfies against the running services: what each request is answered."""

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from local.stack import SELFIES
from tests.integration.services import Services, wait_for
from tests.integration.test_bad_input import astronaut


def side_by_side(faces: int) -> bytes:
    picture = np.asarray(Pil.open(BytesIO(astronaut())).convert("RGB"))
    file = BytesIO()
    Pil.fromarray(np.concatenate([picture] * faces, axis=1)).save(file, "PNG")
    return file.getvalue()


def blurred() -> bytes:
    file = BytesIO()
    picture = Pil.open(BytesIO(astronaut())).convert("RGB")
    picture.resize((48, 48)).resize((512, 512), Pil.Resampling.BICUBIC).save(file, "JPEG", quality=30)
    return file.getvalue()


def ask(services: Services, request_id: str, selfie: bytes, gallery_id: str = "guests", **fields: Any) -> None:
    services.put_photo(f"{request_id}.png", selfie, SELFIES)
    services.send(
        {
            "type": "find_person",
            "request_id": request_id,
            "gallery_id": gallery_id,
            "selfies": [{"bucket": SELFIES, "s3_key": f"{request_id}.png"}],
            "delete_selfies": True,
            "reply_queue_url": services.environment["ALLOWED_REPLY_QUEUE_URLS"],
            **fields,
        },
        "FIND_QUEUE_URL",
    )


def find(services: Services, request_id: str, selfie: bytes, gallery_id: str = "guests") -> dict[str, Any]:
    """The answer as it came to the reply queue."""
    ask(services, request_id, selfie, gallery_id)

    def receive() -> dict[str, Any] | None:
        url = services.environment["ALLOWED_REPLY_QUEUE_URLS"]
        for message in services.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages", []):
            answer: dict[str, Any] = json.loads(message["Body"])
            services.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            if answer["request_id"] == request_id:
                return answer
        return None

    return wait_for(receive, f"the answer to {request_id}")


def selfies_left(services: Services) -> list[str]:
    return [item["Key"] for item in services.s3.list_objects_v2(Bucket=SELFIES).get("Contents", [])]


@pytest.fixture(scope="module")
def gallery(services: Services) -> str:
    """A gallery with one person on one photo."""
    services.send_photo("guests", "portrait", astronaut())
    services.grouped("guests", photos=1)
    return "guests"


def test_a_guest_gets_the_photos_and_the_selfie_is_gone(services: Services, gallery: str) -> None:
    (person,) = services.groups(gallery)["people"]
    answer = find(services, "astronaut", astronaut())
    assert answer["status"] == "found"
    assert [one["person_id"] for one in answer["people"]] == [person["person_id"]]
    (photo,) = answer["photos"]
    assert (photo["image_id"], photo["key"]) == ("portrait", "guests/portrait.jpg")
    assert photo["similarity"] > 0.9
    assert json.loads(services.output(answer["key"])) == answer
    wait_for(lambda: not selfies_left(services), "the removal of the selfie")


@pytest.mark.parametrize(
    ("name", "make", "status"),
    [
        ("two", lambda: side_by_side(2), "several_faces"),
        ("blurred", blurred, "low_quality_face"),
        ("text", lambda: b"no picture", "no_face"),
        ("huge", lambda: astronaut() + bytes(100_000_000), "no_face"),
    ],
)
def test_a_selfie_that_cant_be_used_is_answered_with_the_reason(
    services: Services, gallery: str, name: str, make: Any, status: str
) -> None:
    answer = find(services, name, make())
    assert (answer["status"], answer["people"], answer["photos"]) == (status, [], [])
    assert answer["reason"]


def test_an_unknown_gallery_is_said_to_be_unknown(services: Services) -> None:
    assert find(services, "nowhere", astronaut(), "nowhere")["status"] == "unknown_gallery"


def test_a_reply_queue_that_is_not_on_the_list_gets_nothing(services: Services, gallery: str) -> None:
    ask(services, "elsewhere", astronaut(), reply_queue_url=services.environment["QUEUE_URL"])
    letter = services.dead_letter("elsewhere", "find")
    assert "is not in ALLOWED_REPLY_QUEUE_URLS" in letter["reason"]
