"""Queues on SQS."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from app.adapters.aws import open_client, read_error_code, translate_aws_errors
from app.config import SQS_MAX_BATCH, SQS_MAX_VISIBILITY_S
from app.core.errors import BadConfiguration, LeaseLost, Letter, RetryLater
from app.core.ports import ReceivedMessage

log = logging.getLogger(__name__)

MAX_REASON_CHARS = 1000
TRACEPARENT = "traceparent"
"""The attribute that carries a trace: https://www.w3.org/TR/trace-context/#traceparent-header"""
LOST_CODES = frozenset(
    {
        "ReceiptHandleIsInvalid",
        "MessageNotInflight",
        "AWS.SimpleQueueService.MessageNotInflight",
        "InvalidParameterValue",
    }
)
"""What SQS answers to a receipt handle that is no longer valid. To a call without a receipt handle, as a send, the last
one means something else:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html"""
MISSING_CODES = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress"}
LEAST_RECEIVES = 2


@contextmanager
def translate_sqs_errors(action: str, lost_codes: frozenset[str] = frozenset()) -> Iterator[None]:
    """As `translate_aws_errors`, with LeaseLost for `lost_codes`."""
    with translate_aws_errors(action, "SQS"):
        try:
            yield
        except ClientError as error:
            if read_error_code(error) in lost_codes:
                raise LeaseLost(f"{action} failed: {read_error_code(error)}") from error
            raise


