"""A gallery has changed: note it, and have it grouped."""

import logging
from dataclasses import dataclass

from app.core.errors import RetryLater
from app.core.messages import GroupGallery
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


def request_grouping(gallery_id: str, parts: ChangeParts) -> None:
    """Mark the gallery as changed, and send its grouping message where this change opens the window of the delay.

    Where the gallery's people are of another model, that is logged once a window.
    """
    message = GroupGallery(gallery_id=gallery_id)
    try:
        if parts.galleries.mark_dirty(gallery_id, parts.grouping_delay_s):
            # The run continues the trace of the photo that opens the window. Photos that follow in it start no run.
            traceparent = parts.telemetry.tracer.traceparent()
            parts.grouping_queue.send(message.model_dump_json(), parts.grouping_delay_s, traceparent)
            _warn_of_other_model(gallery_id, parts)
    except RetryLater as error:
        # This photo may have opened the window. Tried again sooner, it would find the window open and send nothing.
        raise RetryLater(str(error), delay_s=parts.grouping_delay_s + 1) from error


def _warn_of_other_model(gallery_id: str, parts: ChangeParts) -> None:
    gallery = parts.galleries.find_gallery(gallery_id)
    people_model = gallery.last_run.get("model") if gallery and gallery.last_run else parts.model_id
    if people_model != parts.model_id:
        about = {"gallery": gallery_id, "model": parts.model_id, "people_model": people_model}
        log.warning("photos are stored under another model than their gallery's people", extra=about)
