import threading
import time

import pytest

from app.core.ports import ReceivedMessage
from app.worker.leases import LONGEST_LEASE_S, MessageLeases
from tests.fakes import FakeQueue

VISIBILITY_S = 0.9
PATIENCE_S = 20.0


class TimedQueue(FakeQueue):
    """Notes when it was asked to hide a message."""

    def __init__(self) -> None:
        super().__init__(VISIBILITY_S)
        self.beats: list[tuple[str, float]] = []
        self.beaten = threading.Condition()

    def hide(self, message: ReceivedMessage, for_s: float) -> None:
        with self.beaten:
            self.beats.append((message.message_id, time.monotonic()))
            self.beaten.notify_all()
        super().hide(message, for_s)

    def await_beats(self, count: int) -> None:
        with self.beaten:
            assert self.beaten.wait_for(lambda: len(self.beats) >= count, PATIENCE_S)


@pytest.fixture
def queue() -> TimedQueue:
    queue = TimedQueue()
    for body in ("one", "two"):
        queue.send(body)
    return queue


def leases_of(
    queue: FakeQueue,
    deaths: list[str] | None = None,
    *,
    visibility_s: float = VISIBILITY_S,
    stuck_after_s: float = PATIENCE_S,
) -> MessageLeases:
    notes = deaths if deaths is not None else []
    return MessageLeases(
        queue, visibility_s, stuck_after_s, lambda: notes.append("stuck"), lambda: notes.append("died")
    )


def lost_in_time(leases: MessageLeases, message: ReceivedMessage) -> bool:
    until = time.monotonic() + PATIENCE_S
    while not leases.is_lost(message) and time.monotonic() < until:
        time.sleep(0.01)
    return leases.is_lost(message)


def test_every_held_message_is_extended_at_a_third_of_the_visibility(queue: TimedQueue) -> None:
    messages = queue.receive(2, 0)
    begin = time.monotonic()
    with leases_of(queue) as leases:
        for message in messages:
            leases.hold(message)
        queue.await_beats(4)
    assert {message_id for message_id, _ in queue.beats} == {"1", "2"}
    assert {for_s for _, for_s in queue.hides} == {VISIBILITY_S}
    first, *_, last = (at - begin for _, at in queue.beats[:4])
    assert VISIBILITY_S / 3 <= first < VISIBILITY_S
    assert last >= 2 * VISIBILITY_S / 3


def test_a_message_that_is_dropped_is_extended_no_more(queue: TimedQueue) -> None:
    kept, dropped = queue.receive(2, 0)
    with leases_of(queue) as leases:
        leases.hold(kept)
        leases.hold(dropped)
        queue.await_beats(2)
        leases.drop(dropped)
        before = len(queue.beats)
        queue.await_beats(before + 2)
    assert {message_id for message_id, _ in queue.beats[before:]} == {kept.message_id}


def test_dropping_waits_for_a_beat_under_way(queue: TimedQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    beating, may_end = threading.Event(), threading.Event()

    def slow_hide(*_: object) -> None:
        beating.set()
        assert may_end.wait(PATIENCE_S)

    monkeypatch.setattr(queue, "hide", slow_hide)
    (message,) = queue.receive(1, 0)
    with leases_of(queue) as leases:
        leases.hold(message)
        assert beating.wait(PATIENCE_S)
        dropping = threading.Thread(target=leases.drop, args=[message])
        dropping.start()
        dropping.join(0.1)
        assert dropping.is_alive()
        may_end.set()
        dropping.join(PATIENCE_S)
        assert not dropping.is_alive()


def test_a_beat_that_fails_is_tried_again_at_the_next(queue: TimedQueue, caplog: pytest.LogCaptureFixture) -> None:
    deaths: list[str] = []
    queue.outages["hide"] = 1
    (message,) = queue.receive(1, 0)
    with leases_of(queue, deaths) as leases:
        leases.hold(message)
        queue.await_beats(3)
    assert "lease not extended: hide is away" in caplog.text
    assert len(queue.hides) >= 1
    assert deaths == []


def test_a_thread_that_dies_says_so(queue: TimedQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_hide(*_: object) -> None:
        raise TypeError("a bug")

    died = threading.Event()
    monkeypatch.setattr(queue, "hide", broken_hide)
    with MessageLeases(queue, VISIBILITY_S, PATIENCE_S, lambda: None, died.set) as leases:
        leases.hold(queue.receive(1, 0)[0])
        assert died.wait(PATIENCE_S)


def test_the_end_stops_the_beat_at_once(queue: TimedQueue) -> None:
    leases = leases_of(queue, visibility_s=3_600)
    with leases:
        leases.hold(queue.receive(1, 0)[0])
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    assert queue.beats == []
    assert "leases" not in [thread.name for thread in threading.enumerate()]


def test_dropping_what_is_not_held_is_fine(queue: TimedQueue) -> None:
    leases_of(queue).drop(queue.receive(1, 0)[0])


def test_a_lost_lease_is_extended_no_more_and_told_at_dropping(queue: TimedQueue) -> None:
    kept, lost = queue.receive(2, 0)
    with leases_of(queue) as leases:
        leases.hold(kept)
        leases.hold(lost)
        queue.letters[1].receipt = "another worker's"
        queue.await_beats(2)
        queue.await_beats(5)
        assert leases.is_lost(lost)
        assert not leases.drop(lost)
        assert leases.drop(kept)
    assert [message_id for message_id, _ in queue.beats].count(lost.message_id) == 1


def test_a_lease_that_could_not_be_extended_for_a_whole_visibility_counts_as_lost(queue: TimedQueue) -> None:
    queue.outages["hide"] = 100
    (message,) = queue.receive(1, 0)
    with leases_of(queue) as leases:
        leases.hold(message)
        assert lost_in_time(leases, message)
    assert len(queue.beats) >= 3, "it gave up before a whole visibility was over"


def test_what_waits_for_a_thread_is_not_stuck_but_what_is_started_and_stands_still_is(queue: TimedQueue) -> None:
    waiting, started = queue.receive(2, 0)
    notes: list[str] = []
    with leases_of(queue, notes, stuck_after_s=0.2) as leases:
        leases.hold(waiting)
        leases.hold(started)
        leases.note_progress(started)
        queue.await_beats(3)
        assert leases.is_lost(started)
        assert not leases.is_lost(waiting)
    assert notes == ["stuck"]


def test_progress_keeps_a_lease_and_a_done_message_needs_none(queue: TimedQueue) -> None:
    working, done = queue.receive(2, 0)
    notes: list[str] = []
    with leases_of(queue, notes, stuck_after_s=VISIBILITY_S / 2) as leases:
        leases.hold(working)
        leases.hold(done)
        leases.note_progress(done)
        leases.pause_progress(done)
        until = time.monotonic() + 2 * VISIBILITY_S
        while time.monotonic() < until:
            leases.note_progress(working)
            time.sleep(0.02)
        assert leases.drop(working)
        assert leases.drop(done)
    assert notes == []


def test_a_lease_ends_before_sqs_would_end_it(queue: TimedQueue, caplog: pytest.LogCaptureFixture) -> None:
    (message,) = queue.receive(1, 0)
    with leases_of(queue, visibility_s=0.03) as leases:
        leases.hold(message, received_at=time.monotonic() - LONGEST_LEASE_S - 1)
        assert lost_in_time(leases, message)
        assert not leases.drop(message)
    assert "worked on for 11 h" in caplog.text
