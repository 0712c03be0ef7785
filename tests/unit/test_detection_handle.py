import json
import re
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from typing import Any
from urllib.parse import quote_plus

import numpy as np
import pytest
from PIL import Image as Pil

from app.core.errors import RejectMessage, RetryLater
from app.core.kill_points import KillPoints
from app.core.messages import parse_grouping
from app.core.pictures import PhotoLimits
from app.core.ports import OpenObject, Progress
from app.core.records import FaceRecord, ImageRecord, ImageStatus, PhotoRef, make_face_id
from app.core.result_keys import ResultKeys
from app.detection.analysis import Analyser
from app.detection.budget import Budget
from app.detection.changes import ChangeParts
from app.detection.decoders import count_decode_bytes
from app.detection.device import Device
from app.detection.handle import DetectionParts, handle
from app.detection.photo_store import PhotoStore
from app.detection.prefilter import Prefilter, PrefilterMode
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry
from app.vision.decode import read_header
from app.vision.face_pack import FacePack
from app.vision.types import FaceDetector
from tests import photos
from tests.fake_outbox import FakeEventOutbox
from tests.fake_stores import FakeFaceStore, FakeGalleryStore, FakeOwnerMetadata
from tests.fakes import FakeClock, FakeObjectStore, FakeQueue
from tests.telling import Listener
from tests.toy_pack import ToyDetector, ToyEmbedder, toy_manifest

PHOTO = PhotoRef("g", "a", "photos", "g/a.jpg", "a")
MODEL = toy_manifest().model_id
KEYS = ResultKeys()
DELAY_S = 30
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)


class World:
    """The detection service's parts as fakes, and a toy pack that finds as many faces as it is told."""

    def __init__(
        self, objects: FakeObjectStore | None = None, telemetry: Telemetry | None = None, **changes: Any
    ) -> None:
        telemetry = telemetry or Telemetry()
        self.journal: list[str] = []
        self.clock = FakeClock()
        self.objects = objects or FakeObjectStore("results", self.journal)
        self.faces = FakeFaceStore(self.journal)
        self.galleries = FakeGalleryStore(self.clock)
        self.owner = FakeOwnerMetadata()
        self.grouping_queue = FakeQueue(clock=self.clock)
        self.detector = ToyDetector(2)
        self.events = FakeEventOutbox(clock=self.clock)
        self.parts = DetectionParts(
            analyser=Analyser(self.device_of(self.detector), PhotoLimits(100_000, 1_000_000)),
            objects=self.objects,
            photos=self.open_photo_store(self.faces, telemetry),
            default_bucket="photos",
            output_bucket="results",
            readable_buckets=frozenset({"photos", "more-photos"}),
            preview_side_px=32,
            file_bytes=Budget(1_000_000),
            picture_bytes=Budget(10_000_000),
            kill_points=KillPoints(),
            telemetry=telemetry,
        )
        self.parts = replace(self.parts, **changes)
        self.objects.upload("photos", PHOTO.key, photos.jpeg(), NOON)

    def open_photo_store(self, faces: FakeFaceStore, telemetry: Telemetry, model_id: str = MODEL) -> PhotoStore:
        changes = ChangeParts(self.galleries, self.grouping_queue, DELAY_S, model_id, telemetry)
        return PhotoStore(faces, self.owner, self.objects, changes, events=self.events)

    def device_of(self, detector: FaceDetector, **manifest: Any) -> Device:
        pack = FacePack(toy_manifest(**manifest), detector, ToyEmbedder())
        return Device(pack, calls=1, photos=4, faces=8)

    def use_pack(self, name: str, detector: FaceDetector) -> None:
        analyser = replace(self.parts.analyser, device=self.device_of(detector, name=name))
        photos = self.open_photo_store(self.faces, self.parts.telemetry, analyser.model_id)
        self.parts = replace(self.parts, analyser=analyser, photos=photos)

    def detect(self, photo: PhotoRef = PHOTO, **fields: Any) -> None:
        message = {"gallery_id": photo.gallery_id, "image_id": photo.image_id, "s3_key": photo.key}
        handle(json.dumps({"type": "detect_image", "bucket": photo.bucket, **message, **fields}), self.parts)

    def image(self, photo: PhotoRef = PHOTO) -> ImageRecord:
        image, _ = self.faces.find_image(photo)
        assert image is not None
        return image

    def crops_key(self, edition: int = 0) -> str:
        return KEYS.crops(PHOTO, edition, sha256(self.objects.objects["photos", PHOTO.key].data).hexdigest(), MODEL)

    def preview_key(self, edition: int = 0) -> str:
        return KEYS.preview(PHOTO, edition, sha256(self.objects.objects["photos", PHOTO.key].data).hexdigest())

    def happen(self, event: str, *keys: str, bucket: str = "photos", **fields: Any) -> None:
        """What S3 announces, as one message."""
        records = [
            {
                "eventName": event,
                "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/"), "size": 9, **fields}},
            }
            for key in keys
        ]
        handle(json.dumps({"Records": records}), self.parts)

    @property
    def ids(self) -> dict[str, str]:
        """Key → image id."""
        return {image.photo.key: image.photo.image_id for image in self.faces.images.values()}


@pytest.fixture
def world() -> World:
    return World()


def test_a_photo_with_faces_is_indexed_with_its_size_etag_and_times(world: World) -> None:
    world.detect()
    image = world.image()
    assert (image.status, image.reason, image.face_count) == (ImageStatus.INDEXED, None, 2)
    assert (image.width_px, image.height_px, image.model_id) == (64, 48, MODEL)
    assert (image.etag, image.last_modified) == (world.objects.objects["photos", PHOTO.key].etag, NOON)
    looking = {"decode", "prefilter", "detect", "align", "quality", "embed", "device_wait"}
    assert set(image.timings_s) == looking | {"fetch", "pictures"}


