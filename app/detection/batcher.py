"""One call for what several threads request at the same time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar

from app.core.errors import RetryLater, WorkerError
from app.core.threads import BackgroundThread
from app.telemetry.catalogue import Metric
from app.telemetry.interface import NO_METRICS, Metrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass
class _Request(Generic[Item, Answer]):
    item: Item
    asked_at: float
    answer: Future[tuple[Answer, float]] = field(default_factory=Future)


class Batcher(Generic[Item, Answer]):
    """Collects the items that arrive while a call runs, and gives them to the next call. No item waits for others.

    `run` gets one or more items and returns an answer for each, in order. A call takes items until their weights
    exceed `most`. `turn` is held around each call, so that several batchers can share a device. `sizes` are the
    metrics of how many items a call takes, and of how many waited when it began, its own included.
    """

    def __init__(  # noqa: PLR0913 - what it does, for whom and how much at a time
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        most: float,
        weigh: Callable[[Item], float] = lambda _: 1,
        threads: int = 1,
        turn: AbstractContextManager[object] | None = None,
        metrics: Metrics = NO_METRICS,
        sizes: tuple[Metric, Metric] | None = None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._run, self._most, self._weigh, self._on_death = name, run, most, weigh, on_death
        self._turn, self._metrics, self._sizes = turn or nullcontext(), metrics, sizes
        self._waiting: deque[_Request[Item, Answer]] = deque()
        self._changed = threading.Condition()
        self._threads = [
            BackgroundThread(name, self._serve, wake=self._wake, join_s=0, on_death=self._die) for _ in range(threads)
        ]

    def __enter__(self) -> "Batcher[Item, Answer]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.close()

    def ask(self, item: Item) -> tuple[Answer, float]:
        """The answer, and the seconds that the item waited for its call. Raises what the call raised."""
        question: _Request[Item, Answer] = _Request(item, time.perf_counter())
        with self._changed:
            self._waiting.append(question)
            self._changed.notify()
        return question.answer.result()

    def _serve(self, closing: threading.Event) -> None:
        while self._await_work(closing):
            with self._turn:
                self._answer_next()

    def _answer_next(self) -> None:
        # A function of its own: a variable of the loop would keep the last pictures until others come.
        if batch := self._gather():
            self._answer(batch)

    def _await_work(self, closing: threading.Event) -> bool:
        """Wait for items. False at the end, once no item waits any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or closing.is_set())
            return bool(self._waiting)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _die(self) -> None:
        self._on_death()
        with self._changed:
            while self._waiting:
                error = RetryLater(f"The thread {self._name} of this worker died.")
                self._waiting.popleft().answer.set_exception(error)

    def _gather(self) -> list[_Request[Item, Answer]]:
        """The requests that waited longest, up to the weight of one call. Empty where another thread was faster."""
        batch: list[_Request[Item, Answer]] = []
        weight = 0.0
        with self._changed:
            waiting = len(self._waiting)
            while self._waiting and (not batch or weight + self._weigh(self._waiting[0].item) <= self._most):
                batch.append(self._waiting.popleft())
                weight += self._weigh(batch[-1].item)
        if batch and self._sizes:
            for metric, size in zip(self._sizes, (len(batch), waiting), strict=True):
                self._metrics.observe(metric, size)
        return batch

    def _answer(self, batch: Sequence[_Request[Item, Answer]]) -> None:
        began_at = time.perf_counter()
        try:
            answers = self._run([question.item for question in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{self._name} gave {len(answers)} answers to {len(batch)} items")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - it is raised in the threads that asked
            self._fail(batch, error)
            return
        for question, answer in zip(batch, answers, strict=True):
            question.answer.set_result((answer, began_at - question.asked_at))

    def _fail(self, batch: Sequence[_Request[Item, Answer]], error: Exception) -> None:
        if len(batch) == 1 or isinstance(error, WorkerError):
            for question in batch:
                question.answer.set_exception(error)
            return
        # One item may have caused an unexpected error, so each item is tried alone.
        for question in batch:
            self._answer([question])
