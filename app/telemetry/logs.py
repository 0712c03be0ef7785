"""JSON logs on standard output and, where LOG_GROUP is set, in CloudWatch Logs."""

import logging
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

import watchtower
from pythonjsonlogger.json import JsonFormatter

from app.config import Settings

FIELDS = "%(levelname)s %(name)s %(message)s"
NOISY = ("botocore", "boto3", "urllib3", "pymongo", "s3transfer", "PIL", "watchtower")


class Logging(AbstractContextManager["Logging"]):
    """Log handlers for the life of a process; flushed at the end."""

    def __init__(self, settings: Settings, logs_client: Callable[[], object]) -> None:
        self._handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
        if settings.log_group:
            stream = f"{settings.service_type}/{socket.gethostname()}/{{process_id}}"
            self._handlers.append(
                watchtower.CloudWatchLogHandler(
                    log_group_name=settings.log_group,
                    log_stream_name=stream,
                    boto3_client=logs_client(),
                    send_interval=5,
                    create_log_group=True,
                )
            )
        self._level = settings.log_level
        self._service = settings.service_type

    def __enter__(self) -> "Logging":
        formatter = JsonFormatter(
            FIELDS,
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            static_fields={"service": self._service},
        )
        for handler in self._handlers:
            handler.setFormatter(formatter)
            logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(self._level)
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.WARNING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
