import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from app.core.errors import RejectMessage, RetryLater
from app.core.finds import FindAnswer, FindStatus
from app.core.gallery_vectors import UNASSIGNED, GalleryVectors, encode
from app.core.likeness import FindBars
from app.core.pictures import PhotoLimits
from app.core.ports import GuestFaces, SeenFace
from app.core.result_keys import ResultKeys
from app.core.thresholds import Threshold
from app.detection.analysis import Analyser, analyse_photo
from app.detection.budget import Budget
from app.detection.device import Device
from app.detection.find import MOST_REPLY_BYTES, FindParts, handle_find
from app.detection.selfies import combine, embed_mirrored
from app.detection.stage_times import StageTimes
from app.detection.vector_cache import VectorCache
from app.vision.decode import read_header
from app.vision.face_pack import FacePack
from app.vision.types import Detections
from tests import photos
from tests.fake_stores import FakeGalleryStore
from tests.fakes import FakeClock, FakeObjectStore, Outages
from tests.toy_pack import ToyDetector, ToyEmbedder, toy_manifest

MODEL = toy_manifest().model_id
KEYS = ResultKeys()
REPLIES = "https://sqs.eu-west-1.amazonaws.com/1/replies"
LIMIT = 100_000
ANN, BOB = "p-ann", "p-bob"


class Replies(Outages):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, str]] = []

    def send(self, queue_url: str, body: str) -> None:
        self._pass("send")
        self.sent.append((queue_url, body))


class Guests:
    """`now` maps ids of people to those that they have now; `faces` are all faces that anybody may see."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.faces: list[SeenFace] = []

    def read_guest(
        self, gallery_id: str, model_id: str, person_ids: Sequence[str], face_ids: Sequence[str]
    ) -> GuestFaces:
        assert (gallery_id, model_id) == ("g", MODEL)
        people = {person_id: self.now[person_id] for person_id in person_ids if person_id in self.now}
        wanted = [
            face
            for face in self.faces
            if face.person_id in people.values() or (face.person_id is None and face.face_id in face_ids)
        ]
        return GuestFaces(people, wanted)


class Detector(ToyDetector):
    """Finds the faces whose widths it is told, one below the other."""

    def __init__(self, *widths_px: float) -> None:
        super().__init__(len(widths_px))
        self.widths_px = widths_px

    def _faces(self) -> Detections:
        faces = super()._faces()
        boxes = np.array([(0, 0, width, width) for width in self.widths_px], np.float32).reshape(-1, 4)
        return replace(faces, boxes=boxes)


class World:
    """A gallery with Ann, who looks like the selfie, Bob, who doesn't, and an unassigned face."""

    def __init__(self) -> None:
        self.objects = FakeObjectStore("results")
        self.galleries = FakeGalleryStore(FakeClock())
        self.replies, self.guests = Replies(), Guests()
        self.device = Device(
            FacePack(toy_manifest(), Detector(20), ToyEmbedder()), calls=1, photos=4, faces=8
        ).__enter__()
        limits = PhotoLimits(LIMIT, 1_000_000)
        self.parts = FindParts(
            open_analyser=lambda: Analyser(self.device, limits),
            model_id=MODEL,
            objects=self.objects,
            selfies=self.objects,
            replies=self.replies,
            galleries=self.galleries,
            guests=self.guests,
            vectors=VectorCache(self.objects, "results", KEYS, 1_000_000),
            output_bucket="results",
            readable_buckets=frozenset({"photos"}),
            selfie_buckets=frozenset({"selfies"}),
            reply_queue_urls=frozenset({REPLIES}),
            bars=FindBars(Threshold(0.6, 0.2), 0),
            threshold=Threshold(0.5),
            least_quality=0,
            max_selfie_bytes=LIMIT,
            result_days=7,
            picture_bytes=Budget(10_000_000),
        )
        self.objects.upload("selfies", "me.jpg", photos.jpeg())
        data = photos.jpeg()
        analysis = analyse_photo(data, read_header(data, limits), Analyser(self.device, limits), StageTimes())
        self.me = combine([analysis.embeddings[0], embed_mirrored(analysis, 0, self.device, StageTimes())])
        """The vector of the selfie."""
        self.galleries.mark_dirty("g", 30)
        self.group()
        self.publish(ann=self.me, bob=-self.me)

    def group(self, model: str = MODEL) -> None:
        lease = self.galleries.take_lease("g", "me", 60)
        assert lease is not None
        self.galleries.record_run(lease, model, {"faces": 3})
        self.galleries.release(lease)

    def like(self, cosine: float, seed: int = 0) -> np.ndarray:
        """A vector that is so similar to the selfie."""
        other = np.random.default_rng(seed).normal(size=self.me.shape)
        other -= (other @ self.me) * self.me
        other /= np.linalg.norm(other)
        return (cosine * self.me + np.sqrt(1 - cosine**2) * other).astype(np.float32)

    def publish(
        self, alone: np.ndarray | None = None, model: str = MODEL, version: int = 5, **people: np.ndarray
    ) -> None:
        """What grouping publishes: people with one face each, and an unassigned face, if any."""
        vectors = [*people.values(), *([alone] if alone is not None else [])]
        names = [*people, *(["alone"] if alone is not None else [])]
        stacked = np.stack(vectors).astype(np.float16)
        ids = [f"g/{name}/{MODEL}/0" for name in names]
        self.objects.upload(
            "results",
            KEYS.vectors("g"),
            encode(
                GalleryVectors(
                    gallery_id="g",
                    model_id=model,
                    published=version,
                    fence=1,
                    person_ids=[f"p-{name}" for name in people],
                    means=stacked[: len(people)],
                    face_sets=[""] * len(people),
                    exemplars=stacked,
                    exemplar_person=np.array(
                        [*range(len(people)), *([UNASSIGNED] * (len(ids) - len(people)))], np.int32
                    ),
                    face_ids=ids,
                    image_ids=names,
                    digests=[""] * len(ids),
                    boxes=np.zeros((len(ids), 4), np.float32),
                )
            ),
        )
        self.guests.now = {f"p-{name}": f"p-{name}" for name in people}
        self.guests.faces = [
            SeenFace(face_id, f"p-{name}" if name in people else None, name, f"g/{name}.jpg", (1, 2, 3, 4.567), vector)
            for face_id, name, vector in zip(ids, names, vectors, strict=True)
        ]

    def send(self, *selfies: str, is_last: bool = False, bucket: str = "selfies", **fields: Any) -> None:
        named = [{"bucket": bucket, "s3_key": key} for key in selfies or ("me.jpg",)]
        body = {"type": "find_person", "request_id": "r1", "gallery_id": "g", "selfies": named, **fields}
        handle_find(json.dumps(body), self.parts, is_last=is_last)

    def find(self, *selfies: str, **fields: Any) -> FindAnswer:
        self.send(*selfies, **fields)
        gallery, request = fields.get("gallery_id", "g"), fields.get("request_id", "r1")
        return FindAnswer.model_validate_json(self.objects.read(KEYS.find(gallery, request)))

    def reason(self, **fields: Any) -> str:
        with pytest.raises(RejectMessage) as caught:
            self.send(**fields)
        assert not self.replies.sent
        assert KEYS.find("g", "r1") not in self.objects.output_keys
        return str(caught.value)


