"""Names that survive another model: what is known of a former model's faces goes over to the new model's.

Vectors of two models can't be compared, but both have looked at the same photos. So a face of the new model is the one
of the former model that lies at its place on the same picture.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.clustering.identity import PersonMatches
from app.core.boxes import match_boxes
from app.core.records import FaceBatch, FaceMove, PersonRecord

SAME_PLACE = 0.4
"""The least IoU of two models' boxes of one face: detectors frame faces differently, and neighbours share far less."""


@dataclass(frozen=True)
class FormerFaces:
    """The faces of former models of which something is known, and `examined`, the ids of the photos that were examined
    under the new model: the faces of the others wait."""

    faces: FaceBatch
    examined: Collection[str]


def carry_over(faces: FaceBatch, former: FormerFaces, places: Sequence[tuple[int, int]]) -> FaceBatch:
    """The new model's faces with the people, confirmations and rejections of the former faces at their `places`.

    A face that has a person already keeps it: then a run before this one has carried the people over.
    """
    people = list(faces.person_ids)
    confirmed, rejected = set(faces.confirmed), dict(faces.rejected)
    for old, row in places:
        face_id, former_id, person = faces.face_ids[row], former.faces.face_ids[old], former.faces.person_ids[old]
        said = rejected.get(face_id, frozenset())
        if person is not None and people[row] is None and person not in said:
            people[row] = person
            if former_id in former.faces.confirmed:
                confirmed.add(face_id)
        if more := former.faces.rejected.get(former_id, frozenset()) - {people[row]}:
            rejected[face_id] = said | more
    return replace(faces, person_ids=people, confirmed=frozenset(confirmed), rejected=rejected)


def find_moves(
    stored: FaceBatch, carried: FaceBatch, matched: PersonMatches, former: FormerFaces | None
) -> list[FaceMove]:
    """What a run writes of faces: new people, users' words that were carried over, and that the former model's faces of
    these photos have no person any more."""
    moves = []
    rows = zip(stored.face_ids, stored.person_ids, matched.person_ids, stored.digests, strict=True)
    for face_id, before, now, digest in rows:
        confirmed = now is not None and face_id in carried.confirmed and face_id not in stored.confirmed
        said = carried.rejected.get(face_id)
        rejected = said if said != stored.rejected.get(face_id) else None
        if now != before or confirmed or rejected is not None:
            moves.append(FaceMove(face_id, before, now, digest, confirmed, rejected))
    if former is not None:
        left = zip(former.faces.face_ids, former.faces.image_ids, former.faces.person_ids, strict=True)
        moves += [FaceMove(face, person, None) for face, photo, person in left if person and photo in former.examined]
    return moves


def find_chosen_covers(
    faces: FaceBatch, former: FormerFaces, places: Sequence[tuple[int, int]], known: Sequence[PersonRecord]
) -> dict[str, str]:
    """Person → the face that the cover which a user chose is now, of covers that are a former model's."""
    now = {former.faces.face_ids[old]: faces.face_ids[row] for old, row in places}
    return {one.person_id: now[one.chosen_cover] for one in known if one.chosen_cover in now}


def match_places(faces: FaceBatch, former: FormerFaces) -> list[tuple[int, int]]:
    """Rows of former faces and of the faces at their places, on the same content of a photo."""
    places = _group_by_picture(faces)
    matched: list[tuple[int, int]] = []
    for picture, olds in _group_by_picture(former.faces).items():
        news = places.get(picture, [])
        pairs = match_boxes(former.faces.boxes[np.array(olds)], faces.boxes[np.array(news, np.intp)], SAME_PLACE)
        matched += [(olds[old], news[new]) for old, new in pairs]
    return matched


def _group_by_picture(faces: FaceBatch) -> dict[tuple[str, str | None], list[int]]:
    rows: dict[tuple[str, str | None], list[int]] = {}
    pictures: Sequence[tuple[str, str | None]] = list(zip(faces.image_ids, faces.etags, strict=True))
    for row, picture in enumerate(pictures):
        rows.setdefault(picture, []).append(row)
    return rows
