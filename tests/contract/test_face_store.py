"""FaceStore: what the services rely on, of the fake and of MongoDB."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from urllib.parse import urlsplit

import numpy as np
import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandStartedEvent

from app.adapters.mongo import Document, open_database
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_records import decode_vectors, encode_vector
from app.core.errors import BadConfiguration, RetryLater, StoreUnavailable
from app.core.ports import GalleryLease
from app.core.records import (
    GROUPING_MEASURES,
    FaceBatch,
    FaceMove,
    FaceRef,
    ImageRecord,
    ImageStatus,
    PersonRecord,
    PhotoResult,
    join_batches,
)
from tests.edits import confirm, reject
from tests.integration.proxy import Proxy
from tests.stores import (
    MODEL,
    ON_SERVERS,
    OnceBefore,
    Stores,
    face_record,
    image_record,
    photo,
    photo_result,
    store,
    unit_vector,
)

OTHER_MODEL = "other-111111111111"
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)


def save(stores: Stores, name: str = "a", count: int = 1, *, etag: str = "etag-1", model: str = MODEL) -> None:
    assert store(stores, [photo_result(photo(name), count, etag=etag, model=model)]) == []


def faces_of(stores: Stores, gallery: str = "g", model: str = MODEL) -> FaceBatch:
    return join_batches(list(stores.faces.read_faces(gallery, model)))


def give_persons(stores: Stores, **persons: str) -> GalleryLease:
    """Names of photos → the person of each one's first face."""
    lease = stores.galleries.take_lease("g", "tester", 60)
    people = [PersonRecord(person, "", 1, 1) for person in persons.values()]
    moves = [FaceMove(face_record(photo(name), 0).face_id, None, person) for name, person in persons.items()]
    stores.people.write_people(lease, people, moves)
    stores.people.publish_people(lease)
    return lease


def test_a_photo_nobody_stored_is_none(stores: Stores) -> None:
    assert stores.faces.find_image(photo()) == (None, 0)


def test_a_photos_record_comes_back_as_it_was(stores: Stores) -> None:
    saved = ImageRecord(
        photo("day 1/Ä 🎉"),
        ImageStatus.LOW_QUALITY,
        reason="The photo is blurred.",
        etag="abc",
        last_modified=datetime(2024, 2, 29, 12, 30, 1, tzinfo=UTC),
        model_id=MODEL,
        content="sha-1",
        prefilter_score=37.5,
        prefilter_reason="The photo is blurred.",
        left_out=("Its quality is 7 of 100, below 20: it is dark.",),
        preview_key="face-worker/g/previews/day 1/a.jpg",
        sequencer="0055AED6DCD90281E5",
        timings_s={"fetch": 0.25, "decode": 0.5},
    )
    store(stores, [PhotoResult(saved)])
    assert stores.faces.find_image(saved.photo) == (saved, 1)


def test_faces_come_back_with_every_column_as_it_was(stores: Stores) -> None:
    save(stores, count=2)
    batch = faces_of(stores)
    expected = [face_record(photo(), index) for index in range(2)]
    assert batch.face_ids == [face.face_id for face in expected]
    assert batch.image_ids == ["a", "a"]
    assert batch.crop_keys == [face.crop_key for face in expected]
    assert batch.crop_ranges == [(0, 100), (100, 100)]
    assert [batch.get_quality(row) for row in range(2)] == [face.quality for face in expected]
    assert {column.dtype for column in batch.quality.values()} == {np.dtype(np.float32)}
    assert batch.person_ids == [None, None]
    assert batch.etags == ["etag-1", "etag-1"]
    assert (batch.confirmed, batch.rejected) == (frozenset(), {})
    assert np.array_equal(batch.boxes, np.stack([face.box for face in expected]))
    assert np.array_equal(batch.det_scores, np.array([0.9, 0.9], np.float32))