@pytest.fixture
def world() -> World:
    return World()


def test_a_selfie_finds_its_person_and_photos(world: World) -> None:
    answer = world.find()
    assert (answer.status, answer.model, answer.published, answer.reason) == (FindStatus.FOUND, MODEL, 5, None)
    assert [(one.person_id, one.similarity) for one in answer.people] == [(ANN, pytest.approx(1, abs=1e-3))]
    (photo,) = answer.photos
    assert (photo.image_id, photo.key, photo.box) == ("ann", "g/ann.jpg", (1, 2, 3, 4.57))
    assert photo.similarity == pytest.approx(1, abs=1e-3)
    assert [one.status for one in answer.selfies] == ["used"]


def test_the_answer_is_stored_to_expire_and_sent_to_the_reply_queue(world: World) -> None:
    answer = world.find(reply_queue_url=REPLIES)
    assert world.replies.sent == [(REPLIES, answer.model_dump_json())]
    assert answer.key == "face-worker/g/finds/r1.json"
    assert world.objects.tags[answer.key] == {"kind": "find"}


def test_nothing_of_the_selfie_is_stored_or_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    before = dict(world.objects.objects)
    with caplog.at_level(logging.DEBUG):
        answer = world.find()
    assert world.objects.objects.keys() - before.keys() == {("results", answer.key)}
    stored = world.objects.read(answer.key).decode()
    logged = " ".join(str(vars(record)) for record in caplog.records)
    for text in (stored, logged):
        assert "me.jpg" not in text
        assert not any(f"{abs(value):.4f}" in text for value in world.me.tolist())
    (line,) = [record for record in caplog.records if record.getMessage() == "find answered"]
    assert (vars(line)["gallery"], vars(line)["request"], vars(line)["status"]) == ("g", "r1", "found")


