import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.core.errors import DeviceOutOfMemory
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
    assert ask_all(Batcher("doubler", doubler, most=10), doubler, [1, 2, 3, 4]) == [2, 4, 6, 8]
    assert [len(call) for call in doubler.calls] == [1, 3]


def test_a_call_takes_no_more_than_its_weight_allows_but_always_one_item() -> None:
    doubler = Doubler(hold_first=True)
    ask_all(Batcher("doubler", doubler, most=10, weigh=float), doubler, [50, 6, 6, 4])
    assert doubler.calls[0] == [50]
    assert all(len(call) == 1 or sum(call) <= 10 for call in doubler.calls)
    assert sum(map(sum, doubler.calls)) == 66


def test_the_sizes_of_calls_and_of_the_queue_before_them_are_measured() -> None:
    doubler, metrics = Doubler(hold_first=True), RecordingMetrics()
    sizes = (Metric.STORE_BATCH, Metric.STORE_QUEUE)
    ask_all(Batcher("doubler", doubler, most=2, metrics=metrics, sizes=sizes), doubler, [1, 2, 3, 4])
    assert metrics.values[Metric.STORE_BATCH] == [1, 2, 1]
    assert metrics.values[Metric.STORE_QUEUE] == [1, 3, 1]


def test_the_time_of_waiting_is_returned() -> None:
    doubler = Doubler(hold_first=True)
    batcher = Batcher("doubler", doubler, most=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.ask, 1)
        assert doubler.entered.wait(PATIENCE_S)
        second = pool.submit(batcher.ask, 2)
        threading.Timer(0.2, doubler.may_go_on.set).start()
        assert first.result(PATIENCE_S)[1] < second.result(PATIENCE_S)[1]
        assert second.result()[1] > 0.1


def test_an_error_of_this_system_reaches_everyone_in_the_call() -> None:
    def run(items: Sequence[int]) -> list[int]:
        raise DeviceOutOfMemory("no room")

    batcher = Batcher("full", run, most=10)
    with ThreadPoolExecutor(3) as pool:
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

    batcher = Batcher("superstitious", run, most=10)
    with ThreadPoolExecutor(4) as pool:
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
    with pytest.raises(RuntimeError, match="gave 0 answers to 1"):
        Batcher("forgetful", lambda _: [], most=1).ask(1)


def test_an_item_that_comes_alone_is_answered_in_its_own_thread() -> None:
    threads: list[int] = []

    def run(items: Sequence[int]) -> Sequence[int]:
        threads.append(threading.get_ident())
        return items

    assert Batcher("own", run, most=10).ask(1)[0] == 1
    assert threads == [threading.get_ident()]


def test_a_call_waits_for_others_where_it_is_told_to() -> None:
    doubler = Doubler()
    batcher = Batcher("doubler", doubler, most=10, linger_s=lambda: 0.5)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda item: batcher.ask(item)[0], range(4))) == [0, 2, 4, 6]
    assert len(doubler.calls) == 1


def test_many_threads_all_get_their_own_answers() -> None:
    batcher = Batcher("doubler", lambda items: [2 * item for item in items], most=3, calls=2)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda item: batcher.ask(item)[0], range(5_000))) == list(range(0, 10_000, 2))


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

    a, b = (Batcher(name, run, most=1, calls=2, turn=turn) for name in "ab")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: (a if item % 2 else b).ask(item), range(16)))
    assert most_at_once == 1


def test_a_call_that_cannot_begin_leaves_the_next_one_to_others() -> None:
    class Turn:
        def __init__(self) -> None:
            self.errors: list[BaseException] = [MemoryError()]

        def __enter__(self) -> None:
            if self.errors:
                raise self.errors.pop()

        def __exit__(self, *_: object) -> None: ...

    batcher = Batcher("unlucky", list, most=1, turn=Turn())
    with pytest.raises(MemoryError):
        batcher.ask(1)
    assert batcher.ask(2)[0] == 2


def test_a_batcher_lets_go_of_what_it_has_answered() -> None:
    class Picture:
        pass

    picture = Picture()
    seen = weakref.ref(picture)
    batcher = Batcher[Picture, int]("forgetting", lambda items: [len(items)], most=1)
    assert batcher.ask(picture)[0] == 1
    del picture
    until = time.monotonic() + PATIENCE_S
    while seen() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert seen() is None
