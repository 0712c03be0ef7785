"""Whatever happens between a change of a gallery and its grouping message, a message comes after the change."""

import json

import pytest

from app.core.coalescing import send_claimed, send_overdue
from app.core.errors import (
    BadConfiguration,
    LeaseLost,
    RejectMessage,
    RetryLater,
    StaleFence,
    StoreUnavailable,
    WorkerError,
)
from app.core.ports import CHECK_AFTER_S, CLAIM_S
from app.detection.changes import ChangeParts, request_grouping
from app.telemetry.interface import Telemetry
from tests.fake_stores import FakeGalleryStore
from tests.fakes import FakeClock, FakeQueue

VISIBILITY_S = 120
DELAYS = [0, 1, 30, VISIBILITY_S - 1]


class FailingQueue(FakeQueue):
    """Raises `error` instead of sending, while there is one."""

    error: Exception | None = None

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None:
        if self.error:
            raise self.error
        super().send(body, delay_s, traceparent)


class World:
    """Galleries, a queue, and workers of both services that share a clock."""

    def __init__(self, delay_s: int) -> None:
        self.clock = FakeClock()
        self.galleries = FakeGalleryStore(self.clock)
        self.queue = FailingQueue(VISIBILITY_S, clock=self.clock)
        self.delay_s = delay_s

    def store_photo(self, gallery: str = "g") -> None:
        request_grouping(gallery, ChangeParts(self.galleries, self.queue, self.delay_s, "model", Telemetry()))

    def look(self) -> None:
        send_overdue(self.galleries, self.queue, self.delay_s)

    def group_all(self) -> None:
        """Receive the messages that are there, and note runs of the galleries as they are then."""
        for message in self.queue.receive(10, 0):
            lease = self.galleries.take_lease(json.loads(message.body)["gallery_id"], "me", 60)
            assert lease
            self.galleries.record_run(lease, "model", {})
            self.galleries.release(lease)
            self.queue.delete([message])

    @property
    def is_grouped(self) -> bool:
        gallery = self.galleries.galleries["g"]
        return gallery.grouped is not None and gallery.grouped[0] == gallery.revision

    def run_workers(self, seconds: float) -> None:
        """Workers look and group each second."""
        for _ in range(int(seconds)):
            self.look()
            self.group_all()
            self.clock.sleep(1)


@pytest.mark.parametrize("delay_s", DELAYS)
def test_a_gallery_is_grouped_though_its_worker_was_killed_between_mark_and_message(delay_s: int) -> None:
    world = World(delay_s)
    assert world.galleries.mark_dirty("g", delay_s)
    world.run_workers(CLAIM_S + delay_s + 2)
    assert world.is_grouped


