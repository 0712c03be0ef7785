"""From embeddings to people, all of a gallery's at once or only where it has changed.

Good faces found people, in three steps: Chinese Whispers on the nearest neighbours gives provisional ones; with these
known, every similarity is scaled by how near other people lie, and the whispers go round again; people in pieces are
put together by their mean faces. Then weak faces join whom they surely belong to. One threshold serves all, the pack's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.grouping.graph import NOBODY, FaceGraph, Floats, Labels, Rows, connected, numbered
from app.grouping.joining import join_people
from app.grouping.local_scaling import nearness_of_others, scaled, strength_of
from app.grouping.merging import merge_people
from app.grouping.neighbours import EXACT, Neighbours, NeighbourSearch
from app.grouping.whispers import nearly_equal, numbered_by_first_appearance, whisper
from app.vision.quality.roles import Roles, all_found

HALF_STRENGTH = 200
"""Provisional people of a gallery in which the local scaling counts half."""
DRIFT = 0.5
"""Once so many faces have changed since, as a part of those grouped at once, all are looked at together again."""
SLACK_PART = 0.1
"""So much below the threshold, as a part of what lies above it, the scaling may lift a similarity over it."""


@dataclass(frozen=True)
class Grouping:
    """What a run found out, and the next one needs.

    `labels` (N,) int64 people of the graph's faces, NOBODY where none. `beyond` (N,) float64 how much nearer than
    `typical` others lie to a face, 0 but for founding ones; `strength` how far that counts; `typical_people` the same
    of people's means. `all_at_once` faces were grouped by the last run over all of them, and `changed` came or went
    since.
    """

    graph: FaceGraph
    labels: Labels
    beyond: NDArray[np.float64]
    typical: float
    typical_people: float
    strength: float
    all_at_once: int
    changed: int = 0

    @property
    def has_drifted(self) -> bool:
        """Whether so much has changed that all faces should be looked at together again."""
        return self.changed > DRIFT * self.all_at_once

    def take(self, rows: Rows) -> "Grouping":
        """What is known of these faces alone, in this order."""
        gone = len(self.graph) - len(rows)
        kept = replace(self, graph=self.graph.take(rows), labels=self.labels[rows], beyond=self.beyond[rows])
        return replace(kept, changed=self.changed + gone)


def cluster(
    embeddings: Floats,
    image_ids: Sequence[str],
    threshold: float,
    roles: Roles | None = None,
    search: NeighbourSearch = EXACT,
) -> Labels:
    """(N,D) float32 unit length, N image ids, cosine threshold → (N,) int64 labels, numbered by first appearance.

    Without `roles` (N,) every face founds, and gets a label: one that is like no other is a person of one photo. Faces
    that may only join found nobody and bring nobody together; those without a person are NOBODY's, as are those that
    are left out. Rows sorted by face id give the same labels on every machine; another order gives the same groups as
    long as no two similarities are equal.
    """
    if len(image_ids) != len(embeddings):
        raise ValueError(f"{len(embeddings)} embeddings need as many image ids, not {len(image_ids)}")
    roles = all_found(len(embeddings)) if roles is None else roles
    graph = connected(embeddings, numbered(image_ids), roles, search)
    return group(graph, threshold).labels


def group(graph: FaceGraph, threshold: float, progress: Callable[[], None] = lambda: None) -> Grouping:
    """All people of a gallery. Calls `progress` between steps, each of which may take minutes for a million faces."""
    founders = graph.founding
    good = graph.take(founders)
    provisional = whisper(good, threshold)
    progress()
    nearness = nearness_of_others(good.neighbours, provisional, provisional)
    strength = strength_of(len(np.unique(provisional)), HALF_STRENGTH)
    labels = whisper(_scaled(good, nearness.beyond, strength), threshold)
    progress()
    labels = once_in_each_photo(good, labels, threshold)
    labels, typical_people = merge_people(good, labels, threshold)
    progress()
    labels = once_in_each_photo(good, labels, threshold)
    beyond = np.zeros(len(graph))
    beyond[founders] = nearness.beyond
    people = _with_weak_faces(graph, labels, threshold)
    return Grouping(graph, people, beyond, nearness.typical, typical_people, strength, len(graph))


def regroup(before: Grouping, graph: FaceGraph, threshold: float) -> Grouping:
    """The people of `graph`, whose first faces are those of `before`; the others are new.

    Looks at the new founding faces, the people of those they are like, and the people nearest to these; the rest of
    the gallery stays as it is, as does what counts as typical. So the result drifts from `group`'s as faces come.
    """
    founders = graph.founding
    good = graph.take(founders)
    is_new = founders >= len(before.graph)
    old, new = np.flatnonzero(~is_new), np.flatnonzero(is_new)
    labels = np.empty(len(founders), np.int64)
    labels[old] = before.labels[founders[old]]
    labels[new] = before.labels.max(initial=NOBODY) + 1 + np.arange(len(new))

    waiting = _beside(good, is_new, threshold)
    rows = np.flatnonzero(np.isin(labels, labels[waiting]))
    region = good.take(rows)
    provisional = labels.copy()
    provisional[rows] = whisper(region, threshold, labels[rows], waiting[rows])
    beyond = np.concatenate([before.beyond, np.zeros(len(graph) - len(before.graph))])
    near = Neighbours(good.neighbours.indices[new], good.neighbours.similarities[new])
    beyond[founders[new]] = nearness_of_others(near, provisional[new], provisional, before.typical).beyond

    region = _scaled(region, beyond[founders[rows]], before.strength)
    labels[rows] = whisper(region, threshold, labels[rows], waiting[rows])
    labels = once_in_each_photo(good, labels, threshold)
    is_touched = np.zeros(labels.max(initial=NOBODY) + 1, np.bool_)
    is_touched[labels[rows]] = True
    labels, _ = merge_people(good, labels, threshold, is_touched, before.typical_people)
    labels = once_in_each_photo(good, labels, threshold)
    people = _with_weak_faces(graph, labels, threshold)
    changed = before.changed + len(graph) - len(before.graph)
    return replace(before, graph=graph, labels=people, beyond=beyond, changed=changed)


def once_in_each_photo(graph: FaceGraph, labels: Labels, threshold: float) -> Labels:
    """A graph of N faces, (N,) labels → (N,) labels from 0 on: of a person's faces in one photo, those that are like
    its mean least are somebody else, alone, unless nearly equal to the one that is like it most."""
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    order = np.lexsort((graph.photos, labels))
    begins = np.searchsorted(labels[order], np.arange(labels.max(initial=NOBODY) + 2))
    again = np.diff(labels[order]) == 0
    again &= np.diff(graph.photos[order]) == 0
    number = len(begins) - 1
    for person in np.unique(labels[order[1:][again]]):
        faces = np.sort(order[begins[person] : begins[person + 1]])
        vectors = graph.embeddings[faces]
        nearest_first = np.argsort(-(vectors @ vectors.sum(axis=0)), kind="stable")
        _, first, photo = np.unique(graph.photos[faces[nearest_first]], return_index=True, return_inverse=True)
        best = nearest_first[first[photo]]
        likeness = np.einsum("ij,ij->i", vectors[nearest_first], vectors[best])
        others = faces[nearest_first[(best != nearest_first) & (likeness <= nearly_equal(threshold))]]
        labels[others] = number + np.arange(len(others))
        number += len(others)
    return labels


def _beside(graph: FaceGraph, is_new: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """(N,) the new faces, and those that are likely enough one person with one of them."""
    likely = graph.neighbours.similarities > threshold - SLACK_PART * (1 - threshold)
    beside = is_new.copy()
    beside[graph.neighbours.indices[is_new][likely[is_new]]] = True
    beside |= (likely & is_new[graph.neighbours.indices]).any(axis=1)
    return beside


def _scaled(graph: FaceGraph, beyond: NDArray[np.float64], strength: float) -> FaceGraph:
    return replace(graph, neighbours=scaled(graph.neighbours, beyond, strength))


def _with_weak_faces(graph: FaceGraph, labels: Labels, threshold: float) -> Labels:
    """A graph of N faces, people of its founding ones → (N,) people of all, numbered by first appearance."""
    people = np.full(len(graph), NOBODY, np.int64)
    people[graph.founding] = numbered_by_first_appearance(labels)
    return join_people(graph, people, threshold)
