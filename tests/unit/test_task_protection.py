"""TaskProtection against an HTTP server that answers as the ECS agent does."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.adapters.ecs import RENEW_AFTER_S, RETRY_AFTER_S, TaskProtection
from tests.fakes import FakeClock
from tests.serving import serving

REFUSAL = {"failure": {"Arn": "arn:task", "Reason": "DEPLOYMENT_BLOCKED", "Detail": "a deployment is under way"}}


@dataclass
class Agent:
    """`asked` are the bodies of the requests. `refusal` is answered instead of the protection, with `status`."""

    uri: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    refusal: object = None
    status: int = 200
    delay_s: float = 0

    @property
    def protected(self) -> list[bool]:
        return [body["ProtectionEnabled"] for body in self.asked]


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            agent.asked.append(body)
            agent.paths.add(self.path)
            time.sleep(agent.delay_s)
            done = {"protection": {"ProtectionEnabled": body["ProtectionEnabled"], "TaskArn": "arn:task"}}
            answer = json.dumps(agent.refusal or done).encode()
            self.send_response(agent.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] - a client that gave up is what is tested
    with serving(server) as url:
        agent.uri = f"{url}/api/task"
        yield agent


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def protection(agent: Agent, clock: FakeClock) -> Iterator[TaskProtection]:
    protection = TaskProtection(agent.uri, clock.now)
    yield protection
    protection._http.clear()


def test_a_task_that_begins_to_work_is_protected_for_half_an_hour(agent: Agent, protection: TaskProtection) -> None:
    protection.set(True)
    assert agent.asked == [{"ProtectionEnabled": True, "ExpiresInMinutes": 30}]
    assert agent.paths == {"/api/task/task-protection/v1/state"}


def test_the_agent_is_asked_only_when_idle_and_busy_change(agent: Agent, protection: TaskProtection) -> None:
    for busy in (False, False, True, True, True, False, False, True):
        protection.set(busy)
    assert agent.protected == [True, False, True]


def test_protection_is_renewed_before_it_expires_while_there_is_work(
    agent: Agent, protection: TaskProtection, clock: FakeClock
) -> None:
    protection.set(True)
    clock.sleep(RENEW_AFTER_S - 1)
    protection.set(True)
    assert agent.protected == [True]
    clock.sleep(1)
    protection.set(True)
    assert agent.protected == [True, True]
    assert agent.asked[0]["ExpiresInMinutes"] * 60 > RENEW_AFTER_S


def test_an_idle_task_asks_no_more(agent: Agent, protection: TaskProtection, clock: FakeClock) -> None:
    protection.set(True)
    protection.set(False)
    clock.sleep(10 * RENEW_AFTER_S)
    protection.set(False)
    assert agent.protected == [True, False]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, REFUSAL),
        (400, {"error": {"Code": "AccessDeniedException", "Message": "no"}}),
        (500, {"error": {"Code": "ServerException", "Message": "no"}}),
        (200, "not an object"),
        (200, {"protection": {"ProtectionEnabled": False}}),
    ],
)
def test_a_refusal_is_logged_once_and_tried_again_later(
    agent: Agent,
    protection: TaskProtection,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    status: int,
    answer: object,
) -> None:
    agent.status, agent.refusal = status, answer
    protection.set(True)
    protection.set(True)
    assert agent.protected == [True]
    clock.sleep(RETRY_AFTER_S)
    protection.set(True)
    assert agent.protected == [True, True]
    assert caplog.text.count("ECS does not protect this task") == 1


def test_the_log_says_why_it_was_refused(
    agent: Agent, protection: TaskProtection, caplog: pytest.LogCaptureFixture
) -> None:
    agent.refusal = {"error": {"Code": "AccessDeniedException"}}
    agent.status = 400
    protection.set(True)
    assert "HTTP 400" in caplog.text
    assert "AccessDeniedException" in caplog.text


def test_a_new_trouble_after_a_success_is_logged_again(
    agent: Agent, protection: TaskProtection, caplog: pytest.LogCaptureFixture
) -> None:
    for refusal in (REFUSAL, None, REFUSAL):
        agent.refusal = refusal
        protection.set(not agent.protected or not agent.protected[-1])
    assert caplog.text.count("ECS does not protect this task") == 2


@pytest.mark.alone
def test_an_agent_that_does_not_answer_costs_a_second_at_most(
    agent: Agent, protection: TaskProtection, caplog: pytest.LogCaptureFixture
) -> None:
    agent.delay_s = 3
    begin = time.monotonic()
    protection.set(True)
    assert time.monotonic() - begin < 2.5
    assert caplog.text.count("ECS does not protect this task") == 1


def test_an_agent_that_is_not_there_is_tolerated(caplog: pytest.LogCaptureFixture) -> None:
    protection = TaskProtection("http://127.0.0.1:9", FakeClock().now)
    protection.set(True)
    protection.set(False)
    assert caplog.text.count("ECS does not protect this task") == 1


def test_nothing_happens_outside_ecs(caplog: pytest.LogCaptureFixture) -> None:
    TaskProtection(None).set(True)
    assert caplog.text == ""