@pytest.mark.parametrize(
    ("widths_px", "status"),
    [
        ([], FindStatus.NO_FACE),
        ([20, 18], FindStatus.SEVERAL_FACES),
        ([10] * 30, FindStatus.SEVERAL_FACES),
        ([20, 10], FindStatus.FOUND),
        ([5] * 29 + [20], FindStatus.FOUND),
    ],
)
def test_a_selfie_of_0_2_or_30_faces(widths_px: list[float], status: FindStatus) -> None:
    world = World()
    detector = Detector(*widths_px)
    device = Device(FacePack(toy_manifest(), detector, ToyEmbedder()), calls=1, photos=4, faces=40).__enter__()
    world.parts = replace(world.parts, open_analyser=lambda: Analyser(device, PhotoLimits(LIMIT, 1_000_000)))
    answer = world.find()
    if status is FindStatus.FOUND:
        assert answer.selfies[0].status == "used"
        return
    assert (answer.status, answer.people, answer.photos) == (status, [], [])
    assert answer.reason == answer.selfies[0].reason
    assert answer.reason is not None


def test_a_blurred_selfie_is_refused_with_what_is_wrong(world: World) -> None:
    world.parts = replace(world.parts, least_quality=100)
    answer = world.find()
    assert (answer.status, answer.people) == (FindStatus.LOW_QUALITY_FACE, [])
    assert answer.reason is not None
    assert "below 100 of 100" in answer.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"\xff\xd8" + bytes(LIMIT), "too large"), (b"no picture", ""), (b"", ""), (None, "There is no object")],
)
def test_a_selfie_that_is_too_large_no_picture_or_not_there_is_answered_with_the_reason(
    world: World, data: bytes | None, reason: str
) -> None:
    if data is not None:
        world.objects.upload("selfies", "bad.jpg", data)
    answer = world.find("bad.jpg", reply_queue_url=REPLIES)
    assert answer.status is FindStatus.NO_FACE
    assert answer.reason is not None
    assert reason in answer.reason
    assert len(world.replies.sent) == 1


def test_of_several_selfies_those_that_can_be_used_are_used(world: World) -> None:
    world.objects.upload("selfies", "bad.jpg", b"no picture")
    answer = world.find("bad.jpg", "me.jpg", "me.jpg")
    assert answer.status is FindStatus.FOUND
    assert [one.status for one in answer.selfies] == ["no_face", "used", "used"]


def test_several_selfies_are_combined_to_one_vector() -> None:
    one, other = np.eye(2, 8, dtype=np.float32)
    assert combine([one, other]) == pytest.approx((one + other) / np.sqrt(2))


@pytest.mark.parametrize(
    ("cosine", "status"), [(0.62, FindStatus.FOUND), (0.4, FindStatus.UNSURE), (0.2, FindStatus.NOBODY)]
)
def test_how_similar_the_nearest_is_decides(world: World, cosine: float, status: FindStatus) -> None:
    # Two people are no crowd, and the bars are those of ten, 0.6 and 0.3.
    world.parts = replace(world.parts, bars=FindBars(Threshold(0.9, 0.3), 0))
    world.publish(ann=world.like(cosine), bob=-world.me)
    answer = world.find()
    assert answer.status is status
    assert [one.person_id for one in answer.people] == ([] if status is FindStatus.NOBODY else [ANN])
    assert len(answer.photos) == (1 if status is FindStatus.FOUND else 0)


def test_somebody_who_passes_by_chance_is_not_named_beside_the_guest(world: World) -> None:
    world.publish(ann=world.me, bob=world.like(0.7))
    assert [one.person_id for one in world.find().people] == [ANN]


def test_a_selfie_that_is_like_everybody_is_like_nobody(world: World) -> None:
    crowd = {f"x{seed}": world.like(0.65, seed) for seed in range(12)}
    world.publish(ann=world.like(0.7), **crowd)
    assert world.find().status is FindStatus.UNSURE
    world.publish(ann=world.like(0.7))
    assert world.find(request_id="r2").status is FindStatus.FOUND


def test_by_a_pack_without_a_threshold_nobody_is_surely_found(world: World) -> None:
    world.parts = replace(world.parts, bars=None)
    answer = world.find()
    assert (answer.status, answer.photos) == (FindStatus.UNSURE, [])
    assert [one.person_id for one in answer.people] == [ANN]


