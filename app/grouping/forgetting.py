"""Forgetting a photo, a person or a gallery: everywhere, for good, and whatever moment a worker is killed at.

A request is a tombstone first, in MongoDB and in S3. What it names is erased under the gallery's lease, and each step
may be taken again. A second look some time later finds what a slower worker has written in between.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np

from app.core.coalescing import send_claimed
from app.core.erasing import erase_below, erase_keys, erase_pictures, erase_unnamed, exclude_faces
from app.core.errors import RejectMessage, RetryLater
from app.core.events import ErasureReceipt, Event, tell_forgotten
from app.core.messages import Expire, Forget
from app.core.ports import GalleryLease, ObjectVersion, Progress
from app.core.records import FaceRecord, ImageRecord, PhotoRef
from app.core.roles import explain_left_out
from app.core.tombstones import Forgotten, Tombstone, make_order, name_copy
from app.grouping.editing import BUSY_DELAY_S
from app.grouping.group_gallery import check_model, group_gallery
from app.grouping.parts import ForgetParts, GroupingParts
from app.grouping.run import GroupingRun

log = logging.getLogger(__name__)

TRIES = 10
"""How often a photo is erased, where detection stores it meanwhile."""
LOOK_AGAIN_LEASES = 4
"""The second look comes after so many times a lease's length, which is twice the time that a message is hidden for."""
LONGEST_DELAY_S = 900
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-delay-queues.html"""
OVERDUE_S = 3600
"""A request that is not done after this time is sent again by the daily message."""


def handle_forget(order: Forget, parts: GroupingParts, progress: Progress) -> None:
    """Do what a request to forget asks for, as far as it is not done yet."""
    forgetting = require_parts(parts)
    parts.telemetry.tracer.note(gallery=order.gallery_id, scope=order.scope)
    bring_back(order.gallery_id, parts)
    tombstone = forgetting.tombstones.ask(order)
    if tombstone is None:
        log.info("nothing is left to forget", extra={"gallery": order.gallery_id, "request": order.request_id})
        return
    _copy(tombstone, parts)
    parts.kill_points.reach("after-tombstone")
    with parts.run_slot.hold() as may_run:
        lease = parts.galleries.take_lease(order.gallery_id, uuid4().hex, parts.lease_s) if may_run else None
        if lease:
            _hold(tombstone, lease, parts, progress)
    if lease is None:
        # The gallery is being grouped. Put back, the message would become a dead letter by its receive count.
        _send(order, parts, BUSY_DELAY_S)


def _hold(tombstone: Tombstone, lease: GalleryLease, parts: GroupingParts, progress: Progress) -> None:
    try:
        lease = carry_out(tombstone, lease, parts, progress)
    finally:
        parts.galleries.release(lease)


def handle_expire(_order: Expire, parts: GroupingParts) -> None:
    """Ask to forget the galleries whose retention is over, and again what should have been forgotten."""
    forgetting = require_parts(parts)
    for gallery_id, newest in forgetting.tombstones.find_expired(forgetting.retention_days):
        of_gallery = hashlib.blake2b(gallery_id.encode(), digest_size=8).hexdigest()
        request_id = f"retention-{of_gallery}-{newest:%Y%m%dT%H%M%S}"
        log.info("a gallery's retention is over", extra={"gallery": gallery_id, "newest": newest.isoformat()})
        order = Forget(request_id=request_id, scope="gallery", gallery_id=gallery_id, confirm=gallery_id)
        _send(order, parts, 0)
    for tombstone in forgetting.tombstones.find_overdue(OVERDUE_S):
        log.warning("a request to forget is overdue", extra={"request": tombstone.request_id})
        _send(make_order(tombstone), parts, 0)


def finish_pending(lease: GalleryLease, parts: GroupingParts, progress: Progress) -> tuple[GalleryLease, bool]:
    """Before a gallery is grouped: erase what is to be forgotten, and what came back with a restored database. Returns
    the lease as it is then, and whether there is anything to group."""
    if parts.forgetting is None or parts.forgetting.owner is None:
        return lease, True
    tombstones = parts.forgetting.tombstones
    bring_back(lease.gallery_id, parts)
    for pending in tombstones.list_pending(lease.gallery_id):
        lease = carry_out(pending, lease, parts, progress)
    buried = tombstones.read_gallery(lease.gallery_id)
    if buried is None:
        return lease, True
    has_old, has_new = tombstones.has_photos(lease.gallery_id, buried.covers)
    if has_old or not has_new:
        # A photo was stored just as its gallery was erased, or a late message has counted a change of it.
        _forget_gallery(buried, lease, parts, lambda: None)
    return lease, has_new


def require_parts(parts: GroupingParts) -> ForgetParts:
    if parts.forgetting is None or parts.forgetting.owner is None:
        raise RejectMessage(
            "This worker can't forget anything, since it can't remove `face_index` from the owner's documents: set "
            "HUEMN_MONGO_URI for the grouping service, then redrive this message.",
            "can't forget",
        )
    return parts.forgetting


def bring_back(gallery_id: str, parts: GroupingParts) -> None:
    """Restore the tombstones that MongoDB has lost, as after a backup was restored. They are to be erased again."""
    if parts.forgetting is None:
        return
    folder = parts.keys.tombstones(gallery_id)
    copies = [one for one in parts.objects.list_versions(folder) if one.is_current]
    if not copies:
        return
    known = {name_copy(*one) for one in parts.forgetting.tombstones.list_requests(gallery_id)}
    for copy in copies:
        if copy.key.removeprefix(folder) in known:
            continue
        data = parts.objects.read_version(copy)
        if data and parts.forgetting.tombstones.read_copy(data):
            log.warning("a tombstone was lost in MongoDB, and is followed again", extra={"gallery": gallery_id})


def carry_out(tombstone: Tombstone, lease: GalleryLease, parts: GroupingParts, progress: Progress) -> GalleryLease:
    """Erase what a tombstone names; for one that is erased already, look again. Returns the lease as it is then."""
    is_first = tombstone.erased_at is None
    run = GroupingRun(lease, parts.galleries, parts.lease_s, progress, parts.telemetry.tracer)
    with run:
        run.begin_stage("erase")
        if tombstone.scope == "gallery":
            tombstone = _count(tombstone, parts)
            _forget_gallery(tombstone, run.lease, parts, run.keep)
        else:
            forget = _forget_photo if tombstone.scope == "photo" else _forget_person
            tombstone, found = forget(tombstone, run, parts)
            if is_first or found:
                _publish_rest(tombstone, run, parts)
            _erase_answers(tombstone, parts)
    if tombstone.scope == "gallery":
        # The run has shown its progress in the gallery's document.
        _forget_gallery(tombstone, run.lease, parts, lambda: None)
    if is_first:
        parts.events.add([_make_receipt(tombstone)])
    tombstone = require_parts(parts).tombstones.finish(tombstone)
    _copy(tombstone, parts)
    parts.kill_points.reach("after-erasure")
    about = {"gallery": tombstone.gallery_id, "scope": tombstone.scope, "request": tombstone.request_id}
    if is_first:
        log.info("forgotten", extra={**about, "removed": dict(tombstone.removed)})
        _send(make_order(tombstone), parts, _choose_delay(parts))
    else:
        log.info("looked again at what is forgotten", extra=about)
    return run.lease


def _make_receipt(tombstone: Tombstone) -> Event:
    photo, people = tombstone.photo, tombstone.people
    receipt = ErasureReceipt(
        request_id=tombstone.request_id,
        scope=tombstone.scope,
        image_id=photo.image_id if photo else None,
        person_id=people[0] if tombstone.scope == "person" and people else None,
        removed=dict(tombstone.removed),
    )
    return tell_forgotten(tombstone.gallery_id, receipt)


def _forget_photo(tombstone: Tombstone, run: GroupingRun, parts: GroupingParts) -> tuple[Tombstone, bool]:
    tombstone = _count(tombstone, parts)
    if tombstone.photo is None:
        return tombstone, False
    return tombstone, _erase_photo(tombstone.photo, tombstone, run, parts)


def _erase_photo(photo: PhotoRef, tombstone: Tombstone, run: GroupingRun, parts: GroupingParts) -> bool:
    """Remove a photo, its pictures and its result at the owner's. Returns whether it was stored."""
    forgetting = require_parts(parts)
    for _ in range(TRIES):
        run.keep()
        image, edition = forgetting.photos.find_image(photo)
        if image and not tombstone.covers.covers(image.last_modified):
            # It was uploaded again since, and is a new photo. Only what is older goes.
            erase_unnamed(
                image, forgetting.tombstones.read_photo_faces(image.photo), edition, parts.objects, parts.keys
            )
            return False
        _clear_owner(image.photo if image else photo, forgetting)
        changes = forgetting.photos.remove_photo(photo, edition)
        if changes is None:
            continue
        parts.kill_points.reach("mid-erasure")
        erase_pictures(photo, edition, changes.pictures, parts.objects, parts.keys)
        _set_owner(list(changes.images), forgetting)
        for raw in changes.to_index:
            # A raw file beside the JPEG is the same photo once more.
            forgetting.tombstones.bury(raw, tombstone)
            _erase_photo(raw, tombstone, run, parts)
        forgetting.tombstones.note_erasure(tombstone.gallery_id)
        return image is not None
    raise RetryLater(f"The photo {photo.document_id} was stored {TRIES} times while it was to be erased.")


