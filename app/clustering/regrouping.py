"""An incremental run: new faces are added to a gallery whose other faces are grouped already.

It takes the same steps as a full run (full.py), but only for the new core faces, for the core faces that may be of one
person with one of them, and for these faces' people. Border faces choose again only near people that have changed. All
other faces keep the person that they have.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.clustering.chinese_whispers import (
    get_duplicate_threshold,
    measure_confidence,
    number_by_first_appearance,
    propagate_labels,
)
from app.clustering.full import Grouping, split_repeats_in_photos
from app.clustering.graph import UNASSIGNED, FaceGraph, Labels, Rows
from app.clustering.joining import join_border_faces
from app.clustering.local_scaling import Neighbourhood, measure_neighbourhood
from app.clustering.merging import merge_people_near
from app.clustering.neighbours import Neighbours
from app.core.arrays import Floats
from app.core.roles import Role

SLACK_PART = 0.1
"""A negative excess raises a similarity, so pairs somewhat below the threshold are considered too: down to
threshold - SLACK_PART * (1 - threshold)."""


def regroup(before: Grouping, graph: FaceGraph) -> Grouping:
    """The grouping of `graph`, whose first faces are those of `before`; the others are new.

    `threshold`, `typical`, `typical_person` and `strength` stay those of the last full run. So the more faces are
    added, the more the result may differ from that of a full run; see `Grouping.has_drifted`.
    """
    known, count = len(before.graph), len(graph)
    is_new = np.arange(count) >= known
    is_core = graph.roles == Role.CORE
    new = np.flatnonzero(is_new & is_core)
    start = np.r_[before.labels, np.full(count - known, UNASSIGNED)]
    start[new] = start.max(initial=UNASSIGNED) + 1 + np.arange(len(new))
    labels, excess, person_excess = _group_core_faces(before, graph, np.where(is_core, start, UNASSIGNED), new)
    moved = is_core & (is_new | (labels != start))
    return replace(
        before,
        graph=graph,
        labels=_rejoin_border_faces(graph, start, labels, moved, is_new, before.threshold),
        excess=excess,
        person_excess=person_excess,
        changed=before.changed + count - known,
    )


def _group_core_faces(
    before: Grouping, graph: FaceGraph, labels: Labels, new: Rows
) -> tuple[Labels, NDArray[np.float64], NDArray[np.float64]]:
    """(N,) people of the core faces, each of the `new` ones a person of its own → (N,) people of the core faces, and
    the `excess` and `person_excess` of the new `Grouping`."""
    added, threshold = len(graph) - len(before.graph), before.threshold
    pairs = _find_pairs_near(graph, new, threshold)
    provisional = _propagate_in_part(graph, pairs, pairs.similarity, labels, threshold)
    near = Neighbours(graph.neighbours.indices[new], graph.neighbours.similarities[new])
    excess = np.r_[before.excess, np.zeros(added)]
    excess[new] = measure_neighbourhood(near, provisional[new], provisional, before.typical).excess
    both = excess[pairs.faces[pairs.row]] + excess[pairs.other]
    labels = _propagate_in_part(graph, pairs, pairs.similarity - before.strength * both / 2, labels, threshold)
    touched = _find_faces_of(labels, pairs.faces)
    labels = split_repeats_in_photos(graph, labels, threshold, touched)
    of_people = Neighbourhood(np.r_[before.person_excess, np.full(added, np.nan)], before.typical_person)
    labels, person_excess = merge_people_near(graph, labels, threshold, pairs.faces, of_people)
    labels = split_repeats_in_photos(graph, labels, threshold, _find_faces_of(labels, touched))
    return labels, excess, np.nan_to_num(person_excess)


def _rejoin_border_faces(
    graph: FaceGraph,
    start: Labels,
    labels: Labels,
    moved: NDArray[np.bool_],
    is_new: NDArray[np.bool_],
    threshold: float,
) -> Labels:
    """(N,) people at the start, (N,) people of the core faces now, (N,) which core faces `moved` → (N,) people of all
    faces, numbered by first appearance.

    A border face chooses its person again where it is new, and where its person or that of a neighbour has changed.
    """
    changed = np.zeros(max(int(labels.max(initial=UNASSIGNED)), int(start.max(initial=UNASSIGNED))) + 2, np.bool_)
    changed[labels[moved]] = changed[start[moved]] = True
    changed[UNASSIGNED] = False
    is_core, border = graph.roles == Role.CORE, np.flatnonzero(graph.roles == Role.BORDER)
    near = graph.neighbours.indices[border]
    has_changed_neighbour = changed[np.where(near >= 0, labels[near], UNASSIGNED)].any(axis=1)
    choosing = border[is_new[border] | changed[start[border]] | has_changed_neighbour]
    number = np.full(len(changed), UNASSIGNED)
    number[labels[is_core]] = number_by_first_appearance(labels[is_core])
    people = np.full(len(graph), UNASSIGNED, np.int64)
    people[is_core], people[border] = number[labels[is_core]], number[start[border]]
    return join_border_faces(graph, people, threshold, choosing)


@dataclass(frozen=True)
class _LocalPairs:
    """E pairs of one of the `faces` (R,) with any core face: `row` (E,) is the place of the first in `faces`, `other`
    (E,) is the second, `similarity` (E,) is that of the two."""

    faces: Rows
    row: Rows
    other: Rows
    similarity: Floats


def _find_pairs_near(graph: FaceGraph, new: Rows, threshold: float) -> _LocalPairs:
    """The pairs of which one is a new core face, or a neighbour that may be of one person with a new core face."""
    near, lowest = graph.neighbours, threshold - SLACK_PART * (1 - threshold)
    faces = np.union1d(new, near.indices[new][near.similarities[new] > lowest])
    place = np.full(len(graph) + 1, -1)
    place[faces] = np.arange(len(faces))
    row, column = np.nonzero(near.similarities[faces] > lowest)
    # A face of a person in many photos has more similar faces than its list of neighbours has entries. So the lists of
    # all other core faces are searched for these faces, too.
    lists_one = (place >= 0)[near.indices] & (near.similarities > lowest)
    lists_one[graph.roles != Role.CORE] = False
    other, their_column = np.nonzero(lists_one)
    similarity = np.r_[near.similarities[faces[row], column], near.similarities[other, their_column]]
    rows = np.r_[row, place[near.indices[other, their_column]]]
    others = np.r_[near.indices[faces[row], column], other]
    _, first = np.unique(rows * len(graph) + others, return_index=True)
    return _LocalPairs(faces, rows[first], others[first], similarity[first])


def _propagate_in_part(
    graph: FaceGraph, pairs: _LocalPairs, similarity: NDArray[np.floating], labels: Labels, threshold: float
) -> Labels:
    """Chinese Whispers in which only the faces of `pairs` may change their labels. `similarity` (E,) is the pairs' own
    or the scaled one."""
    faces = pairs.faces
    kept = similarity > threshold
    kept &= (graph.photos[faces[pairs.row]] != graph.photos[pairs.other]) | (
        similarity > get_duplicate_threshold(threshold)
    )
    margins = np.asarray(similarity[kept] - threshold, np.float64)
    shape = (len(faces), len(graph))
    weights = sparse.csr_array((margins, (pairs.row[kept], pairs.other[kept])), shape)
    lists = Neighbours(graph.neighbours.indices[faces], graph.neighbours.similarities[faces])
    return propagate_labels(weights, faces, np.argsort(-measure_confidence(lists, threshold), kind="stable"), labels)


def _find_faces_of(labels: Labels, rows: Rows) -> Rows:
    """The rows of all faces of the people to whom these rows belong."""
    chosen = np.zeros(int(labels.max(initial=UNASSIGNED)) + 2, np.bool_)
    chosen[labels[rows]] = True
    chosen[UNASSIGNED] = False
    return np.flatnonzero(chosen[labels])