@pytest.mark.parametrize("returns_after_s", [0, 1, 2 * VISIBILITY_S // 3, VISIBILITY_S, 10_000])
@pytest.mark.parametrize("delay_s", DELAYS)
def test_a_repeated_message_sends_what_a_killed_worker_owed_whenever_it_comes(
    delay_s: int, returns_after_s: int
) -> None:
    world = World(delay_s)
    assert world.galleries.mark_dirty("g", delay_s)
    world.clock.sleep(returns_after_s)
    world.store_photo()
    # Within the claim nobody knows that the worker was killed.
    assert len(world.queue.bodies) == (returns_after_s > CLAIM_S)
    world.run_workers(CLAIM_S + delay_s + 2)
    assert world.is_grouped


@pytest.mark.parametrize("delay_s", DELAYS)
def test_a_gallery_is_grouped_though_its_worker_was_killed_between_message_and_note(delay_s: int) -> None:
    world = World(delay_s)
    claim = world.galleries.mark_dirty("g", delay_s)
    assert claim
    world.queue.send('{"type": "group_gallery", "gallery_id": "g"}', delay_s)
    world.store_photo()
    world.run_workers(CLAIM_S + 2 * delay_s + 2)
    assert world.is_grouped


@pytest.mark.parametrize(
    "error",
    [
        RetryLater("throttled"),
        StoreUnavailable("SQS", "away"),
        LeaseLost("InvalidParameterValue"),
        StaleFence("another's"),
        RejectMessage("never"),
        BadConfiguration("no credentials"),
        ValueError("a fault of ours"),
    ],
)
@pytest.mark.parametrize("delay_s", DELAYS)
def test_whatever_sending_raises_the_next_one_sends(error: Exception, delay_s: int) -> None:
    world = World(delay_s)
    world.queue.error = error
    with pytest.raises(type(error)):
        world.store_photo()
    world.queue.error = None
    world.store_photo()
    assert len(world.queue.bodies) == 1
    world.run_workers(delay_s + 2)
    assert world.is_grouped


@pytest.mark.parametrize("error", [RetryLater("throttled"), LeaseLost("lost"), BadConfiguration("no credentials")])
def test_a_look_that_fails_is_logged_and_the_next_one_sends(
    error: WorkerError, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(30)
    world.queue.error = error
    with pytest.raises(WorkerError):
        world.store_photo()
    world.look()
    assert str(error) in caplog.text
    world.queue.error = None
    world.look()
    assert len(world.queue.bodies) == 1


def test_a_look_while_the_database_is_away_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World(30)
    world.galleries.outages["claim_overdue"] = 1
    world.look()
    assert "claim_overdue is away" in caplog.text


@pytest.mark.parametrize("method", ["note_sent", "give_claim_back"])
def test_a_note_that_fails_costs_a_second_message_at_most(method: str) -> None:
    world = World(30)
    world.queue.error = RetryLater("throttled") if method == "give_claim_back" else None
    world.galleries.outages[method] = 1
    with pytest.raises(RetryLater, match="note_sent is away" if method == "note_sent" else "throttled"):
        world.store_photo()
    world.queue.error = None
    for _ in range(200):
        world.store_photo()
        world.run_workers(1)
    assert len(world.queue.bodies) <= 2
    world.run_workers(CLAIM_S + 30)
    assert world.is_grouped


def test_many_photos_in_a_minute_share_a_few_messages() -> None:
    world = World(5)
    sent = 0
    for number in range(5_000):
        before = len(world.queue.bodies)
        world.store_photo()
        sent += len(world.queue.bodies) - before
        world.clock.sleep(60 / 5_000)
        if number % 80 == 0:
            world.look()
            world.group_all()
    assert sent == 60 / 5
    world.run_workers(10)
    assert world.is_grouped
    assert world.queue.bodies == []


def test_a_message_that_was_lost_is_made_up_for_once_and_a_gallery_that_can_not_be_grouped_is_left_alone() -> None:
    world = World(30)
    world.store_photo()
    world.queue.letters.clear()
    sent = 0
    for _ in range(4 * CHECK_AFTER_S):
        world.look()
        sent += len(world.queue.letters)
        world.queue.letters.clear()
        world.clock.sleep(1)
    assert sent == 1


def test_a_clock_that_is_put_back_within_a_window_leaves_no_change_ungrouped() -> None:
    world = World(30)
    world.store_photo()
    world.clock.sleep(30)
    world.group_all()
    world.clock.sleep(-20)
    world.store_photo()
    assert world.queue.bodies == []
    world.run_workers(CHECK_AFTER_S + 90)
    assert world.is_grouped


def test_messages_for_several_galleries_are_sent_by_one_look() -> None:
    world = World(0)
    for gallery in "abc":
        assert world.galleries.mark_dirty(gallery, 0)
    world.clock.sleep(CLAIM_S)
    world.look()
    assert sorted(json.loads(body)["gallery_id"] for body in world.queue.bodies) == ["a", "b", "c"]


def test_a_message_carries_its_mode_and_trace() -> None:
    world = World(0)
    claim = world.galleries.claim_message("g", 0)
    assert claim
    send_claimed(claim, world.galleries, world.queue, 0, "00-trace", "full")
    (letter,) = world.queue.letters
    assert (json.loads(letter.body)["mode"], letter.attributes) == ("full", {"traceparent": "00-trace"})
