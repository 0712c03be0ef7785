"""People whose ids stay from run to run, and what is known of each."""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from app.grouping.graph import NOBODY
from app.records import FaceBatch, PersonRecord

COVER_PX = 200
"""A larger face makes no better cover."""


def match_people(
    labels: NDArray[np.int64], face_ids: Sequence[str], previous: Sequence[str | None]
) -> list[str | None]:
    """(N,) labels of this run, N face ids, N person ids of the last run → N person ids, None for NOBODY's faces.

    A group takes over the id with which it shares the most faces, the largest overlap of the gallery first and every
    id once; the others get new ids. So of a split person the larger part keeps the id, of merged people the larger
    one does. The assignment with the greatest total overlap can break this where both happen at once: to save the id
    of a small part it would hand the larger part a stranger's id, and with it the stranger's name.
    """
    smallest = _smallest_face_ids(labels, face_ids)
    groups = labels.tolist()
    both = zip(groups, previous, strict=True)
    overlaps = Counter((group, person) for group, person in both if person is not None and group != NOBODY)
    people: dict[int, str] = {}
    kept: set[str] = set()
    for group, person in sorted(overlaps, key=lambda pair: (-overlaps[pair], pair[1], smallest[pair[0]])):
        if group not in people and person not in kept:
            people[group] = person
            kept.add(person)
    taken = {person for person in previous if person is not None}
    for group, face_id in sorted(smallest.items(), key=lambda item: item[1]):
        if group not in people:
            people[group] = _new_person_id(face_id, taken)
            taken.add(people[group])
    return [people.get(group) for group in groups]


def choose_cover(faces: FaceBatch, rows: Sequence[int]) -> str:
    """The face that shows its person best, of those in `rows`: the first id among equals."""
    return min((-_cover_score(faces, row), faces.face_ids[row]) for row in rows)[1]


def summarise(faces: FaceBatch, person_ids: Sequence[str | None]) -> list[PersonRecord]:
    """N faces, N person ids → one record a person, those in most photos first. Names are the store's to keep."""
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


def _smallest_face_ids(labels: NDArray[np.int64], face_ids: Sequence[str]) -> dict[int, str]:
    """(N,) labels, N face ids → the smallest face id of each label but NOBODY."""
    smallest: dict[int, str] = {}
    for group, face_id in zip(labels.tolist(), face_ids, strict=True):
        if group != NOBODY:
            smallest[group] = min(face_id, smallest.get(group, face_id))
    return smallest


def _new_person_id(face_id: str, taken: Collection[str]) -> str:
    """An id made from a face, and the next one made from it while that is taken.

    It is taken, for one, where a person once named after this face has left it behind.
    """
    digests = (hashlib.blake2b(f"{face_id}#{attempt}".encode(), digest_size=8).hexdigest() for attempt in count())
    return next(f"p{digest}" for digest in digests if f"p{digest}" not in taken)


def _cover_score(faces: FaceBatch, row: int) -> float:
    """How well a face can be known, how far it looks at the viewer, and how large it is up to what a cover needs.

    0 for a face that was stored without its size, so that any other goes before it.
    """
    unified = faces.measure("unified", row)
    known = 100 * float(faces.det_scores[row]) if unified is None else unified
    frontal = math.cos(math.radians(faces.measure("yaw", row) or 0)) ** 2
    return known * frontal * math.sqrt(min((faces.measure("size_px", row) or 0) / COVER_PX, 1))