def test_the_log_line_of_a_photo_has_what_was_found_and_how_long_each_stage_took(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="app.detection.handle"):
        world.detect()
    (line,) = [record for record in caplog.records if record.getMessage() == "photo indexed"]
    logged = vars(line)
    assert (logged["image"], logged["faces"]) == (PHOTO.document_id, 2)
    assert (logged["reason"], logged["twin"]) == (None, None)
    assert set(logged["seconds"]) == {*world.image().timings_s, "store"}
    assert logged["decode_cpu_s"] == 0


def test_a_photos_bytes_and_what_its_decoding_takes_are_held_while_it_is_worked_on() -> None:
    held: list[int] = []

    class Recorded(Budget):
        def hold(self, amount: int, progress: Progress = lambda: None) -> AbstractContextManager[None]:
            held.append(amount)
            return super().hold(amount, progress)

    world = World(file_bytes=Recorded(1_000_000), picture_bytes=Recorded(1_000_000))
    world.detect()
    header = read_header(photos.jpeg(), world.parts.analyser.limits)
    assert held == [len(photos.jpeg()), count_decode_bytes(header)]


@pytest.mark.parametrize("budget", ["file_bytes", "picture_bytes"])
def test_a_photo_that_can_never_fit_is_rejected_by_its_need_and_not_let_in_alone(budget: str) -> None:
    world = World(**{budget: Budget(10)})
    world.detect()
    assert world.image().status is ImageStatus.REJECTED
    assert re.search(r"too large for this worker's memory \(needs \d+ MB\)", str(world.image().reason))


def test_a_thumbnail_is_held_in_the_budget_too() -> None:
    world = judging("enforce", BLANK)
    world.parts = replace(world.parts, picture_bytes=Budget(10))
    world.detect()
    # It is no thumbnail to judge by, and then the photo itself doesn't fit.
    assert "too large for this worker's memory" in str(world.image().reason)


def test_a_message_that_comes_again_costs_no_look(world: World) -> None:
    world.detect()
    before = world.faces.snapshot()
    world.detector.count = 5
    world.detect()
    assert world.faces.snapshot() == before
    assert len(world.grouping_queue.bodies) == 1


def test_a_message_that_comes_again_after_a_death_still_tells_owner_and_grouping(world: World) -> None:
    world.owner.documents["g", "a"] = {}
    world.owner.outages["set_face_indexes"] = 1
    with pytest.raises(RetryLater):
        world.detect()
    assert (world.owner.documents["g", "a"], world.grouping_queue.bodies) == ({}, [])
    world.detect()
    assert world.owner.documents["g", "a"]["face_index"]["face_count"] == 2
    assert len(world.grouping_queue.bodies) == 1


def test_a_forced_message_is_done_again(world: World) -> None:
    world.detect()
    world.detector.count = 5
    world.detect(force=True)
    assert world.image().face_count == 5


def test_a_photo_that_was_rejected_is_tried_again(world: World) -> None:
    limits = world.parts.analyser.limits
    world.parts = replace(world.parts, analyser=replace(world.parts.analyser, limits=PhotoLimits(10, 10)))
    world.detect()
    assert world.image().status is ImageStatus.REJECTED
    world.parts = replace(world.parts, analyser=replace(world.parts.analyser, limits=limits))
    world.detect()
    assert world.image().status is ImageStatus.INDEXED


def test_the_same_picture_in_another_gallery_is_not_looked_at_again(world: World) -> None:
    world.detect()
    world.detector.count = 5
    twin = PhotoRef("other", "b", "photos", "other/b.jpg", "b")
    world.objects.upload("photos", twin.key, photos.jpeg(), NOON)
    world.detect(twin)
    assert world.image(twin).face_count == 2
    for index in range(2):
        ours, theirs = (world.faces.faces[make_face_id(photo, MODEL, index)] for photo in (twin, PHOTO))
        assert np.array_equal(ours.embedding, theirs.embedding)
        assert np.array_equal(ours.box, theirs.box)
        assert (ours.quality, ours.det_score) == (theirs.quality, theirs.det_score)
        assert read_crop(world, ours) == read_crop(world, theirs)


def read_crop(world: World, face: FaceRecord) -> bytes:
    assert face.crop_range is not None
    crop = world.objects.read_part(face.crop_key, *face.crop_range)
    assert crop is not None
    return crop


def test_another_models_faces_are_no_use_for_the_same_picture(world: World) -> None:
    world.detect()
    world.use_pack("newer", ToyDetector(3))
    twin = PhotoRef("other", "b", "photos", "other/b.jpg", "b")
    world.objects.upload("photos", twin.key, photos.jpeg(), NOON)
    world.detect(twin)
    assert world.image(twin).face_count == 3


def test_each_face_is_stored_under_its_deterministic_id_with_a_unit_embedding(world: World) -> None:
    world.detect()
    assert set(world.faces.faces) == {make_face_id(PHOTO, MODEL, 0), make_face_id(PHOTO, MODEL, 1)}
    face = world.faces.faces[make_face_id(PHOTO, MODEL, 1)]
    assert (face.gallery_id, face.image_id, face.model_id) == ("g", "a", MODEL)
    assert face.crop_key == world.crops_key()
    assert face.box.tolist() == [12, 0, 22, 12]
    assert face.landmarks[0].tolist() == [15, 4]
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-6)
    assert face.quality["size_px"] == 10


def test_all_crops_of_a_photo_are_one_object_and_each_face_knows_its_part(world: World) -> None:
    world.detect()
    assert world.objects.output_keys == {world.crops_key(), world.preview_key()}
    assert world.objects.content_types[world.preview_key()] == "image/jpeg"
    assert world.objects.read(world.preview_key()).startswith(b"\xff\xd8")
    assert world.image().preview_key == world.preview_key()
    crops = [read_crop(world, face) for face in world.faces.faces.values()]
    assert b"".join(crops) == world.objects.read(world.crops_key())
    assert [Pil.open(BytesIO(crop)).format for crop in crops] == ["JPEG", "JPEG"]