def test_a_guest_whose_only_face_is_unassigned_gets_that_photo(world: World) -> None:
    world.publish(alone=world.me, bob=-world.me)
    answer = world.find()
    assert (answer.status, answer.people) == (FindStatus.FOUND, [])
    assert [one.image_id for one in answer.photos] == ["alone"]


def test_a_person_in_two_parts_is_found_with_both(world: World) -> None:
    world.publish(ann=world.me, twin=world.like(0.95), bob=-world.me)
    answer = world.find()
    assert [one.person_id for one in answer.people] == [ANN, "p-twin"]
    assert [one.image_id for one in answer.photos] == ["ann", "twin"]


def test_a_person_that_was_merged_since_is_found_under_the_id_of_now(world: World) -> None:
    world.guests.now[ANN] = BOB
    world.guests.faces = [replace(face, person_id=BOB) for face in world.guests.faces]
    answer = world.find()
    assert [one.person_id for one in answer.people] == [BOB]
    assert {one.image_id for one in answer.photos} == {"ann", "bob"}


def test_a_person_whom_nobody_may_see_is_nobody(world: World) -> None:
    del world.guests.now[ANN]
    assert world.find().status is FindStatus.NOBODY


def test_at_most_so_many_photos_are_named_and_all_are_counted(world: World) -> None:
    face = world.guests.faces[0]
    world.guests.faces = [
        replace(face, face_id=str(row), image_id=str(row), embedding=world.like(0.9 - row / 100)) for row in range(9)
    ]
    answer = world.find(max_photos=3)
    assert (answer.photo_count, [one.image_id for one in answer.photos]) == (9, ["0", "1", "2"])


def test_a_photo_is_named_once_though_it_has_the_person_twice(world: World) -> None:
    face = world.guests.faces[0]
    world.guests.faces = [replace(face, face_id="2", embedding=world.like(0.5), box=(9, 9, 9, 9)), face]
    (photo,) = world.find().photos
    assert photo.box == (1, 2, 3, 4.57)


def test_a_reply_is_as_long_as_a_queue_takes(world: World) -> None:
    face = world.guests.faces[0]
    world.guests.faces = [replace(face, face_id=str(row), image_id="x" * 100 + str(row)) for row in range(5_000)]
    answer = world.find(max_photos=5_000, reply_queue_url=REPLIES)
    ((_, body),) = world.replies.sent
    assert len(answer.photos) == 5_000
    sent = FindAnswer.model_validate_json(body)
    assert len(body.encode()) <= MOST_REPLY_BYTES
    assert 500 < len(sent.photos) < sent.photo_count == 5_000
    assert sent.photos == answer.photos[: len(sent.photos)]


def test_a_reply_queue_that_is_not_on_the_list_is_refused(world: World) -> None:
    assert "is not in ALLOWED_REPLY_QUEUE_URLS" in world.reason(reply_queue_url=REPLIES + "-of-others")


def test_only_buckets_of_selfies_are_read_and_cleared(world: World) -> None:
    assert "may not be read for selfies" in world.reason(bucket="others")
    world.parts = replace(world.parts, selfie_buckets=frozenset())
    assert "Nothing is removed from the bucket 'photos'" in world.reason(bucket="photos", delete_selfies=True)


def test_a_result_is_no_selfie(world: World) -> None:
    world.parts = replace(world.parts, selfie_buckets=frozenset({"results"}))
    with pytest.raises(RejectMessage, match="is a result of this system"):
        world.send(KEYS.vectors("g"), bucket="results", delete_selfies=True)
    assert KEYS.vectors("g") in world.objects.output_keys


@pytest.mark.parametrize(
    "fields",
    [{"selfies": []}, {"selfies": [{"bucket": "b", "s3_key": "k"}] * 6}, {"request_id": "../g"}, {"type": "x"}],
)
def test_a_message_that_is_not_valid_is_refused(world: World, fields: dict[str, Any]) -> None:
    assert world.reason(**fields)


def test_an_unknown_gallery_is_said_to_be_unknown(world: World) -> None:
    answer = world.find(gallery_id="nobody-knows-it")
    assert (answer.status, answer.selfies) == (FindStatus.UNKNOWN_GALLERY, [])


def test_a_gallery_that_was_never_grouped_is_not_ready_and_is_looked_at_again(world: World) -> None:
    world.galleries.galleries["g"].grouped = None
    assert world.find().status is FindStatus.NOT_READY
    world.group()
    assert world.find().status is FindStatus.FOUND


def test_a_gallery_that_is_being_grouped_is_searched_as_it_was_published_last(world: World) -> None:
    world.galleries.mark_dirty("g", 30)
    assert world.galleries.take_lease("g", "a run", 60)
    assert world.find().status is FindStatus.FOUND


