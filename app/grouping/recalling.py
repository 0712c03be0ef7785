"""Names that survive other keys: people who have just lost all their faces are looked for among the new ones.

Photos that get other names, or come as another export under other names, are new photos to this system: the former ones
are gone, and with them all faces of their people. Before new ids are made, the new faces are compared with the vectors
that the last run published. Only clear and mutual likeness counts: a wrong name is worse than a lost one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import UNASSIGNED, Labels, Rows
from app.clustering.identity import resolve_merged_ids
from app.clustering.incremental import ReadEmbeddings
from app.core.arrays import Floats
from app.core.boxes import compute_ious, relate_boxes
from app.core.gallery_vectors import GalleryVectors
from app.core.pictures import split_ending
from app.core.records import FaceBatch, ImageRecord, PersonRecord, PersonStatus
from app.core.same_faces import SAME_PLACE, choose_doubtless

_BLOCK = 1_024
"""How many faces are compared at once."""


@dataclass(frozen=True)
class NewFaces:
    """The N faces of a gallery, (N,) labels of this run, and the rows of the M new ones in clusters without a person.

    `read_embeddings` takes rows of the gallery.
    """

    faces: FaceBatch
    labels: Labels
    rows: Rows
    read_embeddings: ReadEmbeddings
    images: Sequence[ImageRecord]


def find_lost_people(faces: FaceBatch, known: Sequence[PersonRecord]) -> dict[str, str]:
    """Ids of people who had faces and have none now; former ids of theirs lead to them."""
    resolved = resolve_merged_ids(known)
    present = {resolved.get(person, person) for person in faces.person_ids if person}
    lost = {one.person_id for one in known if one.status is PersonStatus.ACTIVE and not one.merged_into} - present
    return {one: one for one in lost} | {old: now for old, now in resolved.items() if now in lost}


def find_new_faces(faces: FaceBatch, labels: Labels) -> Rows:
    """Rows of the faces in clusters of which no face has a person."""
    has_person = np.array([person is not None for person in faces.person_ids], np.bool_)
    with_person = np.unique(labels[has_person]) if len(labels) else labels
    return np.flatnonzero((labels != UNASSIGNED) & ~np.isin(labels, with_person))


def recall_people(
    new: NewFaces,
    lost: Mapping[str, str],
    former: GalleryVectors,
    threshold: float,
    progress: Callable[[], None] = lambda: None,
) -> FaceBatch:
    """The faces, with the lost people of those that are theirs without a doubt.

    A face is a lost person's where it and a former face of that person are each other's nearest, and are alike without
    a doubt; or are alike and lie at one place of photos of one name. Which cluster is which person is then decided as
    in every run: named people stay apart where their faces come into one cluster.
    """
    near, likeness, back = _find_mutual(new, former, progress)
    doubtless = choose_doubtless(threshold)
    same_photo = _PlaceOf(new, former)
    people = list(new.faces.person_ids)
    for place, (exemplar, alike) in enumerate(zip(near.tolist(), likeness.tolist(), strict=True)):
        owner = int(former.exemplar_person[exemplar])
        person = lost.get(former.person_ids[owner]) if owner >= 0 else None
        if person is None or back[exemplar] != place or alike < threshold:
            continue
        row = int(new.rows[place])
        is_rejected = person in new.faces.rejected.get(new.faces.face_ids[row], ())
        if not is_rejected and (alike >= doubtless or same_photo.is_one(place, exemplar)):
            people[row] = person
    return replace(new.faces, person_ids=people)


def _find_mutual(
    new: NewFaces, former: GalleryVectors, progress: Callable[[], None]
) -> tuple[NDArray[np.intp], Floats, NDArray[np.intp]]:
    """(M,) the nearest former face of each new one, (M,) how alike they are, and of each former one the nearest new."""
    exemplars = former.exemplars.astype(np.float32)
    count = len(new.rows) if len(exemplars) else 0
    near, likeness = np.zeros(count, np.intp), np.zeros(count, np.float32)
    back, best = np.full(len(exemplars), -1, np.intp), np.full(len(exemplars), -np.inf, np.float32)
    for start in range(0, count, _BLOCK):
        similar = new.read_embeddings(new.rows[start : start + _BLOCK]) @ exemplars.T
        here = slice(start, start + len(similar))
        near[here], likeness[here] = similar.argmax(axis=1), similar.max(axis=1)
        nearer = similar.max(axis=0) > best
        back[nearer], best[nearer] = start + similar.argmax(axis=0)[nearer], similar.max(axis=0)[nearer]
        progress()
    return near, likeness, back


class _PlaceOf:
    """Whether a new face lies where a former one lay, on a photo of the same name in whatever folder and format."""

    def __init__(self, new: NewFaces, former: GalleryVectors) -> None:
        self._new, self._former = new, former
        self._sizes = {one.photo.image_id: (one.width_px, one.height_px) for one in new.images}

    def is_one(self, place: int, exemplar: int) -> bool:
        row = int(self._new.rows[place])
        image_id = self._new.faces.image_ids[row]
        size = self._sizes.get(image_id, (0, 0))
        if not all(size) or _get_stem(image_id) != _get_stem(self._former.image_ids[exemplar]):
            return False
        relative = relate_boxes(self._new.faces.boxes[row], size)
        return bool(compute_ious(relative[None], self._former.boxes[exemplar][None])[0, 0] >= SAME_PLACE)


def _get_stem(image_id: str) -> str:
    return split_ending(image_id.rpartition("/")[2])[0].casefold()
