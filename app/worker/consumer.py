"""The loop of both services: receive, hand over, settle by how the handler ended.

The order of shutting down, here since it matters:
 1. no new poll; a poll under way is let return, and what it brings is given back
 2. messages that no thread has started are given back (visibility 0)
 3. what is started may finish until the deadline
 4. what is done is deleted
 5. what is still unfinished is given back, and leases stop beating
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

from app.core.errors import FatalWorkerError, LeaseLost, RejectMessage, RetryLater
from app.core.kill_points import KillPoints
from app.core.ports import MessageQueue, ReceivedMessage
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry
from app.worker.breaker import Breaker
from app.worker.deletions import Deletions
from app.worker.leases import MessageLeases
from app.worker.shutdown import Shutdown
from app.worker.story import MessageStory, Outcome

log = logging.getLogger(__name__)

EXIT_DEAD_THREAD = 10
EXIT_STUCK = 11
FIRST_BACKOFF_S = 2.0
LONGEST_BACKOFF_S = 300.0
PAUSE_S = 1.0

Progress = Callable[[], None]


class Handler(Protocol):
    def __call__(self, body: str, *, progress: Progress) -> None:
        """Do what a message body asks for, calling `progress` now and then.

        Returning means done; errors say what else (see app.core.errors).
        """


class Heartbeat(Protocol):
    """Who wants to know that the loop lives (see app.health)."""

    def beat(self) -> None: ...

    def report_waiting(self, store: str | None) -> None: ...


@dataclass(frozen=True)
class ConsumerOptions:
    """`batch_size` messages are held at once, `threads` of them worked on. Drains where `empty_polls` is set, and then
    for `drain_s` at most."""

    threads: int
    batch_size: int
    visibility_s: float
    wait_s: int
    deadline_s: float
    stuck_after_s: float
    empty_polls: int | None = None
    drain_s: float | None = None


@dataclass(frozen=True)
class ConsumerContext:
    """What the loop asks and tells: whether there is room for more, whether the stores answer, that it lives, and
    whether it is busy (on ECS, busy tasks are protected from scaling in)."""

    pulse: Heartbeat
    has_room: Callable[[], bool] = lambda: True
    set_busy: Callable[[bool], None] = lambda _: None
    breaker: Breaker = field(default_factory=lambda: Breaker({}))
    kill_points: KillPoints = field(default_factory=KillPoints)
    telemetry: Telemetry = field(default_factory=Telemetry)


@dataclass(frozen=True)
class _HandlerResult:
    """How a handler ended, and what is to be done with the message; nothing where it is to be deleted."""

    outcome: Outcome
    settle: Callable[[], None] | None = None
    kind: str | None = None


class Consumer:
    """Feeds one queue's messages to a handler until told to stop."""

    def __init__(
        self,
        queue: MessageQueue,
        handler: Handler,
        options: ConsumerOptions,
        shutdown: Shutdown,
        surroundings: ConsumerContext,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._options = options
        self._shutdown = shutdown
        self._around = surroundings
        self._leases = MessageLeases(
            queue,
            options.visibility_s,
            options.stuck_after_s,
            on_stuck=lambda: shutdown.request(EXIT_STUCK),
            on_death=lambda: shutdown.request(EXIT_DEAD_THREAD),
            on_lost=self._count_lost,
        )
        self._deletions = Deletions(
            queue, self._leases, lambda: shutdown.request(EXIT_DEAD_THREAD), surroundings.kill_points
        )
        self._running: dict[Future[None], ReceivedMessage] = {}
        self._room = threading.Semaphore(options.batch_size)
        self._empty_polls = 0
        self._failed_polls = 0

    def run(self) -> int:
        """Work until a stop is asked for, or until the queue stays empty when draining. Returns the exit code."""
        pool = ThreadPoolExecutor(self._options.threads, thread_name_prefix="work")
        began = time.monotonic()
        with self._leases, self._deletions:
            while not self._shutdown.requested:
                self._around.pulse.beat()
                self._poll(pool)
                if self._options.drain_s is not None and time.monotonic() - began > self._options.drain_s:
                    log.info("drained for long enough: what is left is for others")
                    self._shutdown.request()
            self._give_back(lambda future: future.cancel())
            self._finish_started()
            self._give_back(lambda _: True)
        pool.shutdown(wait=False, cancel_futures=True)
        self._around.set_busy(False)
        return self._shutdown.exit_code

    @property
    def unfinished(self) -> int:
        """Messages still under work after `run`; their threads would keep the process alive."""
        return len(self._running)

    def _poll(self, pool: ThreadPoolExecutor) -> None:
        """One receive, once there is room for at least one message and the stores answer."""
        if not self._may_receive() or not self._room.acquire(timeout=PAUSE_S):
            return
        room = 1
        while room < self._options.batch_size and self._room.acquire(blocking=False):
            room += 1
        asked_at = time.monotonic()
        messages = self._receive(room)
        for _ in range(room - len(messages)):
            self._room.release()
        if messages:
            self._around.kill_points.reach("after-receive")
            self._around.set_busy(True)
        elif not self._running:
            self._around.set_busy(False)
        for message in messages:
            if self._shutdown.requested:
                self._room.release()
                self._return(message)
            else:
                self._start(message, asked_at, pool)

    def _may_receive(self) -> bool:
        closed = self._around.breaker.is_closed()
        self._around.pulse.report_waiting(self._around.breaker.waiting_for)
        if closed and self._around.has_room():
            return True
        self._shutdown.wait(PAUSE_S)
        return False

    def _receive(self, room: int) -> list[ReceivedMessage]:
        try:
            messages = self._queue.receive(room, self._options.wait_s)
        except RetryLater as error:
            self._failed_polls += 1
            delay_s = choose_backoff_s(self._failed_polls, longest_s=30)
            log.warning("%s Next try in %.0f s.", error, delay_s)
            self._shutdown.wait(delay_s)
            return []
        self._failed_polls = 0
        self._count_empty(messages)
        return messages

    def _count_empty(self, messages: list[ReceivedMessage]) -> None:
        # A message under work may come back, so only a queue that is empty with nothing in flight counts.
        self._empty_polls = 0 if messages or self._running else self._empty_polls + 1
        if self._options.empty_polls is not None and self._empty_polls >= self._options.empty_polls:
            log.info("the queue stays empty: done")
            self._shutdown.request()

    def _start(self, message: ReceivedMessage, asked_at: float, pool: ThreadPoolExecutor) -> None:
        self._leases.hold(message, asked_at)
        future = pool.submit(self._work, message, time.time())
        self._running[future] = message
        future.add_done_callback(self._ended)

    def _ended(self, future: Future[None]) -> None:
        self._running.pop(future, None)
        self._room.release()

    def _work(self, message: ReceivedMessage, received_at: float) -> None:
        """Handle and settle one message. Nothing it raises may leave this thread unnoticed."""
        try:
            story = MessageStory(message, received_at, self._around.telemetry)
            with story.activate():
                self._settle(message, self._run_handler(message), story)
        except Exception:
            log.exception("the worker thread failed")
            self._shutdown.request(EXIT_DEAD_THREAD)

    def _settle(self, message: ReceivedMessage, ending: _HandlerResult, story: MessageStory) -> None:
        if ending.settle is None:
            self._leases.rest(message)
            self._deletions.add(message, lambda deleted: story.end_as("done" if deleted else "not settled"))
            return
        about = {"message_id": message.message_id}
        if not self._leases.drop(message):
            log.warning("not settled: its lease was lost", extra=about)
            story.end_as("lost")
            return
        try:
            ending.settle()
        except (RetryLater, LeaseLost) as error:
            # The message comes again by itself; handlers are idempotent.
            log.warning("not settled: %s", error, extra=about)
            if isinstance(error, LeaseLost):
                self._count_lost()
            story.end_as("lost" if isinstance(error, LeaseLost) else "not settled")
        else:
            story.end_as(ending.outcome, ending.kind)

    def _count_lost(self) -> None:
        self._around.telemetry.metrics.add(Metric.LEASES_LOST)

    def _run_handler(self, message: ReceivedMessage) -> _HandlerResult:
        """Run the handler."""
        about = {"message_id": message.message_id, "receive_count": message.receive_count}
        delay_s = choose_backoff_s(message.receive_count)
        try:
            self._handler(message.body, progress=self._make_progress(message))
        except RejectMessage as reject:
            reason = str(reject)
            log.warning("message rejected: %s", reason, extra=about)
            return _HandlerResult("rejected", lambda: self._queue.reject(message, reason), reject.kind)
        except RetryLater as retry:
            self._around.breaker.failed(retry)
            delay_s = delay_s if retry.delay_s is None else retry.delay_s
            log.warning("message put back for %.0f s: %s", delay_s, retry, extra=about)
        except FatalWorkerError as fatal:
            log.critical("this worker can't go on: %s", fatal, extra=about)
            self._shutdown.request(fatal.exit_code)
            delay_s = 0
        except Exception:
            log.exception("unexpected error; message put back for %.0f s", delay_s, extra=about)
        else:
            self._around.breaker.succeeded()
            return _HandlerResult("done")
        return _HandlerResult("put back", lambda: self._queue.hide(message, delay_s))

    def _make_progress(self, message: ReceivedMessage) -> Progress:
        def progress() -> None:
            self._leases.progress(message)
            self._around.pulse.beat()

        progress()
        return progress

    def _give_back(self, chosen: Callable[[Future[None]], bool]) -> None:
        for future, message in list(self._running.items()):
            if chosen(future):
                self._leases.drop(message)
                self._return(message)

    def _return(self, message: ReceivedMessage) -> None:
        try:
            self._queue.hide(message, 0)
        except (RetryLater, LeaseLost) as error:
            log.warning("not given back, it returns by itself: %s", error)

    def _finish_started(self) -> None:
        if self._running:
            log.info("finishing %d started messages", len(self._running))
        until = time.monotonic() + self._options.deadline_s
        while time.monotonic() < until and not self._shutdown.at_once:
            # What has lost its lease is another worker's by now, and may be stuck for ever.
            worth_it = [future for future, message in list(self._running.items()) if not self._leases.is_lost(message)]
            if not worth_it:
                break
            self._around.pulse.beat()
            wait(worth_it, timeout=0.2)
        if self._running:
            log.error("%d messages were not finished in time; they are given back", len(self._running))


def choose_backoff_s(attempt: int, longest_s: float = LONGEST_BACKOFF_S) -> float:
    """Exponential back-off with full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""
    return random.uniform(0, min(longest_s, FIRST_BACKOFF_S * 2 ** min(attempt, 20)))  # noqa: S311 - no secret
