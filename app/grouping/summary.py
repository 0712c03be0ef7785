"""What is known of each person after a run, and what of it is new."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from app.core.records import FaceBatch, PersonRecord, PersonStatus
from app.grouping.people import resolve_merged_ids

COVER_PX = 200
"""A larger face makes no better cover."""


def choose_cover(faces: FaceBatch, rows: Sequence[int]) -> str:
    """The face that shows its person best, of those in `rows`: the first id among equals."""
    return min((-_score_cover(faces, row), faces.face_ids[row]) for row in rows)[1]


def summarise(faces: FaceBatch, person_ids: Sequence[str | None]) -> list[PersonRecord]:
    """N faces, N person ids → one record a person, those in most photos first, without names."""
    rows_of: dict[str, list[int]] = {}
    for row, person_id in enumerate(person_ids):
        if person_id is not None:
            rows_of.setdefault(person_id, []).append(row)
    people = [
        PersonRecord(
            person_id=person_id,
            cover_face_id=choose_cover(faces, rows),
            face_count=len(rows),
            photo_count=len({faces.image_ids[row] for row in rows}),
        )
        for person_id, rows in rows_of.items()
    ]
    return sorted(people, key=lambda person: (-person.photo_count, person.person_id))


def merge_with_absent(
    active: Iterable[PersonRecord], known: Iterable[PersonRecord], merged: Mapping[str, str]
) -> list[PersonRecord]:
    """Those seen in a run, everybody known before, and who became whom → all records as they are now.

    The active ones come first, in their order. Who was not seen is absent, unless merged: then straight into somebody
    who is not, however many merges that took.
    """
    before = {person.person_id: person for person in known}
    seen = {person.person_id: _keep_of(before.get(person.person_id), person) for person in active}
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
    """Those that are others than they were."""
    before = {person.person_id: person for person in known}
    return [person for person in now if person != before.get(person.person_id)]


def _keep_of(before: PersonRecord | None, person: PersonRecord) -> PersonRecord:
    """Runs change neither name nor age."""
    return replace(person, name=before.name, since=before.since) if before else person


def _score_cover(faces: FaceBatch, row: int) -> float:
    """How well a face can be known, how far it looks at the viewer, and how large it is up to what a cover needs.

    0 for a face that was stored without its size, so that any other goes before it.
    """
    unified = faces.measure("unified", row)
    known = 100 * float(faces.det_scores[row]) if unified is None else unified
    frontal = math.cos(math.radians(faces.measure("yaw", row) or 0)) ** 2
    return known * frontal * math.sqrt(min((faces.measure("size_px", row) or 0) / COVER_PX, 1))
