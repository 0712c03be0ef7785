"""What telemetry hears of one message: its age, how it ended, how long that took, and its trace."""

import time
from contextlib import AbstractContextManager
from typing import Literal

from app.core.ports import ReceivedMessage
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry

Outcome = Literal["done", "put back", "rejected", "lost", "not settled"]

COUNTED = {
    "done": Metric.MESSAGES_DONE,
    "put back": Metric.MESSAGES_PUT_BACK,
    "rejected": Metric.MESSAGES_REJECTED,
}


class MessageStory:
    """From a message's receive, at this Unix time, until it is settled."""

    def __init__(self, message: ReceivedMessage, received_at: float, telemetry: Telemetry) -> None:
        self._metrics = telemetry.metrics
        self._received_at = received_at
        self._span = telemetry.tracer.start_message("message", message.traceparent, received_at)
        if message.sent_at is not None:
            # Two clocks: the queue's and this machine's.
            self._metrics.observe(Metric.MESSAGE_AGE_SECONDS, max(0.0, received_at - message.sent_at))

    def activate(self) -> AbstractContextManager[object]:
        """While inside, what this thread does and logs belongs to the message."""
        return self._span.activate()

    def end_as(self, outcome: Outcome, kind: str | None = None) -> None:
        """`kind` is that of the RejectMessage for which it was rejected."""
        if outcome in COUNTED:
            self._metrics.add(COUNTED[outcome], kind=kind)
        self._metrics.observe(Metric.MESSAGE_SECONDS, max(0.0, time.time() - self._received_at))
        self._span.end(outcome)
