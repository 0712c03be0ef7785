"""One call for what several threads request at the same time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from app.core.errors import WorkerError
from app.telemetry.catalogue import Metric
from app.telemetry.interface import NO_METRICS, Metrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Answered(Generic[Answer]):
    """What a thread gets that waits: an answer and the seconds that its item waited for the call, or an error."""

    answer: Answer | None
    waited_s: float = 0.0
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class _Request(Generic[Item, Answer]):
    """An item, and where its thread waits: for its answer, or for None, which asks it to make the next call."""

    item: Item
    asked_at: float
    news: "SimpleQueue[_Answered[Answer] | None]" = field(default_factory=SimpleQueue)


class Batcher(Generic[Item, Answer]):
    """Collects the items that arrive while a call runs, and gives them to the next call.

    A thread that asks while no call runs makes the call itself, so an item that comes alone changes no thread. After
    its call it asks one of the threads that wait meanwhile to make the next one.

    `run` gets one or more items and returns an answer for each, in order. A call takes items until their weights
    exceed `most`, and first waits `linger_s()` seconds for others. At most `calls` run at the same time. `turn` is held
    around each call, so that several batchers can share a device. `sizes` are the metrics of how many items a call
    takes, and of how many waited when it began, its own included.
    """

    def __init__(  # noqa: PLR0913 - what it does, for whom and how much at a time
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        most: float,
        weigh: Callable[[Item], float] = lambda _: 1,
        linger_s: Callable[[], float] = lambda: 0,
        calls: int = 1,
        turn: AbstractContextManager[object] | None = None,
        metrics: Metrics = NO_METRICS,
        sizes: tuple[Metric, Metric] | None = None,
    ) -> None:
        self._name, self._run, self._most, self._weigh, self._linger_s = name, run, most, weigh, linger_s
        self._turn, self._metrics, self._sizes = turn or nullcontext(), metrics, sizes
        self._waiting: deque[_Request[Item, Answer]] = deque()
        self._lock = threading.Lock()
        self._free_calls = calls

    def ask(self, item: Item) -> tuple[Answer, float]:
        """The answer, and the seconds that the item waited for its call. Raises what the call raised."""
        request: _Request[Item, Answer] = _Request(item, time.perf_counter())
        with self._lock:
            self._waiting.append(request)
            is_mine = self._free_calls > 0
            self._free_calls -= is_mine
        news = None
        while news is None:
            if is_mine:
                self._make_call(request)
            news, is_mine = request.news.get(), True
        if news.error is not None:
            raise news.error
        return news.answer, news.waited_s  # type: ignore[return-value]

    def _make_call(self, mine: _Request[Item, Answer]) -> None:
        """Answer those that waited longest; then another thread may make a call. `mine` is this thread's request."""
        try:
            if (linger_s := self._linger_s()) > 0:
                time.sleep(linger_s)
            with self._turn:
                # Empty where another call has taken all of them meanwhile.
                if batch := self._gather():
                    self._answer(batch)
        except BaseException:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            raise
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting[0].news.put(None)
                else:
                    self._free_calls += 1

    def _gather(self) -> list[_Request[Item, Answer]]:
        """The requests that waited longest, up to the weight of one call."""
        batch: list[_Request[Item, Answer]] = []
        weight = 0.0
        with self._lock:
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
            answers = self._run([request.item for request in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{self._name} gave {len(answers)} answers to {len(batch)} items")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - it is raised in the threads that asked
            self._fail(batch, error)
            return
        for request, answer in zip(batch, answers, strict=True):
            request.news.put(_Answered(answer, began_at - request.asked_at))

    def _fail(self, batch: Sequence[_Request[Item, Answer]], error: Exception) -> None:
        if len(batch) == 1 or isinstance(error, WorkerError):
            for request in batch:
                request.news.put(_Answered(None, error=error))
            return
        # One item may have caused an unexpected error, so each item is tried alone.
        for request in batch:
            self._answer([request])
