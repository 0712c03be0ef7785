"""SpotNotice against an HTTP server that answers as the instance metadata service does."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.adapters.spot import SpotNotice
from tests.serving import serving

PATIENCE_S = 10.0
NOTICE = {"action": "terminate", "time": "2030-01-01T12:00:00Z"}


@dataclass
class MetadataService:
    """`notice` is answered once there is one; with `revoked`, the token given last is no longer taken."""

    url: str = ""
    notice: dict[str, str] | str | None = None
    tokens: list[str] = field(default_factory=list)
    questions: int = 0
    refused: int = 0
    revoked: bool = False


@pytest.fixture
def service() -> Iterator[MetadataService]:
    service = MetadataService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            lifetime_s = int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"])
            if self.path != "/latest/api/token" or not 1 <= lifetime_s <= 21_600:
                return self._answer(400, b"")
            service.tokens.append(f"token-{len(service.tokens)}")
            service.revoked = False
            return self._answer(200, service.tokens[-1].encode())

        def do_GET(self) -> None:
            service.questions += 1
            good = bool(service.tokens) and self.headers["X-aws-ec2-metadata-token"] == service.tokens[-1]
            if service.revoked or not good:
                service.refused += 1
                return self._answer(401, b"")
            if self.path != "/latest/meta-data/spot/instance-action" or service.notice is None:
                return self._answer(404, b"not found")
            text = service.notice if isinstance(service.notice, str) else json.dumps(service.notice)
            return self._answer(200, text.encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server) as service.url:
        yield service


@dataclass
class Watch:
    notice: SpotNotice
    told: list[bool]


@pytest.fixture
def watch(service: MetadataService) -> Iterator[Watch]:
    told: list[bool] = []
    notice = SpotNotice(lambda: told.append(True), service.url, every_s=0.02, again_s=0.02)
    with notice:
        yield Watch(notice, told)
    notice._thread.join(PATIENCE_S)
    notice._metadata._pool_manager.clear()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def test_nothing_is_reported_while_there_is_no_notice(service: MetadataService, watch: Watch) -> None:
    wait_until(lambda: service.questions >= 5)
    assert watch.told == []
    assert (len(service.tokens), service.refused) == (1, 0)


def test_a_notice_is_reported_once(service: MetadataService, watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    wait_until(lambda: service.questions >= 2)
    service.notice = NOTICE
    wait_until(lambda: bool(watch.told))
    watch.notice._thread.join(PATIENCE_S)
    assert not watch.notice._thread.is_alive()
    assert watch.told == [True]
    assert "terminate of this instance at 2030-01-01T12:00:00+00:00" in caplog.text


def test_a_token_that_is_no_longer_taken_is_replaced(service: MetadataService, watch: Watch) -> None:
    wait_until(lambda: service.questions >= 2)
    service.revoked = True
    wait_until(lambda: len(service.tokens) == 2)
    service.notice = NOTICE
    wait_until(lambda: bool(watch.told))


@pytest.mark.parametrize("answer", ["not JSON", "[]", "{}", '{"action": "stop", "time": 5}'])
def test_an_answer_that_makes_no_sense_ends_nothing(
    service: MetadataService, watch: Watch, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    service.notice = answer
    wait_until(lambda: service.questions >= 3)
    assert watch.told == []
    service.notice = NOTICE
    wait_until(lambda: bool(watch.told))
    assert caplog.text.count("gives no Spot notices") == 1


def test_after_closing_nothing_is_asked_any_more(service: MetadataService, watch: Watch) -> None:
    wait_until(lambda: service.questions >= 2)
    watch.notice.close()
    watch.notice._thread.join(PATIENCE_S)
    before = service.questions
    service.notice = NOTICE
    time.sleep(0.1)
    assert service.questions == before
    assert watch.told == []


def test_a_metadata_service_that_is_not_there_is_logged_once_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told: list[bool] = []
    with SpotNotice(lambda: told.append(True), f"http://127.0.0.1:{port}", every_s=0.01, again_s=0.01) as notice:
        time.sleep(0.3)
        assert notice._thread.is_alive()
    notice._thread.join(PATIENCE_S)
    assert told == []
    assert caplog.text.count("gives no Spot notices") == 1
