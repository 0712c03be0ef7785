"""Looks at galleries while they are written: a number that falls was written by a worker whose lease had passed."""

import threading
from contextlib import suppress
from types import TracebackType

from pymongo.errors import PyMongoError

from benchmarks.chaos.world import World

EVERY_S = 0.2


class FenceWatch:
    """Polls while inside; `seen` has a sentence for each number that fell. The two looks of a pair are 0.2 s apart."""

    def __init__(self, world: World) -> None:
        self.seen: list[str] = []
        self._galleries = world.database["galleries"]
        self._last: dict[str, int] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fence-watch", daemon=True)

    def __enter__(self) -> "FenceWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            with suppress(PyMongoError):
                for gallery in self._galleries.find({}, ["published", "last_run"]):
                    self._look(f"version of {gallery['_id']}", gallery.get("published"))
                    self._look(
                        f"fence of the last run of {gallery['_id']}", (gallery.get("last_run") or {}).get("fence")
                    )

    def _look(self, name: str, number: int | None) -> None:
        if number is None:
            return
        before = self._last.get(name, number)
        if number < before:
            self.seen.append(f"The {name} fell from {before} to {number}.")
        self._last[name] = number