def test_a_photo_costs_three_calls_of_s3_whatever_its_faces() -> None:
    world = judging("off", photos.jpeg())
    world.detector.count = 9
    world.detect()
    assert isinstance(world.objects, Watched)
    assert (world.objects.opened, len(world.objects.output_keys)) == (["g/a.jpg"], 2)


def test_previews_can_be_switched_off() -> None:
    world = World(preview_side_px=0)
    world.detect()
    assert world.objects.output_keys == {world.crops_key()}
    assert world.image().preview_key is None


def test_a_photo_without_faces_is_stored_as_such_and_writes_no_pictures(world: World) -> None:
    world.detector.count = 0
    world.detect()
    assert (world.image().status, world.image().face_count) == (ImageStatus.NO_FACES, 0)
    assert world.image().reason
    assert world.objects.output_keys == set()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (photos.text_named_jpg(), "not a picture"),
        (photos.truncated_jpeg(), "cut off"),
        (photos.jpeg_claiming(2_000, 2_000), "4.0 megapixels; at most 1.0"),
        (b"x" * 100_001, "too large"),
    ],
)
def test_a_photo_that_cannot_be_used_is_stored_as_rejected_with_the_reason(
    world: World, data: bytes, reason: str
) -> None:
    world.objects.upload("photos", PHOTO.key, data)
    world.detect()
    assert world.image().status is ImageStatus.REJECTED
    assert reason in world.image().reason
    assert world.faces.faces == {}


def test_a_photo_that_is_not_there_is_rejected_without_an_etag(world: World) -> None:
    gone = PhotoRef("g", "gone", "photos", "g/gone.jpg", "gone")
    world.detect(gone)
    image = world.image(gone)
    assert (image.status, image.etag, image.last_modified) == (ImageStatus.REJECTED, None, None)


def test_a_rejected_photo_still_has_the_etag_of_what_was_rejected(world: World) -> None:
    world.objects.upload("photos", PHOTO.key, b"junk", NOON)
    world.detect()
    assert world.image().etag == world.objects.objects["photos", PHOTO.key].etag
    assert world.image().last_modified == NOON


def test_the_same_message_again_leaves_the_same_records_and_objects(world: World) -> None:
    world.detect()
    records, keys = world.faces.snapshot(), world.objects.output_keys
    world.detect()
    assert world.faces.snapshot() == records
    assert world.objects.output_keys == keys


def test_a_late_message_for_a_former_version_is_about_the_object_that_is_there_now(world: World) -> None:
    world.objects.upload("photos", PHOTO.key, photos.png(), NOON)
    world.detect(version_id="a former one")
    assert world.image().etag == world.objects.objects["photos", PHOTO.key].etag
    before = world.faces.snapshot()
    world.detector.count = 0
    world.detect(version_id="a former one")
    assert world.faces.snapshot() == before


@pytest.mark.parametrize("later_s", [-1, 0, 1])
def test_another_version_replaces_the_one_that_is_stored_whatever_its_time(world: World, later_s: int) -> None:
    world.detect()
    world.objects.upload("photos", PHOTO.key, photos.png(), NOON + timedelta(seconds=later_s))
    world.detector.count = 1
    world.detect()
    assert list(world.faces.faces) == [make_face_id(PHOTO, MODEL, 0)]
    assert world.image().last_modified == NOON + timedelta(seconds=later_s)
    assert world.objects.output_keys == {world.crops_key(1), world.preview_key(1)}


def test_former_pictures_are_removed_once_no_record_names_them(world: World) -> None:
    world.detect()
    former = [world.crops_key(), world.preview_key()]
    world.detector.count = 1
    world.journal.clear()
    world.detect(force=True)
    assert world.objects.output_keys == {world.crops_key(1), world.preview_key(1)}
    assert all(world.journal.index("save g/a") < world.journal.index(f"remove {key}") for key in former)


def test_a_photo_that_has_no_faces_any_more_keeps_no_pictures(world: World) -> None:
    world.detect()
    world.detector.count = 0
    world.detect(force=True)
    assert world.objects.output_keys == set()


def test_a_photo_that_became_unusable_keeps_no_faces_and_no_pictures(world: World) -> None:
    world.detect()
    world.objects.upload("photos", PHOTO.key, b"junk")
    world.detect()
    assert world.faces.faces == {}
    assert world.objects.output_keys == set()


def test_a_change_of_the_pack_leaves_the_crops_and_the_preview_of_the_old_one(world: World) -> None:
    world.detect()
    before = world.crops_key()
    world.use_pack("newer", ToyDetector(1))
    world.detect()
    assert world.objects.output_keys == {
        before,
        world.preview_key(),
        KEYS.crops(PHOTO, 1, str(world.image().content), world.image().model_id),
    }
    assert {face.model_id for face in world.faces.faces.values()} == {MODEL, toy_manifest(name="newer").model_id}


def test_a_photo_that_is_exported_anew_keeps_the_people_of_its_faces(world: World) -> None:
    world.detect()
    first, second = sorted(world.faces.faces)
    world.faces.person_of |= {first: "p1", second: "p2"}
    with Pil.open(BytesIO(photos.jpeg())) as photo:
        pixels = np.asarray(photo.convert("RGB"))
    contents = {world.image().content}
    for shown, people in ((pixels, ["p1", "p2"]), (255 - pixels, [None, None])):
        data = BytesIO()
        Pil.fromarray(shown).save(data, "PNG")
        world.objects.upload("photos", PHOTO.key, data.getvalue(), NOON)
        world.detect()
        assert [world.faces.person_of.get(face_id) for face_id in (first, second)] == people
        contents.add(world.image().content)
    assert len(contents) == 3


def test_the_record_is_written_only_once_all_pictures_are_there(world: World) -> None:
    world.detect()
    assert world.journal == [f"put {world.crops_key()}", f"put {world.preview_key()}", "save g/a"]


def test_the_owners_document_gets_the_result(world: World) -> None:
    world.owner.documents["g", "a"] = {"title": "Beach"}
    world.detect()
    document = world.owner.documents["g", "a"]
    assert document["title"] == "Beach"
    assert (document["face_index"]["status"], document["face_index"]["face_count"]) == ("indexed", 2)


