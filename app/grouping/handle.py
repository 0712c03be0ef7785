"""The grouping service's work on one message."""

import logging
from collections.abc import Callable
from typing import assert_never
from uuid import uuid4

from app.core.messages import EditPeople, Expire, Forget, GroupGallery, SetGallery, parse_grouping
from app.core.ports import GalleryLease
from app.grouping.editing import (
    BUSY_DELAY_S,
    apply_edits,
    apply_waiting,
    handle_edit,
    handle_setting,
    order_edited,
    order_run,
)
from app.grouping.forgetting import finish_pending, handle_expire, handle_forget
from app.grouping.group_gallery import check_model, group_gallery
from app.grouping.parts import GroupingParts
from app.grouping.run import GroupingRun

log = logging.getLogger(__name__)


def handle(body: str, parts: GroupingParts, progress: Callable[[], None] = lambda: None) -> None:
    """Do all that one message of the grouping queue asks for. Calls `progress` between stages."""
    order = parse_grouping(body)
    match order:
        case GroupGallery():
            _handle_grouping(order, parts, progress)
        case EditPeople():
            handle_edit(order, parts, progress)
        case SetGallery():
            handle_setting(order, parts)
        case Forget():
            handle_forget(order, parts, progress)
        case Expire():
            handle_expire(order, parts)
        case _:
            assert_never(order)


def _handle_grouping(request: GroupGallery, parts: GroupingParts, progress: Callable[[], None]) -> None:
    parts.telemetry.tracer.note(gallery=request.gallery_id, mode=request.mode)
    with parts.run_slot.hold() as may_run:
        lease = parts.galleries.take_lease(request.gallery_id, uuid4().hex, parts.lease_s) if may_run else None
        if lease is None:
            _claim_later_message(request, parts)
            return
        _group_under_lease(lease, request, parts, progress)
    # An edit that came too late for the run found the lease taken.
    apply_waiting(request.gallery_id, parts, progress)


def _group_under_lease(
    lease: GalleryLease, request: GroupGallery, parts: GroupingParts, progress: Callable[[], None]
) -> None:
    """Apply what owners have said, group the gallery where it has changed, and apply what they have said meanwhile."""
    try:
        lease, has_photos = finish_pending(lease, parts, progress)
        if not has_photos:
            return
        lease, _ = apply_edits(lease, parts, progress)
        if request.mode == "full" or lease.grouped != (lease.revision, parts.model_id):
            check_model(lease, parts)
            run = GroupingRun(lease, parts.galleries, parts.lease_s, progress, parts.telemetry.tracer)
            try:
                with run:
                    group_gallery(run, parts, full=request.mode == "full")
            finally:
                lease = run.lease
            lease, edited = apply_edits(lease, parts, progress)
            if edited:
                order_edited(request.gallery_id, parts)
    finally:
        parts.galleries.release(lease)


def _claim_later_message(request: GroupGallery, parts: GroupingParts) -> None:
    """Another worker groups the gallery: replace all messages that come meanwhile by a single new one with a delay.

    A message that is put back into the queue would be received every few seconds while the run lasts, and become a dead
    letter only because of its receive count. Dropping it and leaving the changes to the other worker would lose them
    where that worker has died.
    """
    delay_s = max(parts.grouping_delay_s, BUSY_DELAY_S)
    log.info("gallery is being grouped", extra={"gallery": request.gallery_id, "mode": request.mode})
    if not order_run(request.gallery_id, parts, delay_s, request.mode) and request.mode == "full":
        parts.queue.send(request.model_dump_json(), delay_s, parts.telemetry.tracer.traceparent())
