"""The tree of errors. Every class determines what the worker does with the message.

    WorkerError
    ├── RetryLater        back to the queue after a delay; the same message is tried again
    │   ├── StoreUnavailable  and, after several in a row, no new message until the store answers again
    │   ├── StaleFence        another worker has the gallery's lease now; this one must not write
    │   └── DeviceOutOfMemory tried again at once in smaller batches; back to the queue if one face is still too much
    ├── LeaseLost         another worker has the message now: neither extend its lease nor settle it
    ├── RejectMessage     to the dead-letter queue with a reason, then deleted; never tried again
    ├── LowQuality        stored as the photo's status `low_quality` with the reason; the message is done
    ├── BadPhoto          stored as the photo's status `rejected` with the reason; the message is done
    ├── PhotoGone         the photo and its faces are removed; the message is done
    └── FatalWorkerError  the process exits with `exit_code`; the message returns to the queue by itself
        ├── BadConfiguration
        ├── BadModelPack
        └── DeviceLost    replace the machine or restart the task

Adapters translate the exceptions of boto3, pymongo and ONNX Runtime into these; only the consumer catches
`Exception`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class WorkerError(Exception):
    """The base of all errors that this system raises itself."""


class RetryLater(WorkerError):
    """A temporary failure (network, throttling, a store that does not answer): try the same message again."""

    def __init__(self, reason: str, delay_s: float | None = None) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class StoreUnavailable(RetryLater):
    """MongoDB, S3 or SQS does not answer. `store` names it."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(reason)
        self.store = store


class StaleFence(RetryLater):
    """A write with an old fencing token was refused: another worker has taken the gallery's lease since.

    `stored_fence` is that of the object which was not replaced, None where something else was refused.
    """

    def __init__(self, reason: str, delay_s: float | None = None, stored_fence: int | None = None) -> None:
        super().__init__(reason, delay_s)
        self.stored_fence = stored_fence


class DeviceOutOfMemory(RetryLater):
    """The GPU's memory (or this process's) was not enough for one call of a network."""


class LeaseLost(WorkerError):
    """A receipt handle is no longer valid: the visibility timeout is over, and another worker gets the message."""


@dataclass(frozen=True)
class Letter:
    """A dead letter: a message's body, or a part of it that is a message of its own, and why it was rejected."""

    body: str
    reason: str


class RejectMessage(WorkerError):
    """A message that can never succeed: dead-letter it with this reason. It is counted by `kind`; kinds are few.

    Where only parts of it can't, `letters` are those parts, and the rest of it is done.
    """

    def __init__(self, reason: str, kind: str = "invalid", letters: Sequence[Letter] = ()) -> None:
        super().__init__(reason)
        self.kind = kind
        self.letters = letters


class BadPhoto(WorkerError):
    """The photo itself can't be used: store `rejected` with this reason. It is counted by `kind`."""

    def __init__(self, reason: str, kind: str = "damaged") -> None:
        super().__init__(reason)
        self.kind = kind


class PhotoGone(WorkerError):
    """There is no object of the photo's key (any more)."""


class LowQuality(WorkerError):
    """No face in the photo could be recognised, so detection is skipped: store `low_quality` with this reason."""

    def __init__(self, reason: str, score: float) -> None:
        super().__init__(reason)
        self.score = score


class FatalWorkerError(WorkerError):
    """This process can't go on. Its `exit_code` tells the supervisor why."""

    exit_code = 1


class BadConfiguration(FatalWorkerError):
    """A setting is missing or wrong; restarting won't help."""

    exit_code = 2


class BadModelPack(FatalWorkerError):
    """The model pack is missing, damaged or not licensed for this use; restarting won't help."""

    exit_code = 3


class DeviceLost(FatalWorkerError):
    """The GPU failed, and only a new process or a new machine can help."""

    exit_code = 20
