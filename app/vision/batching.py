"""Runs a network on as many images at once as the memory of its device allows."""

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from app.core.arrays import Floats, Image
from app.core.errors import DeviceOutOfMemory

log = logging.getLogger(__name__)

GROW_AFTER = 64
"""Successful runs after which a limit that was halved is doubled again."""

Outputs = list[Floats]


class RunLimit:
    """How many input pixels a run may have: halved when the device runs out of memory, doubled again after a while.

    A run of a single image is always allowed.
    """

    def __init__(self, most_px: int) -> None:
        self.now_px = most_px
        self._most_px = most_px
        self._successes = 0
        self._lock = threading.Lock()

    def note_success(self) -> None:
        with self._lock:
            self._successes += 1
            if self._successes >= GROW_AFTER and self.now_px < self._most_px:
                self.now_px, self._successes = min(self._most_px, 2 * self.now_px), 0

    def halve(self, pixels: int) -> None:
        """Lower the limit after a run of so many pixels was out of memory."""
        with self._lock:
            self.now_px, self._successes = min(self.now_px, pixels // 2), 0


def run_within(limit: RunLimit, images: Image, run: Callable[[Image], Outputs]) -> Outputs:
    """(N,h,w,3), N > 0 → outputs with N rows each, by as few runs as the limit allows.

    Raises DeviceOutOfMemory where the memory is not enough for one image.
    """
    pixels = images.shape[1] * images.shape[2]
    parts: list[Sequence[Floats]] = []
    at = 0
    while at < len(images):
        some = images[at : at + _choose_rows(len(images) - at, limit.now_px // pixels)]
        try:
            parts.append(run(some))
        except DeviceOutOfMemory:
            if len(some) == 1:
                raise
            log.warning("out of memory with %d images at once: trying half", len(some))
            limit.halve(len(some) * pixels)
            continue
        limit.note_success()
        at += len(some)
    return [outputs[0] if len(outputs) == 1 else np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _choose_rows(left: int, most: int) -> int:
    """The largest power of two that fits: for each new shape a GPU searches for algorithms, and keeps memory."""
    return 1 << (max(1, min(left, most)).bit_length() - 1)
