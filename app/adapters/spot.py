"""The interruption notice of a Spot instance, which comes two minutes before the instance is reclaimed.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import logging
import threading
from collections.abc import Callable

import urllib3
from ec2_metadata import EC2Metadata

from app.core.threads import BackgroundThread

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
"""What the page above recommends."""
ASK_AGAIN_S = 60.0


class SpotNotice(BackgroundThread):
    """While inside: asks the instance metadata service (IMDSv2), and calls `on_notice` once there is a notice."""

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
        self._has_warned = False
        # A question under way is not waited for at the end: its answer changes nothing any more.
        super().__init__("spot-notice", self._watch, join_s=0)

    def _watch(self, closing: threading.Event) -> None:
        pause_s = 0.0
        while not closing.wait(pause_s):
            try:
                action = self._metadata.spot_instance_action
            except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
                self._warn_once(error)
                pause_s = self._again_s
                continue
            pause_s = self._every_s
            self._has_warned = False
            if action is not None:
                if not closing.is_set():
                    log.warning("Spot notice: %s of this instance at %s", action.action, action.time.isoformat())
                    self._on_notice()
                return

    def _warn_once(self, error: Exception) -> None:
        # The token is kept for hours, and may be what the service no longer takes.
        self._metadata.clear_all()
        if not self._has_warned:
            log.warning(
                "the instance metadata service gives no Spot notices (in a container, its hop limit must be 2): %s",
                error,
            )
        self._has_warned = True
