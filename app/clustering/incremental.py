"""Which faces of a gallery a run has to group: all of them (a full run), or those that came, went or changed since the
last run (an incremental run)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.clustering.full import Grouping, group
from app.clustering.graph import Labels, Rows, add_faces, build_graph, number_photos
from app.clustering.neighbours import NeighbourSearch
from app.clustering.regrouping import regroup
from app.core.arrays import Floats
from app.core.roles import Role, Roles
from app.core.thresholds import Threshold

ReadEmbeddings = Callable[[Rows], Floats]
"""Rows of the gallery → (M,D) float32 unit length."""


@dataclass(frozen=True)
class GalleryFaces:
    """The N faces of a gallery as they are stored now, without their embeddings.

    `digests` identify embeddings: a face whose digest differs from that of the last run has another embedding. A face
    without a digest ("") counts as new.
    """

    face_ids: Sequence[str]
    image_ids: Sequence[str]
    digests: Sequence[str]
    roles: Roles


@dataclass(frozen=True)
class StoredGrouping:
    """What an earlier run stored for the next one: its grouping of N faces, and the faces' ids and digests in the order
    of that grouping."""

    face_ids: Sequence[str]
    digests: Sequence[str]
    grouping: Grouping


@dataclass(frozen=True)
class PeopleUpdate:
    """The result of a run: what to store for the next one, the people, and how they were found.

    `labels` (N,) are the people in the gallery's order. `places` (N,) are the rows of `known` at which the gallery's
    faces are. `difference` is the share of the known faces that a full run put together with other faces than before;
    None where there was nothing to compare.
    """

    known: StoredGrouping
    places: Rows
    labels: Labels
    kind: Literal["full", "incremental"]
    new: int
    gone: int
    difference: float | None = None

    @property
    def roles(self) -> Roles:
        """(N,) the roles of the gallery's faces."""
        return self.known.grouping.graph.roles[self.places]

    @property
    def is_core(self) -> NDArray[np.bool_]:
        """(N,) which faces of the gallery are core faces, and so can be a person alone."""
        return np.asarray(self.roles == Role.CORE)

    def get_embeddings(self, rows: Rows) -> Floats:
        """(M,) rows of the gallery → (M,D) float32 unit length."""
        return self.known.grouping.graph.embeddings[self.places[rows]]


def update_people(
    faces: GalleryFaces,
    known: StoredGrouping | None,
    threshold: Threshold | float,
    read_embeddings: ReadEmbeddings,
    search: NeighbourSearch,
    *,
    full: bool = False,
) -> PeopleUpdate:
    """The people of a gallery. The run is a full one where nothing is `known`, where `full` orders it, and where too
    many faces have changed."""
    all_rows = np.arange(len(faces.face_ids))
    if known is None or not known.face_ids:
        return _group_anew(faces, read_embeddings(all_rows), threshold, search)
    place = {face_id: row for row, face_id in enumerate(faces.face_ids)}
    rows = np.array([place.get(face_id, -1) for face_id in known.face_ids], np.intp)
    kept = np.array(
        [
            row >= 0 and digest == faces.digests[row] != "" and role == faces.roles[row]
            for row, digest, role in zip(rows.tolist(), known.digests, known.grouping.graph.roles, strict=True)
        ],
        np.bool_,
    )
    before = known.grouping.take(np.flatnonzero(kept))
    old = rows[kept]
    new = np.setdiff1d(all_rows, old)
    if full:
        # All embeddings are read again: an ordered full run uses nothing of the stored grouping.
        anew = _group_anew(faces, read_embeddings(all_rows), threshold, search)
        return _compare_to_before(anew, before.labels, old)
    embeddings = read_embeddings(new) if len(new) else before.graph.embeddings[:0]
    if replace(before, changed=before.changed + len(new)).has_drifted:
        all_embeddings = np.concatenate([before.graph.embeddings, embeddings])[np.argsort(np.concatenate([old, new]))]
        return _compare_to_before(_group_anew(faces, all_embeddings, threshold, search), before.labels, old)
    photos = number_photos(faces.image_ids)
    before = replace(before, graph=replace(before.graph, photos=photos[old]))
    graph = add_faces(before.graph, embeddings, photos[new], faces.roles[new], search)
    order = np.concatenate([old, new])
    return _make_result(faces, order, regroup(before, graph), "incremental", len(new), len(rows) - len(old))


def _group_anew(
    faces: GalleryFaces, embeddings: Floats, threshold: Threshold | float, search: NeighbourSearch
) -> PeopleUpdate:
    graph = build_graph(embeddings, number_photos(faces.image_ids), faces.roles, search)
    return _make_result(faces, np.arange(len(graph)), group(graph, threshold, search.progress), "full", len(graph), 0)


def _compare_to_before(anew: PeopleUpdate, before: Labels, rows: Rows) -> PeopleUpdate:
    """The full run `anew` with its `difference`: `before` has the former labels of these rows of the gallery."""
    if not len(rows):
        return anew
    return replace(anew, difference=1 - float(has_same_companions(before, anew.labels[rows]).mean()))


def _make_result(
    faces: GalleryFaces, order: Rows, grouping: Grouping, kind: Literal["full", "incremental"], new: int, gone: int
) -> PeopleUpdate:
    places = np.empty(len(order), np.intp)
    places[order] = np.arange(len(order))
    known = StoredGrouping([faces.face_ids[row] for row in order], [faces.digests[row] for row in order], grouping)
    return PeopleUpdate(known, places, grouping.labels[places], kind, new, gone)


def has_same_companions(before: Labels, now: Labels) -> NDArray[np.bool_]:
    """(N,), (N,) labels of the same N faces → (N,) whether each face is together with the same faces in both."""
    _, pair, counts = np.unique(np.stack([before, now], axis=1), axis=0, return_inverse=True, return_counts=True)
    both = counts[pair.ravel()]
    sizes = [np.unique(labels, return_inverse=True, return_counts=True) for labels in (before, now)]
    return np.asarray(np.all([both == count[inverse] for _, inverse, count in sizes], axis=0))
