"""Ports of this machine, for servers that are started here."""

import random
import socket
from contextlib import closing

SERVED = range(10_240, 32_768)
"""Systems give higher ports to outgoing connections (Linux from 32768, macOS and Windows from 49152): a port up there
may be taken at any moment by a client that has nothing to do with us."""


def find_free_port(in_a_row: int = 1) -> int:
    """The first of `in_a_row` ports that nothing listens on now. Another server may take them before the caller does.

    Raises:
        OSError: none of many ports that were tried is free.
    """
    for _ in range(1_000):
        first = random.randrange(SERVED.start, SERVED.stop - in_a_row)  # noqa: S311 - no secret
        if all(_is_free(port) for port in range(first, first + in_a_row)):
            return first
    raise OSError("1,000 ports of this machine were tried and none is free")


def is_listening(port: int) -> bool:
    """Whether a server listens on the port."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            # All addresses: a server of one address and a server of all cannot have the same port.
            probe.bind(("", port))
        except OSError:
            return False
    return True
