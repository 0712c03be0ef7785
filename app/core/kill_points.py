"""Points at which a worker kills itself in a test, which proves that nothing is lost there.

CHAOS_KILL_AT names a point and how often it is reached: `after-put:3` kills the process at the third time. It works
only with stand-ins for AWS on this machine; anywhere else it is ignored, with an error in the log.
"""

import logging
import os
import signal
import threading
from typing import Literal, get_args
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

KillPoint = Literal[
    "after-receive",
    "mid-inference",
    "after-put",
    "after-save",
    "after-remove",
    "before-publish",
    "after-publish",
    "after-vectors",
    "after-groups",
    "after-journal",
    "after-edit",
    "after-delete",
    "after-tombstone",
    "mid-erasure",
    "after-erasure",
]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class KillPoints:
    """Counts how often the point of CHAOS_KILL_AT is reached, and kills the process at that number."""

    def __init__(self, kill_at: str | None = None, endpoint_url: str | None = None) -> None:
        self._point, self._remaining = _parse(kill_at, endpoint_url)
        self._lock = threading.Lock()

    def reach(self, point: KillPoint) -> None:
        if point != self._point:
            return
        with self._lock:
            self._remaining -= 1
            if self._remaining == 0:
                log.critical("killed at %s, as CHAOS_KILL_AT asks", point)
                os.kill(os.getpid(), signal.SIGKILL)


def _parse(kill_at: str | None, endpoint_url: str | None) -> tuple[str | None, int]:
    if not kill_at:
        return None, 0
    if urlsplit(endpoint_url or "").hostname not in LOOPBACK:
        log.error("CHAOS_KILL_AT is set and ignored: it only works against stand-ins on this machine; remove it")
        return None, 0
    point, _, times = kill_at.partition(":")
    if point not in get_args(KillPoint) or (times and not times.isdigit()):
        log.error("CHAOS_KILL_AT=%s is ignored: it must be one of %s, and :N", kill_at, ", ".join(get_args(KillPoint)))
        return None, 0
    return point, int(times or 1)
