# ruff: noqa: ANN401 - arguments are passed through to moto as they come
"""moto's server with an SQS that loses no messages: `python -m benchmarks.chaos.strict_moto --help`.

moto changes a queue's list of messages from several threads without a lock: a delete and a send at the same time can
lose a message, and two receives can return the same one. Here every SQS call holds one lock. All events of each message
are written to a journal, with the worker that made the call (botocore sends AWS_SDK_UA_APP_ID as `app/…`).

`--strict`: a receipt handle that is not its message's newest, or whose visibility timeout has ended, is refused. AWS
may do so (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessage.html); moto does not.
"""

import argparse
import json
import re
import time
from pathlib import Path
from threading import Lock, RLock
from typing import IO, Any, ClassVar

from flask import has_request_context, request
from moto.s3.models import FakeKey, S3Backend, s3_backends
from moto.server import main as run_moto
from moto.sqs.exceptions import ReceiptHandleIsInvalid, SQSException
from moto.sqs.models import Message, SQSBackend, sqs_backends

RECEIVE_POLL_S = 0.05
FENCE_HEADER = "x-amz-meta-fence"
WORKER = re.compile(r"\bapp/(\S+)")


class MessageNotInflight(ReceiptHandleIsInvalid):
    """A subclass of the error that moto's batch calls report for one entry; other errors end the whole batch."""

    def __init__(self) -> None:
        SQSException.__init__(self, "AWS.SimpleQueueService.MessageNotInflight", "The message is not in flight.")


class Journal:
    """One line of JSON for each event, in the order in which they took effect."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = Lock()

    def write(self, event: str, **fields: object) -> None:
        agent = request.headers.get("User-Agent", "") if has_request_context() else ""
        worker = WORKER.search(agent)
        line = {"at": time.time(), "event": event, "worker": worker.group(1) if worker else None, **fields}
        with self._lock:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()


class JournalledSqs(SQSBackend):
    """moto's queues under one lock, with a journal and, where strict, a check of every receipt handle."""

    # moto imports a service's URLs from the package of its backend's module.
    __module__ = SQSBackend.__module__
    journal: ClassVar[Journal]
    strict: ClassVar[bool]
    lock: ClassVar[RLock] = RLock()

    def receive_message(
        self, queue_name: str, count: int, wait_seconds_timeout: int, *rest: Any, **named: Any
    ) -> list[Message]:
        until = time.monotonic() + int(wait_seconds_timeout or 0)
        while True:
            with self.lock:
                messages = self._receive_now(queue_name, count, rest, named)
            if messages or time.monotonic() >= until:
                return messages
            # The lock is not held during the sleep: one poll would block all senders.
            time.sleep(RECEIVE_POLL_S)

    def _receive_now(self, queue_name: str, count: int, rest: Any, named: Any) -> list[Message]:
        dead_letters = self.get_queue(queue_name).dead_letter_queue
        before = len(dead_letters._messages) if dead_letters else 0
        messages = super().receive_message(queue_name, count, 0, *rest, **named)
        for message in messages:
            count_now = message.approximate_receive_count
            self.journal.write("receive", queue=queue_name, message=message.id, count=count_now)
        for message in dead_letters._messages[before:] if dead_letters else []:
            self.journal.write("redrive", queue=queue_name, message=message.id, count=message.approximate_receive_count)
        return messages

    def send_message(self, queue_name: str, *rest: Any, **named: Any) -> Message:
        with self.lock:
            message = super().send_message(queue_name, *rest, **named)
            self.journal.write("send", queue=queue_name, message=message.id, body=message.body)
            return message

    def delete_message(self, queue_name: str, receipt_handle: str) -> None:
        with self.lock:
            message = self._check_receipt(queue_name, receipt_handle, "delete")
            super().delete_message(queue_name, receipt_handle)
            if message:
                self.journal.write("delete", queue=queue_name, message=message.id)

    def change_message_visibility(self, queue_name: str, receipt_handle: str, visibility_timeout: int) -> None:
        with self.lock:
            message = self._check_receipt(queue_name, receipt_handle, "hide")
            super().change_message_visibility(queue_name, receipt_handle, visibility_timeout)
            if message:
                self.journal.write("hide", queue=queue_name, message=message.id, seconds=int(visibility_timeout))

    def _check_receipt(self, queue_name: str, receipt: str, action: str) -> Message | None:
        queue = self.get_queue(queue_name)
        message = next((one for one in queue._messages if one.had_receipt_handle(receipt)), None)
        if message is None or not self.strict:
            return message
        stale = message.receipt_handle != receipt
        if stale or message.visible:
            self.journal.write("refuse", queue=queue_name, message=message.id, action=action, stale=stale)
            raise ReceiptHandleIsInvalid if stale else MessageNotInflight
        return message


class JournalledS3(S3Backend):
    """moto's buckets with a journal of the objects that carry a fence."""

    __module__ = S3Backend.__module__
    journal: ClassVar[Journal]

    def put_object(self, bucket_name: str, key_name: str, *rest: Any, **named: Any) -> FakeKey:
        stored = super().put_object(bucket_name, key_name, *rest, **named)
        fence = request.headers.get(FENCE_HEADER) if has_request_context() else None
        if fence is not None:
            self.journal.write("put", key=key_name, fence=int(fence))
        return stored


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.strict_moto", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    with options.journal.open("a", encoding="utf-8") as stream:
        journal = Journal(stream)
        JournalledSqs.journal, JournalledSqs.strict, JournalledS3.journal = journal, options.strict, journal
        sqs_backends.backend, s3_backends.backend = JournalledSqs, JournalledS3
        run_moto(["-H", "127.0.0.1", "-p", str(options.port)])


if __name__ == "__main__":
    main()
