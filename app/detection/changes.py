"""A gallery has changed: note it, and have it grouped."""

import logging
from dataclasses import dataclass

from app.core.coalescing import send_claimed
from app.core.ports import GalleryChanges, MessageQueue
from app.telemetry.interface import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChangeParts:
    """Where changes are noted, the queue of grouping messages and their delay, and the model of this service."""

    galleries: GalleryChanges
    grouping_queue: MessageQueue
    grouping_delay_s: int
    model_id: str
    telemetry: Telemetry


def request_grouping(gallery_id: str, parts: ChangeParts, changes: int = 1) -> None:
    """Mark the gallery as changed by so many photos, and send its grouping message where one is owed (see
    app/core/coalescing.py).

    Where the gallery's people are of another model, that is logged once a window.
    """
    claim = parts.galleries.mark_dirty(gallery_id, parts.grouping_delay_s, changes)
    if claim:
        # The run continues the trace of the photo that opens the window. Photos that follow in it start no run.
        traceparent = parts.telemetry.tracer.traceparent()
        send_claimed(claim, parts.galleries, parts.grouping_queue, parts.grouping_delay_s, traceparent)
        _warn_of_other_model(gallery_id, parts)


def _warn_of_other_model(gallery_id: str, parts: ChangeParts) -> None:
    gallery = parts.galleries.find_gallery(gallery_id)
    people_model = gallery.last_run.get("model") if gallery and gallery.last_run else parts.model_id
    if people_model != parts.model_id:
        about = {"gallery": gallery_id, "model": parts.model_id, "people_model": people_model}
        log.warning("photos are stored under another model than their gallery's people", extra=about)
