"""Polls galleries while they are written: a version or fence that falls was written by a former owner of the lease."""

from contextlib import suppress
from functools import partial

from pymongo.errors import PyMongoError

from app.core.threads import BackgroundThread, repeat
from benchmarks.chaos.world import World

EVERY_S = 0.2


class FenceWatch(BackgroundThread):
    """Polls every EVERY_S in a thread. `seen` has a sentence for each number that fell between two polls."""

    def __init__(self, world: World) -> None:
        self.seen: list[str] = []
        self._galleries = world.database["galleries"]
        self._last: dict[str, int] = {}
        super().__init__("fence watch", partial(repeat, every_s=EVERY_S, action=self._poll))

    def _poll(self) -> None:
        with suppress(PyMongoError):
            for gallery in self._galleries.find({}, ["published", "last_run"]):
                self._compare(f"version of {gallery['_id']}", gallery.get("published"))
                self._compare(
                    f"fence of the last run of {gallery['_id']}", (gallery.get("last_run") or {}).get("fence")
                )

    def _compare(self, name: str, number: int | None) -> None:
        if number is None:
            return
        before = self._last.get(name, number)
        if number < before:
            self.seen.append(f"The {name} fell from {before} to {number}.")
        self._last[name] = number
