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

from app.config import SQS_MAX_BATCH
from app.core.errors import FatalWorkerError, LeaseLost, Letter, RejectMessage, RetryLater
from app.core.kill_points import KillPoints
from app.core.ports import MessageQueue, Progress, ReceivedMessage
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry
from app.worker.breaker import Breaker
from app.worker.deletions import Deletions
from app.worker.leases import MessageLeases
from app.worker.message_report import MessageReport, Outcome
from app.worker.shutdown import Shutdown

log = logging.getLogger(__name__)

EXIT_DEAD_THREAD = 10
EXIT_STUCK = 11
FIRST_BACKOFF_S = 2.0
LONGEST_BACKOFF_S = 300.0
PAUSE_S = 1.0


class Handler(Protocol):
    def __call__(self, body: str, *, progress: Progress, is_last: bool) -> None:
        """Do what a message body requests, and call `progress` now and then.

        The message is done when this returns. An error says what to do with it instead (see app.core.errors). With
        `is_last`, the queue hands the message out for the last time.
        """


class Heartbeat(Protocol):
    """Is notified that the loop runs (see app.health)."""

    def beat(self) -> None: ...

    def report_waiting(self, store: str | None) -> None: ...


@dataclass(frozen=True)
class ConsumerOptions:
    """How a queue is consumed. The settings named are those of docs/configuration.md."""

    threads: int
    """Messages worked on at the same time, a thread each. MAX_FACE_WORKERS; 3 in the grouping service."""
    batch_size: int
    """Messages held at the same time: those worked on, and those that wait for a thread. BATCH_SIZE; 3 in the grouping
    service. SQS hands out ten in one receive at most."""
    visibility_s: float
    """Seconds for which a receive hides a message; extended at a third of them. MESSAGE_VISIBILITY_TIMEOUT."""
    wait_s: int
    """Seconds of one long poll, 0 to 20. QUEUE_WAIT_S."""
    deadline_s: float
    """Seconds that started messages may take after a stop is asked for. SHUTDOWN_DEADLINE_S."""
    stuck_after_s: float
    """Seconds without progress after which a message's lease is let go and the process ends. STUCK_AFTER_S."""
    empty_polls: int | None = None
    """Empty polls in a row after which the process ends. DRAIN_EMPTY_POLLS where WORKER_MODE is drain; None: never."""
    drain_s: float | None = None
    """Seconds after which nothing new is taken in and the process ends. DRAIN_MAX_S where WORKER_MODE is drain; None:
    never."""


@dataclass(frozen=True)
class ConsumerContext:
    """What the loop needs of its process: `heartbeat` is notified that it runs; `has_room` says whether another message
    fits; `set_busy` is called when work begins and ends (on ECS, busy tasks are protected from scaling in); `breaker`
    says whether the stores answer."""

    heartbeat: Heartbeat
    has_room: Callable[[], bool] = lambda: True
    set_busy: Callable[[bool], None] = lambda _: None
    breaker: Breaker = field(default_factory=lambda: Breaker({}))
    kill_points: KillPoints = field(default_factory=KillPoints)
    telemetry: Telemetry = field(default_factory=Telemetry)


@dataclass(frozen=True)
class _HandlerResult:
    """How a handler ended, and what settles the message. Without `settle` the message is deleted."""

    outcome: Outcome
    settle: Callable[[], None] | None = None
    kind: str | None = None