def test_without_embeddings_all_else_comes_back_and_those_asked_for_can_be_read(stores: Stores) -> None:
    save(stores, count=3)
    batch, light = faces_of(stores), join_batches(list(stores.faces.read_faces("g", MODEL, with_embeddings=False)))
    assert light.embeddings.shape == (3, 0)
    assert (light.face_ids, light.digests, light.crop_keys) == (batch.face_ids, batch.digests, batch.crop_keys)
    wanted = [batch.face_ids[2], batch.face_ids[0]]
    assert np.array_equal(stores.faces.read_embeddings(wanted), batch.embeddings[[2, 0]])


def test_embeddings_of_more_faces_than_a_batch_come_in_the_order_asked_for(stores: Stores) -> None:
    for name in ("a", "b"):
        save(stores, name, count=120)
    batch = faces_of(stores)
    rows = np.random.default_rng(0).permutation(len(batch))
    assert np.array_equal(stores.faces.read_embeddings([batch.face_ids[row] for row in rows]), batch.embeddings[rows])


def test_embeddings_of_a_face_that_is_gone_are_read_later(stores: Stores) -> None:
    save(stores)
    with pytest.raises(RetryLater, match="gone"):
        stores.faces.read_embeddings([*faces_of(stores).face_ids, "g/nobody/toy/0"])


def test_a_digest_tells_one_embedding_from_another(stores: Stores) -> None:
    save(stores, "a", count=2)
    first, second = faces_of(stores).digests
    assert first != second
    save(stores, "a", count=2, etag="etag-2")
    assert faces_of(stores).digests == [first, second]


def test_embeddings_come_back_as_the_same_float32_unit_vectors(stores: Stores) -> None:
    save(stores, count=3)
    embeddings = faces_of(stores).embeddings
    assert embeddings.dtype == np.float32
    assert np.array_equal(embeddings, np.stack([unit_vector(index) for index in range(3)]))
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_of_a_faces_quality_comes_back_what_grouping_reads(stores: Stores) -> None:
    measures = {"unified": 26.392, "pitch": 64.274, "yaw_score": 4.951}
    qualities = (measures, {"size_px": 9.5}, {})
    faces = [replace(face_record(photo(), index), quality=quality) for index, quality in enumerate(qualities)]
    store(stores, [PhotoResult(photo_result(photo(), 3).image, faces)])
    batch = faces_of(stores)
    assert set(batch.quality) == set(GROUPING_MEASURES)
    assert [batch.get_quality(row) for row in range(3)] == [
        {"unified": 26.392, "yaw_score": 4.951},
        {"size_px": 9.5},
        {},
    ]


def test_storing_a_photo_twice_changes_nothing(stores: Stores) -> None:
    save(stores, count=2)
    before = stores.snapshot()
    save(stores, count=2)
    assert stores.snapshot() == before
    assert len(before) >= 3


def test_storing_a_photo_twice_changes_nothing_after_grouping_either(stores: Stores) -> None:
    save(stores, count=2)
    give_persons(stores, a="p1")
    before = stores.snapshot()
    save(stores, count=2)
    assert stores.snapshot() == before


def test_the_order_in_which_photos_are_stored_does_not_matter(stores: Stores) -> None:
    for name in ("a", "b", "c"):
        save(stores, name)
    before = stores.snapshot()
    for name in ("c", "a", "b", "a"):
        save(stores, name)
    assert stores.snapshot() == before


def test_a_photo_with_fewer_faces_than_before_loses_the_surplus(stores: Stores) -> None:
    save(stores, count=3)
    save(stores, count=1)
    assert faces_of(stores).face_ids == [face_record(photo(), 0).face_id]
    assert stores.faces.find_image(photo())[0].face_count == 1


def test_a_photo_without_faces_any_more_loses_all(stores: Stores) -> None:
    save(stores, count=2)
    save(stores, count=0)
    assert len(faces_of(stores)) == 0


