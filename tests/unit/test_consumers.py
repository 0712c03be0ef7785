"""Several consumers in one process: a find queue beside that of the photos."""

import threading
from collections.abc import Callable

import pytest

from app.bootstrap import BusyTogether, run_consumers
from app.core.ports import Progress
from app.worker.consumer import EXIT_DEAD_THREAD, Consumer, ConsumerContext, ConsumerOptions
from app.worker.shutdown import Shutdown
from tests.fakes import FakeQueue

PATIENCE_S = 10.0


class Heart:
    def beat(self) -> None: ...

    def report_waiting(self, store: str | None) -> None: ...


def make_consumer(
    queue: FakeQueue, handle: Callable[[str], None], shutdown: Shutdown, empty_polls: int | None = None
) -> Consumer:
    def handler(body: str, *, progress: Progress, is_last: bool) -> None:
        handle(body)

    options = ConsumerOptions(1, 1, 30, 0, 5, 60, empty_polls=empty_polls)
    return Consumer(queue, handler, options, shutdown, ConsumerContext(Heart()))


def test_both_queues_are_read_and_both_consumers_end_with_the_first() -> None:
    shutdown, photos, finds = Shutdown(), FakeQueue(), FakeQueue()
    done: list[str] = []
    found = threading.Event()

    def find(body: str) -> None:
        done.append(body)
        found.set()

    def index(body: str) -> None:
        assert found.wait(PATIENCE_S)
        done.append(body)

    photos.send("photo")
    finds.send("selfie")
    consumers = [make_consumer(photos, index, shutdown, empty_polls=3), make_consumer(finds, find, shutdown)]
    assert run_consumers(consumers, shutdown) == 0
    assert done == ["selfie", "photo"]
    assert photos.bodies == finds.bodies == []
    assert [consumer.unfinished for consumer in consumers] == [0, 0]


def test_a_message_that_came_as_the_process_ends_is_given_back() -> None:
    shutdown, photos, finds = Shutdown(), FakeQueue(), FakeQueue()
    begun = threading.Event()

    def find(_: str) -> None:
        begun.set()
        shutdown.request()

    finds.send("first")
    finds.send("second")
    run_consumers([make_consumer(photos, lambda _: None, shutdown), make_consumer(finds, find, shutdown)], shutdown)
    assert begun.is_set()
    assert finds.bodies == ["second"]


def test_a_consumer_that_fails_ends_the_process() -> None:
    class Broken(FakeQueue):
        def receive(self, max_messages: int, wait_s: int) -> list:  # type: ignore[type-arg]
            raise MemoryError

    shutdown = Shutdown()
    consumers = [make_consumer(queue, lambda _: None, shutdown) for queue in (FakeQueue(), Broken())]
    assert run_consumers(consumers, shutdown) == EXIT_DEAD_THREAD


@pytest.mark.parametrize("first", [0, 1])
def test_the_process_is_busy_while_one_of_them_is(first: int) -> None:
    told: list[bool] = []
    busy = BusyTogether(2, told.append)
    busy.set(first, True)
    busy.set(1 - first, True)
    busy.set(first, False)
    busy.set(1 - first, False)
    assert told == [True, True, True, False]
