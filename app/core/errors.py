"""The error tree. Every class says what the worker does about it.

    WorkerError
    ├── RetryLater        back to the queue after a delay; the same message is tried again
    │   ├── StoreUnavailable  and, after several in a row, no new message until the store answers again
    │   ├── StaleFence        another worker holds the gallery by now; this one must not write
    │   └── DeviceOutOfMemory smaller batches first, in place; back to the queue if one face is still too much
    ├── LeaseLost         the message is another worker's by now: neither extend nor settle it
    ├── RejectMessage     to the dead-letter queue with a reason, then deleted; never tried again
    ├── LowQuality        stored as the photo's status `low_quality` with the reason; the message is done
    ├── BadPhoto          stored as the photo's status `rejected` with the reason; the message is done
    └── FatalWorkerError  the process exits with `exit_code`; the message returns to the queue by itself
        ├── BadConfiguration
        ├── BadModelPack
        └── DeviceLost    replace the machine or restart the task

Adapters translate the exceptions of boto3, pymongo and ONNX Runtime into these; only the consumer catches
`Exception`.
"""


class WorkerError(Exception):
    """The base of all errors this system raises on purpose."""


class RetryLater(WorkerError):
    """A passing trouble (network, throttling, a store that is away): try the same message again."""

    def __init__(self, reason: str, delay_s: float | None = None) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class StoreUnavailable(RetryLater):
    """MongoDB, S3 or SQS does not answer. `store` names it."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(reason)
        self.store = store


class StaleFence(RetryLater):
    """A write that carries an old fence token was refused: the gallery's lease has passed to another worker."""


class DeviceOutOfMemory(RetryLater):
    """The GPU's memory (or this process's) was not enough for one call of a network."""


class LeaseLost(WorkerError):
    """A receipt handle is no longer valid: the message's visibility ended and it was, or will be, given to another."""


class RejectMessage(WorkerError):
    """A message that can never succeed: dead-letter it with this reason. It is counted by `kind`, one of few words."""

    def __init__(self, reason: str, kind: str = "invalid") -> None:
        super().__init__(reason)
        self.kind = kind


class BadPhoto(WorkerError):
    """The photo itself can't be used: store `rejected` with this reason and go on. It is counted by `kind`."""

    def __init__(self, reason: str, kind: str = "damaged") -> None:
        super().__init__(reason)
        self.kind = kind


class LowQuality(WorkerError):
    """No face can be recognised in the photo, so the networks need not look: store `low_quality` and go on."""

    def __init__(self, reason: str, score: float) -> None:
        super().__init__(reason)
        self.score = score


class FatalWorkerError(WorkerError):
    """This process can't go on. `exit_code` tells the supervisor why."""

    exit_code = 1


class BadConfiguration(FatalWorkerError):
    """A setting is missing or wrong; restarting won't help."""

    exit_code = 2


class BadModelPack(FatalWorkerError):
    """The model pack is missing, damaged or not licensed for this use; restarting won't help."""

    exit_code = 3


class DeviceLost(FatalWorkerError):
    """The GPU failed in a way that only a new process, or a new machine, can mend."""

    exit_code = 20
