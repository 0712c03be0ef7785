from collections.abc import Sequence

import pytest

from app.core.kill_points import KillPoints
from app.core.ports import ReceivedMessage
from app.worker import deletions as deletions_module
from app.worker.deletions import Deletions
from app.worker.leases import MessageLeases
from tests.fakes import FakeQueue


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions_module, "PAUSE_S", 0.001)


class CountingQueue(FakeQueue):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        self.batches.append(len(messages))
        return super().delete(messages)


def deleted(queue: FakeQueue, count: int) -> MessageLeases:
    """Receive and delete so many messages; the leases they had."""
    for number in range(count):
        queue.send(str(number))
    leases = MessageLeases(queue, 60, 60, lambda: None, lambda: None)
    messages = []
    while len(messages) < count:
        messages += queue.receive(10, 0)
    with Deletions(queue, leases, on_death=lambda: None, kill_points=KillPoints()) as deletions:
        for message in messages:
            leases.hold(message)
            deletions.add(message)
    return leases


def test_done_messages_are_deleted_in_batches_of_at_most_ten() -> None:
    queue = CountingQueue()
    deleted(queue, 25)
    assert queue.bodies == []
    assert max(queue.batches) == 10
    assert len(queue.batches) < 10


def test_leaving_deletes_what_waits_and_lets_the_leases_go() -> None:
    queue = CountingQueue()
    leases = deleted(queue, 3)
    assert queue.bodies == []
    assert leases.held == 0


def test_entries_that_fail_are_tried_again_without_their_neighbours() -> None:
    class Failing(CountingQueue):
        def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
            self.refused = {messages[0].receipt} if len(self.batches) == 0 else set()
            return super().delete(messages)

    queue = Failing()
    deleted(queue, 4)
    assert queue.bodies == []
    assert queue.batches == [4, 1]


def test_a_message_that_cannot_be_deleted_is_left_to_come_again_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    queue = CountingQueue()
    queue.outages["delete"] = 3
    leases = deleted(queue, 1)
    assert queue.bodies == ["0"]
    assert "they come again and change nothing" in caplog.text
    assert leases.held == 0
