"""A TCP proxy with faults: it delays a request, resets its connection, does not answer, sends the answer very slowly,
or delivers the request and drops the answer.

For the last it must tell requests apart: what a client sends after the server has answered is a new request. That is
true for HTTP/1.1 and for MongoDB's protocol.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

CHUNK_BYTES = 65_536
CONTINUE = b"HTTP/1.1 100"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing the socket sends a reset (socket(7))."""

TRICKLE_BYTES, TRICKLE_EVERY_S = 16, 0.5

Fault = Literal["delay", "reset", "black-hole", "drop-answer", "trickle"]


@dataclass(frozen=True)
class Faults:
    """The share of requests that each fault hits; together at most 1."""

    shares: dict[Fault, float] = field(default_factory=dict)
    delay_s: float = 0.5
    silence_s: float = 3.0

    def pick(self, chance: random.Random) -> Fault | None:
        roll = chance.random()
        for fault, share in self.shares.items():
            roll -= share
            if roll < 0:
                return fault
        return None


class _Cut(Exception):
    """The connection must be reset."""


class FaultProxy:
    """Forwards a local port to `target_port`. `faults` may be set at any time from any thread.

    `felt` counts the faults that hit a request, `answered_bytes` the bytes that the target has sent.
    """

    def __init__(self, target_port: int, seed: int = 0) -> None:
        self.faults = Faults()
        self.felt: Counter[str] = Counter()
        self.answered_bytes = 0
        self._target_port = target_port
        self._chance = random.Random(seed)  # noqa: S311 - a fixed order, not a secret
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._open: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = server.result()
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        writers = [writer]
        try:
            server = _Side(*await asyncio.open_connection("127.0.0.1", self._target_port))
            writers.append(server.writer)
            await self._forward(_Side(reader, writer), server)
        except (OSError, _Cut, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._open.discard(task)
            for each in writers:
                each.close()

    async def _forward(self, client: "_Side", server: "_Side") -> None:
        """Both directions until both have ended, or until one of them fails."""
        turn = _Turn()
        pumps = [
            asyncio.ensure_future(self._forward_requests(client, server, turn)),
            asyncio.ensure_future(self._forward_answers(client, server, turn)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _forward_requests(self, client: "_Side", server: "_Side", turn: "_Turn") -> None:
        while data := await client.reader.read(CHUNK_BYTES):
            if turn.answered:
                turn.answered = False
                await self._apply_fault(turn)
            server.writer.write(data)
            await server.writer.drain()
        server.writer.write_eof()

    async def _forward_answers(self, client: "_Side", server: "_Side", turn: "_Turn") -> None:
        while data := await server.reader.read(CHUNK_BYTES):
            self.answered_bytes += len(data)
            # After an interim answer (100 Continue) the rest of the same request follows.
            if not data.startswith(CONTINUE):
                if turn.drop:
                    self.felt["drop-answer"] += 1
                    raise _Cut
                turn.answered = True
            await (_trickle if turn.trickle else _pass)(data, client.writer)
        # The server has closed the connection; the client may be waiting for that.
        client.writer.write_eof()

    async def _apply_fault(self, turn: "_Turn") -> None:
        faults = self.faults
        fault = faults.pick(self._chance)
        if fault is None:
            return
        if fault == "drop-answer":
            turn.drop = True
            return
        self.felt[fault] += 1
        if fault == "trickle":
            turn.trickle = True
            return
        if fault == "delay":
            await asyncio.sleep(faults.delay_s)
            return
        if fault == "black-hole":
            await asyncio.sleep(faults.silence_s)
        raise _Cut


@dataclass
class _Turn:
    """The state of a connection. After an answer, and at the start, the next bytes of the client begin a request."""

    answered: bool = True
    drop: bool = False
    trickle: bool = False


@dataclass(frozen=True)
class _Side:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def _pass(data: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(data)
    await writer.drain()


async def _trickle(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Send the answer slowly, but not so slowly that the reader's timeout ends."""
    for begin in range(0, len(data), TRICKLE_BYTES):
        await _pass(data[begin : begin + TRICKLE_BYTES], writer)
        await asyncio.sleep(TRICKLE_EVERY_S)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
