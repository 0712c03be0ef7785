"""MessageQueue: what the services rely on, of the fake and of SQS."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from app.adapters.sqs import LOST_CODES, SqsQueue
from app.core.errors import BadConfiguration, LeaseLost, Letter, RetryLater
from app.core.ports import MessageQueue, ReceivedMessage
from tests.conftest import REGION, aws_client
from tests.fakes import FakeClock, FakeQueue

VISIBILITY_S = 1
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class Rig:
    """A queue with a dead-letter queue and one without; `dead_letters` gives body and attributes of each."""

    queue: MessageQueue
    lonely_queue: MessageQueue
    dead_letters: Callable[[], list[tuple[str, dict[str, str]]]]
    sleep: Callable[[float], None]

    def receive_one(self) -> ReceivedMessage:
        (message,) = self.queue.receive(1, wait_s=1)
        return message


def fake_rig() -> Rig:
    clock = FakeClock()
    dead = FakeQueue(VISIBILITY_S, clock=clock)
    return Rig(
        FakeQueue(VISIBILITY_S, dead, clock),
        FakeQueue(VISIBILITY_S, None, clock),
        lambda: [(letter.body, dict(letter.attributes)) for letter in dead.letters],
        clock.sleep,
    )


def sqs_rig() -> Rig:
    sqs = aws_client("sqs", REGION)
    names = [f"{kind}-{uuid4().hex}" for kind in ("dead", "work", "lonely")]
    dead_url = sqs.create_queue(QueueName=names[0])["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 100})
    url = sqs.create_queue(QueueName=names[1], Attributes={"RedrivePolicy": redrive})["QueueUrl"]
    lonely_url = sqs.create_queue(QueueName=names[2])["QueueUrl"]

    def dead_letters() -> list[tuple[str, dict[str, str]]]:
        answer: dict[str, Any] = sqs.receive_message(QueueUrl=dead_url, MessageAttributeNames=["All"])
        return [
            (letter["Body"], {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()})
            for letter in answer.get("Messages", [])
        ]

    queues = [SqsQueue(one, REGION, VISIBILITY_S) for one in (url, lonely_url)]
    return Rig(queues[0], queues[1], dead_letters, time.sleep)


@pytest.fixture(params=["fake", "sqs"])
def rig(request: pytest.FixtureRequest) -> Rig:
    if request.param == "fake":
        return fake_rig()
    request.getfixturevalue("aws")
    return sqs_rig()


def test_what_is_sent_is_received_as_it_was(rig: Rig) -> None:
    rig.queue.send('{"key": "Fête/Ärzte 1 🎉.jpg"}')
    message = rig.receive_one()
    assert message.body == '{"key": "Fête/Ärzte 1 🎉.jpg"}'
    assert message.receive_count == 1


def test_a_message_brings_its_senders_trace_and_the_time_it_was_sent_at(rig: Rig) -> None:
    before = time.time()
    rig.queue.send("traced", traceparent=TRACEPARENT)
    rig.queue.send("not traced")
    messages = [rig.receive_one(), rig.receive_one()]
    assert {one.body: one.traceparent for one in messages} == {"traced": TRACEPARENT, "not traced": None}
    for message in messages:
        assert message.sent_at == pytest.approx(before, abs=5)


def test_a_rejected_message_keeps_its_trace(rig: Rig) -> None:
    rig.queue.send("broken", traceparent=TRACEPARENT)
    rig.queue.reject(rig.receive_one(), [Letter("traced", "no")])
    ((_, attributes),) = rig.dead_letters()
    assert attributes["traceparent"] == TRACEPARENT


def test_an_empty_queue_gives_no_messages(rig: Rig) -> None:
    assert rig.queue.receive(10, wait_s=0) == []


def test_no_more_messages_come_than_are_asked_for(rig: Rig) -> None:
    for number in range(3):
        rig.queue.send(str(number))
    assert len(rig.queue.receive(2, wait_s=1)) == 2


def test_ten_messages_come_at_most_however_many_are_asked_for(rig: Rig) -> None:
    for number in range(11):
        rig.queue.send(str(number))
    assert 1 <= len(rig.queue.receive(100, wait_s=1)) <= 10


def test_a_received_message_is_hidden_until_its_visibility_ends_and_then_counts_its_receives(rig: Rig) -> None:
    rig.queue.send("body")
    first = rig.receive_one()
    assert rig.queue.receive(1, wait_s=0) == []
    rig.sleep(VISIBILITY_S + 0.2)
    again = rig.receive_one()
    assert (again.message_id, again.receive_count) == (first.message_id, 2)
    assert again.receipt != first.receipt


def test_hiding_longer_extends_the_lease_from_now(rig: Rig) -> None:
    rig.queue.send("body")
    rig.queue.hide(rig.receive_one(), 60)
    rig.sleep(VISIBILITY_S + 0.2)
    assert rig.queue.receive(1, wait_s=0) == []


def test_hiding_for_no_time_gives_the_message_back(rig: Rig) -> None:
    rig.queue.send("body")
    rig.queue.hide(rig.receive_one(), 0)
    assert rig.receive_one().receive_count == 2


def test_a_deleted_message_never_comes_back(rig: Rig) -> None:
    rig.queue.send("body")
    assert rig.queue.delete([rig.receive_one()]) == []
    rig.sleep(VISIBILITY_S + 0.2)
    assert rig.queue.receive(1, wait_s=0) == []


def test_several_messages_are_deleted_at_once(rig: Rig) -> None:
    for number in range(3):
        rig.queue.send(str(number))
    messages = [rig.receive_one() for _ in range(3)]
    assert rig.queue.delete(messages[:2]) == []
    rig.sleep(VISIBILITY_S + 0.2)
    assert [message.body for message in rig.queue.receive(10, wait_s=0)] == [messages[2].body]


def test_hiding_a_message_that_is_gone_is_a_lost_lease(rig: Rig) -> None:
    rig.queue.send("body")
    message = rig.receive_one()
    rig.queue.delete([message])
    with pytest.raises(LeaseLost):
        rig.queue.hide(message, 10)


def test_a_delayed_message_comes_when_its_delay_is_over(rig: Rig) -> None:
    rig.queue.send("later", delay_s=1)
    assert rig.queue.receive(1, wait_s=0) == []
    rig.sleep(1.2)
    assert rig.receive_one().body == "later"


def test_rejecting_moves_the_message_to_the_dead_letters_with_the_reason_and_its_receive_count(rig: Rig) -> None:
    rig.queue.send("broken")
    rig.queue.hide(rig.receive_one(), 0)
    rig.queue.reject(rig.receive_one(), [Letter("broken", "It is not JSON.")])
    assert rig.dead_letters() == [("broken", {"reason": "It is not JSON.", "receive_count": "2"})]
    rig.sleep(VISIBILITY_S + 0.2)
    assert rig.queue.receive(1, wait_s=0) == []


def test_rejecting_without_a_dead_letter_queue_removes_the_message(rig: Rig) -> None:
    rig.lonely_queue.send("broken")
    (message,) = rig.lonely_queue.receive(1, wait_s=1)
    rig.lonely_queue.reject(message, [Letter("broken", "It is not JSON.")])
    rig.sleep(VISIBILITY_S + 0.2)
    assert rig.lonely_queue.receive(1, wait_s=0) == []
    assert rig.dead_letters() == []


@pytest.mark.parametrize("reason", ["", "a\0b\x07\ud800", "line one\nline two", "x" * 5_000])
def test_sqs_takes_any_text_as_the_reason(aws: str, reason: str) -> None:
    rig = sqs_rig()
    rig.queue.send("broken")
    rig.queue.reject(rig.receive_one(), [Letter("broken", reason)])
    ((body, attributes),) = rig.dead_letters()
    assert body == "broken"
    assert len(attributes["reason"]) <= 1_000


def test_what_sqs_rejects_without_a_dead_letter_queue_is_logged(aws: str, caplog: pytest.LogCaptureFixture) -> None:
    rig = sqs_rig()
    assert "has no dead-letter queue" in caplog.text
    rig.lonely_queue.send("broken")
    (message,) = rig.lonely_queue.receive(1, wait_s=1)
    rig.lonely_queue.reject(message, [Letter("broken", "It is not JSON.")])
    last = caplog.records[-1]
    assert (last.levelno, last.body) == (logging.ERROR, "broken")


def make_queue(name: str, **attributes: str) -> str:
    url: str = aws_client("sqs", REGION).create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    return url


def redrive_to(name: str, receives: object = 5) -> str:
    arn = f"arn:aws:sqs:{REGION}:123456789012:{name}"
    return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})


def answer_with(monkeypatch: pytest.MonkeyPatch, operation: str, code: str) -> None:
    """SQS answers to this operation with this error."""

    def fail(*_: object, **__: object) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)

    monkeypatch.setattr(aws_client("sqs", REGION), operation, fail, raising=False)
    monkeypatch.setattr("app.adapters.sqs.open_client", lambda *_, **__: aws_client("sqs", REGION))


def test_a_queue_that_does_not_exist_is_refused(aws: str) -> None:
    with pytest.raises(BadConfiguration, match=r"There is no queue .*nowhere: make it"):
        SqsQueue(f"{aws}/123456789012/nowhere", REGION, VISIBILITY_S)


def test_a_fifo_queue_is_refused(aws: str) -> None:
    url = make_queue(f"work-{uuid4().hex}.fifo", FifoQueue="true")
    with pytest.raises(BadConfiguration, match=r"is a FIFO queue.* Make a standard queue"):
        SqsQueue(url, REGION, VISIBILITY_S)


def test_a_queue_whose_messages_are_never_tried_again_is_logged(aws: str, caplog: pytest.LogCaptureFixture) -> None:
    dead = f"dead-{uuid4().hex}"
    make_queue(dead)
    url = make_queue(f"work-{uuid4().hex}", RedrivePolicy=redrive_to(dead, 1))
    assert SqsQueue(url, REGION, VISIBILITY_S).max_receives == 1
    assert "no message is ever tried again" in caplog.text


def test_a_queue_whose_dead_letter_queue_was_removed_is_refused(aws: str) -> None:
    dead = f"dead-{uuid4().hex}"
    dead_url = make_queue(dead)
    url = make_queue(f"work-{uuid4().hex}", RedrivePolicy=redrive_to(dead))
    aws_client("sqs", REGION).delete_queue(QueueUrl=dead_url)
    with pytest.raises(BadConfiguration, match=f"the dead-letter queue {dead}, which does not exist"):
        SqsQueue(url, REGION, VISIBILITY_S)


@pytest.mark.parametrize("policy", ["no JSON", "[]", "{}", '{"deadLetterTargetArn": "a", "maxReceiveCount": null}'])
def test_a_redrive_policy_that_can_not_be_read_is_refused(
    aws: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_queue(f"work-{uuid4().hex}")
    answer = {"Attributes": {"RedrivePolicy": policy}}
    monkeypatch.setattr(aws_client("sqs", REGION, read_timeout_s=10), "get_queue_attributes", lambda **_: answer)
    with pytest.raises(BadConfiguration, match="a redrive policy that can't be read"):
        SqsQueue(url, REGION, VISIBILITY_S)


def test_a_queue_that_is_its_own_dead_letter_queue_is_refused(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"work-{uuid4().hex}"
    url = make_queue(name)
    answer = {"Attributes": {"RedrivePolicy": redrive_to(name)}}
    monkeypatch.setattr(aws_client("sqs", REGION, read_timeout_s=10), "get_queue_attributes", lambda **_: answer)
    with pytest.raises(BadConfiguration, match="its own dead-letter queue"):
        SqsQueue(url, REGION, VISIBILITY_S)


def test_a_queue_knows_how_often_its_messages_are_received(aws: str) -> None:
    dead = f"dead-{uuid4().hex}"
    make_queue(dead)
    url = make_queue(f"work-{uuid4().hex}", RedrivePolicy=redrive_to(dead, "6"))
    assert SqsQueue(url, REGION, VISIBILITY_S).max_receives == 6
    assert SqsQueue(make_queue(f"lonely-{uuid4().hex}"), REGION, VISIBILITY_S).max_receives is None


@pytest.mark.parametrize("operation", ["send_message", "receive_message"])
def test_a_wrong_parameter_of_a_call_without_a_receipt_is_no_lost_lease(
    aws: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_queue(f"work-{uuid4().hex}")
    answer_with(monkeypatch, operation, "InvalidParameterValue")
    queue = SqsQueue(url, REGION, VISIBILITY_S)
    with pytest.raises(RetryLater, match="InvalidParameterValue"):
        queue.send("body", 5) if operation == "send_message" else queue.receive(1, 0)


@pytest.mark.parametrize("code", sorted(LOST_CODES))
def test_a_wrong_receipt_is_a_lost_lease(aws: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_queue(f"work-{uuid4().hex}")
    answer_with(monkeypatch, "change_message_visibility", code)
    queue = SqsQueue(url, REGION, VISIBILITY_S)
    queue.send("body")
    (message,) = queue.receive(1, 1)
    with pytest.raises(LeaseLost, match=code):
        queue.hide(message, 5)
