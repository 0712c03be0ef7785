"""The dead letters of a queue on SQS: reads them, and moves them back to the queue."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.adapters.aws import open_client, translate_aws_errors
from app.adapters.sqs import TRACEPARENT, make_trace_attribute
from app.config import SQS_MAX_BATCH
from app.core.errors import BadConfiguration, RetryLater

LOOK_VISIBILITY_S = 30
MOVE_VISIBILITY_S = 60
MAX_MOVES_PER_S = 500
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html"""
FULL_POLL_S = 1
"""Long polling asks all of SQS's servers; short polling may miss the messages of a small queue."""


@dataclass(frozen=True)
class DeadLetter:
    """`reason` is None for a message that SQS moved itself, after too many receives."""

    message_id: str
    body: str
    sent_at: datetime
    receive_count: int
    reason: str | None = None


@dataclass(frozen=True)
class Move:
    """Progress of the last move of dead letters. `status` is SQS's word; `total` is None until SQS has counted them."""

    status: str
    moved: int
    total: int | None = None
    problem: str | None = None


class DeadLetters:
    """The dead-letter queue behind one queue. Every method raises RetryLater while SQS can't be reached or refuses."""

    def __init__(self, queue_url: str, region: str) -> None:
        """Raises BadConfiguration where the queue has no dead-letter queue."""
        self._queue_url = queue_url
        self._sqs = open_client("sqs", region, read_timeout_s=10)
        with translate_aws_errors(f"Reading the attributes of the queue {queue_url}"):
            answer = self._sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn", "RedrivePolicy"])
            attributes = answer.get("Attributes", {})
            if not attributes.get("RedrivePolicy"):
                raise BadConfiguration(f"The queue {queue_url} has no dead-letter queue: give it a redrive policy.")
            self._queue_arn = str(attributes["QueueArn"])
            self._arn = str(json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"])
            self._url = str(self._sqs.get_queue_url(QueueName=self._arn.rsplit(":", 1)[-1])["QueueUrl"])

    def look(self, most: int) -> list[DeadLetter]:
        """Up to `most` letters. They are hidden from other consumers only until this returns."""
        seen: dict[str, DeadLetter] = {}
        receipts: dict[str, str] = {}
        try:
            while len(seen) < most:
                before = len(seen)
                for message in self._receive(most - before, LOOK_VISIBILITY_S):
                    letter = _read_letter(message)
                    seen[letter.message_id] = letter
                    receipts[letter.message_id] = message["ReceiptHandle"]
                if len(seen) == before:
                    break
        finally:
            self._give_back(list(receipts.values()))
        return list(seen.values())

    def start_move(self, per_second: int) -> None:
        """Have SQS move all letters back to the queue, at this rate. The move goes on after this process has ended."""
        with translate_aws_errors("Starting the move of dead letters"):
            self._sqs.start_message_move_task(
                SourceArn=self._arn,
                # Named, since SQS knows no source queue of messages that a worker sent there itself.
                DestinationArn=self._queue_arn,
                MaxNumberOfMessagesPerSecond=per_second,
            )

    def get_last_move(self) -> Move | None:
        """Progress of the last move; None where there was none."""
        with translate_aws_errors("Reading the state of the move"):
            answer = self._sqs.list_message_move_tasks(SourceArn=self._arn, MaxResults=1)
        if not answer.get("Results"):
            return None
        task = answer["Results"][0]
        return Move(
            status=task.get("Status", "UNKNOWN"),
            moved=task.get("ApproximateNumberOfMessagesMoved", 0),
            total=task.get("ApproximateNumberOfMessagesToMove"),
            problem=task.get("FailureReason"),
        )

    def move_one_by_one(self, per_second: float) -> Iterator[DeadLetter]:
        """Receive, send and delete the letters here, where SQS can't move them. Yields each letter that is moved.

        Only as many as there are now: a message that is rejected again at once would be moved for ever. A process that
        is killed between sending and deleting leaves the message in both queues; handlers are idempotent.
        """
        remaining = self._count()
        while remaining > 0 and (messages := self._receive(remaining, MOVE_VISIBILITY_S)):
            for message in messages:
                with translate_aws_errors("Moving a dead letter"):
                    trace = make_trace_attribute(_read_text(message, TRACEPARENT))
                    self._sqs.send_message(
                        QueueUrl=self._queue_url, MessageBody=message["Body"], MessageAttributes=trace
                    )
                    self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
                yield _read_letter(message)
                time.sleep(1 / per_second)
            remaining -= len(messages)

    def _count(self) -> int:
        name = "ApproximateNumberOfMessages"
        with translate_aws_errors("Counting the dead letters"):
            answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name])
        return int(answer["Attributes"][name])

    def _receive(self, most: int, visibility_s: int) -> list[dict[str, Any]]:
        with translate_aws_errors("Receiving dead letters"):
            answer = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(most, SQS_MAX_BATCH),
                WaitTimeSeconds=FULL_POLL_S,
                VisibilityTimeout=visibility_s,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            )
        return list(answer.get("Messages", []))

    def _give_back(self, receipts: list[str]) -> None:
        for begin in range(0, len(receipts), SQS_MAX_BATCH):
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for index, receipt in enumerate(receipts[begin : begin + SQS_MAX_BATCH])
            ]
            # Letters that are not given back become visible after LOOK_VISIBILITY_S.
            with suppress(RetryLater), translate_aws_errors("Giving back dead letters"):
                self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


def _read_text(message: dict[str, Any], attribute: str) -> str | None:
    text: str | None = message.get("MessageAttributes", {}).get(attribute, {}).get("StringValue")
    return text


def _read_letter(message: dict[str, Any]) -> DeadLetter:
    system = message.get("Attributes", {})
    return DeadLetter(
        message_id=message["MessageId"],
        body=message["Body"],
        sent_at=datetime.fromtimestamp(int(system.get("SentTimestamp", 0)) / 1000, UTC),
        # The worker's count is that of the queue itself; SQS's count here grows with every `look` at the letter.
        receive_count=int(_read_text(message, "receive_count") or system.get("ApproximateReceiveCount", 1)),
        reason=_read_text(message, "reason"),
    )
