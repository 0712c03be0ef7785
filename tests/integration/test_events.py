"""What applications are told by a service, as it opens its outbox: from the database to a queue behind the topic."""

import json
from contextlib import ExitStack
from uuid import uuid4

import pytest
from pymongo import MongoClient

from app.adapters.mongo import Document, ensure_indexes
from app.bootstrap import _open_events
from app.config import load_settings
from app.core.events import NoEvents, tell_edit_refused
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry
from tests.conftest import REGION, aws_client
from tests.telling import RecordingMetrics


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, aws: str, mongo_uri: str) -> pytest.MonkeyPatch:
    monkeypatch.setenv("SERVICE_TYPE", "grouping")
    monkeypatch.setenv("GROUP_FACE_QUEUE_URL", f"{aws}/123456789012/grouping")
    monkeypatch.setenv("FACE_GROUP_BUCKET_NAME", "results")
    monkeypatch.setenv("GALLERY_IMAGES_MONGO_URI", mongo_uri)
    return monkeypatch


def test_what_a_service_adds_arrives_behind_its_topic(
    env: pytest.MonkeyPatch, mongo_client: "MongoClient[Document]"
) -> None:
    sqs, sns = aws_client("sqs", REGION), aws_client("sns", REGION)
    url = sqs.create_queue(QueueName=uuid4().hex)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = sns.create_topic(Name=uuid4().hex)["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    env.setenv("EVENTS", topic)
    env.setenv("ENVIRONMENT", "stage 2")
    database = mongo_client[f"test_{uuid4().hex}"]
    ensure_indexes(database)
    metrics = RecordingMetrics()
    with ExitStack() as stack:
        events = _open_events(load_settings(), database, Telemetry(metrics), stack, lambda: None)
        events.add([tell_edit_refused("g", "e1", "There is no person p9.")])
        (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    told = json.loads(message["Body"])
    assert (told["type"], told["source"], told["subject"]) == ("edit.refused", "/face-worker/stage%202", "g")
    assert told["data"] == {"edit_id": "e1", "reason": "There is no person p9."}
    assert metrics.sums[Metric.EVENTS_SENT] == 1
    assert database["outbox"].count_documents({}) == 0
    mongo_client.drop_database(database)


def test_without_the_setting_nothing_is_written(env: pytest.MonkeyPatch, mongo_client: "MongoClient[Document]") -> None:
    database = mongo_client[f"test_{uuid4().hex}"]
    with ExitStack() as stack:
        events = _open_events(load_settings(), database, Telemetry(), stack, lambda: None)
        assert isinstance(events, NoEvents)
        events.add([tell_edit_refused("g", "e1", "no")])
    assert database.list_collection_names() == []
