"""Sends log lines to CloudWatch Logs by watchtower.

Alone, watchtower would keep any number of lines while CloudWatch can't be reached, and delay the start and the end of
the process. So a thread of this module gives it one batch at a time. The lines that wait here are bounded, further
lines are dropped and counted, and a thread that logs never waits for the network.
"""

import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

import watchtower

from app.core.threads import BackgroundThread

log = logging.getLogger(__name__)

SEND_EVERY_S = 2
FLUSH_TIMEOUT_S = 1_000_000
"""Time-out of watchtower's `flush`. It is endless in effect, so that no second batch waits behind a stuck one."""
PAUSE_S = 10.0
"""Pause between two attempts to find or create the log group."""
REPORT_EVERY_S = 60.0
CLOSE_WITHIN_S = 3.0
MOST_WAITING_CHARS = 16_000_000
BATCH_LINES = 1_000
OWN_LOGGERS = ("botocore", "boto3", "urllib3", "watchtower")
"""Loggers of the libraries that send. Their lines are not sent: each would cause the next one, for ever."""

Open = Callable[[], object]


class CloudWatchHandler(logging.Handler):
    """Sends lines to CloudWatch Logs. `emit` never waits, and `close` at most CLOSE_WITHIN_S.

    Nothing is logged while `_changed` is held: a thread that logs holds the handler's lock and then takes `_changed`,
    so the opposite order would deadlock.
    """

    def __init__(self, group: str, stream: str, logs_client: Open, most_chars: int = MOST_WAITING_CHARS) -> None:
        super().__init__()
        self._group, self._stream, self._logs_client, self._most_chars = group, stream, logs_client, most_chars
        self._lines: deque[logging.LogRecord] = deque()
        self._chars = 0
        self._changed = threading.Condition()
        self._closing = False
        self._logged = self._reported = 0
        self._reported_at = -inf
        self._failing = False
        self._client: _CountingClient | None = None
        self._watchtower: watchtower.CloudWatchLogHandler | None = None
        self.addFilter(lambda record: not record.name.startswith(OWN_LOGGERS))
        # watchtower warns of every failure; here lost lines are counted, and reported in one line.
        warnings.simplefilter("ignore", watchtower.WatchtowerWarning)
        self._thread = BackgroundThread("cloudwatch logs", self._send_all, wake=self._end, join_s=CLOSE_WITHIN_S)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that neither reached CloudWatch nor wait. Those that are being sent count as lost."""
        with self._changed:
            delivered = self._client.delivered if self._client else 0
            return self._logged - len(self._lines) - delivered

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a line that can't be formatted must not end the thread that logs it
            self.handleError(record)
            return
        line = logging.LogRecord(record.name, record.levelno, "", 0, text, None, None)
        line.created = record.created
        with self._changed:
            self._logged += 1
            if self._closing or self._chars + len(text) > self._most_chars:
                return
            self._lines.append(line)
            self._chars += len(text)
            if len(self._lines) in (1, BATCH_LINES):
                self._changed.notify()

    def close(self) -> None:
        """Send what waits, for a limited time; then it counts as lost."""
        if not self._closing:
            self._thread.close()
            self._abandon()
            self._report_lost(every_s=0)
        super().close()

    def _end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _abandon(self) -> None:
        with self._changed:
            self._lines.clear()
        if self._watchtower is not None:
            # Then watchtower takes no more lines and does not wait, also when `logging` closes all handlers at the end.
            self._watchtower.shutting_down = True

    def _send_all(self, _closing: threading.Event) -> None:
        while not self._try_to_open() and not self._closing:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, PAUSE_S)
        if self._watchtower is None:
            return
        while batch := self._gather():
            for line in batch:
                self._watchtower.emit(line)
            self._watchtower.flush()
            self._report_lost(REPORT_EVERY_S)
        self._watchtower.close()

    def _try_to_open(self) -> bool:
        try:
            self._watchtower = self._open()
        except Exception as error:  # noqa: BLE001 - whatever CloudWatch does, work goes on
            if not self._failing:
                log.warning("CloudWatch Logs can't be used; work goes on without: %s", error)
            self._failing = True
        return self._watchtower is not None

    def _gather(self) -> list[logging.LogRecord]:
        """The next batch: the lines of SEND_EVERY_S, at most BATCH_LINES. Empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            self._changed.wait_for(lambda: len(self._lines) >= BATCH_LINES or self._closing, SEND_EVERY_S)
            batch = [self._lines.popleft() for _ in range(min(BATCH_LINES, len(self._lines)))]
            self._chars -= sum(len(line.msg) for line in batch)
            return batch

    def _open(self) -> watchtower.CloudWatchLogHandler:
        client = _CountingClient(self._logs_client())
        handler = watchtower.CloudWatchLogHandler(
            log_group_name=self._group,
            log_stream_name=self._stream,
            boto3_client=client,
            send_interval=SEND_EVERY_S,
            create_log_group=True,
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.FLUSH_TIMEOUT = FLUSH_TIMEOUT_S
        self._client = client
        return handler

    def _report_lost(self, every_s: float) -> None:
        """Log how many lines are lost, if more than before. Not after each batch, since this is a log line too."""
        lost, now = self.lost, time.monotonic()
        if lost > self._reported and now - self._reported_at >= every_s:
            self._reported, self._reported_at = lost, now
            log.warning("log lines that did not reach CloudWatch so far: %d", lost, extra={"lost_lines": lost})


class _CountingClient:
    """boto3's client for CloudWatch Logs. It counts the lines that CloudWatch took, and needs no right to create
    groups."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - boto3 clients are made at run time
        self._client = client
        self.delivered = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._client, name)

    def put_log_events(self, **named: Any) -> Any:  # noqa: ANN401
        answer = self._client.put_log_events(**named)
        self.delivered += len(named["logEvents"])
        return answer

    def create_log_group(self, **named: Any) -> None:  # noqa: ANN401
        try:
            self._client.create_log_group(**named)
        except self._client.exceptions.ClientError as error:
            # watchtower creates a group even where it exists, if it may not list groups. Without a group, lines are
            # lost.
            if error.response["Error"]["Code"] != "AccessDeniedException":
                raise
