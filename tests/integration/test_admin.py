"""The commands of `python -m app.admin`, against moto and SecantusDB.

Most call `main` here. A process of its own takes a second and more; it is started where what a process does of itself
counts: its exit code, what it reads from its environment, and all that it prints.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from pymongo import MongoClient

from app.adapters.mongo import Document, ensure_indexes
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_people import MongoPeopleStore
from app.adapters.mongo_pictures import NamedPictures
from app.adapters.sqs import SqsQueue
from app.admin.__main__ import main
from app.admin.migrate import make_order
from app.admin.sweep import MESSAGE_LIFE_S, is_over
from app.core.errors import Letter
from app.core.journal import make_edit
from app.core.messages import EditPeople, SetGallery, parse_detection, parse_grouping
from app.core.ports import GalleryChange, RunProgress
from app.core.records import FaceMove, ImageRecord, ImageStatus, PersonRecord, PhotoRef, PhotoResult
from app.core.result_keys import ResultKeys
from app.packs.manifest import read_manifest
from local.stack import ROOT
from tests.conftest import REGION, aws_client
from tests.stores import CONTENT, MODEL, face_record, photo, photo_result

WITHOUT = ("QUEUE_URL", "GROUP_FACE_QUEUE_URL", "GALLERY_IMAGES_MONGO_URI")


@dataclass(frozen=True)
class Desk:
    """Both queues, a database, and the settings that lead the command there."""

    detection: SqsQueue
    grouping: SqsQueue
    faces: MongoFaceStore
    people: MongoPeopleStore
    journal: MongoEditJournal
    galleries: MongoGalleryStore
    settings: dict[str, str]

    def admin(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """The command, in this process."""
        with (
            patch.dict(os.environ, self._environment(settings), clear=True),
            redirect_stdout(StringIO()) as output,
            redirect_stderr(StringIO()) as errors,
        ):
            try:
                code = main(list(arguments))
            except SystemExit as ended:  # argparse ends so where it refuses an argument
                code = int(ended.code or 0)
        return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())

    def process(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """The command as an operator starts it."""
        return subprocess.run(
            [sys.executable, "-m", "app.admin", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=ROOT,
            env=self._environment(settings),
        )

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in WITHOUT}
        return {**inherited, **self.settings, **settings}

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        """What the command prints for scripts."""
        done = self.admin(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def take(self, count: int) -> list[str]:
        """Bodies of so many messages of the grouping queue."""
        bodies: list[str] = []
        while len(bodies) < count:
            messages = self.grouping.receive(10, wait_s=1)
            assert messages, f"{count - len(bodies)} messages are missing"
            bodies += [message.body for message in messages]
            self.grouping.delete(messages)
        return bodies

    def reject(self, *bodies: str) -> None:
        for body in bodies:
            self.detection.send(body)
            (message,) = self.detection.receive(1, wait_s=1)
            self.detection.reject(message, [Letter(body, "It is not JSON.")])

    def store(self, image_id: str) -> None:
        photo = PhotoRef("gallery", image_id, "photos", f"gallery/{image_id}.jpg", image_id)
        self.faces.save_photos([PhotoResult(ImageRecord(photo, ImageStatus.NO_FACES, model_id="m"))])


@pytest.fixture
def desk(aws: str, mongo_uri: str, mongo_client: MongoClient[Document]) -> Iterator[Desk]:
    name = f"admin_{uuid4().hex}"
    ensure_indexes(mongo_client[name])
    urls = [make_queue(f"{kind}-{name}") for kind in ("detection", "grouping")]
    settings = dict(zip(WITHOUT, [*urls, f"{mongo_uri}/{name}"], strict=True))
    queues = [SqsQueue(url, REGION, visibility_s=30) for url in urls]
    stores = [
        store(mongo_client[name]) for store in (MongoFaceStore, MongoPeopleStore, MongoEditJournal, MongoGalleryStore)
    ]
    yield Desk(*queues, *stores, settings)
    mongo_client.drop_database(name)


def test_a_gallery_shows_its_last_run_and_the_progress_of_the_present_one(desk: Desk) -> None:
    desk.galleries.mark_dirty("gallery", 0)
    lease = desk.galleries.take_lease("gallery", "worker", 60)
    assert lease
    desk.galleries.record_run(lease, "m-1", {"faces": 7, "stages_s": {"read": 0.5, "cluster": 1.5}})
    desk.galleries.mark_dirty("gallery", 0)
    desk.galleries.report_progress(lease, RunProgress("cluster", 0.25, 12.0, datetime.now(UTC)))
    shown = desk.admin("gallery", "gallery").stdout
    assert "last run: faces 7\n" in shown
    assert "last run: stages_s read 0.5, cluster 1.5\n" in shown
    assert "changes that are not grouped yet: 1\n" in shown
    assert "being grouped: cluster, 25%, 12 s to go (" in shown
    (fields,) = desk.objects("gallery", "gallery")
    assert (fields["revision"], fields["last_run"]["faces"], fields["progress"]["stage"]) == (2, 7, "cluster")


def test_a_gallery_that_is_not_known_is_said_so(desk: Desk) -> None:
    done = desk.admin("gallery", "nowhere")
    assert (done.returncode, done.stderr) == (
        1,
        "MongoDB knows no gallery nowhere: nothing of it has been stored yet.\n",
    )


def make_queue(name: str) -> str:
    sqs = aws_client("sqs", REGION)
    dead_url = sqs.create_queue(QueueName=f"{name}-dead-letters")["QueueUrl"]
    answer = sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": answer["Attributes"]["QueueArn"], "maxReceiveCount": 5}
    return str(sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": json.dumps(policy)})["QueueUrl"])


def test_dead_letters_of_the_guests_queue_need_its_url(desk: Desk) -> None:
    done = desk.process("dlq", "list", "--queue", "find")
    assert (done.returncode, done.stderr) == (2, "FIND_QUEUE_URL is not set.\n")


def test_dead_letters_are_listed_a_line_each_with_their_reason(desk: Desk) -> None:
    desk.reject("first line\nsecond line", "other")
    done = desk.process("dlq", "list", "--queue", "detection")
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines(), key=lambda line: "other" in line)
    assert len(lines) == 2
    assert lines[0].endswith("received 1x  It is not JSON.  first line")
    assert " s old" in lines[0]


def test_a_listed_letter_can_be_shown_in_full(desk: Desk) -> None:
    desk.reject("first line\nsecond line", "other")
    listed = desk.objects("dlq", "list", "--queue", "detection")
    assert {letter["body"] for letter in listed} == {"first line\nsecond line", "other"}
    letter = next(letter for letter in listed if letter["body"] != "other")
    assert (letter["reason"], letter["receive_count"]) == ("It is not JSON.", 1)
    done = desk.admin("dlq", "show", letter["message_id"], "--queue", "detection")
    assert "reason: It is not JSON." in done.stdout
    assert done.stdout.endswith("\n\nfirst line\nsecond line\n")


def test_an_unknown_letter_and_an_empty_queue_are_said_to_be_so(desk: Desk) -> None:
    done = desk.admin("dlq", "show", "no-such-id", "--queue", "detection")
    assert (done.returncode, done.stdout) == (1, "")
    assert "none has the id no-such-id" in done.stderr
    assert desk.admin("dlq", "list", "--queue", "grouping").stdout.startswith("There are no dead letters")
    assert desk.objects("dlq", "list", "--queue", "grouping") == []


def test_where_sqs_cannot_move_letters_the_sentence_names_the_way_that_works(desk: Desk) -> None:
    desk.reject("a", "b")
    refused = desk.admin("dlq", "redrive", "--queue", "detection")
    assert refused.returncode == 1
    assert "Starting the move of dead letters failed" in refused.stderr
    assert "--one-by-one" in refused.stderr
    moved = desk.admin("dlq", "redrive", "--queue", "detection", "--one-by-one", "--per-second", "100")
    assert (moved.returncode, moved.stdout.splitlines()[-1]) == (0, "2 dead letters moved.")
    assert sorted(message.body for message in desk.detection.receive(10, wait_s=1)) == ["a", "b"]
    assert desk.objects("dlq", "list", "--queue", "detection") == []


def test_one_photo_is_sent_again(desk: Desk) -> None:
    desk.store("one")
    desk.store("two")
    done = desk.admin("replay", "--gallery", "gallery", "--image", "one")
    assert (done.returncode, done.stdout) == (0, "sent: gallery/one (was no_faces)\n")
    (message,) = desk.detection.receive(10, wait_s=1)
    (request,) = parse_detection(message.body, "other").requests
    assert request.photo == PhotoRef("gallery", "one", "photos", "gallery/one.jpg", "one")
    assert request.force


def test_all_photos_of_a_gallery_are_sent_again(desk: Desk) -> None:
    for image_id in ("one", "two", "three"):
        desk.store(image_id)
    printed = desk.objects("replay", "--gallery", "gallery")
    bodies = [message.body for message in desk.detection.receive(10, wait_s=1)]
    sent = [parse_detection(body, "other").requests[0].photo for body in bodies]
    assert {photo.image_id for photo in sent} == {"one", "two", "three"}
    assert {item["image_id"] for item in printed} == {"one", "two", "three"}


def test_a_full_grouping_is_ordered_without_a_photo(desk: Desk) -> None:
    done = desk.admin("replay", "--gallery", "gallery", "--group", GALLERY_IMAGES_MONGO_URI="")
    assert done.returncode == 0, done.stderr
    (message,) = desk.grouping.receive(1, wait_s=1)
    order = parse_grouping(message.body)
    assert (order.gallery_id, order.mode) == ("gallery", "full")
    assert desk.detection.receive(10, wait_s=0) == []


def test_what_a_gallery_asks_of_faces_is_set_and_it_is_grouped_anew(desk: Desk) -> None:
    done = desk.admin("quality", "--gallery", "gallery", "--core", "40", "--border", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "gallery asks of faces: 40 of a core face, 10 of a border face" in done.stdout
    (message,) = desk.grouping.receive(1, wait_s=1)
    assert parse_grouping(message.body).gallery_id == "gallery"
    assert "what the pack asks" in desk.admin("quality", "--gallery", "gallery", "--reset").stdout


def test_the_threshold_of_a_gallery_is_set_and_it_is_grouped_anew(desk: Desk) -> None:
    done = desk.admin("threshold", "--gallery", "gallery", "--similarity", "0.6")
    assert (done.returncode, done.stderr) == (0, "")
    assert "two faces need a similarity above 0.6" in done.stdout
    (message,) = desk.grouping.receive(1, wait_s=1)
    assert parse_grouping(message.body).gallery_id == "gallery"
    assert "the pack's similarity" in desk.admin("threshold", "--gallery", "gallery", "--reset").stdout
    refused = desk.admin("threshold", "--gallery", "gallery", "--similarity", "1.5")
    assert (refused.returncode, "between 0 and 1" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments", [("--core", "10", "--border", "40"), ("--core", "40"), ("--core", "400", "--border", "1")]
)
def test_bars_that_make_no_sense_are_refused(desk: Desk, arguments: tuple[str, ...]) -> None:
    done = desk.admin("quality", "--gallery", "gallery", *arguments)
    assert done.returncode == 1
    assert "--border" in done.stderr
    assert desk.grouping.receive(1, wait_s=0) == []


FACES = [face_record(photo(name, "gallery"), 0).face_id for name in "abc"]


def test_what_former_versions_left_wrong_is_found_and_a_message_is_sent_for_each(
    desk: Desk, mongo_client: MongoClient[Document]
) -> None:
    bucket = f"photos-{uuid4().hex}"
    s3 = aws_client("s3", REGION)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    former = ("groups.json", "people.html", "previews/swapped.jpg", "faces/swapped.webp")
    for key in ("IMG_1.MOV", "IMG_1.JPG", "swapped.jpg", "right.jpg", "day 1/", "stored before.jpg", *former):
        s3.put_object(Bucket=bucket, Key=f"gallery/{key}", Body=b"file")

    def store(file: str, **changes: Any) -> None:
        name = file.rpartition(".")[0]
        result = photo_result(PhotoRef("gallery", name, bucket, f"gallery/{file}", name))
        desk.faces.save_photos([replace(result, **changes)])

    for file in ("IMG_1.MOV", "swapped.jpg", "right.jpg", "gone.jpg", "stored before.jpg"):
        store(file)
    database = mongo_client[desk.settings["GALLERY_IMAGES_MONGO_URI"].rpartition("/")[2]]
    # As a former version stored them.
    database["images"].update_many(
        {"_id": {"$in": ["gallery/IMG_1", "gallery/stored before"]}}, {"$unset": {"name": ""}}
    )
    database["images"].update_one({"_id": "gallery/IMG_1"}, {"$set": {"status": "rejected", "face_count": 0}})
    database["faces"].delete_many({"image_id": "IMG_1"})
    crops = {"$unset": {"crop_range": ""}, "$set": {"crop_key": "gallery/faces/swapped.webp"}}
    database["faces"].update_many({"image_id": "swapped"}, crops)
    database["images"].update_one({"_id": "gallery/swapped"}, {"$unset": {"preview_key": ""}})
    expected = {
        "gallery/IMG_1.JPG": "photo without a record",
        "gallery/IMG_1.MOV": "record of a former version",
        "gallery/gone.jpg": "record without a photo",
        "gallery/stored before.jpg": "record of a former version",
        "gallery/swapped.jpg": "pictures of a former version",
    }
    for arguments in (("--dry-run",), ("--gallery", "gallery")):
        with patch.dict(desk.settings, {"BUCKET_NAME": bucket}):
            found = desk.objects("repair", *arguments)
        assert {item["key"]: item["fault"] for item in found} == expected
        bodies = [message.body for message in desk.detection.receive(10, wait_s=1)]
        requests = [parse_detection(body, "other").requests[0] for body in bodies]
        assert {request.photo.key: request.redo_pictures for request in requests} == (
            {} if arguments == ("--dry-run",) else {key: key == "gallery/swapped.jpg" for key in expected}
        )


def make_people(desk: Desk) -> None:
    """Ann has two faces, Bob has one."""
    desk.faces.save_photos([photo_result(photo(name, "gallery")) for name in "abc"])
    lease = desk.galleries.take_lease("gallery", "a run", 60)
    assert lease
    moves = [FaceMove(face, None, person) for face, person in zip(FACES, ("ann", "ann", "bob"), strict=True)]
    desk.people.write_people(lease, [PersonRecord("ann", FACES[0], 2, 2), PersonRecord("bob", FACES[2], 1, 1)], moves)
    desk.people.publish_people(lease)
    desk.galleries.release(lease)


def test_what_users_say_of_people_is_queued_as_messages(desk: Desk) -> None:
    said = [
        ("name", "ann", "Ann é"),
        ("name", "ann", "--remove"),
        ("merge", "ann", "bob"),
        ("split", "ann", FACES[0], "--name", "Cid"),
        ("move", "ann", FACES[0], f"{FACES[1]}@{'0' * 16}"),
        ("confirm", "ann", FACES[0]),
        ("reject", "ann", FACES[0]),
        ("hide", "ann"),
        ("show-again", "ann"),
        ("cover", "ann", FACES[0]),
        ("keep-apart", "ann", "bob"),
        ("undo", "edit-1"),
    ]
    for number, (command, *rest) in enumerate(said):
        # The first as a process: its arguments are bytes, and its output goes through a pipe.
        run = desk.admin if number else desk.process
        done = run("people", command, "gallery", *rest, "--edit-id", f"e{number}", "--by", "Eve")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"gallery: queued as the edit e{number}\n"
    orders = [parse_grouping(body) for body in desk.take(len(said))]
    assert all(isinstance(order, EditPeople) for order in orders)
    made = {order.edit_id: order.edits[0].model_dump(exclude_unset=True) for order in orders}
    faces = [{"face_id": FACES[0]}]
    assert [made[f"e{number}"] for number in range(len(said))] == [
        {"op": "name", "person_id": "ann", "name": "Ann é"},
        {"op": "name", "person_id": "ann", "name": None},
        {"op": "merge", "person_id": "ann", "others": ["bob"]},
        {"op": "split", "person_id": "ann", "faces": faces, "name": "Cid"},
        {"op": "move", "person_id": "ann", "faces": [*faces, {"face_id": FACES[1], "digest": "0" * 16}]},
        {"op": "confirm", "person_id": "ann", "faces": faces},
        {"op": "reject", "person_id": "ann", "faces": faces},
        {"op": "hide", "person_id": "ann"},
        {"op": "show", "person_id": "ann"},
        {"op": "cover", "person_id": "ann", "face": faces[0]},
        {"op": "keep_apart", "person_id": "ann", "other": "bob"},
        {"op": "undo", "edit_id": "edit-1"},
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("name", "gallery", "ann"), "Give a name, or --remove to take it away."),
        (("merge", "a/b", "ann", "bob"), "The edit_people message is not valid: gallery_id"),
        (("undo", "gallery", "an edit"), "The edit_people message is not valid: edits.0.undo.edit_id"),
        (("show", "gallery", "nobody"), "The gallery gallery has no person nobody."),
        (("list", "nowhere"), "The gallery nowhere has no people."),
        (("edit", "gallery", "e9"), "The gallery gallery has no edit e9."),
    ],
)
def test_what_cannot_be_said_is_refused_and_no_message_is_sent(
    desk: Desk, arguments: tuple[str, ...], sentence: str
) -> None:
    make_people(desk)
    done = desk.admin("people", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(sentence)
    assert desk.grouping.receive(1, wait_s=0) == []


def test_people_are_listed_and_shown(desk: Desk) -> None:
    make_people(desk)
    assert [(one["person_id"], one["face_count"]) for one in desk.objects("people", "list", "gallery")] == [
        ("ann", 2),
        ("bob", 1),
    ]
    (ann,) = desk.objects("people", "show", "gallery", "ann")
    assert [face["face_id"] for face in ann["faces"]] == FACES[:2]
    assert desk.admin("people", "list", "gallery").stdout == (
        "ann  (no name)  2 faces in 2 photos\nbob  (no name)  1 faces in 1 photos\n"
    )


def test_people_are_shown_as_they_are_published_while_a_run_writes(desk: Desk) -> None:
    make_people(desk)
    before = desk.objects("people", "show", "gallery", "ann")
    lease = desk.galleries.take_lease("gallery", "a run", 60)
    assert lease
    moves = [FaceMove(FACES[0], "ann", "bob"), FaceMove(FACES[2], "bob", "ann")]
    desk.people.write_people(lease, [PersonRecord("ann", FACES[1], 5, 5), PersonRecord("eve", FACES[1], 1, 1)], moves)
    assert desk.objects("people", "show", "gallery", "ann") == before
    assert len(desk.objects("people", "list", "gallery")) == 2


def test_a_command_that_waits_says_what_became_of_the_edit(desk: Desk) -> None:
    make_people(desk)
    desk.journal.add(make_edit(EditPeople.model_validate(named("e1", "Ann")), refusal="There is no person ann."))
    done = desk.admin("people", "name", "gallery", "ann", "Ann", "--edit-id", "e1", "--wait")
    assert (done.returncode, done.stderr) == (1, "The edit e1 was refused: There is no person ann.\n")
    done = desk.admin("people", "name", "gallery", "ann", "Ann", "--edit-id", "e2", "--wait", "0.1")
    assert done.stderr.startswith("The edit e2 is not taken in after 0.1 s.")
    desk.journal.add(make_edit(EditPeople.model_validate(named("e3", "Ann"))))
    done = desk.admin("people", "edit", "gallery", "e3")
    assert (done.returncode, done.stdout) == (0, "gallery: the edit e3 is queued.\n")


def named(edit_id: str, name: str) -> dict[str, object]:
    edits = [{"op": "name", "person_id": "ann", "name": name}]
    return {"gallery_id": "gallery", "edit_id": edit_id, "by": "operator", "edits": edits}


def test_what_belongs_to_a_gallery_is_set_by_a_message_and_listed(desk: Desk) -> None:
    desk.galleries.mark_dirty("gallery", 0)
    arguments = ("--display-name", "Ann & Bob", "--retention-days", "90", "--reset", "similarity_threshold")
    done = desk.admin("galleries", "set", "gallery", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    (order,) = map(parse_grouping, desk.take(1))
    assert isinstance(order, SetGallery)
    sent = order.model_dump(exclude_unset=True, exclude={"type", "gallery_id", "request_id"})
    assert sent == {"display_name": "Ann & Bob", "retention_days": 90, "similarity_threshold": None}
    desk.galleries.set_gallery("gallery", "r1", GalleryChange({"display_name": "Ann & Bob", "retention_days": 90}))
    assert desk.admin("galleries", "list").stdout == "gallery  Ann & Bob  never grouped  kept for 90 days\n"
    assert desk.admin("galleries", "set", "gallery").stderr.startswith("The set_gallery message is not valid")


def test_a_photo_or_gallery_that_nobody_knows_sends_nothing(desk: Desk) -> None:
    for arguments in (("--gallery", "gallery", "--image", "none"), ("--gallery", "none")):
        done = desk.admin("replay", *arguments)
        assert done.returncode == 1
        assert "MongoDB knows no such photo" in done.stderr
    assert desk.admin("replay", "--gallery", "a/b", "--group").returncode == 1
    assert desk.detection.receive(10, wait_s=0) == desk.grouping.receive(10, wait_s=0) == []


def test_a_command_demands_the_settings_that_it_uses_and_no_others(desk: Desk) -> None:
    missing = desk.process("dlq", "list", "--queue", "detection", QUEUE_URL="")
    assert (missing.returncode, missing.stderr) == (2, "QUEUE_URL is not set.\n")
    others = {"GROUP_FACE_QUEUE_URL": "", "GALLERY_IMAGES_MONGO_URI": ""}
    assert desk.admin("dlq", "list", "--queue", "detection", **others).returncode == 0
    no_mongo = desk.admin("replay", "--gallery", "gallery", GALLERY_IMAGES_MONGO_URI="")
    assert (no_mongo.returncode, no_mongo.stderr) == (2, "GALLERY_IMAGES_MONGO_URI is not set.\n")


def test_a_password_is_never_printed(desk: Desk) -> None:
    uri = "mongodb://user:hunter2@127.0.0.1:9/?serverSelectionTimeoutMS=300"
    done = desk.process("replay", "--gallery", "gallery", GALLERY_IMAGES_MONGO_URI=uri)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("rate", ["0", "501", "many"])
def test_a_rate_that_sqs_does_not_take_is_refused_before_anything_is_asked(desk: Desk, rate: str) -> None:
    done = desk.admin("dlq", "redrive", "--queue", "detection", "--per-second", rate)
    assert done.returncode == 2
    assert "must be a number from 1 to 500" in done.stderr


def test_the_former_names_of_the_bars_work_for_one_more_version_with_a_note(desk: Desk) -> None:
    done = desk.admin("quality", "--gallery", "gallery", "--found", "40", "--join", "10")
    assert done.returncode == 0
    assert "40 of a core face, 10 of a border face" in done.stdout
    assert "--found is now --core" in done.stderr


def test_bars_are_stored_under_the_names_that_workers_of_the_version_before_read(desk: Desk) -> None:
    """Workers of both versions run side by side during a deploy."""
    desk.admin("quality", "--gallery", "gallery", "--core", "40", "--border", "10")
    with MongoClient[Document](desk.settings["GALLERY_IMAGES_MONGO_URI"]) as client:
        gallery = client.get_default_database()["galleries"].find_one({"_id": "gallery"})
    assert gallery is not None
    assert gallery["quality"] == {"found": 40, "join": 10}


@dataclass(frozen=True)
class Results:
    """The results bucket of a desk."""

    desk: Desk
    bucket: str

    def sweep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.desk.admin("sweep", *arguments, FACE_GROUP_BUCKET_NAME=self.bucket, AWS_DEFAULT_REGION=REGION)

    def put(self, *keys: str) -> None:
        for key in keys:
            aws_client("s3", REGION).put_object(Bucket=self.bucket, Key=key, Body=b"picture")

    def keys(self) -> set[str]:
        listed = aws_client("s3", REGION).list_objects_v2(Bucket=self.bucket)
        return {item["Key"] for item in listed.get("Contents", [])}

    def store(self, name: str, gallery: str = "gallery", edition: int = 0) -> set[str]:
        """Store a photo of this edition, with its pictures. Returns their keys."""
        of, keys = photo(name, gallery), ResultKeys()
        result = photo_result(of)
        preview, crops = keys.preview(of, edition, CONTENT), keys.crops(of, edition, CONTENT, MODEL)
        faces = [replace(face, crop_key=crops) for face in result.faces]
        stored = PhotoResult(replace(result.image, preview_key=preview), faces, edition)
        assert not self.desk.faces.save_photos([stored]).overtaken
        self.put(preview, crops)
        return {preview, crops}


@pytest.fixture
def results(desk: Desk) -> Results:
    bucket = f"results-{uuid4().hex}"
    aws_client("s3", REGION).create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    return Results(desk, bucket)


def left_by_killed_worker(name: str, gallery: str = "gallery", edition: int = 0) -> set[str]:
    of, keys = photo(name, gallery), ResultKeys()
    return {keys.preview(of, edition, "0" * 64), keys.crops(of, edition, "0" * 64, MODEL)}


def test_a_sweep_removes_the_pictures_that_no_record_names_and_no_worker_can_name_any_more(results: Results) -> None:
    named = results.store("one") | results.store("two", "other")
    left, elsewhere = left_by_killed_worker("one"), left_by_killed_worker("two", "other")
    results.put(*left, *elsewhere)
    done = results.sweep("--gallery", "gallery", "--older-than-s", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "2 pictures removed that no record names"
    assert results.keys() == named | elsewhere
    printed = [json.loads(line) for line in results.sweep("--older-than-s", "0", "--json").stdout.splitlines()]
    assert {one["key"] for one in printed[:-1]} == elsewhere
    assert printed[-1] == {"removed": 2}
    assert results.keys() == named


def test_a_sweep_leaves_what_is_young_and_what_a_worker_may_be_about_to_store(results: Results) -> None:
    named, left = results.store("one"), left_by_killed_worker("one")
    next_ones = left_by_killed_worker("one", edition=1) | left_by_killed_worker("never stored")
    results.put(*left, *next_ones)
    results.sweep()
    assert results.keys() == named | left | next_ones
    results.sweep("--older-than-s", "0")
    assert results.keys() == named | next_ones


def test_a_sweep_removes_the_pictures_of_a_gallery_that_has_no_photo_any_more(results: Results) -> None:
    results.desk.galleries.mark_dirty("gallery", 0)
    left = results.store("one")
    assert results.desk.faces.remove_photo(photo("one", "gallery"), 1) is not None
    assert results.keys() == left
    results.sweep("--older-than-s", "0")
    assert results.keys() == set()


def test_a_sweep_knows_former_crops_and_touches_no_photo_of_a_bucket_that_has_both(results: Results) -> None:
    former = "gallery/faces/one/model-0123456789ab-0.webp"
    photos = {"gallery/faces/one/portrait.jpg", "gallery/previews/one.jpg", "gallery/one.jpg"}
    results.put(former, *photos)
    named = results.store("one")
    results.sweep("--older-than-s", "0")
    assert results.keys() == photos | named


def test_a_sweep_removes_nothing_of_a_gallery_with_a_record_that_cannot_be_read(results: Results) -> None:
    kept = results.store("one") | left_by_killed_worker("one")
    named, left = results.store("two", "other"), left_by_killed_worker("two", "other")
    results.put(*kept, *left)
    with MongoClient[Document](results.desk.settings["GALLERY_IMAGES_MONGO_URI"]) as client:
        images = client.get_default_database()["images"]
        images.update_one({"gallery_id": "gallery"}, {"$set": {"status": "of a newer version"}})
    done = results.sweep("--older-than-s", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("The record gallery/one can't be read")
    assert "Nothing was removed there." in done.stderr
    assert results.keys() == kept | named


@pytest.mark.parametrize(("age_s", "expected"), [(MESSAGE_LIFE_S - 1, False), (MESSAGE_LIFE_S + 1, True)])
def test_a_picture_that_was_never_named_is_over_once_no_message_can_lead_to_it(age_s: float, expected: bool) -> None:
    (key, *_) = left_by_killed_worker("one")
    assert is_over(key, age_s, NamedPictures(frozenset(), {})) is expected


PACK = str(ROOT / "tests" / "packs" / "shared-insightface.toml")


def store_under(desk: Desk, model: str, *names: str, gallery: str = "gallery") -> None:
    for name in names:
        of = PhotoRef(gallery, name, "photos", f"{gallery}/{name}.jpg", name)
        edition = desk.faces.find_image(of)[1]
        desk.faces.save_photos([PhotoResult(ImageRecord(of, ImageStatus.NO_FACES, model_id=model), edition=edition)])


def keys_of(queue: SqsQueue) -> list[str]:
    """Keys of the photos that the queue's messages ask for. The messages are taken."""
    found = []
    while messages := queue.receive(10, wait_s=0):
        found += [request.photo.key for one in messages for request in parse_detection(one.body, "photos").requests]
        queue.delete(messages)
    return sorted(found)


