"""The story of a gallery: from a message to people."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import uuid4

from app.errors import RetryLater, StaleFence
from app.grouping.clustering import cluster
from app.grouping.output import Groups
from app.grouping.page import render_page
from app.grouping.people import Matched, match_people
from app.grouping.publish import crop_urls, describe, digest, page_photos
from app.grouping.summary import changed, everybody, summarise
from app.messages import parse_grouping
from app.packs.manifest import QualityBars
from app.ports import FaceStore, GalleryLease, GalleryStore, ObjectStore, PeopleStore
from app.records import FaceBatch, FaceMove, PersonRecord, groups_key, join_batches, page_key
from app.vision.quality.roles import Role, roles_of
from app.worker.chaos import KillPoints

log = logging.getLogger(__name__)

BUSY_DELAY_S = 10.0
RENEW_EVERY = 1_000


@dataclass(frozen=True)
class GroupingParts:
    """What the grouping service works with. Without `uses_quality` every face founds, whatever its quality."""

    objects: ObjectStore
    faces: FaceStore
    galleries: GalleryStore
    people: PeopleStore
    model_id: str
    similarity_threshold: float
    quality: QualityBars
    uses_quality: bool
    lease_s: float
    kill_points: KillPoints = field(default_factory=KillPoints)


def handle(body: str, parts: GroupingParts, progress: Callable[[], None] = lambda: None) -> None:
    """Do what one message of the grouping queue asks for; done when it returns. Calls `progress` between stages."""
    request = parse_grouping(body)
    lease = parts.galleries.take_lease(request.gallery_id, uuid4().hex, parts.lease_s)
    if lease is None:
        raise RetryLater(f"The gallery {request.gallery_id} is being grouped by another worker.", BUSY_DELAY_S)

    def keep() -> None:
        progress()
        _renew(lease, parts)

    try:
        if request.mode == "full":
            group_gallery(replace(lease, output=None), parts, keep)
        elif lease.grouped != (lease.revision, parts.model_id):
            group_gallery(lease, parts, keep)
    finally:
        parts.galleries.release(lease)


def group_gallery(lease: GalleryLease, parts: GroupingParts, keep: Callable[[], None]) -> None:
    """Read all faces of the gallery, find its people, store them, and publish groups.json and the page.

    `keep` renews the lease between stages. The two files are left alone where they would be the lease's `output` again.
    Raises StaleFence once the gallery is another worker's.
    """
    started = time.monotonic()
    gallery_id = lease.gallery_id
    known = parts.people.read_people(lease)
    faces = join_batches(list(parts.faces.read_faces(gallery_id, parts.model_id)))
    keep()
    bars = lease.quality or parts.quality
    roles = roles_of(faces.quality, bars) if parts.uses_quality else None
    labels = cluster(faces.embeddings, faces.image_ids, parts.similarity_threshold, roles)
    keep()
    matched = match_people(labels, faces, known, None if roles is None else roles == Role.FOUNDS)
    people = everybody(summarise(faces, matched.person_ids), known, matched.merged)
    _replace_people(lease, parts, changed(people, known), _moves(faces, matched), keep)

    images = list(parts.faces.read_images(gallery_id))
    groups = describe(_header(gallery_id, parts.model_id), faces, matched, people, images, bars)
    page = render_page(groups, page_photos(images), crop_urls(gallery_id, faces))
    output = digest(groups, page)
    if output != lease.output:
        keep()
        parts.objects.replace(
            groups_key(gallery_id), groups.model_dump_json().encode(), "application/json", lease.fence
        )
        parts.kill_points.reach("after-groups")
        keep()
        parts.objects.replace(page_key(gallery_id), page.encode(), "text/html; charset=utf-8", lease.fence)

    seconds = round(time.monotonic() - started, 3)
    unassigned = matched.person_ids.count(None)
    counts = {"faces": len(faces), "unassigned": unassigned, "people": len(groups.people), "photos": len(images)}
    summary = {**counts, "seconds": seconds}
    parts.galleries.record_run(lease, parts.model_id, {**summary, "output": output})
    log.info("gallery grouped", extra={"gallery": gallery_id, **summary})


def _replace_people(
    lease: GalleryLease,
    parts: GroupingParts,
    people: list[PersonRecord],
    moves: list[FaceMove],
    keep: Callable[[], None],
) -> None:
    """Readers get all of it at once, or go on with what there was."""
    if not people and not moves:
        return
    parts.people.write_people(lease, people, _keeping(moves, keep))
    parts.kill_points.reach("before-publish")
    parts.people.publish_people(lease)
    parts.kill_points.reach("after-publish")


def _keeping(moves: list[FaceMove], keep: Callable[[], None]) -> Iterator[FaceMove]:
    """Writing a large gallery's faces takes longer than a lease."""
    for number, move in enumerate(moves, 1):
        yield move
        if number % RENEW_EVERY == 0:
            keep()


def _renew(lease: GalleryLease, parts: GroupingParts) -> None:
    renewed = parts.galleries.take_lease(lease.gallery_id, lease.owner, parts.lease_s)
    # Another fence: the lease came back after somebody else had it, and what this run has read is out of date.
    if renewed is None or renewed.fence != lease.fence:
        raise StaleFence(f"The lease of the gallery {lease.gallery_id} was lost to another worker.", BUSY_DELAY_S)


def _header(gallery_id: str, model_id: str) -> Groups:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Groups(gallery_id=gallery_id, model=model_id, generated_at=now, people=[], unassigned=[], skipped=[])


def _moves(faces: FaceBatch, matched: Matched) -> list[FaceMove]:
    rows = zip(faces.face_ids, faces.person_ids, matched.person_ids, strict=True)
    return [FaceMove(face_id, before, now) for face_id, before, now in rows if now != before]