class SqsQueue:
    """One queue and, where it has a redrive policy, its dead-letter queue.

    `max_receives` is how often a message is received before SQS makes it a dead letter; None without such a policy.
    Opening it raises BadConfiguration for a queue that this system can't use.
    """

    max_receives: int | None = None

    def __init__(self, queue_url: str, region: str, visibility_s: int) -> None:
        self._url = queue_url
        self._visibility_s = visibility_s
        # The time-out of a receive is longer than the longest poll of 20 s. A receive is not retried: if its answer was
        # lost, its messages have leases that nobody holds, and a retry would lease further messages.
        self._receiver = open_client("sqs", region, read_timeout_s=30, attempts=1)
        self._beats = open_client("sqs", region, read_timeout_s=5, attempts=2)
        self._sqs = open_client("sqs", region, read_timeout_s=10)
        self._dead_letter_url: str | None = None
        policy = self._read_redrive_policy()
        if policy:
            self.max_receives, self._dead_letter_url = self._read_dead_letters(policy)
        else:
            log.warning("%s has no dead-letter queue: rejected messages are only logged", queue_url)

    def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]:
        with translate_sqs_errors("Receiving messages"):
            answer = self._receiver.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(max_messages, SQS_MAX_BATCH),
                WaitTimeSeconds=wait_s,
                VisibilityTimeout=self._visibility_s,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=[TRACEPARENT],
            )
        return [_read_message(message) for message in answer.get("Messages", [])]

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None:
        with translate_sqs_errors("Sending a message"):
            self._sqs.send_message(
                QueueUrl=self._url,
                MessageBody=body,
                DelaySeconds=delay_s,
                MessageAttributes=make_trace_attribute(traceparent),
            )

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        entries = [{"Id": str(row), "ReceiptHandle": message.receipt} for row, message in enumerate(messages)]
        with translate_sqs_errors("Deleting messages", LOST_CODES):
            answer = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        failed = []
        for entry in answer.get("Failed", []):
            message = messages[int(entry["Id"])]
            if entry["Code"] in LOST_CODES:
                log.warning("lease lost before deleting: %s", entry["Code"], extra={"message_id": message.message_id})
            else:
                log.warning("not deleted: %s", entry, extra={"message_id": message.message_id})
                failed.append(message)
        return failed

    def hide(self, message: ReceivedMessage, for_s: float) -> None:
        seconds = max(0, min(round(for_s), SQS_MAX_VISIBILITY_S))
        with translate_sqs_errors("Changing a message's visibility", LOST_CODES):
            self._beats.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=message.receipt, VisibilityTimeout=seconds
            )

    def reject(self, message: ReceivedMessage, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self._send_dead_letter(message, letter)
        if self.delete([message]):
            raise RetryLater("The rejected message could not be deleted; it comes again.")

    def _send_dead_letter(self, message: ReceivedMessage, letter: Letter) -> None:
        if self._dead_letter_url is None:
            log.error("rejected without a dead-letter queue to keep it", extra={"body": letter.body[:2000]})
            return
        with translate_sqs_errors("Sending a message to the dead-letter queue"):
            self._sqs.send_message(
                QueueUrl=self._dead_letter_url,
                MessageBody=letter.body,
                MessageAttributes={
                    "reason": _make_text_attribute(letter.reason[:MAX_REASON_CHARS]),
                    "receive_count": _make_text_attribute(str(message.receive_count)),
                    **make_trace_attribute(message.traceparent),
                },
            )

    def _read_redrive_policy(self) -> str | None:
        """The queue's redrive policy, as JSON."""
        with translate_sqs_errors(f"Reading the attributes of the queue {self._url}"):
            try:
                # By name, the attribute FifoQueue can't be asked for where a queue is none.
                answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])
            except ClientError as error:
                if read_error_code(error) in MISSING_CODES:
                    raise BadConfiguration(
                        f"There is no queue {self._url}: make it, or correct the setting that names it."
                    ) from error
                raise
        attributes = answer.get("Attributes", {})
        if self._url.endswith(".fifo") or attributes.get("FifoQueue") == "true":
            raise BadConfiguration(
                f"The queue {self._url} is a FIFO queue, which takes no delay for a single message. Make a standard "
                "queue and name that."
            )
        return attributes.get("RedrivePolicy") or None

    def _read_dead_letters(self, policy: str) -> tuple[int, str]:
        """How often a message is received, and the URL of the dead-letter queue."""
        try:
            fields = json.loads(policy)
            receives, arn = int(fields["maxReceiveCount"]), str(fields["deadLetterTargetArn"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadConfiguration(
                f"The queue {self._url} has a redrive policy that can't be read ({policy}): correct it."
            ) from error
        if receives < LEAST_RECEIVES:
            log.warning("%s has maxReceiveCount %d: no message is ever tried again; set it to 5", self._url, receives)
        name = arn.rsplit(":", 1)[-1]
        with translate_sqs_errors(f"Looking for the dead-letter queue {name}"):
            try:
                url = str(self._sqs.get_queue_url(QueueName=name)["QueueUrl"])
            except ClientError as error:
                if read_error_code(error) in MISSING_CODES:
                    raise BadConfiguration(
                        f"The redrive policy of the queue {self._url} names the dead-letter queue {name}, which does "
                        "not exist in this account and region: make it, or correct the policy."
                    ) from error
                raise
        if url.rstrip("/") == self._url.rstrip("/"):
            raise BadConfiguration(f"The queue {self._url} is its own dead-letter queue: name another one.")
        return receives, url


def _read_message(message: dict[str, Any]) -> ReceivedMessage:
    system, own = message.get("Attributes", {}), message.get("MessageAttributes", {})
    sent_ms = system.get("SentTimestamp")
    return ReceivedMessage(
        message_id=message["MessageId"],
        body=message["Body"],
        receipt=message["ReceiptHandle"],
        receive_count=int(system.get("ApproximateReceiveCount", 1)),
        sent_at=int(sent_ms) / 1000 if sent_ms else None,
        traceparent=own.get(TRACEPARENT, {}).get("StringValue"),
    )


def make_trace_attribute(traceparent: str | None) -> dict[str, dict[str, str]]:
    """The trace context of a message's sender as a message attribute; empty where there is none."""
    return {TRACEPARENT: _make_text_attribute(traceparent)} if traceparent else {}


def _make_text_attribute(value: str) -> dict[str, str]:
    # SQS refuses characters outside XML 1.0 in attributes.
    printable = "".join(char if char.isprintable() else " " for char in value)
    return {"DataType": "String", "StringValue": printable or "-"}


class SqsReplies:
    """Sends answers to queues of others."""

    def __init__(self, region: str) -> None:
        self._sqs = open_client("sqs", region, read_timeout_s=10)

    def send(self, queue_url: str, body: str) -> None:
        with translate_sqs_errors(f"Sending an answer to {queue_url}"):
            self._sqs.send_message(QueueUrl=queue_url, MessageBody=body)
