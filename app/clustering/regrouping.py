"""People of a gallery to which faces have come: only the new faces and those around them are looked at again.

It takes the steps of `clustering.group` with what an earlier run found out about the rest. A new face is compared with
the faces and people that it is like; whoever gains no face, and is beside nobody who does, stays as it is.
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
from app.clustering.merging import merge_beside
from app.clustering.neighbours import Neighbours
from app.core.arrays import Floats
from app.core.roles import Role

SLACK_PART = 0.1
"""So much below the threshold, as a part of what lies above it, the scaling may lift a similarity over it."""


def regroup(before: Grouping, graph: FaceGraph, threshold: float) -> Grouping:
    """The people of `graph`, whose first faces are those of `before`; the others are new.

    What counts as typical stays. So the result drifts from `group`'s as faces come.
    """
    known, count = len(before.graph), len(graph)
    is_new = np.arange(count) >= known
    founds = graph.roles == Role.CORE
    new = np.flatnonzero(is_new & founds)
    started = np.r_[before.labels, np.full(count - known, UNASSIGNED)]
    started[new] = started.max(initial=UNASSIGNED) + 1 + np.arange(len(new))
    labels, excess, excess_people = _group_core_faces(
        before, graph, np.where(founds, started, UNASSIGNED), new, threshold
    )
    moved = founds & (is_new | (labels != started))
    return replace(
        before,
        graph=graph,
        labels=_rejoin_border_faces(graph, started, labels, moved, is_new, threshold),
        excess=excess,
        excess_people=excess_people,
        changed=before.changed + count - known,
    )


def _group_core_faces(
    before: Grouping, graph: FaceGraph, labels: Labels, new: Rows, threshold: float
) -> tuple[Labels, NDArray[np.float64], NDArray[np.float64]]:
    """(N,) people of the founding faces, the new ones each alone → (N,) people, and what `Grouping` has as `beyond` and
    `beyond_people`."""
    added = len(graph) - len(before.graph)
    pairs = _find_pairs_beside(graph, new, threshold)
    provisional = _propagate_in_part(graph, pairs, pairs.similarity, labels, threshold)
    near = Neighbours(graph.neighbours.indices[new], graph.neighbours.similarities[new])
    excess = np.r_[before.excess, np.zeros(added)]
    excess[new] = measure_neighbourhood(near, provisional[new], provisional, before.typical).excess
    both = excess[pairs.speaking[pairs.row]] + excess[pairs.other]
    labels = _propagate_in_part(graph, pairs, pairs.similarity - before.strength * both / 2, labels, threshold)
    touched = _find_faces_of(labels, pairs.speaking)
    labels = split_repeats_in_photos(graph, labels, threshold, touched)
    of_people = Neighbourhood(np.r_[before.excess_people, np.full(added, np.nan)], before.typical_people)
    labels, excess_people = merge_beside(graph, labels, threshold, pairs.speaking, of_people)
    labels = split_repeats_in_photos(graph, labels, threshold, _find_faces_of(labels, touched))
    return labels, excess, np.nan_to_num(excess_people)


def _rejoin_border_faces(
    graph: FaceGraph,
    started: Labels,
    labels: Labels,
    moved: NDArray[np.bool_],
    is_new: NDArray[np.bool_],
    threshold: float,
) -> Labels:
    """(N,) people of an earlier run, and now of the founding faces; those who `moved` → (N,) people of all, numbered by
    first appearance. A weak face chooses again where it is new, or where a person beside it has changed."""
    changed = np.zeros(max(int(labels.max(initial=UNASSIGNED)), int(started.max(initial=UNASSIGNED))) + 2, np.bool_)
    changed[labels[moved]] = changed[started[moved]] = True
    changed[UNASSIGNED] = False
    founds, weak = graph.roles == Role.CORE, np.flatnonzero(graph.roles == Role.BORDER)
    near = graph.neighbours.indices[weak]
    beside = changed[np.where(near >= 0, labels[near], UNASSIGNED)].any(axis=1)
    choosing = weak[is_new[weak] | changed[started[weak]] | beside]
    number = np.full(len(changed), UNASSIGNED)
    number[labels[founds]] = number_by_first_appearance(labels[founds])
    people = np.full(len(graph), UNASSIGNED, np.int64)
    people[founds], people[weak] = number[labels[founds]], number[started[weak]]
    return join_border_faces(graph, people, threshold, choosing)


@dataclass(frozen=True)
class _LocalPairs:
    """Pairs of the faces `speaking` (R,) with others: (E,) `row` of the one there, `other` face, similarity."""

    speaking: Rows
    row: Rows
    other: Rows
    similarity: Floats


def _find_pairs_beside(graph: FaceGraph, new: Rows, threshold: float) -> _LocalPairs:
    """The new founding faces speak, and those that are likely enough one person with one of them."""
    near, least = graph.neighbours, threshold - SLACK_PART * (1 - threshold)
    beside = near.indices[new][near.similarities[new] > least]
    speaking = np.union1d(new, beside)
    place = np.full(len(graph) + 1, -1)
    place[speaking] = np.arange(len(speaking))
    row, listed = np.nonzero(near.similarities[speaking] > least)
    # And those in whose lists they are: a person in many photos has more faces than a list.
    lists = (place >= 0)[near.indices] & (near.similarities > least)
    lists[graph.roles != Role.CORE] = False
    other, listing = np.nonzero(lists)
    similarity = np.r_[near.similarities[speaking[row], listed], near.similarities[other, listing]]
    rows = np.r_[row, place[near.indices[other, listing]]]
    others = np.r_[near.indices[speaking[row], listed], other]
    _, once = np.unique(rows * len(graph) + others, return_index=True)
    return _LocalPairs(speaking, rows[once], others[once], similarity[once])


def _propagate_in_part(
    graph: FaceGraph, pairs: _LocalPairs, similarity: NDArray[np.floating], labels: Labels, threshold: float
) -> Labels:
    speaking = pairs.speaking
    kept = similarity > threshold
    kept &= (graph.photos[speaking[pairs.row]] != graph.photos[pairs.other]) | (
        similarity > get_duplicate_threshold(threshold)
    )
    margins = np.asarray(similarity[kept] - threshold, np.float64)
    shape = (len(speaking), len(graph))
    likely = sparse.csr_array((margins, (pairs.row[kept], pairs.other[kept])), shape)
    lists = Neighbours(graph.neighbours.indices[speaking], graph.neighbours.similarities[speaking])
    return propagate_labels(likely, speaking, np.argsort(-measure_confidence(lists, threshold), kind="stable"), labels)


def _find_faces_of(labels: Labels, rows: Rows) -> Rows:
    """All faces of the people of these rows."""
    chosen = np.zeros(int(labels.max(initial=UNASSIGNED)) + 2, np.bool_)
    chosen[labels[rows]] = True
    chosen[UNASSIGNED] = False
    return np.flatnonzero(chosen[labels])
