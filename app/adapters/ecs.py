"""Task protection: asks ECS not to end this task, by scaling in or by a deployment, while it works on a message.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from math import inf

import urllib3

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0
EXPIRES_MIN = 30
RENEW_AFTER_S = 20 * 60.0
RETRY_AFTER_S = 60.0


class TaskProtection:
    """Protects this task while it is busy. Does nothing where ECS gave no agent address.

    The protection is only a request: whatever the agent answers, work goes on, and a task that is stopped all the same
    loses no message.
    """

    def __init__(self, agent_uri: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = agent_uri and f"{agent_uri.rstrip('/')}/task-protection/v1/state"
        self._clock = clock
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=TIMEOUT_S))
        self._lock = threading.Lock()
        self._busy = False
        self._due_s = inf
        self._complained = False

    def set(self, busy: bool) -> None:
        """Set whether the worker is busy. Sends a request only when that changes, and every 20 minutes of work."""
        if self._url is None:
            return
        with self._lock:
            if busy == self._busy and self._clock() < self._due_s:
                return
            self._busy = busy
            problem = self._put(self._url, busy)
            self._report(problem)
            if problem:
                self._due_s = self._clock() + RETRY_AFTER_S
            else:
                self._due_s = self._clock() + RENEW_AFTER_S if busy else inf

    def _put(self, url: str, protect: bool) -> str | None:
        """What went wrong; None where the agent confirms the request."""
        request = {"ProtectionEnabled": protect, "ExpiresInMinutes": EXPIRES_MIN}
        try:
            answer = self._http.request("PUT", url, json=request)
            # A refusal comes with status 200 as well, and has `failure` where `protection` would be.
            if answer.status == 200 and json.loads(answer.data)["protection"]["ProtectionEnabled"] is protect:
                return None
        except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return f"HTTP {answer.status}: {answer.data[:300].decode('utf-8', 'replace')}"

    def _report(self, problem: str | None) -> None:
        if problem and not self._complained:
            log.warning("ECS does not protect this task while it works, which goes on all the same: %s", problem)
        self._complained = problem is not None
