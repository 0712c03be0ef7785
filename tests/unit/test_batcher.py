import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.core.errors import DeviceOutOfMemory, RetryLater
from app.detection.batcher import Batcher
from app.telemetry.catalogue import Metric
from tests.telling import RecordingMetrics

PATIENCE_S = 20.0


class Doubler:
    """Doubles numbers, notes its calls, and holds the first one until it is told to go on."""

    def __init__(self, hold_first: bool = False) -> None:
        self.calls: list[list[int]] = []
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        if not hold_first:
            self.may_go_on.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        self.entered.set()
        assert self.may_go_on.wait(PATIENCE_S)
        return [2 * item for item in items]


def ask_all(batcher: Batcher[int, int], doubler: Doubler, items: Sequence[int]) -> list[int]:
    """The first item alone, the rest while its call is under way."""
    with ThreadPoolExecutor(len(items)) as pool:
        first = pool.submit(batcher.ask, items[0])
        assert doubler.entered.wait(PATIENCE_S)
        rest = [pool.submit(batcher.ask, item) for item in items[1:]]
        while len(batcher._waiting) < len(rest):
            pass
        doubler.may_go_on.set()
        return [future.result(PATIENCE_S)[0] for future in (first, *rest)]


def test_what_gathers_while_a_call_is_under_way_is_answered_by_the_next_one() -> None:
    doubler = Doubler(hold_first=True)
    with Batcher("doubler", doubler, most=10) as batcher:
        assert ask_all(batcher, doubler, [1, 2, 3, 4]) == [2, 4, 6, 8]
    assert [len(call) for call in doubler.calls] == [1, 3]


def test_a_call_takes_no_more_than_its_weight_allows_but_always_one_item() -> None:
    doubler = Doubler(hold_first=True)
    with Batcher("doubler", doubler, most=10, weigh=float) as batcher:
        ask_all(batcher, doubler, [50, 6, 6, 4])
    assert doubler.calls[0] == [50]
    assert all(len(call) == 1 or sum(call) <= 10 for call in doubler.calls)
    assert sum(map(sum, doubler.calls)) == 66


def test_the_sizes_of_calls_and_of_the_queue_before_them_are_measured() -> None:
    doubler, metrics = Doubler(hold_first=True), RecordingMetrics()
    sizes = (Metric.STORE_BATCH, Metric.STORE_QUEUE)
    with Batcher("doubler", doubler, most=2, metrics=metrics, sizes=sizes) as batcher:
        ask_all(batcher, doubler, [1, 2, 3, 4])
    assert metrics.values[Metric.STORE_BATCH] == [1, 2, 1]
    assert metrics.values[Metric.STORE_QUEUE] == [1, 3, 1]


def test_the_time_of_waiting_is_returned() -> None:
    doubler = Doubler(hold_first=True)
    with Batcher("doubler", doubler, most=1) as batcher, ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.ask, 1)
        assert doubler.entered.wait(PATIENCE_S)
        second = pool.submit(batcher.ask, 2)
        threading.Timer(0.2, doubler.may_go_on.set).start()
        assert first.result(PATIENCE_S)[1] < second.result(PATIENCE_S)[1]
        assert second.result()[1] > 0.1


def test_an_error_of_this_system_reaches_everyone_in_the_call() -> None:
    def run(items: Sequence[int]) -> list[int]:
        raise DeviceOutOfMemory("no room")

    with Batcher("full", run, most=10) as batcher, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(batcher.ask, item) for item in range(3)]
        for future in futures:
            with pytest.raises(DeviceOutOfMemory):
                future.result(PATIENCE_S)


def test_an_unexpected_error_is_its_items_own() -> None:
    doubler = Doubler(hold_first=True)

    def run(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ZeroDivisionError
        return doubler(items)

    with Batcher("superstitious", run, most=10) as batcher, ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.ask, 1)
        assert doubler.entered.wait(PATIENCE_S)
        rest = {item: pool.submit(batcher.ask, item) for item in (2, 13, 3)}
        while len(batcher._waiting) < len(rest):
            pass
        doubler.may_go_on.set()
        assert [future.result(PATIENCE_S)[0] for future in (first, rest[2], rest[3])] == [2, 4, 6]
        with pytest.raises(ZeroDivisionError):
            rest[13].result(PATIENCE_S)


def test_a_wrong_number_of_answers_is_an_error_and_not_a_wait_for_ever() -> None:
    with (
        Batcher("forgetful", lambda _: [], most=1) as batcher,
        pytest.raises(RuntimeError, match="gave 0 answers to 1"),
    ):
        batcher.ask(1)


def test_who_still_waits_at_the_end_is_answered() -> None:
    doubler = Doubler(hold_first=True)
    with ThreadPoolExecutor(2) as pool:
        with Batcher("doubler", doubler, most=1) as batcher:
            futures = [pool.submit(batcher.ask, item) for item in (1, 2)]
            assert doubler.entered.wait(PATIENCE_S)
            while not batcher._waiting:
                pass
        doubler.may_go_on.set()
        assert [future.result(PATIENCE_S)[0] for future in futures] == [2, 4]


def test_a_shared_turn_lets_one_call_run_at_a_time() -> None:
    running, most_at_once, lock = 0, 0, threading.Lock()
    turn = threading.Semaphore(1)

    def run(items: Sequence[int]) -> Sequence[int]:
        nonlocal running, most_at_once
        with lock:
            running += 1
            most_at_once = max(most_at_once, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1
        return items

    with (
        Batcher("a", run, most=1, threads=2, turn=turn) as a,
        Batcher("b", run, most=1, threads=2, turn=turn) as b,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda item: (a if item % 2 else b).ask(item), range(16)))
    assert most_at_once == 1


def test_a_thread_that_dies_says_so() -> None:
    died = threading.Event()

    class Broken:
        def __enter__(self) -> None:
            raise MemoryError

        def __exit__(self, *_: object) -> None: ...

    threading.excepthook, before = lambda _: None, threading.excepthook
    try:
        with Batcher("broken", list, most=1, turn=Broken(), on_death=died.set) as batcher:
            with pytest.raises(RetryLater, match="thread broken of this worker died"):
                batcher.ask(1)
            assert died.wait(PATIENCE_S)
    finally:
        threading.excepthook = before


def test_a_batcher_lets_go_of_what_it_has_answered() -> None:
    class Picture:
        pass

    picture = Picture()
    seen = weakref.ref(picture)
    with Batcher[Picture, int]("forgetting", lambda items: [len(items)], most=1) as batcher:
        assert batcher.ask(picture)[0] == 1
        del picture
        until = time.monotonic() + PATIENCE_S
        while seen() is not None and time.monotonic() < until:
            time.sleep(0.01)
        assert seen() is None
