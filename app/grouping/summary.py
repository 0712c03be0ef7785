"""The records of all people after a run, and which of them have changed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from app.clustering.identity import resolve_merged_ids
from app.core.records import FaceBatch, PersonRecord, PersonStatus

COVER_PX = 200
"""A larger face makes no better cover."""


def choose_cover(faces: FaceBatch, rows: Sequence[int], chosen: str | None = None) -> str:
    """The face in `rows` that a user chose, else the one that shows its person best; of equally good ones the first
    id."""
    if chosen is not None and any(faces.face_ids[row] == chosen for row in rows):
        return chosen
    return min((-_score_cover(faces, row), faces.face_ids[row]) for row in rows)[1]


def summarise(
    faces: FaceBatch, person_ids: Sequence[str | None], known: Iterable[PersonRecord] = ()
) -> list[PersonRecord]:
    """N faces, N person ids, the people before → one record for each person, without a name; people in most photos
    first."""
    chosen = {person.person_id: person.chosen_cover for person in known}
    rows_of: dict[str, list[int]] = {}
    for row, person_id in enumerate(person_ids):
        if person_id is not None:
            rows_of.setdefault(person_id, []).append(row)
    people = [
        PersonRecord(
            person_id=person_id,
            cover_face_id=choose_cover(faces, rows, chosen.get(person_id)),
            face_count=len(rows),
            photo_count=len({faces.image_ids[row] for row in rows}),
        )
        for person_id, rows in rows_of.items()
    ]
    return sorted(people, key=lambda person: (-person.photo_count, person.person_id))


def merge_with_absent(
    active: Iterable[PersonRecord], known: Iterable[PersonRecord], merged: Mapping[str, str]
) -> list[PersonRecord]:
    """People with faces in this run, all people known before, merged ids of this run → all records as they are now.

    The active ones come first, in their order. The others are absent, or merged into the person that they are now,
    however many merges lie between.
    """
    before = {person.person_id: person for person in known}
    seen = {person.person_id: _keep_words(before.get(person.person_id), person) for person in active}
    unseen = [replace(before[name], face_count=0, photo_count=0) for name in sorted(before.keys() - seen.keys())]
    into = resolve_merged_ids(
        [*unseen, *(replace(before[old], merged_into=new) for old, new in merged.items() if old in before)]
    )
    absent = [
        replace(one, status=PersonStatus.MERGED, merged_into=into[one.person_id])
        if one.person_id in into
        else replace(one, status=PersonStatus.ABSENT)
        for one in unseen
    ]
    return [*seen.values(), *absent]


def find_changed(now: Iterable[PersonRecord], known: Iterable[PersonRecord]) -> list[PersonRecord]:
    """The records that are new or differ from the known ones, or that have no number yet."""
    before = {person.person_id: person for person in known}
    return [person for person in now if person != before.get(person.person_id) or person.number is None]


def _keep_words(before: PersonRecord | None, person: PersonRecord) -> PersonRecord:
    """The record with what users said of the person, its age (`since`) and number from before: no run changes them."""
    if before is None:
        return person
    return replace(
        person,
        name=before.name,
        since=before.since,
        number=before.number,
        hidden=before.hidden,
        chosen_cover=before.chosen_cover,
        kept_apart=before.kept_apart,
    )


def _score_cover(faces: FaceBatch, row: int) -> float:
    """How recognisable a face is, how frontal, and how large up to COVER_PX, multiplied.

    0 for a face that was stored without its size, so that any other is preferred.
    """
    unified = faces.measure("unified", row)
    quality = 100 * float(faces.det_scores[row]) if unified is None else unified
    frontal = math.cos(math.radians(faces.measure("yaw", row) or 0)) ** 2
    return quality * frontal * math.sqrt(min((faces.measure("size_px", row) or 0) / COVER_PX, 1))
