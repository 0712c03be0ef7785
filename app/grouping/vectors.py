"""The vectors of a gallery that grouping publishes, so that a guest is found by a selfie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import Rows
from app.clustering.incremental import PeopleUpdate
from app.core.arrays import Floats
from app.core.gallery_vectors import UNASSIGNED, GalleryVectors, make_face_set
from app.core.records import FaceBatch, ImageRecord
from app.core.roles import Role

MOST_EXEMPLARS = 4
"""Single faces of a person in the file: a guest may look like one of them more than like the mean."""
CANDIDATES = 50
"""Best faces of a person among which exemplars are chosen."""
MOST_UNASSIGNED = 10_000
"""Unassigned faces in the file, best first."""


@dataclass(frozen=True)
class Edition:
    """What a file of vectors is of: the gallery, the model, the published version of its people, and the fence."""

    gallery_id: str
    model_id: str
    published: int
    fence: int


def make_vectors(
    edition: Edition,
    faces: FaceBatch,
    found: PeopleUpdate,
    person_ids: Sequence[str | None],
    images: Sequence[ImageRecord],
) -> GalleryVectors:
    """The vectors of all people with faces, by person id, and of the best unassigned faces that are not noise.

    A person's mean and exemplars are of the core faces, or of all faces where none is a core face.
    """
    quality = np.nan_to_num(faces.quality["unified"], nan=100.0)
    rows_of = _list_rows(person_ids)
    people = sorted(rows_of)
    chosen: list[int] = []
    owners: list[int] = []
    means: list[Floats] = []
    for number, person_id in enumerate(people):
        rows = np.array(rows_of[person_id])
        core = rows[found.is_core[rows]]
        best = core if len(core) else rows
        best = best[np.argsort(-quality[best], kind="stable")]
        of_person = found.get_embeddings(best)
        means.append(_normalise(of_person.mean(axis=0)))
        exemplars = choose_exemplars(of_person[:CANDIDATES], means[-1])
        chosen += best[exemplars].tolist()
        owners += [number] * len(exemplars)
    alone = _choose_unassigned(person_ids, found, quality)
    chosen += alone.tolist()
    owners += [UNASSIGNED] * len(alone)
    vectors = found.get_embeddings(np.array(chosen, np.intp))
    return GalleryVectors(
        gallery_id=edition.gallery_id,
        model_id=edition.model_id,
        published=edition.published,
        fence=edition.fence,
        person_ids=people,
        means=(np.stack(means) if means else vectors[:0]).astype(np.float16),
        face_sets=[
            make_face_set([(faces.face_ids[row], faces.digests[row]) for row in rows_of[person_id]])
            for person_id in people
        ],
        exemplars=vectors.astype(np.float16),
        exemplar_person=np.array(owners, np.int32),
        face_ids=[faces.face_ids[row] for row in chosen],
        image_ids=[faces.image_ids[row] for row in chosen],
        digests=[faces.digests[row] for row in chosen],
        boxes=_make_relative_boxes(faces, chosen, images),
    )


def choose_exemplars(vectors: Floats, mean: Floats) -> list[int]:
    """(N,D) vectors of a person, best first, and their mean (D,) → at most MOST_EXEMPLARS rows: the one nearest to the
    mean, then each time the one that is least like those that are chosen."""
    if len(vectors) <= MOST_EXEMPLARS:
        return list(range(len(vectors)))
    chosen = [int(np.argmax(vectors @ mean))]
    likeness = vectors @ vectors[chosen[0]]
    while len(chosen) < MOST_EXEMPLARS:
        likeness[chosen] = np.inf
        chosen.append(int(np.argmin(likeness)))
        likeness = np.maximum(likeness, vectors @ vectors[chosen[-1]])
    return chosen


def _list_rows(person_ids: Sequence[str | None]) -> dict[str, list[int]]:
    rows_of: dict[str, list[int]] = {}
    for row, person_id in enumerate(person_ids):
        if person_id is not None:
            rows_of.setdefault(person_id, []).append(row)
    return rows_of


def _choose_unassigned(person_ids: Sequence[str | None], found: PeopleUpdate, quality: NDArray[np.float32]) -> Rows:
    """Rows of unassigned faces that are not noise, best first, MOST_UNASSIGNED at most."""
    alone = np.array([person_id is None for person_id in person_ids], np.bool_)
    rows = np.flatnonzero(alone & (found.roles != Role.NOISE)) if len(alone) else np.empty(0, np.intp)
    return rows[np.argsort(-quality[rows], kind="stable")][:MOST_UNASSIGNED]


def _make_relative_boxes(faces: FaceBatch, rows: Sequence[int], images: Sequence[ImageRecord]) -> NDArray[np.float32]:
    """(M,4) x1 y1 x2 y2 as shares of the photo's width and height; zeros where the photo's size is not known."""
    sizes: Mapping[str, tuple[int, int]] = {one.photo.image_id: (one.width_px, one.height_px) for one in images}
    wide = np.array([sizes.get(faces.image_ids[row], (0, 0)) * 2 for row in rows], np.float32).reshape(-1, 4)
    boxes = faces.boxes[np.array(rows, np.intp)] if len(rows) else np.empty((0, 4), np.float32)
    return np.divide(boxes, wide, out=np.zeros_like(wide), where=wide > 0)


def _normalise(vector: Floats) -> Floats:
    length = max(float(np.linalg.norm(vector)), float(np.finfo(np.float32).tiny))
    return np.asarray(vector / length, np.float32)
