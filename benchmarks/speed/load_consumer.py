"""The cost of the consumer's loop alone: the queue is in memory, and the handler does nothing."""

import time
from collections import deque
from collections.abc import Sequence

from app.core.errors import Letter
from app.core.ports import Progress, ReceivedMessage
from app.health import Health
from app.worker.consumer import Consumer, ConsumerContext, ConsumerOptions
from app.worker.shutdown import Shutdown

SQS_BATCH = 10


class MemoryQueue:
    """A queue of so many messages that returns at most ten of them at once, as SQS does, and each once."""

    max_receives: int | None = None

    def __init__(self, messages: int) -> None:
        self._waiting = deque(ReceivedMessage(str(number), "", str(number), 1) for number in range(messages))
        self.deleted: list[str] = []

    def receive(self, max_messages: int, wait_s: int) -> list[ReceivedMessage]:
        return [self._waiting.popleft() for _ in range(min(max_messages, SQS_BATCH, len(self._waiting)))]

    def send(self, body: str, delay_s: int = 0, traceparent: str | None = None) -> None: ...

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        self.deleted += [message.message_id for message in messages]
        return []

    def hide(self, message: ReceivedMessage, for_s: float) -> None: ...

    def reject(self, message: ReceivedMessage, letters: Sequence[Letter]) -> None: ...


def measure_consumer_alone(messages: int, threads: int, batch_size: int) -> float:
    """Messages that the loop of one process settles in a CPU second, with a handler that only reports progress."""
    queue = MemoryQueue(messages)
    options = ConsumerOptions(
        threads=threads,
        batch_size=batch_size,
        visibility_s=120,
        wait_s=0,
        deadline_s=20,
        stuck_after_s=300,
        empty_polls=1,
    )
    began_s = time.process_time()
    Consumer(queue, _report_progress, options, Shutdown(), ConsumerContext(Health(None))).run()
    cpu_s = time.process_time() - began_s
    if sorted(queue.deleted, key=int) != [str(number) for number in range(messages)]:
        raise AssertionError("The consumer did not settle every message once.")
    return messages / cpu_s


def _report_progress(body: str, *, progress: Progress, is_last: bool) -> None:
    progress()