def test_storing_one_photo_leaves_the_faces_of_others(stores: Stores) -> None:
    save(stores, "a", 2)
    save(stores, "ab", 2)
    save(stores, "a", 0)
    assert faces_of(stores).image_ids == ["ab", "ab"]


def test_faces_of_another_model_stay_and_are_never_read_along(stores: Stores) -> None:
    save(stores, count=2, model=OTHER_MODEL)
    save(stores, count=1)
    assert len(faces_of(stores)) == 1
    assert len(faces_of(stores, model=OTHER_MODEL)) == 2


def test_another_model_is_found_where_the_gallery_has_faces_of_it(stores: Stores) -> None:
    save(stores, "a")
    assert stores.faces.find_other_model("g", MODEL) is None
    assert stores.faces.find_other_model("g", OTHER_MODEL) == MODEL
    save(stores, "b", model=OTHER_MODEL)
    assert stores.faces.find_other_model("g", MODEL) == OTHER_MODEL
    save(stores, "b", 0, model=OTHER_MODEL)
    assert stores.faces.find_other_model("g", MODEL) is None
    assert stores.faces.find_other_model("another", MODEL) is None


def test_a_face_that_is_detected_again_keeps_its_person(stores: Stores) -> None:
    save(stores)
    give_persons(stores, a="p1")
    save(stores)
    assert faces_of(stores).person_ids == ["p1"]


def test_a_face_of_other_content_under_the_same_name_loses_its_person(stores: Stores) -> None:
    save(stores, "a")
    save(stores, "b")
    give_persons(stores, a="p1", b="p2")
    save(stores, "a", etag="etag-2")
    assert faces_of(stores).person_ids == [None, "p2"]


def test_a_face_that_went_and_came_again_has_no_person(stores: Stores) -> None:
    save(stores)
    give_persons(stores, a="p1")
    save(stores, count=0)
    save(stores)
    assert faces_of(stores).person_ids == [None]


def say_of_both(stores: Stores) -> list[str]:
    """The first face of photo a is confirmed, that of photo b rejected. Returns their ids."""
    face_ids = [face_record(photo(name), 0).face_id for name in "ab"]
    lease = give_persons(stores, a="p1", b="p2")
    confirm(stores, lease, "p1", FaceRef(face_ids[0]))
    reject(stores, lease, "p2", FaceRef(face_ids[1]))
    return face_ids


def test_users_edits_of_faces_are_read_back_and_survive_another_detection(stores: Stores) -> None:
    for _ in range(2):
        save(stores, "a")
        save(stores, "b")
        if not faces_of(stores).confirmed:
            a, b = say_of_both(stores)
    batch = faces_of(stores)
    assert (batch.confirmed, batch.rejected) == ({a}, {b: {"p2"}})
    assert batch.person_ids == ["p1", None]


def test_users_edits_of_a_face_do_not_apply_to_other_content_under_its_id(stores: Stores) -> None:
    store(stores, [photo_result(photo(name)) for name in "ab"])
    say_of_both(stores)
    store(stores, [photo_result(photo(name), etag="etag-2") for name in "ab"])
    batch = faces_of(stores)
    assert (batch.confirmed, batch.rejected, batch.person_ids) == (frozenset(), {}, [None, None])


