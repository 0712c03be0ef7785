"""The cover of each person as an object of its own, beside the crops of all faces, of which a photo has one object."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from app.core.ports import ObjectStore
from app.core.records import FaceBatch, PersonRecord, PersonStatus
from app.core.result_keys import ResultKeys

log = logging.getLogger(__name__)

TRANSFERS = 16
"""Most of the time of a copy is spent waiting for S3."""
WEBP_START = b"RIFF"
"""Former versions wrote crops as WebP, and a photo keeps them until it is examined anew."""


def list_covers(
    gallery_id: str, faces: FaceBatch, people: Sequence[PersonRecord], keys: ResultKeys
) -> dict[str, tuple[str, int]]:
    """Person id → the key of the person's cover, and the row of its face; of all people that have
    faces with crops."""
    rows = {face_id: row for row, face_id in enumerate(faces.face_ids)}
    covers = {}
    for person in people:
        row = rows.get(person.cover_face_id)
        if person.status is not PersonStatus.ACTIVE or row is None:
            continue
        key, crop = faces.crop_keys[row], faces.crop_ranges[row]
        if key is None:
            continue
        if crop is None:
            covers[person.person_id] = key, row
        else:
            digest = hashlib.sha256(f"{key} {crop[0]}".encode()).hexdigest()[:12]
            covers[person.person_id] = keys.cover(gallery_id, person, digest), row
    return covers


def write_covers(covers: dict[str, tuple[str, int]], faces: FaceBatch, prefix: str, objects: ObjectStore) -> set[str]:
    """Write the covers that are not there yet. Returns the keys below `prefix` that no person has any more: to be
    removed once nothing that is published names them."""
    there = {key for key, _ in objects.list_keys(prefix)}
    wanted = {key: row for key, row in covers.values() if key.startswith(prefix)}

    def copy(key: str) -> None:
        row = wanted[key]
        start, length = faces.crop_ranges[row] or (0, 0)
        crop = objects.read_part(faces.crop_keys[row] or "", start, length)
        if crop is None:
            # Its photo was replaced or removed while this run went on, so another run follows.
            log.info("crop is gone", extra={"face": faces.face_ids[row]})
        else:
            objects.put(key, crop, "image/webp" if crop.startswith(WEBP_START) else "image/jpeg")

    with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="covers") as pool:
        list(pool.map(copy, wanted.keys() - there))
    return there - wanted.keys()