def _forget_person(tombstone: Tombstone, run: GroupingRun, parts: GroupingParts) -> tuple[Tombstone, bool]:
    """Remove a person's faces on all photos, then the person. What was found is noted by place first, since the faces
    lose their person, and the person its document, before all of it is done."""
    tombstones = require_parts(parts).tombstones
    tombstone = tombstones.exclude_faces(run.lease, tombstone)
    tombstone = _count(tombstone, parts)
    _copy(tombstone, parts)
    found = False
    places = tombstones.list_places(tombstone)
    for number, photo in enumerate(places, 1):
        found |= _erase_faces(photo, tombstone, run, parts)
        run.advance(number / len(places))
    parts.kill_points.reach("mid-erasure")
    tombstones.erase_people(run.lease, tombstone)
    return tombstone, found


def _erase_faces(photo: PhotoRef, tombstone: Tombstone, run: GroupingRun, parts: GroupingParts) -> bool:
    """Remove a photo's forgotten faces under all models, and their crops. Returns whether there were any."""
    forgetting = require_parts(parts)
    for _ in range(TRIES):
        image, edition = forgetting.photos.find_image(photo)
        if image is None:
            erase_pictures(photo, edition, (), parts.objects, parts.keys)
            return False
        faces = forgetting.tombstones.read_photo_faces(image.photo)
        gone = _find_forgotten(image, faces, forgetting.tombstones.find_all([photo])[0])
        if not gone:
            erase_unnamed(image, faces, edition, parts.objects, parts.keys)
            return False
        rest = [face for face in faces if face not in gone]
        # What a former version stored as an object of its own is not found by the photo's name.
        erase_keys({face.crop_key for face in gone if face.crop_key and face.crop_range is None}, parts.objects)
        after = _describe_rest(image, gone, rest, parts)
        moved = _write_crops(image, edition, rest, gone, parts)
        parts.kill_points.reach("after-put")
        ids = [face.face_id for face in gone]
        if not forgetting.tombstones.drop_faces(run.lease, image, edition, after, ids, moved):
            continue
        parts.kill_points.reach("mid-erasure")
        kept = forgetting.tombstones.read_photo_faces(image.photo)
        erase_unnamed(after, kept, edition + 1, parts.objects, parts.keys)
        if image.preview_key and not after.preview_key:
            erase_keys([image.preview_key], parts.objects)
        _set_owner([after], forgetting)
        return True
    raise RetryLater(f"The photo {photo.document_id} was stored {TRIES} times while faces of it were to be erased.")


