"""A run under way: it keeps its gallery for as long as it lasts, and says how far it is."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

from app.core.errors import RetryLater, StaleFence
from app.core.ports import GalleryLease, GalleryStore, RunProgress
from app.core.threads import BackgroundThread, repeat
from app.telemetry.interface import NO_TRACER, Tracer

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 3
REPORT_EVERY_S = 3.0
LOST_DELAY_S = 10.0
FIRST_RUN_S = {"read": 4.0, "cluster": 3.0, "people": 2.0, "publish": 1.0}
"""How a gallery's first run divides among its stages; for a later one the run before tells."""


class GroupingRun(BackgroundThread):
    """The lease is renewed from a thread while inside, as a stage may last longer than it.

    `progress` is called as the run gets on. Not for a beat: a run that hangs must be found out.
    """

    def __init__(
        self,
        lease: GalleryLease,
        galleries: GalleryStore,
        lease_s: float,
        progress: Callable[[], None] = lambda: None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.lease = lease
        self.tracer = tracer
        self._span = ExitStack()
        self.stages_s: dict[str, float] = {}
        self._galleries = galleries
        self._lease_s = lease_s
        self._progress = progress
        self._usual_s = _read_stages(lease.last_run) or FIRST_RUN_S
        self._stage, self._part = "", 0.0
        self._begun = self._stage_begun = self._reported = time.monotonic()
        self._lock = threading.Lock()
        # Its end is waited for: a late renewal would take the lease again after it was given back.
        super().__init__("gallery lease", partial(repeat, every_s=lease_s / BEATS_PER_LEASE, action=self._beat))

    def close(self) -> None:
        """The run is over, or has failed."""
        self._span.close()
        super().close()

    def stage(self, name: str) -> None:
        """The stage before, if any, is done. Raises StaleFence once the gallery is another worker's."""
        self._end_stage()
        self._stage, self._part = name, 0.0
        self._span.enter_context(self.tracer.stage(name))
        self.keep()

    def advance(self, part: float) -> None:
        """This part of the stage, 0 to 1, is done. May be called often; raises StaleFence as `stage` does."""
        self._part = min(part, 1.0)
        if time.monotonic() - self._reported >= REPORT_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """The run has got on. Raises StaleFence as `stage` does."""
        if not self.is_alive:
            raise RuntimeError("The thread that keeps the gallery's lease has died.")
        self._progress()
        self._renew()

    def seconds(self) -> dict[str, float]:
        """Stage → seconds, the one under way included."""
        self._end_stage()
        return {stage: round(seconds, 3) for stage, seconds in self.stages_s.items()}

    def _end_stage(self) -> None:
        now = time.monotonic()
        if self._stage:
            self.stages_s[self._stage] = self.stages_s.get(self._stage, 0.0) + now - self._stage_begun
        self._span.close()
        self._stage_begun = now

    def _renew(self) -> None:
        with self._lock:
            gallery_id = self.lease.gallery_id
            renewed = self._galleries.take_lease(gallery_id, self.lease.owner, self._lease_s)
            # Another fence: the lease came back after somebody else had it, and what this run has read is out of date.
            if renewed is None or renewed.fence != self.lease.fence:
                raise StaleFence(f"The lease of the gallery {gallery_id} was lost to another worker.", LOST_DELAY_S)
            self._galleries.report_progress(self.lease, self._get_progress())
            self._reported = time.monotonic()

    def _get_progress(self) -> RunProgress:
        total_s = sum(self._usual_s.values())
        done_s = sum(self._usual_s.get(stage, 0.0) for stage in self.stages_s if stage != self._stage)
        share = min((done_s + self._part * self._usual_s.get(self._stage, 0.0)) / total_s, 1.0)
        elapsed_s = time.monotonic() - self._begun
        eta_s = round(elapsed_s * (1 - share) / share, 1) if share else None
        return RunProgress(self._stage, round(share, 3), eta_s, datetime.now(UTC))

    def _beat(self) -> None:
        try:
            self._renew()
        except StaleFence:
            # So it also looks while the run is in the middle of a write. If it is true the run finds out at its next
            # stage, and until then writes nothing, as its fence is old.
            log.info("a gallery's lease was not renewed just now", extra={"gallery": self.lease.gallery_id})
        except RetryLater as error:
            log.warning("a gallery's lease was not renewed: %s", error, extra={"gallery": self.lease.gallery_id})


def _read_stages(last_run: Mapping[str, object]) -> dict[str, float]:
    stages = last_run.get("stages_s")
    known = {str(stage): float(seconds) for stage, seconds in stages.items()} if isinstance(stages, Mapping) else {}
    return known if sum(known.values()) > 0 else {}
