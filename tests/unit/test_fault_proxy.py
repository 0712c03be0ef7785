"""The fault proxy of the chaos benchmark: each fault does what its name says, and no more."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from benchmarks.chaos.proxy import FaultProxy, Faults

TIMEOUT_S = 5.0


class EchoServer:
    """Answers each request with itself in upper case, and remembers what arrived."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65_536):
                self.requests.append(data)
                if data == b"expect":
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                else:
                    connection.sendall(data.upper())


@pytest.fixture
def server() -> Iterator[EchoServer]:
    echo = EchoServer()
    yield echo
    echo.close()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as running:
        yield running


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_S)


def ask(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    return connection.recv(65_536)


def test_without_faults_requests_and_answers_pass(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert [ask(connection, b"one"), ask(connection, b"two")] == [b"ONE", b"TWO"]
    assert proxy.felt.total() == 0


def test_a_megabyte_passes_unchanged(proxy: FaultProxy, server: EchoServer) -> None:
    data = random.Random(0).randbytes(1_000_000)  # noqa: S311 - no secret
    with connect(proxy) as connection:
        reader = connection.makefile("rb")
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        answer = reader.read(len(data))
        sender.join()
    assert b"".join(server.requests) == data
    assert answer == data.upper()


def test_a_delay_only_delays(proxy: FaultProxy) -> None:
    proxy.faults = Faults({"delay": 1.0}, delay_s=0.2)
    with connect(proxy) as connection:
        began = time.monotonic()
        assert ask(connection, b"one") == b"ONE"
        assert time.monotonic() - began >= 0.2
    assert proxy.felt == {"delay": 1}


def test_a_reset_ends_the_connection_before_the_request_arrives(proxy: FaultProxy, server: EchoServer) -> None:
    proxy.faults = Faults({"reset": 1.0})
    with connect(proxy) as connection, pytest.raises(ConnectionResetError):
        ask(connection, b"one")
    assert server.requests == []


def test_a_black_hole_says_nothing_for_its_time_and_then_ends(proxy: FaultProxy, server: EchoServer) -> None:
    proxy.faults = Faults({"black-hole": 1.0}, silence_s=0.3)
    with connect(proxy) as connection:
        began = time.monotonic()
        with pytest.raises(ConnectionResetError):
            ask(connection, b"one")
        assert time.monotonic() - began >= 0.3
    assert server.requests == []


def test_a_dropped_answer_means_that_the_request_was_carried_out(proxy: FaultProxy, server: EchoServer) -> None:
    proxy.faults = Faults({"drop-answer": 1.0})
    with connect(proxy) as connection, pytest.raises(ConnectionResetError):
        ask(connection, b"one")
    assert server.requests == [b"one"]
    assert proxy.felt == {"drop-answer": 1}


def test_an_interim_answer_passes_so_that_the_rest_of_the_request_is_sent(
    proxy: FaultProxy, server: EchoServer
) -> None:
    proxy.faults = Faults({"drop-answer": 1.0})
    with connect(proxy) as connection:
        assert ask(connection, b"expect").startswith(b"HTTP/1.1 100")
        with pytest.raises(ConnectionResetError):
            ask(connection, b"body")
    assert server.requests == [b"expect", b"body"]


def test_faults_begin_and_end_on_connections_that_are_open(proxy: FaultProxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        assert ask(first, b"one") == ask(second, b"one") == b"ONE"
        proxy.faults = Faults({"reset": 1.0})
        with pytest.raises(ConnectionResetError):
            ask(first, b"two")
        proxy.faults = Faults()
        assert ask(second, b"two") == b"TWO"


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    # Which of the two meets the reset is up to the pace of the proxy.
    with FaultProxy(port) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as connection:
        ask(connection, b"one")


def test_closing_ends_open_connections(server: EchoServer) -> None:
    with FaultProxy(server.port) as proxy:
        connection = connect(proxy)
        assert ask(connection, b"one") == b"ONE"
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_shares_are_met_over_many_requests() -> None:
    faults, chance = Faults({"reset": 0.2, "delay": 0.3}), random.Random(0)  # noqa: S311 - no secret
    picks = [faults.pick(chance) for _ in range(10_000)]
    shares = {fault: picks.count(fault) / len(picks) for fault in ("reset", "delay", None)}
    assert shares == {
        "reset": pytest.approx(0.2, abs=0.02),
        "delay": pytest.approx(0.3, abs=0.02),
        None: pytest.approx(0.5, abs=0.02),
    }


def test_a_trickling_answer_arrives_whole_and_slowly(proxy: FaultProxy) -> None:
    proxy.faults = Faults({"trickle": 1.0})
    with connect(proxy) as connection:
        began = time.monotonic()
        connection.sendall(b"x" * 50)
        answer = b""
        while len(answer) < 50:
            answer += connection.recv(65_536)
        assert answer == b"X" * 50
        assert time.monotonic() - began > 1.4, "four pieces, half a second apart"