def test_a_burst_of_photos_sends_one_grouping_message_delayed(world: World) -> None:
    for name in ("a", "b", "c"):
        photo = PhotoRef("g", name, "photos", f"g/{name}.jpg", name)
        world.objects.upload("photos", photo.key, photos.jpeg())
        world.detect(photo)
    (body,) = world.grouping_queue.bodies
    request = parse_grouping(body)
    assert (request.gallery_id, request.mode) == ("g", "auto")
    assert world.grouping_queue.visible == []
    world.clock.sleep(DELAY_S)
    assert world.grouping_queue.visible == [body]


def test_a_photo_after_the_burst_sends_the_next_message(world: World) -> None:
    world.detect()
    world.clock.sleep(DELAY_S + 1)
    world.detect()
    assert len(world.grouping_queue.bodies) == 2


def test_an_unusable_photo_is_a_change_of_the_gallery_too(world: World) -> None:
    world.objects.upload("photos", PHOTO.key, b"junk")
    world.detect()
    assert len(world.grouping_queue.bodies) == 1


def test_a_grouping_message_that_could_not_be_sent_is_sent_by_the_next_try(world: World) -> None:
    world.grouping_queue.outages["send"] = 1
    with pytest.raises(RetryLater):
        world.detect()
    world.detect()
    assert len(world.grouping_queue.bodies) == 1


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("objects", "open"),
        ("objects", "put"),
        ("faces", "find_image"),
        ("faces", "save_photos"),
        ("owner", "set_face_indexes"),
        ("galleries", "mark_dirty"),
    ],
)
def test_whatever_is_away_the_next_try_ends_where_an_undisturbed_one_does(part: str, method: str) -> None:
    undisturbed, world = World(), World()
    undisturbed.detect()
    getattr(world, part).outages[method] = 1
    with pytest.raises(RetryLater):
        world.detect()
    world.detect()
    assert world.faces.snapshot() == undisturbed.faces.snapshot()
    assert world.objects.output_keys == undisturbed.objects.output_keys
    assert world.grouping_queue.bodies == undisturbed.grouping_queue.bodies


def test_in_a_shared_bucket_its_own_results_are_acknowledged_and_counted() -> None:
    listener = Listener()
    world = World(default_bucket="results", readable_buckets=frozenset({"results"}), telemetry=listener.telemetry)
    world.objects.upload("results", "g/a.jpg", photos.jpeg())
    world.happen("ObjectCreated:Put", "g/a.jpg", bucket="results")
    written = world.objects.output_keys - {"g/a.jpg"}
    before = world.faces.snapshot()
    former = f"g/faces/day 1/a/{MODEL}-0.webp"
    for key in [*written, KEYS.groups("g"), KEYS.page("g"), former]:
        world.happen("ObjectCreated:Put", key, bucket="results")
    assert len(written) == 2
    assert world.faces.snapshot() == before
    assert listener.metrics.kinds[Metric.EVENTS_IGNORED, "own result"] == 5


@pytest.mark.parametrize("folder", ["faces", "previews", "groups.json", "covers"])
def test_in_a_shared_bucket_a_folder_of_photos_may_have_any_name(folder: str) -> None:
    world = World(default_bucket="results", readable_buckets=frozenset({"results"}))
    world.objects.upload("results", f"g/{folder}/a.jpg", photos.jpeg())
    world.happen("ObjectCreated:Put", f"g/{folder}/a.jpg", bucket="results")
    assert world.ids == {f"g/{folder}/a.jpg": f"{folder}/a"}


def test_a_photo_in_another_bucket_may_look_like_output(world: World) -> None:
    photo = PhotoRef("g", "faces/me", "photos", "g/faces/me.jpg", "faces/me")
    world.objects.upload("photos", photo.key, photos.jpeg())
    world.detect(photo)
    assert world.image(photo).status is ImageStatus.INDEXED


def test_a_bucket_that_is_not_on_the_list_is_never_read(world: World) -> None:
    world.objects.outages["open"] = 1
    with pytest.raises(RejectMessage, match="'private' is not on the list; add it to ALLOWED_BUCKETS"):
        world.detect(replace(PHOTO, bucket="private"))
    assert world.objects.outages["open"] == 1
    assert world.faces.images == {}


def test_an_allowed_bucket_is_read(world: World) -> None:
    photo = replace(PHOTO, bucket="more-photos")
    world.objects.upload("more-photos", PHOTO.key, photos.jpeg())
    world.detect(photo)
    assert world.image(photo).photo.bucket == "more-photos"


def test_every_photo_of_an_s3_notification_is_indexed(world: World) -> None:
    records = []
    for key in ("g/My Photo.jpg", "h/é.jpg"):
        world.objects.upload("photos", key, photos.jpeg())
        quoted = key.replace(" ", "+").replace("é", "%C3%A9")
        s3 = {"bucket": {"name": "photos"}, "object": {"key": quoted}}
        records.append({"eventName": "ObjectCreated:Put", "s3": s3})
    handle(json.dumps({"Records": records}), world.parts)
    assert {(image.photo.document_id, image.status.value) for image in world.faces.images.values()} == {
        ("g/My Photo", "indexed"),
        ("h/é", "indexed"),
    }
    assert [parse_grouping(body).gallery_id for body in world.grouping_queue.bodies] == ["g", "h"]


def test_the_test_event_of_s3_is_acknowledged(world: World) -> None:
    handle('{"Event": "s3:TestEvent"}', world.parts)
    assert world.faces.images == {}
    assert world.grouping_queue.bodies == []


BLANK = photos.jpeg(pixels=np.full((240, 320, 3), 128, np.uint8))
SHARP = photos.jpeg(pixels=np.kron(photos.noise(16, 12), np.ones((20, 20, 1), np.uint8)))


