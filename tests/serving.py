"""HTTP servers of tests: each answers from a thread of its own, and ends at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

LOOK_EVERY_S = 0.02
"""How often a server looks whether it is to end. The library's half second would be added to every test."""


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """The server's URL; it answers while inside, and is closed after."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(LOOK_EVERY_S,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
