"""DeadLetters against moto; SQS's own move, which moto lacks, against answers held to the service's model."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from botocore.stub import Stubber

from app.adapters import dead_letters as adapter
from app.adapters.aws import open_client
from app.adapters.dead_letters import DeadLetter, DeadLetters, Move
from app.adapters.sqs import SqsQueue
from app.admin import __main__ as admin
from app.core.errors import BadConfiguration, Letter, RetryLater
from tests.conftest import REGION, aws_client

PATIENCE_S = 10.0


@dataclass(frozen=True)
class Rig:
    """A queue with a dead-letter queue that takes messages after one receive."""

    url: str
    dead_url: str
    queue: SqsQueue
    letters: DeadLetters

    def reject(self, *bodies: str) -> None:
        for body in bodies:
            self.queue.send(body)
            (message,) = self.queue.receive(1, wait_s=1)
            self.queue.reject(message, [Letter(body, f"{body} is broken.")])

    def look(self, count: int) -> list[DeadLetter]:
        """All letters, once there are this many: SQS moves them in its own time."""
        until = time.monotonic() + PATIENCE_S
        while len(letters := self.letters.look(100)) != count:
            assert time.monotonic() < until, letters
        return sorted(letters, key=lambda letter: letter.body)


@pytest.fixture
def rig(aws: str, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(adapter, "open_client", aws_client)
    monkeypatch.setattr(adapter, "FULL_POLL_S", 0)
    sqs = aws_client("sqs", REGION)
    dead_url, arn = make_queue("dead")
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    url, _ = make_queue("work")
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
    return Rig(url, dead_url, SqsQueue(url, REGION, visibility_s=1), DeadLetters(url, REGION))


def make_queue(kind: str) -> tuple[str, str]:
    sqs = aws_client("sqs", REGION)
    url = sqs.create_queue(QueueName=f"{kind}-{uuid4().hex}")["QueueUrl"]
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, answer["Attributes"]["QueueArn"]


def test_a_rejected_message_is_shown_with_its_reason_and_receives(rig: Rig) -> None:
    rig.reject("one")
    (letter,) = rig.look(1)
    assert (letter.body, letter.reason, letter.receive_count) == ("one", "one is broken.", 1)
    assert abs((datetime.now(UTC) - letter.sent_at).total_seconds()) < 60


def test_a_message_that_the_queue_gave_up_has_no_reason(rig: Rig) -> None:
    rig.queue.send("tried")
    (message,) = rig.queue.receive(1, wait_s=1)
    rig.queue.hide(message, 0)
    assert rig.queue.receive(1, wait_s=0) == []
    (letter,) = rig.look(1)
    assert (letter.message_id, letter.body, letter.reason) == (message.message_id, "tried", None)


def test_reading_hides_no_letters_afterwards_however_many_there_are(rig: Rig) -> None:
    bodies = [f"{number:02}" for number in range(23)]
    rig.reject(*bodies)
    for _ in range(2):
        assert [letter.body for letter in rig.look(23)] == bodies


def test_no_more_letters_are_read_than_asked_for(rig: Rig) -> None:
    rig.reject("a", "b", "c")
    assert len(rig.letters.look(2)) == 2
    assert rig.letters.look(0) == []
    assert len(rig.look(3)) == 3


def test_reading_ends_even_where_the_same_letters_come_again_and_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.reject("a", "b")
    monkeypatch.setattr(adapter, "LOOK_VISIBILITY_S", 0)
    assert len(rig.letters.look(100)) == 2


def test_without_dead_letters_none_are_read(rig: Rig) -> None:
    assert rig.letters.look(10) == []


def test_a_queue_without_a_dead_letter_queue_is_a_wrong_setting(rig: Rig) -> None:
    url, _ = make_queue("lonely")
    with pytest.raises(BadConfiguration, match="has no dead-letter queue"):
        DeadLetters(url, REGION)


def test_a_queue_that_does_not_exist_asks_to_retry_later(rig: Rig, aws: str) -> None:
    with pytest.raises(RetryLater, match="NonExistentQueue"):
        DeadLetters(f"{aws}/123456789012/nowhere", REGION)


def test_letters_moved_one_by_one_come_back_as_new_messages_and_leave_nothing_behind(rig: Rig) -> None:
    bodies = [f"{number:02}" for number in range(12)]
    rig.reject(*bodies)
    assert sorted(letter.body for letter in rig.letters.move_one_by_one(per_second=500)) == bodies
    assert rig.letters.look(100) == []
    received = [*rig.queue.receive(10, wait_s=1), *rig.queue.receive(10, wait_s=1)]
    assert sorted(message.body for message in received) == bodies
    assert {message.receive_count for message in received} == {1}


def test_letters_that_are_rejected_again_at_once_do_not_go_round_for_ever(rig: Rig) -> None:
    rig.reject("a", "b")
    moved = 0
    for _ in rig.letters.move_one_by_one(per_second=500):
        moved += 1
        for message in rig.queue.receive(10, wait_s=1):
            rig.queue.reject(message, [Letter(message.body, "still broken")])
    assert moved == 2
    assert {letter.reason for letter in rig.look(2)} == {"still broken"}


def test_letters_are_moved_no_faster_than_asked(rig: Rig) -> None:
    rig.reject("a", "b", "c")
    begin = time.monotonic()
    assert len(list(rig.letters.move_one_by_one(per_second=10))) == 3
    assert time.monotonic() - begin >= 0.3


def test_a_service_that_cannot_move_letters_says_so(rig: Rig) -> None:
    with pytest.raises(RetryLater, match="Starting the move of dead letters failed"):
        rig.letters.start_move(10)


@pytest.fixture
def stub(rig: Rig) -> Iterator[Stubber]:
    """Answers of SQS; the Stubber refuses requests and answers that its service model doesn't know."""
    own = open_client("sqs", REGION)
    rig.letters._sqs = own
    with Stubber(own) as stub:
        yield stub
        stub.assert_no_pending_responses()


