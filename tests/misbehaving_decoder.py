"""The server of decoding children with decoders that misbehave as the file says: `spin`, `crash`, `exit`, …"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from app.core.arrays import Image
from app.core.pictures import PhotoLimits
from app.vision import decode_server
from app.vision.decode import decode

kept: list[Image] = []


def spin() -> None:
    while True:
        pass


def crash() -> None:
    ctypes.string_at(0)


def crash_once(note: str) -> None:
    if not Path(note).exists():
        Path(note).touch()
        crash()


def fail() -> None:
    raise LookupError("a mistake in the decoder")


DEEDS: dict[str, Callable[..., object]] = {
    "spin": spin,
    "sleep": lambda: time.sleep(600),
    "crash": crash,
    "crash-once": crash_once,
    "exit": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "eat": lambda size: np.ones(int(size), np.uint8).sum(),
    "keep": lambda size: kept.append(np.ones(int(size), np.uint8)),
    "fail": fail,
    "pid": lambda: None,
}


def misbehave(data: bytes, limits: PhotoLimits, enough_px: int | None = None) -> Image:
    """The pid as a pixel once the deed is done, or the environment's names as a row; other files are decoded."""
    word, *rest = data.decode("latin-1").split(" ")
    if word in DEEDS:
        DEEDS[word](*rest)
        return np.frombuffer(os.getpid().to_bytes(3, "big"), np.uint8).reshape(1, 1, 3)
    if word == "environment":
        text = "\n".join(sorted(os.environ)).encode()
        return np.frombuffer(text + b" " * (-len(text) % 3), np.uint8).reshape(1, -1, 3)
    return decode(data, limits, enough_px)


if __name__ == "__main__":
    decode_server.decode = misbehave
    decode_server.main(socket.socket(fileno=int(sys.argv[1])))
