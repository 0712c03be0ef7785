import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.core.errors import BadModelPack, RejectMessage, RetryLater, StoreUnavailable
from app.core.ports import ReceivedMessage
from app.telemetry.catalogue import Metric
from app.worker import breaker as breaker_module
from app.worker import consumer as consumer_module
from app.worker import deletions as deletions_module
from app.worker.breaker import Breaker
from app.worker.consumer import (
    EXIT_DEAD_THREAD,
    EXIT_STUCK,
    Consumer,
    ConsumerContext,
    ConsumerOptions,
    Progress,
    choose_backoff_s,
)
from app.worker.shutdown import Shutdown
from tests.fakes import FakeQueue
from tests.telling import Listener

PATIENCE_S = 20.0

Simple = Callable[[str], None]


@pytest.fixture
def dead_letters() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def queue(dead_letters: FakeQueue) -> FakeQueue:
    return FakeQueue(visibility_s=60, dead_letters=dead_letters)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of the loop itself are short; delays of messages stay as they are."""
    monkeypatch.setattr(consumer_module, "PAUSE_S", 0.005)


class Pulse:
    """Counts beats and notes what the loop says it waits for."""

    def __init__(self) -> None:
        self.beats = 0
        self.waits: list[str | None] = []

    def beat(self) -> None:
        self.beats += 1

    def report_waiting(self, store: str | None) -> None:
        if not self.waits or self.waits[-1] != store:
            self.waits.append(store)


def consumer_of(
    queue: FakeQueue,
    handler: Simple,
    shutdown: Shutdown | None = None,
    has_room: Callable[[], bool] = lambda: True,
    *,
    around: ConsumerContext | None = None,
    **changes: Any,
) -> Consumer:
    """Drains after two empty polls, unless told otherwise."""

    def handle(body: str, *, progress: Progress, is_last: bool = False) -> None:
        progress()
        handler(body)

    options = {
        "threads": 2,
        "batch_size": 4,
        "visibility_s": 60,
        "wait_s": 0,
        "deadline_s": PATIENCE_S,
        "stuck_after_s": PATIENCE_S,
        "empty_polls": 2,
        **changes,
    }
    context = around or ConsumerContext(Pulse(), has_room)
    return Consumer(queue, handle, ConsumerOptions(**options), shutdown or Shutdown(), context)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "what was waited for didn't happen"
        time.sleep(0.002)


def failing(error: Exception) -> Simple:
    def handler(body: str) -> None:
        if body == "bad":
            raise error

    return handler


def test_a_message_that_is_done_is_deleted(queue: FakeQueue) -> None:
    queue.send("one")
    seen: list[str] = []
    assert consumer_of(queue, seen.append).run() == 0
    assert seen == ["one"]
    assert queue.bodies == []


def test_a_message_to_retry_later_is_hidden_for_its_own_delay(queue: FakeQueue) -> None:
    queue.send("bad")
    assert consumer_of(queue, failing(RetryLater("busy", delay_s=45))).run() == 0
    assert queue.bodies == ["bad"]
    assert queue.hides == [("1", 45)]


def test_a_message_to_retry_without_a_delay_is_hidden_longer_each_time(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    for attempt in range(1, 4):
        queue.send("bad")
        queue.letters[-1].receive_count = attempt - 1
    consumer_of(queue, failing(RetryLater("away"))).run()
    assert sorted(queue.hides) == [("1", 4), ("2", 8), ("3", 16)]


def test_a_message_that_can_never_succeed_goes_to_the_dead_letters_with_the_reason(
    queue: FakeQueue, dead_letters: FakeQueue
) -> None:
    queue.send("bad")
    consumer_of(queue, failing(RejectMessage("It is not JSON."))).run()
    assert queue.bodies == []
    assert [(one.body, one.attributes["reason"]) for one in dead_letters.letters] == [("bad", "It is not JSON.")]


def test_an_unexpected_error_puts_the_message_back_and_the_loop_lives(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    for body in ("bad", "good"):
        queue.send(body)
    assert consumer_of(queue, failing(ZeroDivisionError("oops")), threads=1, batch_size=1).run() == 0
    assert queue.bodies == ["bad"]
    assert queue.hides == [("1", 4)]
    logged = next(record for record in caplog.records if "unexpected error" in record.message)
    assert logged.exc_info is not None
    assert (logged.message_id, logged.receive_count) == ("1", 1)


def test_a_fatal_error_ends_the_worker_with_its_exit_code_and_gives_the_message_back(queue: FakeQueue) -> None:
    queue.send("bad")
    assert consumer_of(queue, failing(BadModelPack("damaged")), empty_polls=None).run() == BadModelPack.exit_code
    assert queue.visible == ["bad"]


def test_a_message_does_not_suffer_from_its_neighbours(queue: FakeQueue, dead_letters: FakeQueue) -> None:
    errors = {"retry": RetryLater("busy", 60), "reject": RejectMessage("no"), "error": ValueError("bug")}
    seen: list[str] = []

    def handler(body: str) -> None:
        seen.append(body)
        if body in errors:
            raise errors[body]

    bodies = ["a", "retry", "b", "reject", "c", "error", "d"]
    for body in bodies:
        queue.send(body)
    consumer_of(queue, handler, batch_size=7).run()
    assert {"a", "b", "c", "d"} <= set(seen)
    assert set(queue.bodies) - {"error"} == {"retry"}
    assert dead_letters.bodies == ["reject"]


def test_never_more_messages_are_held_than_the_batch_size(queue: FakeQueue) -> None:
    for number in range(25):
        queue.send(str(number))
    held: list[int] = []
    received, done = [], []
    receive = queue.receive

    def counted(most: int, wait_s: int) -> list[ReceivedMessage]:
        messages = receive(most, wait_s)
        received.extend(messages)
        return messages

    def handler(_: str) -> None:
        held.append(len(received) - len(done))
        time.sleep(0.003)
        done.append(1)

    queue.receive = counted  # type: ignore[method-assign]
    consumer_of(queue, handler, threads=2, batch_size=3).run()
    assert len(held) == 25
    assert max(held) == 3


def test_as_many_messages_are_worked_on_at_once_as_there_are_threads(queue: FakeQueue) -> None:
    for number in range(3):
        queue.send(str(number))
    together = threading.Barrier(3, timeout=PATIENCE_S)
    assert consumer_of(queue, lambda _: together.wait(), threads=3).run() == 0
    assert queue.bodies == []
    assert not together.broken


def test_without_room_nothing_is_taken_in(queue: FakeQueue) -> None:
    queue.send("one")
    answers = [False, False, False]
    polls_while_full: list[int] = []

    def has_room() -> bool:
        if answers:
            polls_while_full.append(queue.polls)
            return answers.pop()
        return True

    consumer_of(queue, lambda _: None, has_room=has_room).run()
    assert polls_while_full == [0, 0, 0]
    assert queue.bodies == []


@pytest.mark.parametrize("polls", [1, 3])
def test_draining_ends_after_so_many_empty_polls(queue: FakeQueue, polls: int) -> None:
    assert consumer_of(queue, lambda _: None, empty_polls=polls).run() == 0
    assert queue.polls == polls


def test_draining_ends_in_time_though_messages_keep_coming(queue: FakeQueue) -> None:
    class NeverEmpty(FakeQueue):
        def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]:
            self.send("another")
            return super().receive(1, wait_s)

    never_empty, done = NeverEmpty(), list[str]()
    assert consumer_of(never_empty, done.append, empty_polls=3, drain_s=0.2).run() == 0
    assert len(done) + len(never_empty.bodies) == never_empty.polls


def test_draining_does_not_end_while_work_is_in_flight(queue: FakeQueue) -> None:
    queue.send("slow")
    consumer_of(queue, lambda _: wait_until(lambda: queue.polls >= 12), empty_polls=2).run()
    assert queue.bodies == []


def test_a_message_between_empty_polls_starts_the_count_anew(queue: FakeQueue) -> None:
    class Late(FakeQueue):
        def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]:
            if self.polls == 2:
                self.send("late")
            return super().receive(max_messages, wait_s)

    late = Late()
    done: list[str] = []
    consumer_of(late, done.append, empty_polls=3).run()
    assert done == ["late"]
    assert late.polls >= 6


def test_a_service_polls_an_empty_queue_until_it_is_stopped(queue: FakeQueue) -> None:
    shutdown = Shutdown()

    def has_room() -> bool:
        if queue.polls == 30:
            shutdown.request()
        return True

    assert consumer_of(queue, lambda _: None, shutdown, has_room, empty_polls=None).run() == 0
    assert queue.polls >= 30


def test_stopping_gives_back_what_is_not_started_and_finishes_what_is(queue: FakeQueue) -> None:
    shutdown = Shutdown()
    for body in ("first", "second", "third"):
        queue.send(body)

    def handler(_: str) -> None:
        shutdown.request()
        wait_until(lambda: queue.visible == ["second", "third"])

    consumer = consumer_of(queue, handler, shutdown, threads=1, batch_size=3, empty_polls=None)
    assert consumer.run() == 0
    assert queue.visible == queue.bodies == ["second", "third"]
    assert consumer.unfinished == 0


def test_what_is_not_finished_by_the_deadline_stays_in_the_queue_and_is_counted(queue: FakeQueue) -> None:
    shutdown, end = Shutdown(), threading.Event()
    queue.send("endless")

    def handler(_: str) -> None:
        shutdown.request()
        end.wait(PATIENCE_S)

    consumer = consumer_of(queue, handler, shutdown, deadline_s=0.1)
    try:
        consumer.run()
        assert consumer.unfinished == 1
        assert queue.bodies == ["endless"]
    finally:
        end.set()


def test_a_second_signal_gives_back_what_is_started_too(queue: FakeQueue) -> None:
    shutdown, end = Shutdown(), threading.Event()
    queue.send("endless")

    def handler(_: str) -> None:
        shutdown.request()
        shutdown.at_once = True
        end.wait(PATIENCE_S)

    try:
        started = time.monotonic()
        consumer_of(queue, handler, shutdown).run()
        assert time.monotonic() - started < PATIENCE_S / 2
        assert queue.visible == ["endless"]
    finally:
        end.set()


def test_a_queue_that_is_away_while_stopping_does_not_keep_the_worker(queue: FakeQueue) -> None:
    shutdown = Shutdown()
    for body in ("first", "second"):
        queue.send(body)

    def handler(_: str) -> None:
        queue.outages["hide"] = 1
        shutdown.request()
        wait_until(lambda: queue.outages["hide"] == 0)

    assert consumer_of(queue, handler, shutdown, threads=1, batch_size=2).run() == 0
    assert queue.bodies == ["second"]
    assert queue.visible == []


def test_a_dead_lease_thread_ends_the_worker(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_hide(*_: object) -> None:
        raise TypeError("a bug in the queue's adapter")

    shutdown = Shutdown()
    queue.send("slow")
    monkeypatch.setattr(queue, "hide", broken_hide)
    handler: Simple = lambda _: wait_until(lambda: shutdown.requested)  # noqa: E731 - one line says it
    assert consumer_of(queue, handler, shutdown, visibility_s=0.03, empty_polls=None).run() == EXIT_DEAD_THREAD


def test_a_worker_thread_that_fails_at_settling_ends_the_worker(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_delete(*_: object) -> None:
        raise TypeError("a bug in the queue's adapter")

    queue.send("one")
    monkeypatch.setattr(queue, "delete", broken_delete)
    assert consumer_of(queue, lambda _: None, empty_polls=None).run() == EXIT_DEAD_THREAD


def test_a_failed_poll_backs_off_and_the_loop_goes_on(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    longest: list[float] = []

    def no_jitter(low: float, high: float) -> float:
        longest.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", no_jitter)
    queue.outages["receive"] = 6
    consumer_of(queue, lambda _: None).run()
    assert longest == [4, 8, 16, 30, 30, 30]
    assert caplog.text.count("receive is away") == 6


def test_a_poll_that_works_again_starts_the_back_off_anew(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    longest: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: longest.append(high) or 0.0)
    queue.outages["receive"] = 2

    def has_room() -> bool:
        if queue.polls == 3:
            queue.outages["receive"] = 1
        return True

    consumer_of(queue, lambda _: None, has_room=has_room, empty_polls=3).run()
    assert longest == [4, 8, 4]


def test_failed_polls_do_not_count_as_empty_ones(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    queue.outages["receive"] = 5
    consumer_of(queue, lambda _: None, empty_polls=2).run()
    assert queue.polls == 7


def test_done_messages_are_deleted_at_the_next_try_where_the_first_fails(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deletions_module, "PAUSE_S", 0.001)
    for body in ("one", "two"):
        queue.send(body)
    queue.outages["delete"] = 1
    assert consumer_of(queue, lambda _: None, threads=1).run() == 0
    assert queue.bodies == []
    assert "not deleted yet: delete is away" in caplog.text


def test_a_slow_message_is_kept_hidden_while_it_is_worked_on() -> None:
    queue = FakeQueue(visibility_s=1.2)
    queue.send("slow")
    runs: list[str] = []

    def handler(body: str) -> None:
        runs.append(body)
        time.sleep(2)

    consumer_of(queue, handler, visibility_s=1.2).run()
    assert runs == ["slow"]
    assert queue.bodies == []


def test_no_beat_comes_after_a_message_was_put_back() -> None:
    class SlowQueue(FakeQueue):
        def hide(self, message: ReceivedMessage, for_s: float) -> None:
            super().hide(message, for_s)
            if for_s == 45:
                time.sleep(0.2)

    def handler(_: str) -> None:
        wait_until(lambda: len(queue.hides) >= 2)
        raise RetryLater("busy", delay_s=45)

    queue = SlowQueue(visibility_s=60)
    queue.send("bad")
    consumer_of(queue, handler, visibility_s=0.06).run()
    beats = queue.hides[:-1]
    assert set(beats) == {("1", 0.06)}
    assert queue.hides[-1] == ("1", 45)


def test_the_loop_leaves_no_thread_behind(queue: FakeQueue) -> None:
    queue.send("one")
    consumer_of(queue, lambda _: None).run()
    ours = ("work", "leases", "deletions")
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith(ours)])


def test_back_off_grows_has_jitter_and_an_end() -> None:
    assert all(0 <= choose_backoff_s(attempt) <= min(300, 2 * 2**attempt) for attempt in range(1, 40) for _ in range(5))
    assert len({choose_backoff_s(5) for _ in range(20)}) > 10
    assert max(choose_backoff_s(10_000) for _ in range(200)) > 150


def test_every_outcome_but_success_is_logged(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    errors = [RetryLater("r1"), RejectMessage("r2"), ValueError("r3"), BadModelPack("r4")]
    levels = [logging.WARNING, logging.WARNING, logging.ERROR, logging.CRITICAL]
    for error, level in zip(errors, levels, strict=True):
        caplog.clear()
        queue.send("bad")
        consumer_of(queue, failing(error)).run()
        (record,) = [one for one in caplog.records if hasattr(one, "message_id")]
        assert record.levelno == level
        assert str(error) in caplog.text


def test_what_a_poll_brings_after_the_stop_is_given_back_unseen(queue: FakeQueue) -> None:
    shutdown = Shutdown()
    seen: list[str] = []
    receive = queue.receive

    def receive_while_stopping(most: int, wait_s: int) -> list[ReceivedMessage]:
        shutdown.request()
        return receive(most, wait_s)

    queue.receive = receive_while_stopping  # type: ignore[method-assign]
    queue.send("late")
    assert consumer_of(queue, seen.append, shutdown).run() == 0
    assert seen == []
    assert queue.visible == ["late"]


def test_a_message_whose_lease_was_lost_is_not_settled(queue: FakeQueue, caplog: pytest.LogCaptureFixture) -> None:
    def handler(_: str) -> None:
        queue.letters[0].receipt = "another worker's"
        wait_until(lambda: "lease lost" in caplog.text)
        raise RetryLater("busy", delay_s=45)

    queue.send("bad")
    consumer_of(queue, handler, visibility_s=0.06).run()
    assert 45 not in [for_s for _, for_s in queue.hides]
    assert "not settled: its lease was lost" in caplog.text


def test_a_handler_without_progress_loses_its_lease_and_ends_the_worker(queue: FakeQueue) -> None:
    end = threading.Event()
    queue.send("stuck")
    consumer = consumer_of(
        queue, lambda _: end.wait(PATIENCE_S), visibility_s=0.06, stuck_after_s=0.1, empty_polls=None
    )
    begin = time.monotonic()
    try:
        assert consumer.run() == EXIT_STUCK
        assert consumer.unfinished == 1
        assert time.monotonic() - begin < PATIENCE_S / 2, "it waited for what is stuck"
    finally:
        end.set()


def test_while_a_store_is_away_nothing_is_received_and_health_says_so(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_module, "PROBE_EVERY_S", 0.0)
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    answers: list[bool] = [False, False, True]
    polls_while_away: set[int] = set()
    back = threading.Event()

    def probe() -> None:
        polls_while_away.add(queue.polls)
        if not answers.pop(0):
            raise StoreUnavailable("MongoDB", "still away")
        back.set()

    def handler(_: str) -> None:
        if not back.is_set():
            raise StoreUnavailable("MongoDB", "away")

    pulse = Pulse()
    around = ConsumerContext(pulse, breaker=Breaker({"MongoDB": probe}))
    for number in range(4):
        queue.send(str(number))
    consumer_of(queue, handler, around=around, threads=1, batch_size=1, empty_polls=3).run()
    assert len(polls_while_away) == 1, "it polled between two probes"
    assert pulse.waits == [None, "MongoDB", None]
    assert queue.bodies == []


def test_busy_is_told_at_the_first_message_and_idle_once_the_queue_is_empty(queue: FakeQueue) -> None:
    told: list[bool] = []
    queue.send("one")
    consumer_of(queue, lambda _: None, around=ConsumerContext(Pulse(), set_busy=told.append)).run()
    assert told[0] is True
    assert told[-1] is False


def test_the_pulse_beats_with_every_poll_and_every_progress(queue: FakeQueue) -> None:
    pulse = Pulse()
    queue.send("one")
    consumer_of(queue, lambda _: None, around=ConsumerContext(pulse)).run()
    assert pulse.beats >= queue.polls + 2


def listened(queue: FakeQueue, handler: Simple, **changes: Any) -> Listener:
    """What telemetry heard of a run."""
    listener = Listener()
    consumer_of(queue, handler, around=ConsumerContext(Pulse(), telemetry=listener.telemetry), **changes).run()
    return listener


def test_telemetry_hears_how_each_message_ended_and_how_long_that_took(queue: FakeQueue) -> None:
    errors = {
        "retry": RetryLater("busy", 60),
        "reject": RejectMessage("no", "foreign bucket"),
        "error": ValueError("bug"),
    }

    def handler(body: str) -> None:
        if body in errors:
            raise errors[body]

    for body in ("a", "retry", "b", "reject"):
        queue.send(body)
    listener = listened(queue, handler)
    sums = listener.metrics.sums
    assert (sums[Metric.MESSAGES_DONE], sums[Metric.MESSAGES_PUT_BACK], sums[Metric.MESSAGES_REJECTED]) == (2, 1, 1)
    assert listener.metrics.kinds == {(Metric.MESSAGES_REJECTED, "foreign bucket"): 1}
    assert len(listener.metrics.values[Metric.MESSAGE_SECONDS]) == 4
    assert sorted(str(span.outcome) for span in listener.tracer.spans) == ["done", "done", "put back", "rejected"]


def test_telemetry_hears_how_old_a_message_was_and_goes_on_with_its_trace(queue: FakeQueue) -> None:
    queue.send("old", traceparent="00-trace")
    queue.letters[0].sent_at -= 100
    listener = listened(queue, lambda _: None)
    (age_s,) = listener.metrics.values[Metric.MESSAGE_AGE_SECONDS]
    assert 100 <= age_s < 100 + PATIENCE_S
    assert [span.traceparent for span in listener.tracer.spans] == ["00-trace"]


def test_a_message_is_done_for_telemetry_once_it_is_deleted(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions_module, "PAUSE_S", 0)
    queue.send("one")
    queue.outages["delete"] = deletions_module.TRIES
    listener = listened(queue, lambda _: None)
    assert listener.metrics.sums[Metric.MESSAGES_DONE] == 0
    assert [span.outcome for span in listener.tracer.spans] == ["not settled"]


def test_a_message_that_could_not_be_put_back_is_none_that_was(queue: FakeQueue) -> None:
    queue.send("bad")

    def handler(_: str) -> None:
        queue.outages["hide"] = 1
        raise RetryLater("busy")

    listener = listened(queue, handler)
    assert listener.metrics.sums == {}
    assert [span.outcome for span in listener.tracer.spans] == ["not settled"]


def test_telemetry_hears_once_of_a_lease_that_was_lost(queue: FakeQueue) -> None:
    queue.send("late")

    def handler(_: str) -> None:
        queue.letters[0].receipt = "another worker's"
        wait_until(lambda: bool(queue.hides))
        raise RetryLater("busy")

    listener = listened(queue, handler, visibility_s=0.06)
    assert listener.metrics.sums[Metric.LEASES_LOST] == 1
    assert listener.tracer.spans[0].outcome == "lost"
