"""Looks at the people while they are written: a fence that falls was written by a worker whose lease had passed."""

import threading
from contextlib import suppress
from types import TracebackType

from pymongo.errors import PyMongoError

from benchmarks.chaos.world import World

EVERY_S = 0.2


class FenceWatch:
    """Polls while inside; `seen` has a sentence for each fence that fell. The two looks of a pair are 0.2 s apart."""

    def __init__(self, world: World) -> None:
        self.seen: list[str] = []
        self._people = world.database["people"]
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
                for person in self._people.find({}, ["run"]):
                    self._look(f"person {person['_id']}", person.get("run"))
                for gallery in self._galleries.find({}, ["fence", "last_run"]):
                    self._look(f"gallery {gallery['_id']}", gallery.get("fence"))
                    self._look(f"last run of {gallery['_id']}", (gallery.get("last_run") or {}).get("fence"))

    def _look(self, name: str, fence: int | None) -> None:
        if fence is None:
            return
        before = self._last.get(name, fence)
        if fence < before:
            self.seen.append(f"The fence of {name} fell from {before} to {fence}.")
        self._last[name] = fence
