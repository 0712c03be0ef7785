"""A circuit breaker for the stores: while a store is away, the consumer takes in no message, because it would fail.

Libraries for circuit breakers hold a lock around every call, so that handlers would run one at a time. This one only
counts.
"""

import logging
import time
from collections.abc import Callable, Mapping

from app.core.errors import RetryLater, StoreUnavailable

log = logging.getLogger(__name__)

OPEN_AFTER = 3
PROBE_EVERY_S = 5.0


class Breaker:
    """Opens after OPEN_AFTER handlers in a row failed because a store is away. Closes once the store's probe succeeds.

    `make_probes` maps a store's name to a call that raises RetryLater while it is away.
    """

    def __init__(self, probes: Mapping[str, Callable[[], None]]) -> None:
        self._probes = probes
        self._failures = 0
        self._probed_at = 0.0
        self.waiting_for: str | None = None

    def record_success(self) -> None:
        self._failures = 0

    def record_failure(self, error: Exception) -> None:
        """Count an error of a handler. Only errors of a store that is away count."""
        if not isinstance(error, StoreUnavailable):
            return
        self._failures += 1
        if self._failures >= OPEN_AFTER and self.waiting_for is None and error.store in self._probes:
            self.waiting_for = error.store
            log.error("%s is away: no new message until it answers", error.store)

    def is_closed(self) -> bool:
        """Whether messages may be taken in. Probes a store that is away every PROBE_EVERY_S."""
        store = self.waiting_for
        if store is None:
            return True
        if time.monotonic() - self._probed_at < PROBE_EVERY_S:
            return False
        try:
            self._probes[store]()
        except RetryLater as error:
            log.warning("%s is still away: %s", store, error)
            self._probed_at = time.monotonic()
            return False
        log.warning("%s answers again", store)
        self.waiting_for, self._failures = None, 0
        return True