def _find_forgotten(image: ImageRecord, faces: list[FaceRecord], forgotten: Forgotten) -> list[FaceRecord]:
    if not faces:
        return []
    boxes = np.stack([face.box for face in faces])
    found = forgotten.find_faces(boxes, (image.width_px, image.height_px), image.content, image.etag)
    return [face for face, is_gone in zip(faces, found, strict=True) if is_gone]


def _describe_rest(
    image: ImageRecord, gone: list[FaceRecord], rest: list[FaceRecord], parts: GroupingParts
) -> ImageRecord:
    left = [face for face in rest if face.model_id == image.model_id]
    of_this = sum(face.model_id == image.model_id for face in gone)
    after = exclude_faces(image, len(left), of_this)
    return replace(after, left_out=explain_left_out((face.quality for face in left), parts.quality))


def _write_crops(
    image: ImageRecord, edition: int, rest: list[FaceRecord], gone: list[FaceRecord], parts: GroupingParts
) -> Mapping[str, tuple[str, tuple[int, int]]]:
    """Write the other faces' crops anew where they shared an object with a forgotten one. Returns where each is now."""
    shared = {face.crop_key for face in gone if face.crop_range}
    moved: dict[str, tuple[str, tuple[int, int]]] = {}
    for model_id in sorted({face.model_id for face in rest if face.crop_key in shared}):
        # A detection worker that has just looked at the photo may write under the model's own key.
        key = parts.keys.crops(image.photo, edition, image.content or "", f"{model_id}-rest")
        kept = [face for face in rest if face.model_id == model_id and face.crop_key in shared and face.crop_range]
        crops = [parts.objects.read_part(face.crop_key or "", *(face.crop_range or (0, 0))) for face in kept]
        if None in crops:
            crops = _find_written(image, model_id, kept, parts)
        data = b""
        for face, crop in zip(kept, crops, strict=True):
            moved[face.face_id] = key, (len(data), len(crop or b""))
            data += crop or b""
        parts.objects.put(key, data, "application/octet-stream")
    return moved