def test_batches_are_bounded_and_ordered_by_face_id(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.mongo_faces.READ_BATCH", 3)
    monkeypatch.setattr("tests.fake_stores.READ_BATCH", 3)
    for name in ("c", "B", "é", "a"):
        save(stores, name, 2)
    batches = list(stores.faces.read_faces("g", MODEL))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    ids = join_batches(batches).face_ids
    assert ids == sorted(ids)


def test_a_gallery_without_faces_gives_no_batches(stores: Stores) -> None:
    save(stores)
    assert list(stores.faces.read_faces("another", MODEL)) == []


def test_photos_are_read_by_gallery_and_ordered_by_image_id(stores: Stores) -> None:
    store(stores, [photo_result(of, 0) for of in (photo("c"), photo("a"), photo("b"), photo("a", "other"))])
    assert [image.photo for image in stores.faces.read_images("g")] == [photo("a"), photo("b"), photo("c")]
    assert list(stores.faces.read_images("none")) == []


def version(number: int, name: str = "a") -> PhotoResult:
    """A later version has a later time, other content, and now one, now two faces."""
    later = timedelta(seconds=number)
    return photo_result(photo(name), 1 + number % 2, etag=f"etag-{number}", last_modified=NOON + later)


def gone(name: str = "a") -> PhotoResult:
    return PhotoResult(ImageRecord(photo(name), ImageStatus.REJECTED, reason="There is no object.", model_id=MODEL))


def etags(stores: Stores) -> dict[str, str | None]:
    return {image.photo.image_id: image.etag for image in stores.faces.read_images("g")}


def test_photos_stored_together_are_each_stored_with_their_own_faces(stores: Stores) -> None:
    results = [photo_result(photo(name), count, etag=f"of {name}") for name, count in (("b", 1), ("c", 0), ("a", 3))]
    assert store(stores, results) == []
    assert faces_of(stores).image_ids == ["a", "a", "a", "b"]
    assert list(stores.faces.read_images("g")) == [results[2].image, results[0].image, results[1].image]


def test_no_photos_at_all_change_nothing(stores: Stores) -> None:
    save(stores)
    before = stores.snapshot()
    assert store(stores, []) == []
    assert stores.snapshot() == before


def test_a_photo_without_faces_any_more_loses_all_among_others_too(stores: Stores) -> None:
    store(stores, [photo_result(photo(name), 2) for name in "abc"])
    store(stores, [photo_result(photo("a"), 1), photo_result(photo("b"), 0), photo_result(photo("c"), 2)])
    assert faces_of(stores).image_ids == ["a", "c", "c"]


def test_photos_stored_together_keep_or_lose_their_people_each_by_its_own_content(stores: Stores) -> None:
    store(stores, [photo_result(photo(name)) for name in "ab"])
    give_persons(stores, a="p1", b="p2")
    store(stores, [photo_result(photo("a"), etag="etag-2"), photo_result(photo("b"))])
    assert faces_of(stores).person_ids == [None, "p2"]


def seen(stores: Stores, result: PhotoResult) -> PhotoResult:
    """A result of somebody who looks at the photo now, and stores later."""
    return replace(result, edition=stores.faces.find_image(result.image.photo)[1])


def test_a_result_is_overtaken_by_whatever_was_stored_since_its_photo_was_looked_at(stores: Stores) -> None:
    store(stores, [version(2)])
    give_persons(stores, a="p1")
    late = seen(stores, version(1))
    store(stores, [version(2)])
    before = stores.snapshot()
    assert stores.faces.save_photos([version(3, "b"), late, version(1, "c")]).overtaken == [late]
    assert etags(stores) == {"a": "etag-2", "b": "etag-3", "c": "etag-1"}
    assert set(before) <= set(stores.snapshot())


def test_of_two_results_of_one_photo_in_a_batch_the_second_is_overtaken(stores: Stores) -> None:
    results = [version(1), version(3), version(2, "b")]
    assert stores.faces.save_photos(results).overtaken == [results[1]]
    assert etags(stores) == {"a": "etag-1", "b": "etag-2"}


def test_the_same_version_again_changes_nothing_and_is_not_overtaken(stores: Stores) -> None:
    store(stores, [version(1)])
    give_persons(stores, a="p1")
    before = stores.snapshot()
    assert store(stores, [version(1)]) == []
    assert stores.snapshot() == before


def test_a_version_with_an_earlier_time_is_taken_since_its_object_is_the_one_that_is_there(stores: Stores) -> None:
    store(stores, [version(2)])
    assert store(stores, [version(1)]) == []
    assert etags(stores) == {"a": "etag-1"}


def test_faces_without_crops_leave_no_pictures_when_they_go(stores: Stores) -> None:
    bare = version(1)
    bare = replace(bare, faces=[replace(face, crop_key=None, crop_range=None) for face in bare.faces])
    store(stores, [bare])
    assert list(faces_of(stores).crop_keys) == [None] * len(bare.faces)
    newer = seen(stores, version(2))
    assert None not in stores.faces.save_photos([newer]).pictures
    assert {face.crop_key for face in newer.faces} == set(faces_of(stores).crop_keys)
    store(stores, [replace(bare, edition=0)])
    image, edition = stores.faces.find_image(photo("a"))
    assert image is not None
    removed = stores.faces.remove_photo(photo("a"), edition)
    assert removed is not None
    assert None not in removed.pictures


def test_two_workers_that_store_the_same_photos_at_once_never_mix_them(stores: Stores) -> None:
    start = Barrier(2)

    def store_every_second_version(first: int) -> None:
        start.wait(30)
        for number in range(first, 20, 2):
            # Each in its own order, and each with a photo of its own.
            names = ["a", "b", "c", "only 0"] if first == 0 else ["only 1", "c", "b", "a"]
            missing = [version(number, name) for name in names]
            while missing:
                missing = store(stores, missing)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(store_every_second_version, (0, 1)))
    last = etags(stores)
    assert (last["only 0"], last["only 1"]) == ("etag-18", "etag-19")
    batch = faces_of(stores)
    assert dict(zip(batch.image_ids, batch.etags, strict=True)) == last
    counts = {image.photo.image_id: image.face_count for image in stores.faces.read_images("g")}
    assert {name: batch.image_ids.count(name) for name in counts} == counts
    assert all(counts[name] == 1 + int(etag[-1]) % 2 for name, etag in last.items())