def test_a_gallery_of_another_model_is_not_ready(world: World) -> None:
    world.group("other-111111111111")
    answer = world.find()
    assert answer.status is FindStatus.NOT_READY
    assert answer.reason is not None
    assert "other-111111111111" in answer.reason


@pytest.mark.parametrize("data", [None, b"damaged", b""])
def test_without_vectors_that_can_be_read_a_gallery_is_not_ready(world: World, data: bytes | None) -> None:
    world.objects.remove([KEYS.vectors("g")])
    if data is not None:
        world.objects.upload("results", KEYS.vectors("g"), data)
    answer = world.find()
    assert answer.status is FindStatus.NOT_READY
    assert answer.reason is not None
    assert "mode full" in answer.reason


def test_vectors_of_another_model_are_never_compared(world: World) -> None:
    world.publish(ann=world.me, model="other-111111111111")
    assert world.find().status is FindStatus.NOT_READY


def test_a_gallery_that_was_forgotten_is_said_to_be_forgotten(world: World) -> None:
    world.parts = replace(world.parts, is_forgotten=lambda gallery_id: gallery_id == "g")
    answer = world.find()
    assert (answer.status, answer.selfies) == (FindStatus.FORGOTTEN, [])


def test_the_same_request_gets_the_same_answer_though_its_selfie_is_gone(world: World) -> None:
    first = world.find(delete_selfies=True, reply_queue_url=REPLIES)
    assert ("selfies", "me.jpg") not in world.objects.objects
    world.publish(bob=-world.me)
    assert world.find(delete_selfies=True, reply_queue_url=REPLIES) == first
    assert [body for _, body in world.replies.sent] == [first.model_dump_json()] * 2


@pytest.mark.parametrize("step", ["send", "remove_selfie"])
def test_a_request_that_failed_half_way_is_finished_by_its_next_delivery(world: World, step: str) -> None:
    (world.replies if step == "send" else world.objects).outages[step] = 1
    with pytest.raises(RetryLater):
        world.send(delete_selfies=True, reply_queue_url=REPLIES)
    answer = world.find(delete_selfies=True, reply_queue_url=REPLIES)
    assert answer.status is FindStatus.FOUND
    assert world.replies.sent[-1] == (REPLIES, answer.model_dump_json())
    assert ("selfies", "me.jpg") not in world.objects.objects


def test_a_selfie_stays_unless_its_removal_is_asked_for(world: World) -> None:
    world.find()
    assert ("selfies", "me.jpg") in world.objects.objects


def test_an_answer_that_is_too_old_is_made_anew(world: World) -> None:
    first = world.find()
    world.objects.upload(
        "results", first.key, first.model_dump_json().encode(), datetime.now(UTC) - timedelta(days=7, seconds=1)
    )
    world.publish(bob=-world.me)
    assert world.find().status is FindStatus.NOBODY


def test_the_last_try_ends_in_a_dead_letter_with_the_reason(world: World) -> None:
    world.objects.outages["read_selfie"] = 2
    with pytest.raises(RetryLater):
        world.send()
    with pytest.raises(RejectMessage, match="The last try failed: read_selfie is away"):
        world.send(is_last=True)


def test_what_grouping_publishes_next_is_searched_next(world: World) -> None:
    world.find()
    world.publish(bob=-world.me, version=6)
    answer = world.find(request_id="r2")
    assert (answer.status, answer.published) == (FindStatus.NOBODY, 6)


def test_vectors_are_read_once_and_the_oldest_make_room(world: World) -> None:
    read: list[str] = []
    real = world.objects.open

    def open_and_count(photo: Any, max_bytes: int) -> Any:
        read.append(photo.key)
        return real(photo, max_bytes)

    world.objects.open = open_and_count  # type: ignore[method-assign]
    data = world.objects.read(KEYS.vectors("g"))
    for gallery in "hi":
        world.objects.upload("results", KEYS.vectors(gallery), data)
    loaded = world.parts.vectors.load("g")
    assert loaded is not None
    cache = VectorCache(world.objects, "results", KEYS, round(2.5 * loaded.size_bytes))
    read.clear()
    for gallery in "gghhgig":
        assert cache.load(gallery) is not None
    assert [key.split("/")[1] for key in read] == ["g", "h", "i"]
    cache.load("h")
    assert len(read) == 4
    tiny = VectorCache(world.objects, "results", KEYS, 10)
    assert tiny.load("g") is not None
    assert tiny.load("g") is not None
    assert len(read) == 6
