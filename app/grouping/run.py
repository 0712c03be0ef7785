"""A grouping run in progress: it renews the gallery's lease for as long as it lasts, and reports how far it is."""

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

RENEWALS = 3  # for each lease
REPORT_EVERY_S = 3.0
LOST_DELAY_S = 10.0
FIRST_RUN_S = {"read": 4.0, "cluster": 3.0, "people": 2.0, "publish": 1.0}
"""How the time of a gallery's first run divides among its stages; for a later run, the seconds of the last run tell."""


class GroupingRun(BackgroundThread):
    """A context in which a thread renews the lease, because a stage may last longer than the lease.

    `progress` is called as the run advances, but not by that thread: a run that hangs must be noticed.
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
        # `close` waits for the thread: a late renewal would take the lease again after it was given back.
        super().__init__("gallery lease", partial(repeat, every_s=lease_s / RENEWALS, action=self._try_renewal))

    def close(self) -> None:
        """The run is over, or has failed."""
        self._span.close()
        super().close()

    def begin_stage(self, name: str) -> None:
        """End the stage before, if any, and begin this one. Raises StaleFence once another worker has the lease."""
        self._end_stage()
        self._stage, self._part = name, 0.0
        self._span.enter_context(self.tracer.stage(name))
        self.keep()

    def advance(self, part: float) -> None:
        """Note that this part of the stage, 0 to 1, is done. It may be called often. Raises StaleFence as above."""
        self._part = min(part, 1.0)
        if time.monotonic() - self._reported >= REPORT_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Report progress and renew the lease. Raises StaleFence as above."""
        if not self.is_alive:
            raise RuntimeError("The thread that keeps the gallery's lease has died.")
        self._progress()
        self._renew()

    def lift_fence(self, above: int) -> None:
        """Go on with a fence higher than `above`. Raises StaleFence once another worker has the lease."""
        with self._lock:
            self.lease = self._galleries.lift_fence(self.lease, above)

    def end_stages(self) -> dict[str, float]:
        """End the current stage. Returns stage → seconds for all stages."""
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
            # With another fence, another worker had the lease in between: what this run has read may be out of date.
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

    def _try_renewal(self) -> None:
        try:
            self._renew()
        except StaleFence:
            # This is also raised while the run itself is writing to the lease. If the lease is really lost, the run
            # raises StaleFence at its next stage; until then it writes nothing, because its fence is old.
            log.info("a gallery's lease was not renewed just now", extra={"gallery": self.lease.gallery_id})
        except RetryLater as error:
            log.warning("a gallery's lease was not renewed: %s", error, extra={"gallery": self.lease.gallery_id})


def _read_stages(last_run: Mapping[str, object]) -> dict[str, float]:
    stages = last_run.get("stages_s")
    known = {str(stage): float(seconds) for stage, seconds in stages.items()} if isinstance(stages, Mapping) else {}
    return known if sum(known.values()) > 0 else {}