def save_with(
    stores: Stores, uri: str, command: str, action: Callable[[CommandStartedEvent], None], results: list[PhotoResult]
) -> list[PhotoResult]:
    """Save, and do something just before this command is sent."""
    listener = OnceBefore(command, action)
    fresh = [seen(stores, result) for result in results]
    with MongoClient[Document](uri, tz_aware=True, event_listeners=[listener]) as client:
        overtaken = MongoFaceStore(client[stores.database.name]).save_photos(fresh).overtaken
    assert listener.done
    return [result for result, one in zip(results, fresh, strict=True) if one in overtaken]


@ON_SERVERS
@pytest.mark.parametrize("known", [True, False])
def test_a_worker_paused_before_it_writes_does_not_overwrite_what_is_newer_by_then(
    stores: Stores, mongo_uri: str, known: bool
) -> None:
    store(stores, [version(1)] if known else [])
    old = [version(2), version(2, "b")]
    overtaken = save_with(stores, mongo_uri, "update photo_names", lambda _: store(stores, [version(3)]), old)
    assert overtaken == [old[0]]
    assert etags(stores) == {"a": "etag-3", "b": "etag-2"}


@ON_SERVERS
@pytest.mark.parametrize("command", ["update faces", "update images", "commitTransaction"])
def test_a_result_that_comes_while_another_is_written_waits_and_is_overtaken(
    stores: Stores, mongo_uri: str, command: str
) -> None:
    newer: list[Future[list[PhotoResult]]] = []

    def begin_newer(_: CommandStartedEvent) -> None:
        newer.append(pool.submit(store, stores, [version(2)]))
        time.sleep(0.2)
        assert not newer[0].done()

    with ThreadPoolExecutor(1) as pool:
        assert save_with(stores, mongo_uri, command, begin_newer, [version(1)]) == []
        assert len(newer[0].result(30)) == 1
    assert etags(stores) == {"a": "etag-1"}
    assert store(stores, [version(2)]) == []
    assert etags(stores) == {"a": "etag-2"}
    assert len(faces_of(stores)) == 1


