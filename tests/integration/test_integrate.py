"""The code of docs/integrate.md, run as it stands against the services."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.adapters.aws import open_client
from benchmarks.common.running import run_local_stores
from local.stack import ROOT
from tests.integration.test_bad_input import astronaut

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "integrate.md"


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """That of a backend beside the running services, with a queue that hears of events."""
    # moto's account.
    topic = "arn:aws:sns:eu-central-1:123456789012:face-worker-events"
    with run_local_stores({"EVENTS": topic}) as stack:
        region = stack.environment["AWS_DEFAULT_REGION"]
        sns, sqs = open_client("sns", region), open_client("sqs", region)
        assert sns.create_topic(Name=topic.rpartition(":")[2])["TopicArn"] == topic
        queue = sqs.create_queue(QueueName="backend")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
        stack.start("open")
        yield {**stack.environment, "EVENTS_QUEUE_URL": queue, "PYTHONPATH": str(ROOT)}


def read_code() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return "\n\n".join(blocks)


def test_a_backend_on_one_page_does_what_the_page_says(environment: dict[str, str], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("church.png", "dance.png"):
        (photos / name).write_bytes(astronaut() + name.encode())
    (tmp_path / "selfie.png").write_bytes(astronaut())
    (photos / "broken.jpg").write_bytes(b"no picture")
    code = tmp_path / "backend.py"
    code.write_text(read_code(), "utf-8")
    done = subprocess.run(
        [sys.executable, str(code)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "1 people on 2 photos"
    assert said[1].startswith("broken is left out: ")
    assert said[2] == "Person 1 is on 2 photos"
    assert [re.sub(r"\d+", "N", line) for line in said[3:5]] == [
        f"{name} wedding-N/{name}.png shows the face N x N pixels large" for name in ("church", "dance")
    ]
    assert said[5:7] == ["now called The bride", "after the undo called None"]
    status, keys = said[7].split(" on ", 1)
    assert status in ("found", "unsure")
    assert ("wedding-2026/church.png" in keys and "wedding-2026/dance.png" in keys) or status == "unsure"
    assert said[8] == "forgotten: 2 faces"


def test_the_backend_stays_short_enough_for_one_page() -> None:
    first = read_code().split("wedding = Gallery", 1)[0]
    lines = [line for line in first.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(lines) <= 90