class Consumer:
    """Hands the messages of one queue to a handler until a stop is requested."""

    def __init__(
        self,
        queue: MessageQueue,
        handler: Handler,
        options: ConsumerOptions,
        shutdown: Shutdown,
        context: ConsumerContext,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._options = options
        self._shutdown = shutdown
        self._context = context
        self._leases = MessageLeases(
            queue,
            options.visibility_s,
            options.stuck_after_s,
            on_stuck=lambda: shutdown.request(EXIT_STUCK),
            on_death=lambda: shutdown.request(EXIT_DEAD_THREAD),
            on_lost=self._count_lost,
        )
        self._deletions = Deletions(
            queue, self._leases, lambda: shutdown.request(EXIT_DEAD_THREAD), context.kill_points
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
                self._context.heartbeat.beat()
                self._poll(pool)
                if self._options.drain_s is not None and time.monotonic() - began > self._options.drain_s:
                    log.info("drained for long enough: what is left is for others")
                    self._shutdown.request()
            self._give_back(lambda future: future.cancel())
            self._finish_started()
            self._give_back(lambda _: True)
        pool.shutdown(wait=False, cancel_futures=True)
        self._context.set_busy(False)
        return self._shutdown.exit_code

    @property
    def unfinished(self) -> int:
        """Messages that are still worked on after `run`. Their threads would keep the process alive."""
        return len(self._running)

    def _poll(self, pool: ThreadPoolExecutor) -> None:
        """One receive, once there is room for enough messages and the stores answer."""
        room = self._take_room() if self._may_receive() else 0
        if not room:
            return
        asked_at = time.monotonic()
        messages = self._receive(room)
        for _ in range(room - len(messages)):
            self._room.release()
        if messages:
            self._context.kill_points.reach("after-receive")
            self._context.set_busy(True)
        elif not self._running:
            self._context.set_busy(False)
        for message in messages:
            if self._shutdown.requested:
                self._room.release()
                self._return(message)
            else:
                self._start(message, asked_at, pool)

    def _take_room(self) -> int:
        """For how many messages there is room now. 0 while there is too little, after PAUSE_S at most.

        A receive costs the same for one message as for ten. So while every thread has work, this waits until there is
        room for ten, or for all messages that may wait for a thread.
        """
        enough = max(1, min(SQS_MAX_BATCH, self._options.batch_size - self._options.threads))
        until, room = time.monotonic() + PAUSE_S, 0
        while room < enough and self._room.acquire(timeout=max(0.0, until - time.monotonic())):
            room += 1
        while room < self._options.batch_size and self._room.acquire(blocking=False):
            room += 1
        return room

    def _may_receive(self) -> bool:
        closed = self._context.breaker.is_closed()
        self._context.heartbeat.report_waiting(self._context.breaker.waiting_for)
        if closed and self._context.has_room():
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
        # A message that is worked on may come back, so a poll counts only while no message is in flight.
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
        """Handle and settle one message. An error that leaves this thread ends the process."""
        try:
            report = MessageReport(message, received_at, self._context.telemetry)
            with report.activate():
                self._settle(message, self._run_handler(message), report)
        except Exception:
            log.exception("the worker thread failed")
            self._shutdown.request(EXIT_DEAD_THREAD)

    def _settle(self, message: ReceivedMessage, ending: _HandlerResult, report: MessageReport) -> None:
        if ending.settle is None:
            self._leases.pause_progress(message)
            self._deletions.add(message, lambda deleted: report.end_as("done" if deleted else "not settled"))
            return
        about = {"message_id": message.message_id}
        if not self._leases.drop(message):
            log.warning("not settled: its lease was lost", extra=about)
            report.end_as("lost")
            return
        try:
            ending.settle()
        except (RetryLater, LeaseLost) as error:
            # The message comes again by itself; handlers are idempotent.
            log.warning("not settled: %s", error, extra=about)
            if isinstance(error, LeaseLost):
                self._count_lost()
            report.end_as("lost" if isinstance(error, LeaseLost) else "not settled")
        else:
            report.end_as(ending.outcome, ending.kind)

    def _count_lost(self) -> None:
        self._context.telemetry.metrics.add(Metric.LEASES_LOST)

    def _run_handler(self, message: ReceivedMessage) -> _HandlerResult:
        """Run the handler."""
        about = {"message_id": message.message_id, "receive_count": message.receive_count}
        delay_s = choose_backoff_s(message.receive_count)
        try:
            self._handler(message.body, progress=self._make_progress(message), is_last=self._is_last(message))
        except RejectMessage as reject:
            letters = reject.letters or [Letter(message.body, str(reject))]
            log.warning("message rejected: %s", reject, extra=about)
            return _HandlerResult("rejected", lambda: self._queue.reject(message, letters), reject.kind)
        except RetryLater as retry:
            self._context.breaker.record_failure(retry)
            delay_s = delay_s if retry.delay_s is None else retry.delay_s
            log.warning("message put back for %.0f s: %s", delay_s, retry, extra=about)
        except FatalWorkerError as fatal:
            log.critical("this worker can't go on: %s", fatal, extra=about)
            self._shutdown.request(fatal.exit_code)
            delay_s = 0
        except Exception:
            log.exception("unexpected error; message put back for %.0f s", delay_s, extra=about)
        else:
            self._context.breaker.record_success()
            return _HandlerResult("done")
        return _HandlerResult("put back", lambda: self._queue.hide(message, delay_s))

    def _is_last(self, message: ReceivedMessage) -> bool:
        most = self._queue.max_receives
        return most is not None and message.receive_count >= most

    def _make_progress(self, message: ReceivedMessage) -> Progress:
        def progress() -> None:
            self._leases.note_progress(message)
            self._context.heartbeat.beat()

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
            # A message whose lease is lost belongs to another worker by now, and its handler may never end.
            awaited = [future for future, message in list(self._running.items()) if not self._leases.is_lost(message)]
            if not awaited:
                break
            self._context.heartbeat.beat()
            wait(awaited, timeout=0.2)
        if self._running:
            log.error("%d messages were not finished in time; they are given back", len(self._running))


def choose_backoff_s(attempt: int, longest_s: float = LONGEST_BACKOFF_S) -> float:
    """Exponential back-off with full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""
    return random.uniform(0, min(longest_s, FIRST_BACKOFF_S * 2 ** min(attempt, 20)))  # noqa: S311 - no secret