def _find_written(
    image: ImageRecord, model_id: str, faces: list[FaceRecord], parts: GroupingParts
) -> list[bytes | None]:
    """Crops where this has written them before MongoDB was restored: one after the other, in the same order."""
    lengths = [face.crop_range[1] if face.crop_range else 0 for face in faces]
    prefix, _ = parts.keys.pictures_of(image.photo)
    for version in parts.objects.list_versions(prefix):
        is_rest = version.is_current and version.key.endswith(f"-{model_id}-rest.crops")
        if is_rest and version.size_bytes == sum(lengths) and (data := parts.objects.read_version(version)):
            ends = [sum(lengths[: row + 1]) for row in range(len(lengths))]
            return [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return [None] * len(faces)


def _publish_rest(tombstone: Tombstone, run: GroupingRun, parts: GroupingParts) -> None:
    """Publish the gallery without what is forgotten, and erase what was published before."""
    is_published = True
    # A run compares people who are new with those who have lost their faces, by the vectors that were published.
    erase_keys([parts.keys.vectors(tombstone.gallery_id)], parts.objects)
    if run.lease.grouped:
        try:
            check_model(run.lease, parts)
            group_gallery(run, parts, full=False)
        except RejectMessage as other_model:
            # Better no output than one that shows who is forgotten.
            log.warning("the rest of the gallery is not published: %s", other_model)
            is_published = False
    pictures = parts.keys.picture_folders(tombstone.gallery_id)

    def is_over(version: ObjectVersion) -> bool:
        names_person = any(f"/{one}" in version.key for one in tombstone.people)
        kept = is_published or version.key.startswith(pictures)
        return not version.is_current or names_person or not kept

    run.keep()
    erase_below(parts.keys.folder(tombstone.gallery_id), parts.objects, is_over)


def _erase_answers(tombstone: Tombstone, parts: GroupingParts) -> None:
    """Erase answers to guests that name the person or the photo. One may have been written by the former vectors."""
    named = tombstone.people or ((tombstone.photo.image_id,) if tombstone.photo else ())
    words = {json.dumps(one, ensure_ascii=is_ascii).encode() for one in named for is_ascii in (True, False)}
    prefix = parts.keys.finds(tombstone.gallery_id)
    answers = [(one, parts.objects.read_version(one) or b"") for one in parts.objects.list_versions(prefix)]
    parts.objects.erase([one for one, data in answers if any(word in data for word in words)])


def _forget_gallery(tombstone: Tombstone, lease: GalleryLease, parts: GroupingParts, keep: Callable[[], None]) -> None:
    """Remove a gallery everywhere, but for photos that were uploaded since."""
    forgetting, gallery_id = require_parts(parts), tombstone.gallery_id
    folder = parts.keys.folder(gallery_id)
    # Former versions wrote pictures elsewhere. Only the documents tell where, so these go first.
    if tombstone.erased_at is None:
        named = forgetting.tombstones.list_old_pictures(gallery_id)
        erase_keys([key for key in named if not key.startswith(folder)], parts.objects)
    keep()
    newer = forgetting.tombstones.erase_gallery(lease, tombstone)
    parts.kill_points.reach("mid-erasure")
    keep()
    if tombstone.erased_at is None or not newer:
        _clear_owners(gallery_id, newer, forgetting)
    pictures = parts.keys.picture_folders(gallery_id)
    kept = {key for image in newer for key in _list_pictures(image, forgetting)}

    def is_over(version: ObjectVersion) -> bool:
        if parts.keys.is_tombstone(version.key):
            return False
        if version.key.startswith(pictures):
            # A worker may have put the pictures of a new photo that it has not stored yet.
            return version.key not in kept and (not newer or version.at <= tombstone.at)
        return not newer or tombstone.erased_at is None or not version.is_current

    erase_below(folder, parts.objects, is_over)
    _erase_former_copies(gallery_id, parts)
    if parts.index:
        parts.index.remove_outdated(lambda some: [(one, datetime.now(UTC)) for one in some if one == gallery_id])
    if not newer or tombstone.erased_at:
        return
    # They are grouped by themselves, and nobody has sent for them since the gallery's document went.
    if claim := parts.galleries.mark_dirty(gallery_id, parts.grouping_delay_s):
        send_claimed(claim, parts.galleries, parts.queue, parts.grouping_delay_s)


def _list_pictures(image: ImageRecord, forgetting: ForgetParts) -> set[str]:
    faces = forgetting.tombstones.read_photo_faces(image.photo)
    return {key for key in (image.preview_key, *(face.crop_key for face in faces)) if key}


def _erase_former_copies(gallery_id: str, parts: GroupingParts) -> None:
    """Copies of tombstones that the gallery's own has taken the place of."""
    folder = parts.keys.tombstones(gallery_id)
    known = {name_copy(*one) for one in require_parts(parts).tombstones.list_requests(gallery_id)}
    erase_below(folder, parts.objects, lambda version: version.key.removeprefix(folder) not in known)


def _count(tombstone: Tombstone, parts: GroupingParts) -> Tombstone:
    return require_parts(parts).tombstones.count(tombstone)


def _copy(tombstone: Tombstone, parts: GroupingParts) -> None:
    key = parts.keys.tombstones(tombstone.gallery_id) + name_copy(tombstone.key, tombstone.request_id)
    parts.objects.put(key, require_parts(parts).tombstones.make_copy(tombstone), "application/json")


def _clear_owner(photo: PhotoRef, forgetting: ForgetParts) -> None:
    if forgetting.owner:
        forgetting.owner.clear_face_index(photo)


def _set_owner(images: list[ImageRecord], forgetting: ForgetParts) -> None:
    if forgetting.owner:
        forgetting.owner.set_face_indexes(images)


def _clear_owners(gallery_id: str, newer: list[ImageRecord], forgetting: ForgetParts) -> None:
    if forgetting.owner:
        forgetting.owner.clear_gallery(gallery_id)
        forgetting.owner.set_face_indexes(newer)


def _send(order: Forget, parts: GroupingParts, delay_s: int) -> None:
    parts.queue.send(order.model_dump_json(exclude_none=True), delay_s, parts.telemetry.tracer.traceparent())


def _choose_delay(parts: GroupingParts) -> int:
    return min(LONGEST_DELAY_S, max(1, round(LOOK_AGAIN_LEASES * parts.lease_s)))
