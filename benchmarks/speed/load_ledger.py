"""CPU time of a worker by stage, measured inside it (`benchmarks load --profile`).

The functions of each stage are wrapped: what a thread computes between their begin and end is theirs, without what
functions of other stages compute meanwhile. Time with and without Python's lock counts, waiting does not. What no stage
has is the worker's own Python and its background threads.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_forgotten import MongoForgottenPhotos
from app.adapters.mongo_galleries import MongoGalleryStore, MongoOwnerMetadata
from app.adapters.s3 import S3Store
from app.adapters.sqs import SqsQueue
from app.core.ports import OpenObject
from app.core.threads import BackgroundThread, repeat
from app.detection import device, handle
from app.detection.decoders import DecodeHere, Decoders
from app.detection.prefilter import Prefilter
from app.vision.face_pack import FacePack
from app.worker.message_report import MessageReport

CLASSES: dict[str, list[type]] = {
    "S3": [S3Store],
    "SQS": [SqsQueue],
    "MongoDB": [MongoFaceStore, MongoForgottenPhotos, MongoGalleryStore, MongoOwnerMetadata],
    "decode": [DecodeHere, Decoders],
    "telemetry": [MessageReport],
}
FUNCTIONS: dict[str, list[tuple[Any, str]]] = {
    "align": [(FacePack, "cut_chips"), (FacePack, "cut_quality_chips")],
    "quality": [(device, "measure_quality"), (device, "split_into_rows"), (Prefilter, "judge_image")],
    "encode": [(handle, "encode_crops"), (handle, "encode_preview")],
    "telemetry": [(handle, "report_metrics"), (logging.Handler, "handle")],
}


class Ledger:
    """Whose CPU time is spent, thread by thread."""

    def __init__(self) -> None:
        self._spent = Counter[str]()
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    def wrap_all(self) -> None:
        """Wrap the stages' functions for the life of the process."""
        for stage, classes in CLASSES.items():
            for one in classes:
                for name, function in vars(one).copy().items():
                    if callable(function) and not name.startswith("_"):
                        setattr(one, name, self.wrap(stage, function))
        for stage, functions in FUNCTIONS.items():
            for owner, name in functions:
                setattr(owner, name, self.wrap(stage, getattr(owner, name)))

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - any function
            with self._charge(stage):
                result = function(*arguments, **named)
            # What a context does, it does when it is entered.
            return self._wrap_context(stage, result) if isinstance(result, AbstractContextManager) else result

        return measured

    @contextmanager
    def _wrap_context(self, stage: str, context: AbstractContextManager[Any]) -> Iterator[Any]:
        with self._charge(stage):
            entered = context.__enter__()
        try:
            yield replace(entered, read=self.wrap(stage, entered.read)) if isinstance(entered, OpenObject) else entered
        except BaseException as error:
            with self._charge(stage):
                swallowed = context.__exit__(type(error), error, error.__traceback__)
            if not swallowed:
                raise
        else:
            with self._charge(stage):
                context.__exit__(None, None, None)

    @contextmanager
    def _charge(self, stage: str) -> Iterator[None]:
        stages: list[str] = self._of_thread.__dict__.setdefault("stages", [])
        self._settle(stages)
        stages.append(stage)
        try:
            yield
        finally:
            self._settle(stages)
            stages.pop()

    def _settle(self, stages: list[str]) -> None:
        """Book what this thread has computed since the last time for the stage that it was in."""
        now = time.thread_time()
        if stages:
            with self._lock:
                self._spent[stages[-1]] += now - self._of_thread.since
        self._of_thread.since = now

    def write(self, file: Path, every_s: float = 0.5) -> None:
        """Write the seconds of all stages into a file now and again, for as long as the process lives."""

        def write_once() -> None:
            with self._lock:
                text = json.dumps(dict(self._spent))
            part = file.with_suffix(".part")
            part.write_text(text, "utf-8")
            part.replace(file)

        BackgroundThread("ledger", partial(repeat, every_s=every_s, action=write_once)).start()