class Watched(FakeObjectStore):
    """Notes which keys were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, photo: PhotoRef, max_bytes: int) -> AbstractContextManager[OpenObject]:
        self.opened.append(photo.key)
        return super().open(photo, max_bytes)


def judging(mode: PrefilterMode, data: bytes, thumbnail: bytes | None = None) -> World:
    """A world whose photo has this content, and its pre-filter that mode; with a thumbnail, it goes by that."""
    objects = Watched()
    world = World(objects=objects)
    template = None if thumbnail is None else "{folder}/small/{stem}.jpg"
    world.parts = replace(world.parts, analyser=replace(world.parts.analyser, prefilter=Prefilter(mode, template)))
    objects.upload("photos", PHOTO.key, data, NOON)
    if thumbnail:
        objects.upload("photos", "g/small/a.jpg", thumbnail)
    return world


def test_a_photo_that_fails_the_prefilter_is_low_quality_and_costs_no_inference() -> None:
    world = judging("enforce", BLANK)
    world.detect()
    image = world.image()
    assert (image.status, image.face_count, image.etag) == (ImageStatus.LOW_QUALITY, 0, etag_of(world))
    assert image.reason == image.prefilter_reason
    assert "nearly blank" in str(image.reason)
    assert image.prefilter_score is not None
    assert image.prefilter_score < 50
    assert "detect" not in image.timings_s
    assert len(world.grouping_queue.bodies) == 1


def etag_of(world: World) -> str:
    return world.objects.objects["photos", PHOTO.key].etag


def test_a_photo_that_passes_the_prefilter_is_indexed_with_its_score() -> None:
    world = judging("enforce", SHARP)
    world.detect()
    image = world.image()
    assert (image.status, image.face_count, image.prefilter_reason) == (ImageStatus.INDEXED, 2, None)
    assert image.prefilter_score is not None
    assert image.prefilter_score >= 50


def test_a_verdict_that_is_only_recorded_loses_no_face() -> None:
    world = judging("record", BLANK)
    world.detect()
    image = world.image()
    assert (image.status, image.reason, image.face_count) == (ImageStatus.INDEXED, None, 2)
    assert "nearly blank" in str(image.prefilter_reason)


def test_without_a_prefilter_there_is_no_verdict() -> None:
    world = judging("off", BLANK)
    world.detect()
    assert (world.image().prefilter_score, world.image().prefilter_reason) == (None, None)


def test_a_tiny_photo_fails_by_its_header() -> None:
    world = judging("enforce", photos.jpeg(pixels=photos.noise(19, 300)))
    world.detect()
    assert "19 x 300 px" in str(world.image().reason)
    assert "decode" not in world.image().timings_s


def test_a_photo_whose_thumbnail_fails_is_not_downloaded() -> None:
    world = judging("enforce", SHARP, thumbnail=BLANK)
    world.detect()
    image = world.image()
    assert (image.status, image.etag, image.last_modified) == (ImageStatus.LOW_QUALITY, etag_of(world), NOON)
    assert isinstance(world.objects, Watched)
    assert world.objects.opened == ["g/small/a.jpg"]


@pytest.mark.parametrize("mode", ["record", "enforce"])
def test_a_thumbnails_verdict_stands_for_the_photos(mode: PrefilterMode) -> None:
    world = judging(mode, BLANK, thumbnail=SHARP)
    world.detect()
    assert (world.image().status, world.image().prefilter_reason) == (ImageStatus.INDEXED, None)


@pytest.mark.parametrize(
    "thumbnail", [b"", b"no picture", photos.jpeg(pixels=photos.noise(100, 80))], ids=["none", "broken", "too small"]
)
def test_without_a_thumbnail_that_will_do_the_photo_itself_is_judged(thumbnail: bytes) -> None:
    world = judging("enforce", BLANK, thumbnail)
    world.detect()
    assert "nearly blank" in str(world.image().reason)


def test_an_unchanged_photo_costs_neither_thumbnail_nor_photo() -> None:
    world = judging("enforce", SHARP, thumbnail=SHARP)
    world.detect()
    assert isinstance(world.objects, Watched)
    world.objects.opened.clear()
    world.detect()
    assert world.objects.opened == []


def test_a_photo_that_is_gone_is_rejected_whatever_its_thumbnail_says() -> None:
    world = judging("enforce", SHARP, thumbnail=SHARP)
    del world.objects.objects["photos", PHOTO.key]
    world.detect()
    assert "There is no object" in str(world.image().reason)


def test_a_photo_that_becomes_low_quality_leaves_no_face_and_no_picture() -> None:
    world = judging("record", BLANK)
    world.detect()
    enforced = replace(world.parts.analyser, prefilter=Prefilter("enforce"))
    world.parts = replace(world.parts, analyser=enforced)
    world.detect(force=True)
    assert world.image().status is ImageStatus.LOW_QUALITY
    assert (world.faces.faces, [key for bucket, key in world.objects.objects if bucket == "results"]) == ({}, [])


def test_a_low_quality_photo_is_judged_anew_when_it_comes_again() -> None:
    world = judging("enforce", BLANK)
    world.detect()
    world.parts = replace(world.parts, analyser=replace(world.parts.analyser, prefilter=Prefilter("off")))
    world.detect()
    assert world.image().status is ImageStatus.INDEXED


def test_a_photo_says_which_of_its_faces_are_too_poor_to_be_anybodys() -> None:
    world = World()
    dark = np.asarray(photos.noise(64, 48) // 32, np.uint8)
    world.objects.upload("photos", PHOTO.key, photos.jpeg(pixels=dark), NOON)
    strict = toy_manifest(quality={"core": 100, "border": 99})
    pack = FacePack(strict, world.detector, ToyEmbedder())
    world.parts = replace(
        world.parts, analyser=replace(world.parts.analyser, device=Device(pack, calls=1, photos=4, faces=8))
    )
    world.detect()
    assert len(world.image().left_out) == 2
    assert all("below 99" in reason for reason in world.image().left_out)


def test_without_crops_faces_are_stored_and_no_picture_is_put() -> None:
    world = World(has_crops=False, preview_side_px=0)
    world.detect()
    assert world.image().face_count == 2
    assert [(face.crop_key, face.crop_range) for face in world.faces.faces.values()] == [(None, None)] * 2
    assert world.objects.output_keys == set()


def test_crops_that_were_there_go_when_the_photo_is_examined_without(world: World) -> None:
    world.detect()
    world.parts = replace(world.parts, has_crops=False, preview_side_px=0)
    world.detect(force=True)
    assert world.objects.output_keys == set()


def test_telemetry_hears_of_a_photo_its_faces_and_its_stages() -> None:
    listener = Listener()
    World(telemetry=listener.telemetry).detect()
    assert listener.metrics.sums == {Metric.PHOTOS_INDEXED: 1, Metric.FACES: 2}
    assert {metric: len(values) for metric, values in listener.metrics.values.items()} == {
        Metric.PHOTO_SECONDS: 1,
        Metric.FETCH_SECONDS: 1,
        Metric.DECODE_SECONDS: 1,
        Metric.DETECT_SECONDS: 1,
        Metric.EMBED_SECONDS: 1,
        Metric.DEVICE_WAIT_SECONDS: 1,
        Metric.STORE_SECONDS: 1,
        Metric.STORE_BATCH: 1,
        Metric.STORE_QUEUE: 1,
        Metric.FACE_QUALITY: 2,
    }
    (whole_s,) = listener.metrics.values[Metric.PHOTO_SECONDS]
    assert whole_s >= listener.metrics.values[Metric.DECODE_SECONDS][0]
    assert listener.tracer.facts == {"image": "g/a"}
    assert [stage for stage in listener.tracer.stages if stage in ("fetch", "store")] == ["fetch", "store"]


@pytest.mark.parametrize(
    ("data", "faces", "metric", "kind"),
    [
        (photos.jpeg(), 0, Metric.PHOTOS_WITHOUT_FACES, None),
        (b"", 2, Metric.PHOTOS_REJECTED, "empty"),
        (photos.text_named_jpg(), 2, Metric.PHOTOS_REJECTED, "no picture"),
        (photos.truncated_jpeg(), 2, Metric.PHOTOS_REJECTED, "cut off"),
        (photos.jpeg_claiming(2_000, 2_000), 2, Metric.PHOTOS_REJECTED, "too large"),
    ],
)
def test_telemetry_hears_how_a_photo_without_faces_ended(
    data: bytes, faces: int, metric: Metric, kind: str | None
) -> None:
    listener = Listener()
    world = World(telemetry=listener.telemetry)
    world.detector.count = faces
    world.objects.upload("photos", PHOTO.key, data, NOON)
    world.detect()
    assert listener.metrics.sums == {metric: 1}
    assert listener.metrics.kinds == ({(metric, kind): 1} if kind else {})


def test_telemetry_hears_of_a_twin_and_nothing_of_a_photo_that_is_stored_already() -> None:
    listener = Listener()
    world = World(telemetry=listener.telemetry)
    twin = PhotoRef("other", "b", "photos", "other/b.jpg", "b")
    world.objects.upload("photos", twin.key, photos.jpeg(), NOON)
    world.detect()
    world.detect(twin)
    world.detect(twin)
    assert listener.metrics.sums == {Metric.PHOTOS_INDEXED: 2, Metric.FACES: 4, Metric.TWIN_HITS: 1}


def test_the_grouping_message_carries_the_trace_of_the_photo_that_sends_it() -> None:
    world = World(telemetry=Listener(sends="00-trace").telemetry)
    world.detect()
    (letter,) = world.grouping_queue.letters
    assert letter.attributes == {"traceparent": "00-trace"}


def test_photos_of_a_gallery_whose_people_are_of_another_model_are_stored_and_that_is_logged_once_a_window(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told = "photos are stored under another model than their gallery's people"
    world.detect()
    lease = world.galleries.take_lease("g", "grouping", 60)
    assert lease
    world.galleries.record_run(lease, MODEL, {})
    world.clock.sleep(DELAY_S)
    world.detect(force=True)
    assert told not in caplog.text
    world.galleries.record_run(lease, "former-000000000000", {})
    world.clock.sleep(DELAY_S)
    for name in ("b", "c"):
        world.objects.upload("photos", f"g/{name}.jpg", photos.jpeg(), NOON)
        world.detect(PhotoRef("g", name, "photos", f"g/{name}.jpg", name))
    (line,) = [vars(record) for record in caplog.records if record.getMessage() == told]
    assert (line["gallery"], line["model"], line["people_model"]) == ("g", MODEL, "former-000000000000")
    assert world.image(PhotoRef("g", "c", "photos", "g/c.jpg", "c")).model_id == MODEL


def upload(world: World, *files: str) -> None:
    for file in files:
        world.objects.upload("photos", f"g/{file}", photos.jpeg(pixels=photos.noise(64, 48, sum(file.encode()))), NOON)


@pytest.mark.parametrize("first", ["IMG_1.MOV", "IMG_1.xmp", "._IMG_1.JPG", "IMG_1.JPG"])
@pytest.mark.parametrize("event", ["ObjectCreated:Put", "ObjectCreated:CompleteMultipartUpload"])
def test_what_lies_beside_a_photo_never_takes_its_place(world: World, first: str, event: str) -> None:
    files = ["IMG_1.JPG", "IMG_1.MOV", "IMG_1.xmp", "._IMG_1.JPG"]
    upload(world, *files)
    world.happen(event, *(f"g/{file}" for file in sorted(files, key=lambda file: file != first)))
    assert world.ids == {f"g/{file}": "IMG_1" if file == "IMG_1.JPG" else file for file in files}
    reasons = {image.photo.key: image.reason for image in world.faces.images.values()}
    assert reasons == {
        "g/IMG_1.JPG": None,
        "g/IMG_1.MOV": "It is a video, not a photo.",
        "g/IMG_1.xmp": "It is a sidecar file, not a photo.",
        "g/._IMG_1.JPG": "It is a sidecar file, not a photo.",
    }


@pytest.mark.parametrize("order", [("IMG_1.NEF", "IMG_1.HEIC"), ("IMG_1.HEIC", "IMG_1.NEF")])
def test_a_raw_file_beside_its_heic_belongs_to_it_and_is_indexed_once_that_is_deleted(
    world: World, order: tuple[str, str]
) -> None:
    upload(world, *order)
    for file in order:
        world.happen("ObjectCreated:Put", f"g/{file}")
    statuses = {image.photo.key: (image.status.value, image.reason) for image in world.faces.images.values()}
    assert statuses == {"g/IMG_1.HEIC": ("indexed", None), "g/IMG_1.NEF": ("not_a_photo", "belongs to IMG_1.HEIC")}
    assert len(world.objects.output_keys) == 2
    world.objects.delete("photos", "g/IMG_1.HEIC")
    world.happen("ObjectRemoved:Delete", "g/IMG_1.HEIC")
    (image,) = world.faces.images.values()
    assert (image.photo.key, image.photo.image_id, image.status) == ("g/IMG_1.NEF", "IMG_1", ImageStatus.INDEXED)
    assert {face.image_id for face in world.faces.faces.values()} == {"IMG_1"}
    assert len(world.objects.output_keys) == 2


def test_a_deleted_photo_leaves_no_trace_and_its_gallery_is_grouped_again(world: World) -> None:
    world.owner.documents["g", "a"] = {"title": "Beach"}
    world.happen("ObjectCreated:Put", PHOTO.key)
    world.clock.sleep(DELAY_S)
    world.objects.delete("photos", PHOTO.key)
    world.happen("ObjectRemoved:DeleteMarkerCreated", PHOTO.key)
    assert (world.faces.images, world.faces.faces, world.objects.output_keys) == ({}, {}, set())
    assert world.owner.documents["g", "a"] == {"title": "Beach"}
    assert len(world.grouping_queue.bodies) == 2


def test_a_removal_that_comes_before_the_pictures_of_a_worker_that_died_takes_them_too(world: World) -> None:
    world.happen("ObjectCreated:Put", PHOTO.key)
    orphans = {KEYS.crops(PHOTO, 1, "f" * 64, MODEL), KEYS.preview(PHOTO, 0, "f" * 64)}
    newer = KEYS.crops(PHOTO, 2, "f" * 64, MODEL)
    for key in (*orphans, newer):
        world.objects.put(key, b"picture", "image/webp")
    world.objects.delete("photos", PHOTO.key)
    world.happen("ObjectRemoved:Delete", PHOTO.key)
    assert world.objects.output_keys == {newer}


def test_an_event_for_an_object_that_is_there_again_does_not_remove_it(world: World) -> None:
    world.happen("ObjectCreated:Put", PHOTO.key)
    before = world.faces.snapshot()
    world.happen("ObjectRemoved:Delete", PHOTO.key)
    assert world.faces.snapshot() == before


def test_an_event_for_an_object_that_is_gone_again_stores_nothing(world: World) -> None:
    world.happen("ObjectCreated:Put", PHOTO.key)
    world.objects.delete("photos", PHOTO.key)
    world.happen("ObjectCreated:Put", PHOTO.key, "g/never.jpg")
    assert world.faces.images == {}


def test_a_removal_in_a_gallery_that_nobody_knows_makes_no_gallery(world: World) -> None:
    world.happen("ObjectRemoved:Delete", "unknown/a.jpg")
    assert (world.galleries.galleries, world.grouping_queue.bodies) == ({}, [])


def test_an_event_that_is_older_than_the_record_costs_no_look(world: World) -> None:
    world.happen("ObjectCreated:Put", PHOTO.key, sequencer="0A10")
    assert world.image().sequencer == "0A10"
    world.objects.outages["open"] = 1
    world.happen("ObjectCreated:Put", PHOTO.key, sequencer="0A0")
    world.happen("ObjectRemoved:Delete", PHOTO.key, sequencer="0a0FF")
    assert world.objects.outages["open"] == 1
    with pytest.raises(RetryLater):
        world.happen("ObjectCreated:Put", PHOTO.key, sequencer="0A11")


def test_a_worker_that_another_one_overtakes_looks_again_and_its_pictures_go(world: World) -> None:
    """Worker A reads the first version, worker B stores the second one, then A stores."""
    newer = photos.png()

    class Overtaking(FakeObjectStore):
        def put(self, key: str, data: bytes, content_type: str) -> None:
            super().put(key, data, content_type)
            if len(self.output_keys) == 1:
                self.upload("photos", PHOTO.key, newer, NOON)
                other.detector.count = 1
                other.happen("ObjectCreated:Put", PHOTO.key)

    world = World(objects=Overtaking())
    other = World(objects=world.objects)
    other.parts = replace(other.parts, photos=other.open_photo_store(world.faces, Telemetry()))
    world.objects.upload("photos", PHOTO.key, photos.jpeg(), NOON)
    world.happen("ObjectCreated:Put", PHOTO.key)
    assert world.image().content == sha256(newer).hexdigest()
    named = {face.crop_key for face in world.faces.faces.values()} | {world.image().preview_key}
    assert world.objects.output_keys == named


def test_each_record_of_a_notification_is_for_itself(world: World) -> None:
    upload(world, "b.jpg")
    world.objects.upload("private", "g/c.jpg", photos.jpeg(), NOON)
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}}}
        for bucket, key in [
            ("photos", "g/a.jpg"),
            ("photos", "nogallery.jpg"),
            ("private", "g/c.jpg"),
            ("photos", "g/b.jpg"),
        ]
    ]
    with pytest.raises(RejectMessage) as caught:
        handle(json.dumps({"Records": records}), world.parts)
    assert set(world.ids.values()) == {"a", "b"}
    letters = caught.value.letters
    assert [json.loads(letter.body)["Records"] for letter in letters] == [[records[1]], [records[2]]]
    assert ["names no gallery" in letter.reason for letter in letters] == [True, False]
    assert "ALLOWED_BUCKETS" in letters[1].reason


def test_a_record_that_fails_for_now_does_not_keep_its_neighbours_from_being_done(world: World) -> None:
    upload(world, "b.jpg")
    world.objects.outages["open"] = 1
    with pytest.raises(RetryLater):
        world.happen("ObjectCreated:Put", "g/a.jpg", "g/b.jpg")
    assert set(world.ids.values()) == {"b"}
    world.happen("ObjectCreated:Put", "g/a.jpg", "g/b.jpg")
    assert set(world.ids.values()) == {"a", "b"}


def test_a_folder_marker_is_only_counted() -> None:
    listener = Listener()
    world = World(telemetry=listener.telemetry)
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "photos"}, "object": {"key": "g/day+1/", "size": 0}},
    }
    handle(json.dumps({"Records": [record]}), world.parts)
    assert listener.metrics.sums == {Metric.EVENTS_IGNORED: 1}
    assert (world.faces.images, world.grouping_queue.bodies) == ({}, [])


@pytest.mark.parametrize("key", ["g//double.jpg", "g/day 1//a+b.jpg", "g/50% off.jpg", "g/" + "ü" * 300 + ".jpg"])
def test_any_legal_key_is_a_photo_and_its_pictures_have_legal_keys(world: World, key: str) -> None:
    world.objects.upload("photos", key, photos.jpeg(), NOON)
    world.happen("ObjectCreated:Put", key)
    assert world.ids == {key: key.removeprefix("g/").removesuffix(".jpg")}
    assert all(len(written.encode()) <= 1024 for written in world.objects.output_keys)
    world.objects.delete("photos", key)
    world.happen("ObjectRemoved:Delete", key)
    assert world.objects.output_keys == set()


def test_the_last_try_of_a_photo_that_fails_is_stored_with_the_reason(world: World) -> None:
    world.objects.outages["open"] = 1
    with pytest.raises(RejectMessage, match="The last try failed: "):
        handle(detect_body(), world.parts, is_last=True)
    assert (world.image().status, len(world.grouping_queue.bodies)) == (ImageStatus.REJECTED, 1)
    assert str(world.image().reason).startswith("It could not be processed: ")
    world.detect()
    assert world.image().status is ImageStatus.INDEXED


def test_the_last_try_leaves_what_is_stored_of_the_same_content(world: World) -> None:
    world.detect()
    before = world.faces.snapshot()
    world.objects.outages["open"] = 1
    with pytest.raises(RejectMessage):
        handle(detect_body(), world.parts, is_last=True)
    assert world.faces.snapshot() == before


def test_a_last_try_that_fails_does_not_replace_the_photo_of_another_key_that_has_the_id() -> None:
    listener = Listener()
    world = World(telemetry=listener.telemetry)
    chosen = PhotoRef("g", "42", "photos", PHOTO.key)
    world.detect(chosen)
    world.objects.upload("photos", "late/7.jpg", photos.png(), NOON)
    world.objects.outages["open"] = 1
    body = json.dumps({"type": "detect_image", "gallery_id": "g", "image_id": "42", "s3_key": "late/7.jpg"})
    with pytest.raises(RejectMessage):
        handle(body, world.parts, is_last=True)
    assert world.ids == {PHOTO.key: "42", "late/7.jpg": "42.jpg"}
    assert world.image(chosen).status is ImageStatus.INDEXED
    assert listener.metrics.kinds[Metric.PHOTOS_REJECTED, "last try"] == 1


def detect_body() -> str:
    return json.dumps({"type": "detect_image", "gallery_id": "g", "image_id": "a", "s3_key": "g/a.jpg"})


def test_a_file_that_cannot_be_read_does_not_replace_the_photo_of_its_id(world: World) -> None:
    chosen = PhotoRef("g", "42", "photos", PHOTO.key)
    world.detect(chosen)
    world.objects.upload("photos", "clips/7.MOV", b"a video")
    for _ in range(2):
        world.detect(PhotoRef("g", "42", "photos", "clips/7.MOV"))
        assert world.ids == {PHOTO.key: "42", "clips/7.MOV": "42.MOV"}
    assert world.image(chosen).status is ImageStatus.INDEXED


def test_an_unknown_file_that_is_no_picture_is_not_a_photo_and_a_picture_under_any_name_is_one(world: World) -> None:
    world.objects.upload("photos", "g/notes", b"plain text")
    world.objects.upload("photos", "g/scan.0001", photos.jpeg())
    world.happen("ObjectCreated:Put", "g/notes", "g/scan.0001")
    statuses = {image.photo.key: image.status.value for image in world.faces.images.values()}
    assert statuses == {"g/notes": "not_a_photo", "g/scan.0001": "indexed"}


def test_applications_are_told_of_an_indexed_photo_and_again_where_its_message_comes_again(world: World) -> None:
    world.detect()
    world.detect()
    first, second = world.events.added
    assert (first.type, first.data) == ("photo.indexed", {"photos": 1, "faces": 2, "image_ids": ["a"]})
    assert first == second, "whoever stored it may have died before it was told"
    assert world.events.count_waiting() == 1


def test_applications_are_told_of_a_rejected_photo_with_the_reason_and_not_of_other_files(world: World) -> None:
    world.objects.upload("photos", PHOTO.key, b"", NOON)
    world.detect()
    world.objects.upload("photos", "g/film.mp4", b"film", NOON)
    world.detect(PhotoRef("g", "film", "photos", "g/film.mp4", "film"))
    (told,) = world.events.added
    (why,) = told.data["rejected"]
    assert (told.type, told.data["photos"], why["image_id"], why["status"]) == ("photo.rejected", 1, "a", "rejected")
    assert why["reason"] == world.image().reason


def test_a_photo_whose_event_could_not_be_kept_is_told_when_its_message_comes_again(world: World) -> None:
    world.events.outages["add"] = 1
    with pytest.raises(RetryLater):
        world.detect()
    assert world.image().status is ImageStatus.INDEXED
    world.detect()
    assert [event.type for event in world.events.added] == ["photo.indexed"]
