"""JSON logs on standard output and, where LOG_GROUP is set, in CloudWatch Logs."""

import logging
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from pythonjsonlogger.json import JsonFormatter

from app.config import TelemetrySettings
from app.telemetry.cloudwatch import CloudWatchHandler

FIELDS = "%(levelname)s %(name)s %(message)s"
NOISY = ("botocore", "boto3", "urllib3", "pymongo", "s3transfer", "PIL", "watchtower")


class Logging(AbstractContextManager["Logging"]):
    """Log handlers for the life of a process. Lines that wait are sent at the end, within some seconds.

    Set `trace_id` where there are traces: its value is added to the lines of each thread that works on a traced
    message.
    """

    def __init__(self, service: str, settings: TelemetrySettings, logs_client: Callable[[], object]) -> None:
        self.trace_id: Callable[[], str | None] = lambda: None
        self._handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
        if settings.log_group:
            stream = f"{service}/{socket.gethostname()}/{{process_id}}"
            self._handlers.append(CloudWatchHandler(settings.log_group, stream, logs_client))
        self._level = settings.log_level
        self._service = service

    def __enter__(self) -> "Logging":
        formatter = JsonFormatter(
            FIELDS,
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            static_fields={"service": self._service},
        )
        for handler in self._handlers:
            handler.setFormatter(formatter)
            handler.addFilter(self._add_trace_id)
            logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(self._level)
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.WARNING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Standard output last: it gets the report of lines that did not reach CloudWatch.
        for handler in reversed(self._handlers):
            logging.getLogger().removeHandler(handler)
            handler.close()

    def _add_trace_id(self, record: logging.LogRecord) -> bool:
        if trace_id := self.trace_id():
            record.trace_id = trace_id
        return True
