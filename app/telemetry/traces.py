"""Traces in the services' words. What comes of them is app/telemetry/otel.py's, the only importer of OpenTelemetry."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class MessageSpan(Protocol):
    """The work on one message, from its receive until it is settled."""

    def current(self) -> AbstractContextManager[object]:
        """While inside, the stages, notes and log lines of this thread belong to this message."""

    def end(self, outcome: str) -> None:
        """The message is settled so. Any thread may say it."""


class Tracer(Protocol):
    """Follows messages from one service to the next. No method blocks on the outside world, and none raises."""

    def message(self, name: str, traceparent: str | None, received_at: float) -> MessageSpan:
        """Begin the span of a message that was received at this Unix time, as part of its sender's trace if any."""

    def stage(self, name: str) -> AbstractContextManager[object]:
        """A part of what this thread is doing."""

    def note(self, **facts: str | int) -> None:
        """Facts about the message that this thread works on."""

    def traceparent(self) -> str | None:
        """What a message sent now should carry, by W3C Trace Context, so that its receiver goes on with this trace."""

    def trace_id(self) -> str | None:
        """The trace that this thread works in, where it is one that is exported."""


class NoSpan:
    def current(self) -> AbstractContextManager[object]:
        return NOTHING

    def end(self, outcome: str) -> None: ...


class NoTracer:
    """Follows nothing."""

    def message(self, name: str, traceparent: str | None, received_at: float) -> MessageSpan:
        return NO_SPAN

    def stage(self, name: str) -> AbstractContextManager[object]:
        return NOTHING

    def note(self, **facts: str | int) -> None: ...

    def traceparent(self) -> str | None:
        return None

    def trace_id(self) -> str | None:
        return None


NOTHING = nullcontext()
NO_SPAN = NoSpan()
NO_TRACER = NoTracer()
