"""Ports of this machine, for servers that are started here."""

import socket
from contextlib import closing


def find_free_port() -> int:
    """A port that nothing listens on now; another process may take it before the caller does."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether a server listens on the port."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
