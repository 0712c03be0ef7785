"""Owners' edits: written down at once, applied while no run has the gallery, and by a run at its beginning and end.

An edit is applied by whoever has the gallery's lease, in one transaction with its state in the journal: once, however
often its message comes. A message that finds the gallery under work leaves its edit in the journal. Whoever gives the
lease back looks into the journal after that, so that an edit waits for one run at most; if that worker dies, the
gallery's next message brings the edits.
"""

import logging
from collections.abc import Callable
from functools import partial
from uuid import uuid4

from app.core.coalescing import send_claimed
from app.core.errors import StaleFence
from app.core.events import tell_edit_applied, tell_edit_refused
from app.core.journal import Edit, EditState, make_edit
from app.core.messages import EditPeople, Mode, SetGallery
from app.core.people_edits import decide_edit
from app.core.ports import GalleryChange, GalleryLease
from app.grouping.parts import GroupingParts

log = logging.getLogger(__name__)

BUSY_DELAY_S = 5
"""The shortest delay of the message that is sent while its gallery is being grouped. It is less than any visibility
timeout, and longer than a worker takes between its last look into the journal and giving the lease back."""
EDIT_DELAY_S = 2
"""The delay of the run that follows an edit: edits come in groups, and their owner waits for the page."""
SETTINGS = {
    "display_name": "display_name",
    "retention_days": "retention_days",
    "quality": "quality",
    "similarity_threshold": "threshold",
}
"""Field of the message → the gallery's field."""


def handle_edit(order: EditPeople, parts: GroupingParts, progress: Callable[[], None]) -> None:
    """Write the edit down, and apply it unless a run has the gallery. Raises RejectMessage for another edit of a known
    id."""
    gallery_id = order.gallery_id
    parts.telemetry.tracer.note(gallery=gallery_id, edit=order.edit_id)
    known = parts.galleries.find_gallery(gallery_id) is not None
    edit = parts.journal.add(make_edit(order, None if known else f"There is no gallery {gallery_id}."))
    parts.kill_points.reach("after-journal")
    if edit.state is EditState.REFUSED:
        _report(edit, parts)
        return
    if apply_waiting(gallery_id, parts, progress):
        # Also where the edit was applied before: whoever did that may have died before it ordered the run.
        order_edited(gallery_id, parts)
    else:
        order_run(gallery_id, parts, max(parts.grouping_delay_s, BUSY_DELAY_S))


def handle_setting(order: SetGallery, parts: GroupingParts) -> None:
    """Set what the message has of a gallery, which may have no photo yet."""
    values = {own: getattr(order, name) for name, own in SETTINGS.items() if name in order.model_fields_set}
    change = GalleryChange(values)
    parts.telemetry.tracer.note(gallery=order.gallery_id)
    is_new = parts.galleries.set_gallery(order.gallery_id, order.request_id, change)
    about = {"gallery": order.gallery_id, "request_id": order.request_id, "fields": sorted(values)}
    log.info("gallery set" if is_new else "gallery was set by this request before", extra=about)
    if change.regroups:
        order_run(order.gallery_id, parts, parts.grouping_delay_s)


def apply_waiting(gallery_id: str, parts: GroupingParts, progress: Callable[[], None] = lambda: None) -> bool:
    """Apply the gallery's queued edits, and order the run that follows them. Returns False where another worker has the
    gallery, which then applies them."""
    while parts.journal.list_unsettled(gallery_id):
        lease = parts.galleries.take_lease(gallery_id, uuid4().hex, parts.lease_s)
        if lease is None:
            return False
        try:
            apply_edits(lease, parts, progress)
        finally:
            parts.galleries.release(lease)
        order_edited(gallery_id, parts)
    return True


def apply_edits(
    lease: GalleryLease, parts: GroupingParts, progress: Callable[[], None] = lambda: None
) -> tuple[GalleryLease, bool]:
    """Apply the queued edits of the gallery whose lease this is. Returns the lease with the gallery's revision now, and
    whether anything has changed. Raises StaleFence once another worker has the lease."""
    changed = False
    for edit in parts.journal.list_unsettled(lease.gallery_id):
        progress()
        lease = _renew(lease, parts)
        ended = parts.editor.apply_edit(lease, edit, partial(decide_edit, edit))
        parts.kill_points.reach("after-edit")
        changed |= ended.state is EditState.APPLIED
        _report(ended, parts)
    return (_renew(lease, parts) if changed else lease), changed


def order_edited(gallery_id: str, parts: GroupingParts) -> None:
    """Order the run that follows an edit."""
    order_run(gallery_id, parts, min(parts.grouping_delay_s, EDIT_DELAY_S))


def order_run(gallery_id: str, parts: GroupingParts, delay_s: int, mode: Mode = "auto") -> bool:
    """Send the gallery's grouping message, unless one that comes later is under way. Returns whether it was sent."""
    claim = parts.galleries.claim_message(gallery_id, delay_s)
    if claim is None:
        return False
    traceparent = parts.telemetry.tracer.traceparent()
    send_claimed(claim, parts.galleries, parts.queue, delay_s, traceparent, mode)
    return True


def _renew(lease: GalleryLease, parts: GroupingParts) -> GalleryLease:
    renewed = parts.galleries.take_lease(lease.gallery_id, lease.owner, parts.lease_s)
    if renewed is None or renewed.fence != lease.fence:
        raise StaleFence(f"The lease of the gallery {lease.gallery_id} was lost to another worker.")
    return renewed


def _report(edit: Edit, parts: GroupingParts) -> None:
    """Tell what became of the edit. An edit of which nobody was told is told again."""
    about = {"gallery": edit.gallery_id, "edit": edit.edit_id, "reason": edit.reason, "notes": len(edit.notes)}
    log.info("edit %s", edit.state.value, extra=about)
    if edit.state is EditState.REFUSED:
        parts.events.add([tell_edit_refused(edit.gallery_id, edit.edit_id, edit.reason or "")])
    else:
        parts.events.add([tell_edit_applied(edit.gallery_id, edit.edit_id, edit.notes)])
    parts.journal.settle(edit)
