import json
import logging
from collections.abc import Iterator

import boto3
import pytest

from app.config import DetectionSettings, GroupingSettings, TelemetrySettings, load_settings
from app.telemetry.logs import Logging
from tests.conftest import REGION


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    names = ["", "botocore", "boto3", "urllib3", "pymongo", "s3transfer", "PIL", "watchtower"]
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def settings() -> DetectionSettings | GroupingSettings:
    return load_settings(
        service_type="detection",
        aws_default_region=REGION,
        queue_url="http://sqs/detection",
        group_face_queue_url="http://sqs/grouping",
        bucket_name="photos",
        face_group_bucket_name="results",
        gallery_images_mongo_uri="mongodb://worker:hunter2@db",
        huemn_mongo_uri="mongodb://worker:hunter2@db",
        log_group=None,
        log_level="INFO",
    )


@pytest.fixture
def telemetry(settings: DetectionSettings | GroupingSettings) -> TelemetrySettings:
    return settings.telemetry


def no_client() -> object:
    raise AssertionError("no CloudWatch client is needed without LOG_GROUP")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_log_entry_is_one_line_of_json_with_its_fields(
    telemetry: TelemetrySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    with Logging("detection", telemetry, no_client):
        logging.getLogger("app.some").info("photo %s\nof two lines", "indexed", extra={"image": "g/ä", "faces": 2})
    (entry,) = lines(capsys)
    assert entry.pop("time")
    assert entry == {
        "level": "INFO",
        "logger": "app.some",
        "message": "photo indexed\nof two lines",
        "service": "detection",
        "image": "g/ä",
        "faces": 2,
    }


def test_an_exception_is_part_of_its_entry(telemetry: TelemetrySettings, capsys: pytest.CaptureFixture[str]) -> None:
    with Logging("detection", telemetry, no_client):
        try:
            int("the cause")
        except ValueError:
            logging.getLogger("app.some").exception("it failed")
    (entry,) = lines(capsys)
    assert "'the cause'" in str(entry["exc_info"])


def test_settings_in_a_log_entry_show_no_secret(
    settings: DetectionSettings | GroupingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry = settings.telemetry
    with Logging("detection", telemetry, no_client):
        logging.getLogger("app.some").info("with %s", settings, extra={"settings": settings})
    text = capsys.readouterr().out
    assert '"message": "with ' in text
    assert "hunter2" not in text


def test_what_is_below_the_level_is_not_logged_and_libraries_only_from_warnings_on(
    telemetry: TelemetrySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    with Logging("detection", telemetry, no_client):
        logging.getLogger("app.some").debug("no")
        logging.getLogger("botocore.hooks").info("no")
        logging.getLogger("botocore.hooks").warning("yes")
    assert [entry["message"] for entry in lines(capsys)] == ["yes"]


def test_the_handlers_are_gone_afterwards_even_after_an_error(
    telemetry: TelemetrySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(RuntimeError), Logging("detection", telemetry, no_client):
        assert len(logging.getLogger().handlers) == len(before) + 1
        raise RuntimeError
    assert logging.getLogger().handlers == before
    logging.getLogger("app.some").warning("too late")
    assert capsys.readouterr().out == ""


def test_with_a_log_group_the_entries_lie_in_cloudwatch_at_the_end(aws: str, telemetry: TelemetrySettings) -> None:
    logs = boto3.client("logs", region_name=REGION)
    with Logging("detection", telemetry.model_copy(update={"log_group": "test-logs"}), lambda: logs):
        logging.getLogger("app.some").info("photo indexed", extra={"faces": 2})
    (stream,) = logs.describe_log_streams(logGroupName="test-logs")["logStreams"]
    assert stream["logStreamName"].startswith("detection/")
    (event,) = logs.get_log_events(logGroupName="test-logs", logStreamName=stream["logStreamName"])["events"]
    assert json.loads(event["message"])["faces"] == 2
