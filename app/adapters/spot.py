"""The interruption notice of a Spot instance, which comes two minutes before the instance is reclaimed.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import logging
import threading
from collections.abc import Callable
from types import TracebackType

import urllib3
from ec2_metadata import EC2Metadata, SpotInstanceAction

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
"""What the page above recommends."""
ASK_AGAIN_S = 60.0


class SpotNotice:
    """While the context is open: polls the instance metadata service (IMDSv2), and calls `on_notice` at a notice."""

    def __init__(
        self,
        on_notice: Callable[[], None],
        base_url: str = "http://169.254.169.254",
        every_s: float = ASK_EVERY_S,
        again_s: float = ASK_AGAIN_S,
    ) -> None:
        """`again_s` is the pause after a request that failed."""
        self._on_notice = on_notice
        self._every_s = every_s
        self._again_s = again_s
        self._metadata = EC2Metadata(urllib3.PoolManager(retries=False))
        self._metadata.service_url = f"{base_url}/latest/"
        self._metadata.metadata_url = f"{base_url}/latest/meta-data/"
        self._closed = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._watch, name="spot-notice", daemon=True)

    def __enter__(self) -> "SpotNotice":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop polling. A request under way is not waited for: its answer has no effect any more."""
        self._closed.set()

    def _watch(self) -> None:
        pause_s = 0.0
        while not self._closed.wait(pause_s):
            try:
                action = self._metadata.spot_instance_action
            except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
                self._complain(error)
                pause_s = self._again_s
                continue
            pause_s = self._every_s
            self._complained = False
            if action is not None:
                self._report_notice(action)
                return

    def _report_notice(self, action: SpotInstanceAction) -> None:
        if not self._closed.is_set():
            log.warning("Spot notice: %s of this instance at %s", action.action, action.time.isoformat())
            self._on_notice()

    def _complain(self, error: Exception) -> None:
        # The library keeps its token for hours, and the service may no longer accept it.
        self._metadata.clear_all()
        if not self._complained:
            log.warning(
                "the instance metadata service gives no Spot notices (in a container, its hop limit must be 2): %s",
                error,
            )
        self._complained = True
