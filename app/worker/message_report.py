"""The metrics and the trace of one message: its age, its outcome, its duration."""

import time
from contextlib import AbstractContextManager
from typing import Literal

from app.core.ports import ReceivedMessage
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry

Outcome = Literal["done", "put back", "rejected", "lost", "not settled"]

OUTCOME_METRICS = {
    "done": Metric.MESSAGES_DONE,
    "put back": Metric.MESSAGES_PUT_BACK,
    "rejected": Metric.MESSAGES_REJECTED,
}


class MessageReport:
    """Reports one message, from its receive at the Unix time `received_at` until it is settled."""

    def __init__(self, message: ReceivedMessage, received_at: float, telemetry: Telemetry) -> None:
        self._metrics = telemetry.metrics
        self._received_at = received_at
        self._span = telemetry.tracer.start_message("message", message.traceparent, received_at)
        if message.sent_at is not None:
            # The age is the difference of two clocks, the queue's and this machine's, and may be below zero.
            self._metrics.observe(Metric.MESSAGE_AGE_SECONDS, max(0.0, received_at - message.sent_at))

    def activate(self) -> AbstractContextManager[object]:
        """While inside, the spans and log lines of this thread belong to the message."""
        return self._span.activate()

    def end_as(self, outcome: Outcome, kind: str | None = None) -> None:
        """Report the outcome. `kind` is that of the RejectMessage for which the message was rejected."""
        if outcome in OUTCOME_METRICS:
            self._metrics.add(OUTCOME_METRICS[outcome], kind=kind)
        self._metrics.observe(Metric.MESSAGE_SECONDS, max(0.0, time.time() - self._received_at))
        self._span.end(outcome)