def test_sqs_is_asked_to_move_all_letters_to_this_queue_at_a_rate(rig: Rig, stub: Stubber) -> None:
    order = {
        "SourceArn": rig.letters._arn,
        "DestinationArn": rig.letters._queue_arn,
        "MaxNumberOfMessagesPerSecond": 25,
    }
    assert order["SourceArn"].endswith(rig.dead_url.rsplit("/", 1)[-1])
    assert order["DestinationArn"].endswith(rig.url.rsplit("/", 1)[-1])
    stub.add_response("start_message_move_task", {"TaskHandle": "handle"}, order)
    rig.letters.start_move(25)


def test_a_move_that_is_under_way_already_asks_to_retry_later(rig: Rig, stub: Stubber) -> None:
    stub.add_client_error("start_message_move_task", "AWS.SimpleQueueService.UnsupportedOperation", "one is running")
    with pytest.raises(RetryLater, match="one is running"):
        rig.letters.start_move(25)


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([], None),
        ([{"Status": "RUNNING"}], Move("RUNNING", 0)),
        (
            [{"Status": "RUNNING", "ApproximateNumberOfMessagesMoved": 3, "ApproximateNumberOfMessagesToMove": 9}],
            Move("RUNNING", 3, 9),
        ),
        ([{"Status": "FAILED", "FailureReason": "AccessDenied"}], Move("FAILED", 0, None, "AccessDenied")),
    ],
)
def test_the_last_move_is_reported(rig: Rig, stub: Stubber, tasks: list[dict[str, Any]], expected: Move | None) -> None:
    stub.add_response("list_message_move_tasks", {"Results": tasks}, {"SourceArn": rig.letters._arn, "MaxResults": 1})
    assert rig.letters.get_last_move() == expected


def redrive_through(rig: Rig, stub: Stubber, monkeypatch: pytest.MonkeyPatch, *states: dict[str, Any]) -> list[str]:
    """Lines that `dlq redrive` prints while SQS tells these states of the move, one after the other."""
    monkeypatch.setattr(admin, "ASK_EVERY_S", 0)
    monkeypatch.setattr(admin, "DeadLetters", lambda *_: rig.letters)
    monkeypatch.setattr(admin, "_say_line", lambda line, _: lines.append(line))
    monkeypatch.setenv("QUEUE_URL", rig.url)
    stub.add_response("start_message_move_task", {"TaskHandle": "handle"})
    for state in states:
        stub.add_response("list_message_move_tasks", {"Results": [state]})
    lines: list[str] = []
    assert admin.main(["dlq", "redrive", "--queue", "detection"]) == (states[-1]["Status"] != "COMPLETED")
    return lines


def test_the_command_follows_a_move_to_its_end_and_prints_what_changes(
    rig: Rig, stub: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = {"Status": "RUNNING", "ApproximateNumberOfMessagesMoved": 3, "ApproximateNumberOfMessagesToMove": 9}
    done = {**running, "Status": "COMPLETED", "ApproximateNumberOfMessagesMoved": 9}
    assert redrive_through(rig, stub, monkeypatch, {"Status": "RUNNING"}, running, running, done) == [
        "running: 0 of ? dead letters moved",
        "running: 3 of 9 dead letters moved",
        "completed: 9 of 9 dead letters moved",
    ]


def test_the_command_fails_with_a_move_that_fails(
    rig: Rig, stub: Stubber, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    redrive_through(rig, stub, monkeypatch, {"Status": "FAILED", "FailureReason": "AccessDenied"})
    assert capsys.readouterr().err == "The move ended as FAILED: AccessDenied.\n"