@ON_SERVERS
def test_a_worker_paused_so_long_that_the_server_ends_its_transaction_reads_again(
    stores: Stores, mongo_uri: str
) -> None:
    def end_and_overtake(event: CommandStartedEvent) -> None:
        # What the server does by itself after 60 s.
        stores.database.client.admin.command("killSessions", [event.command["lsid"]])
        store(stores, [version(2)])

    old = [version(1), version(1, "b")]
    assert save_with(stores, mongo_uri, "update images", end_and_overtake, old) == [old[0]]
    assert etags(stores) == {"a": "etag-2", "b": "etag-1"}


@ON_SERVERS
def test_an_uri_that_prefers_to_read_from_secondaries_stores_photos_too(stores: Stores, mongo_uri: str) -> None:
    with MongoClient[Document](f"{mongo_uri}/?readPreference=secondaryPreferred", tz_aware=True) as client:
        assert MongoFaceStore(client[stores.database.name]).save_photos([version(1)]).overtaken == []
    assert etags(stores) == {"a": "etag-1"}


@ON_SERVERS
def test_a_photo_that_another_worker_never_stops_writing_is_for_later(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.adapters.mongo.TRANSACTION_S", 0.5)
    store(stores, [version(1)])
    with stores.database.client.start_session() as session, session.start_transaction():
        stores.database["images"].update_one({"_id": "g/a"}, {"$set": {"reason": "busy"}}, session=session)
        with pytest.raises(RetryLater, match=r"^Storing photos in MongoDB failed: "):
            store(stores, [version(2)])
        session.abort_transaction()
    assert etags(stores) == {"a": "etag-1"}
    assert store(stores, [version(2)]) == []


@ON_SERVERS
@pytest.mark.parametrize("command", ["find", "update faces", "delete faces", "update images", "commitTransaction"])
def test_an_outage_in_the_middle_leaves_all_as_it_was_and_the_same_call_again_repairs_it(
    stores: Stores, mongo_uri: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(stores, [version(1, "a"), version(0, "b")])
    monkeypatch.setattr("app.adapters.mongo.TRANSACTION_S", 0.5)
    before, results = stores.snapshot(), [version(2, "a"), version(1, "b"), version(1, "c")]
    with Proxy(urlsplit(mongo_uri).port) as proxy:

        def go_away(event: CommandStartedEvent) -> None:
            proxy.go_away()
            sessions.append(event.command["lsid"])

        sessions: list[Document] = []
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true&serverSelectionTimeoutMS=300"
        with pytest.raises(StoreUnavailable, match=r"^Storing photos in MongoDB failed: "):
            save_with(stores, uri, command, go_away, results)
    # What the server does by itself after 60 s with a transaction of which it hears no more.
    stores.database.client.admin.command("killSessions", sessions)
    assert stores.snapshot() == before
    assert store(stores, results) == []
    assert etags(stores) == {"a": "etag-2", "b": "etag-1", "c": "etag-1"}
    assert faces_of(stores).image_ids == ["a", "b", "b", "c", "c"]


def test_vectors_are_written_as_bson_vectors_that_pymongo_reads_the_same() -> None:
    vector = unit_vector(1, 512)
    binary = encode_vector(vector)
    assert np.array_equal(np.array(binary.as_vector().data, np.float32), vector)
    assert np.array_equal(decode_vectors([binary, binary]), np.stack([vector, vector]))
    assert decode_vectors([]).shape == (0, 0)


def test_a_database_that_is_away_asks_to_retry_later_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.mongo.TRANSACTION_S", 0.5)
    with MongoClient[Document]("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=50) as client:
        store_away, began = MongoFaceStore(client["nowhere"]), time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"^Reading photos' records in MongoDB failed: "):
            store_away.find_image(photo())
        with pytest.raises(StoreUnavailable, match=r"^Storing photos in MongoDB failed: "):
            store_away.save_photos([photo_result(photo())])
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "uri",
    ["mongodb://user:hunter2@", "mongodb://user:hunter2@host/?ssl=maybe&nonsense", "mongodb://u:hunter2@h:port"],
)
def test_a_wrong_uri_names_its_setting_and_never_its_password(uri: str) -> None:
    with pytest.raises(BadConfiguration, match=r"^SOME_URI is not a usable MongoDB URI") as caught:
        open_database(uri, "x", "SOME_URI")
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def save_content(stores: Stores, name: str, content: str, count: int = 1, *, model: str = MODEL) -> PhotoResult:
    result = photo_result(photo(name), count, model=model)
    result = PhotoResult(replace(result.image, content=content), result.faces)
    store(stores, [result])
    return result


def test_a_photo_with_the_same_bytes_is_found_with_its_faces_in_the_detectors_order(stores: Stores) -> None:
    saved = save_content(stores, "a", "sha-1", count=12)
    save_content(stores, "b", "sha-2")
    twin = stores.faces.find_twins(["sha-2", "sha-1"], MODEL)["sha-1"]
    assert twin is not None
    assert twin.image == saved.image
    assert [face.face_id for face in twin.faces] == [face.face_id for face in saved.faces]
    for found, expected in zip(twin.faces, saved.faces, strict=True):
        assert np.array_equal(found.embedding, expected.embedding)
        assert np.array_equal(found.box, expected.box)
        assert np.array_equal(found.landmarks, expected.landmarks)
        assert (found.det_score, found.quality) == (expected.det_score, expected.quality)


def test_a_photo_without_faces_is_a_twin_too(stores: Stores) -> None:
    save_content(stores, "a", "sha-1", count=0)
    twin = stores.faces.find_twins(["sha-2", "sha-1"], MODEL)["sha-1"]
    assert twin is not None
    assert list(twin.faces) == []


def test_other_bytes_and_other_models_have_no_twin(stores: Stores) -> None:
    save_content(stores, "a", "sha-1")
    assert stores.faces.find_twins(["sha-2"], MODEL) == {}
    assert stores.faces.find_twins(["sha-1"], OTHER_MODEL) == {}


def test_a_rejected_photo_is_nobodys_twin(stores: Stores) -> None:
    result = photo_result(photo("a"), 0)
    rejected = replace(result.image, content="sha-1", status=ImageStatus.REJECTED)
    store(stores, [PhotoResult(rejected)])
    assert stores.faces.find_twins(["sha-1"], MODEL) == {}


SIDES = (64, 48)


def save_export(
    stores: Stores, vectors: list[np.ndarray], *, content: str, scale: int = 1, swapped: bool = False
) -> None:
    """Photo a as it is exported at another size: its faces are where they were, maybe detected in another order."""
    of = photo("a")
    faces = [face_record(of, index, vector) for index, vector in enumerate(vectors)]
    faces = [replace(face, box=face.box * np.float32(scale)) for face in faces]
    if swapped:
        ids = [face.face_id for face in faces]
        faces = [replace(face, face_id=face_id) for face, face_id in zip(faces[::-1], ids, strict=True)]
    image = replace(
        image_record(of, len(faces), etag=content),
        content=content,
        width_px=SIDES[0] * scale,
        height_px=SIDES[1] * scale,
    )
    assert store(stores, [PhotoResult(image, faces, same_from=0.9)]) == []


def alike(vector: np.ndarray, seed: int) -> np.ndarray:
    """The same face in another compression: cosine about 0.98."""
    moved = vector + unit_vector(seed) * np.float32(0.2)
    return (moved / np.linalg.norm(moved)).astype(np.float32)


def test_faces_of_a_photo_that_is_exported_anew_keep_what_is_said_of_them(stores: Stores) -> None:
    ann, bob = unit_vector(1), unit_vector(2)
    save_export(stores, [ann, bob], content="one")
    first, second = faces_of(stores).face_ids
    lease = give_persons(stores, a="p1")
    stores.people.write_people(lease, [PersonRecord("p2", second, 1, 1)], [FaceMove(second, None, "p2")])
    stores.people.publish_people(lease)
    confirm(stores, lease, "p1", FaceRef(first))
    reject(stores, lease, "p1", FaceRef(second))

    save_export(stores, [alike(ann, 3), alike(bob, 4)], content="two", scale=3, swapped=True)
    batch = faces_of(stores)
    assert batch.person_ids == ["p2", "p1"]
    assert (batch.confirmed, batch.rejected) == ({second}, {first: {"p1"}})
    assert batch.etags == ["two", "two"]


@ON_SERVERS
def test_a_chosen_cover_stays_the_face_that_it_was_where_its_photo_is_exported_anew(stores: Stores) -> None:
    ann, bob = unit_vector(1), unit_vector(2)
    save_export(stores, [ann, bob], content="one")
    first, second = faces_of(stores).face_ids
    lease = give_persons(stores, a="p1")
    stores.people.move_chosen_covers(lease, {"p1": first})
    save_export(stores, [alike(ann, 3), alike(bob, 4)], content="two", swapped=True)
    assert [one.chosen_cover for one in stores.people.read_people(lease)] == [second]


def test_faces_at_other_places_or_of_other_looks_inherit_nothing(stores: Stores) -> None:
    ann, bob = unit_vector(1), unit_vector(2)
    save_export(stores, [ann], content="one")
    give_persons(stores, a="p1")
    save_export(stores, [bob], content="two")
    assert faces_of(stores).person_ids == [None]

    save_export(stores, [ann], content="one")
    give_persons(stores, a="p1")
    save_export(stores, [unit_vector(5), ann], content="three")
    assert faces_of(stores).person_ids == [None, None]


def test_what_is_not_published_yet_is_inherited_as_it_is(stores: Stores) -> None:
    ann = unit_vector(1)
    save_export(stores, [ann], content="one")
    give_persons(stores, a="p1")
    [face_id] = faces_of(stores).face_ids
    lease = stores.galleries.take_lease("g", "tester", 60)
    assert lease
    stores.people.write_people(lease, [PersonRecord("p9", face_id, 1, 1)], [FaceMove(face_id, "p1", "p9")])
    save_export(stores, [alike(ann, 3)], content="two")
    assert stores.look("g").person_ids == ["p1"]
    stores.people.read_people(lease)
    assert faces_of(stores).person_ids == ["p1"]


def test_faces_of_former_models_are_read_where_something_is_said_of_them(stores: Stores) -> None:
    save(stores, "a", count=2)
    save(stores, "b")
    give_persons(stores, a="p1")
    assert [len(one) for one in stores.faces.read_former_faces("g", MODEL)] in ([], [0])
    [former] = stores.faces.read_former_faces("g", OTHER_MODEL)
    assert (former.image_ids, former.person_ids, former.embeddings.shape) == (["a"], ["p1"], (1, 0))
    assert stores.faces.count_unexamined("g", OTHER_MODEL) == 2
    save(stores, "b", model=OTHER_MODEL)
    assert stores.faces.count_unexamined("g", OTHER_MODEL) == 1


def test_faces_of_former_models_are_removed_of_examined_photos_alone(stores: Stores) -> None:
    for name in ("a", "b", "c"):
        save(stores, name)
    for name in ("a", "b"):
        save(stores, name, model=OTHER_MODEL)
    lease = stores.galleries.take_lease("g", "tester", 60)
    assert lease
    crops = stores.people.remove_former_faces(lease, OTHER_MODEL, ["a", "c"])
    assert crops == [face_record(photo("a"), 0).crop_key]
    assert faces_of(stores).image_ids == ["b", "c"]
    assert faces_of(stores, model=OTHER_MODEL).image_ids == ["a", "b"]
    assert stores.people.remove_former_faces(lease, OTHER_MODEL, ["a", "c"]) == []