def test_a_migration_sends_what_is_of_another_model_and_ends_where_nobody_examines_it(desk: Desk) -> None:
    new = read_manifest(Path(PACK)).model_id
    store_under(desk, "m-1", "a", "b", "c")
    store_under(desk, new, "d")
    arguments = ("migrate", "--to", PACK, "--gallery", "gallery", "--batch", "2", "--patience-s", "0.1")
    done = desk.admin(*arguments, "--per-second", "1000")
    assert done.returncode == 1
    assert "none of 2 photos of the gallery gallery was examined under" in done.stderr
    assert len(keys_of(desk.detection)) == 2

    store_under(desk, new, "a", "b")
    assert desk.admin(*arguments).returncode == 1
    assert keys_of(desk.detection) == ["gallery/c.jpg"]
    assert desk.grouping.receive(1, wait_s=0) == []


def test_a_migration_orders_the_grouping_once_all_photos_are_examined(desk: Desk) -> None:
    new = read_manifest(Path(PACK)).model_id
    store_under(desk, "m-1", "a", "b", "c")
    store_under(desk, new, "a", gallery="done")

    def examine(*_: object) -> None:
        store_under(desk, new, *(key.removeprefix("gallery/").removesuffix(".jpg") for key in keys_of(desk.detection)))

    with patch("app.admin.migrate.time.sleep", side_effect=examine):
        done = desk.admin("migrate", "--to", PACK, "--all", "--batch", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["photos"] for line in done.stdout.splitlines()] == [3, 3]
    [message] = desk.grouping.receive(10, wait_s=1)
    assert parse_grouping(message.body).gallery_id == "gallery"
    assert desk.admin("migrate", "--to", PACK, "--gallery", "nowhere").returncode == 1
    assert desk.admin("migrate", "--to", PACK, "--all", "--per-second", "0").returncode == 1


def test_photos_whose_ids_their_sender_chose_are_migrated_by_a_message_of_their_own() -> None:
    of = PhotoRef("g", "chosen", "photos", "elsewhere/x.jpg", None)
    [request] = parse_detection(make_order(of), "photos").requests
    assert (request.photo, request.is_event, request.force) == (of, False, False)
    [request] = parse_detection(make_order(photo("a")), "photos").requests
    assert (request.photo, request.is_event) == (photo("a"), True)
