"""The adapters of SNS and EventBridge, on moto's server, and the sending of what the outbox has."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import jsonschema
import pytest

from app.adapters.eventbridge import EventBus
from app.adapters.sns import SnsTopic
from app.core.errors import RetryLater
from app.core.events import Event, make_cloud_event, make_event_schemas, tell_edit_refused, tell_found, tell_photos
from app.core.ports import EVENT_CLAIM_S, EventTarget
from app.core.records import ImageRecord, ImageStatus
from app.telemetry.catalogue import Metric
from app.worker.events import RETRY_S, send_due, send_events
from tests.conftest import REGION, aws_client
from tests.fake_outbox import FakeEventOutbox
from tests.fakes import FakeClock
from tests.stores import image_record, photo
from tests.telling import RecordingMetrics

SOURCE = "/face-worker/test"
Read = Callable[[], list[dict[str, Any]]]


def make_queue() -> tuple[str, str]:
    """URL and ARN."""
    sqs = aws_client("sqs", REGION)
    url = sqs.create_queue(QueueName=uuid4().hex)["QueueUrl"]
    return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def read_queue(url: str) -> list[dict[str, Any]]:
    found = []
    while messages := aws_client("sqs", REGION).receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        found += [json.loads(message["Body"]) for message in messages]
    return found


@pytest.fixture(params=["sns", "eventbridge"])
def target(request: pytest.FixtureRequest, aws: str) -> Iterator[tuple[EventTarget, Read]]:
    """A target and what arrives in a queue behind it, as CloudEvents."""
    url, queue_arn = make_queue()
    if request.param == "sns":
        sns = aws_client("sns", REGION)
        topic = sns.create_topic(Name=uuid4().hex)["TopicArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn, Attributes={"RawMessageDelivery": "true"})
        yield SnsTopic(topic, REGION), lambda: read_queue(url)
        return
    events = aws_client("events", REGION)
    bus = events.create_event_bus(Name=uuid4().hex)["EventBusArn"]
    events.put_rule(Name="all", EventBusName=bus, EventPattern=json.dumps({"source": ["face-worker"]}))
    events.put_targets(Rule="all", EventBusName=bus, Targets=[{"Id": "queue", "Arn": queue_arn}])
    yield EventBus(bus, REGION), lambda: [one["detail"] for one in read_queue(url)]


class Refusing:
    """A target that refuses events of some ids, and is away `outages` times."""

    def __init__(self, refused: Sequence[str] = (), outages: int = 0) -> None:
        self.refused, self.outages = refused, outages
        self.sent: list[Mapping[str, object]] = []

    def send(self, events: Sequence[Mapping[str, object]]) -> list[int]:
        if self.outages:
            self.outages -= 1
            raise RetryLater("the topic is away")
        self.sent += [event for event in events if event["id"] not in self.refused]
        return [place for place, event in enumerate(events) if event["id"] in self.refused]


def refusals(count: int, text: str = "no") -> list[Event]:
    return [tell_edit_refused("g", f"e{number}", text) for number in range(count)]


def test_every_waiting_event_arrives_as_a_cloud_event(target: tuple[EventTarget, Read]) -> None:
    to, read = target
    outbox, metrics = FakeEventOutbox(), RecordingMetrics()
    events = [*refusals(23, "Ünknown 'person' $x"), tell_found("h", "r1", "found", "face-worker/h/finds/r1.json")]
    outbox.add(events)
    send_due(outbox, to, SOURCE, metrics)
    arrived = sorted(read(), key=lambda one: str(one["id"]))
    assert arrived == sorted((make_cloud_event(one, SOURCE) for one in events), key=lambda one: str(one["id"]))
    assert (metrics.sums[Metric.EVENTS_SENT], metrics.levels[Metric.EVENTS_WAITING]) == (24, 0)
    assert outbox.count_waiting() == 0


def test_events_that_are_large_go_in_several_calls(target: tuple[EventTarget, Read]) -> None:
    to, read = target
    outbox = FakeEventOutbox()
    outbox.add(refusals(9, "x" * 60_000))
    send_due(outbox, to, SOURCE, RecordingMetrics())
    assert len(read()) == 9


def test_subscriptions_of_a_topic_can_filter_by_type_and_gallery(aws: str) -> None:
    url, queue_arn = make_queue()
    sns = aws_client("sns", REGION)
    topic = sns.create_topic(Name=uuid4().hex)["TopicArn"]
    wanted = json.dumps({"type": ["find.answered"], "gallery_id": ["g"]})
    attributes = {"RawMessageDelivery": "true", "FilterPolicy": wanted}
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn, Attributes=attributes)
    outbox = FakeEventOutbox()
    outbox.add([*refusals(1), tell_found("g", "r1", "nobody"), tell_found("h", "r2", "nobody")])
    send_due(outbox, SnsTopic(topic, REGION), SOURCE, RecordingMetrics())
    assert [one["data"]["request_id"] for one in read_queue(url)] == ["r1"]


def test_a_topic_that_does_not_exist_is_said_and_the_event_kept(aws: str, caplog: pytest.LogCaptureFixture) -> None:
    topic = SnsTopic(f"arn:aws:sns:{REGION}:123456789012:nowhere", REGION)
    clock, metrics = FakeClock(), RecordingMetrics()
    outbox = FakeEventOutbox(clock=clock)
    outbox.add(refusals(1))
    send_due(outbox, topic, SOURCE, metrics)
    assert "nowhere" in caplog.text
    assert (metrics.sums[Metric.EVENTS_FAILED], outbox.count_waiting()) == (1, 1)


def test_what_is_refused_is_tried_again_and_what_arrived_is_not() -> None:
    clock, metrics = FakeClock(), RecordingMetrics()
    outbox, events = FakeEventOutbox(clock=clock), refusals(3)
    outbox.add(events)
    target = Refusing([events[1].event_id])
    send_due(outbox, target, SOURCE, metrics)
    assert [one["id"] for one in target.sent] == [events[0].event_id, events[2].event_id]
    target.refused = ()
    send_due(outbox, target, SOURCE, metrics)
    assert len(target.sent) == 2, "not before its time"
    clock.sleep(RETRY_S + 1)
    send_due(outbox, target, SOURCE, metrics)
    assert target.sent[2]["id"] == events[1].event_id
    assert (metrics.sums[Metric.EVENTS_SENT], metrics.sums[Metric.EVENTS_FAILED]) == (3, 1)


def test_an_outage_of_the_target_ends_the_look_and_loses_nothing() -> None:
    clock, metrics = FakeClock(), RecordingMetrics()
    outbox, target = FakeEventOutbox(clock=clock), Refusing(outages=1)
    outbox.add(refusals(25))
    send_due(outbox, target, SOURCE, metrics)
    assert (target.sent, metrics.levels[Metric.EVENTS_WAITING]) == ([], 25)
    send_due(outbox, target, SOURCE, metrics)
    clock.sleep(RETRY_S + 1)
    send_due(outbox, target, SOURCE, metrics)
    assert len({one["id"] for one in target.sent}) == len(target.sent) == 25


@pytest.mark.parametrize("method", ["take", "note_sent", "give_back", "count_waiting"])
def test_an_outage_of_the_database_leaves_the_thread_alive(method: str) -> None:
    clock = FakeClock()
    outbox, target = FakeEventOutbox(clock=clock), Refusing(outages=1 if method == "give_back" else 0)
    outbox.add(refusals(1))
    outbox.outages[method] = 1
    send_due(outbox, target, SOURCE, RecordingMetrics())
    clock.sleep(EVENT_CLAIM_S + 1)
    send_due(outbox, target, SOURCE, RecordingMetrics())
    assert target.sent
    assert outbox.count_waiting() == 0


def test_a_sender_that_is_killed_after_sending_sends_the_same_event_again() -> None:
    clock, target = FakeClock(), Refusing()
    outbox = FakeEventOutbox(5, clock)
    outbox.add(tell_photos([image_record(photo(name)) for name in "abc"]))
    clock.sleep(6)
    outbox.outages["note_sent"] = 1
    send_due(outbox, target, SOURCE, RecordingMetrics())
    outbox.add(tell_photos([image_record(photo("d"))]))
    clock.sleep(EVENT_CLAIM_S + 1)
    send_due(outbox, target, SOURCE, RecordingMetrics())
    first, *later = target.sent
    assert first in later
    assert sorted(len(one["data"]["image_ids"]) for one in later) == [1, 3]  # type: ignore[index]


def test_at_the_end_of_a_service_what_is_due_is_sent() -> None:
    closing, outbox, target = threading.Event(), FakeEventOutbox(), Refusing()
    outbox.add(refusals(2))
    closing.set()
    send_events(closing, outbox, target, SOURCE, RecordingMetrics())
    assert len(target.sent) == 2


def test_events_are_as_their_schemas_say() -> None:
    rejected = ImageRecord(photo("x"), ImageStatus.LOW_QUALITY, "It is blurred.")
    events = [*tell_photos([image_record(photo("a")), rejected]), *refusals(1), tell_found("g", "r", "nobody")]
    schemas = make_event_schemas()
    for event in events:
        sent = make_cloud_event(event, SOURCE)
        jsonschema.validate(sent, schemas[f"event.{event.type}"], jsonschema.Draft202012Validator)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**sent, "type": "other"}, schemas[f"event.{event.type}"])
