"""The story of a gallery: from a message to people."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import uuid4

from app.errors import RetryLater
from app.grouping.clustering import cluster
from app.grouping.output import Groups
from app.grouping.page import render_page
from app.grouping.people import match_people, summarise
from app.grouping.publish import crop_urls, describe, page_photos
from app.messages import parse_grouping
from app.ports import FaceStore, GalleryLease, GalleryStore, ObjectStore, PeopleStore
from app.records import FaceBatch, PersonRecord, groups_key, join_batches, page_key

log = logging.getLogger(__name__)

BUSY_DELAY_S = 10.0


@dataclass(frozen=True)
class GroupingParts:
    """What the grouping service works with."""

    objects: ObjectStore
    faces: FaceStore
    galleries: GalleryStore
    people: PeopleStore
    model_id: str
    similarity_threshold: float
    lease_s: float


def handle(body: str, parts: GroupingParts) -> None:
    """Do what one message of the grouping queue asks for; done when it returns."""
    request = parse_grouping(body)
    lease = parts.galleries.take_lease(request.gallery_id, uuid4().hex, parts.lease_s)
    if lease is None:
        raise RetryLater(f"The gallery {request.gallery_id} is being grouped by another worker.", BUSY_DELAY_S)
    try:
        if request.mode == "full" or lease.grouped != (lease.revision, parts.model_id):
            group_gallery(lease, parts)
    finally:
        parts.galleries.release(lease)


def group_gallery(lease: GalleryLease, parts: GroupingParts) -> None:
    """Read all faces of the gallery, find its people, store them, and publish groups.json and the page."""
    started = time.monotonic()
    gallery_id = lease.gallery_id
    faces = join_batches(list(parts.faces.read_faces(gallery_id, parts.model_id)))
    labels = cluster(faces.embeddings, faces.image_ids, parts.similarity_threshold)
    person_ids = match_people(labels, faces.face_ids, faces.person_ids)
    people = _with_names(summarise(faces, person_ids), parts.people.read_names(gallery_id))
    parts.people.save_people(lease, people, _changed(faces, person_ids))

    images = list(parts.faces.read_images(gallery_id))
    groups = describe(_header(gallery_id, parts.model_id), faces, person_ids, people, images)
    page = render_page(groups, page_photos(images), crop_urls(gallery_id, faces))
    parts.objects.put(groups_key(gallery_id), groups.model_dump_json().encode(), "application/json")
    parts.objects.put(page_key(gallery_id), page.encode(), "text/html; charset=utf-8")

    seconds = round(time.monotonic() - started, 3)
    summary = {"faces": len(faces), "people": len(people), "photos": len(images), "seconds": seconds}
    parts.galleries.record_run(lease, parts.model_id, summary)
    log.info("gallery grouped", extra={"gallery": gallery_id, **summary})


def _header(gallery_id: str, model_id: str) -> Groups:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Groups(gallery_id=gallery_id, model=model_id, generated_at=now, people=[], unassigned=[], skipped=[])


def _with_names(people: Sequence[PersonRecord], names: dict[str, str]) -> list[PersonRecord]:
    return [replace(person, name=names.get(person.person_id)) for person in people]


def _changed(faces: FaceBatch, person_ids: Sequence[str]) -> dict[str, str | None]:
    """Face id → person, for the faces whose person is another than before."""
    rows = zip(faces.face_ids, faces.person_ids, person_ids, strict=True)
    return {face_id: now for face_id, before, now in rows if now != before}
