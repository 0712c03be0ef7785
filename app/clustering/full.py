"""From embeddings to people, all of a gallery's at once.

Good faces found people, in three steps: Chinese Whispers on the nearest neighbours gives provisional ones; with these
known, every similarity is scaled by how near other people lie, and the whispers go round again; people in pieces are
put together by their mean faces. Then weak faces join whom they surely belong to. One threshold serves all, the pack's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.clustering.chinese_whispers import get_duplicate_threshold, number_by_first_appearance, propagate_all
from app.clustering.graph import UNASSIGNED, FaceGraph, Labels, Rows, build_graph, number_photos
from app.clustering.joining import join_border_faces
from app.clustering.local_scaling import choose_strength, measure_neighbourhood, scale_similarities
from app.clustering.merging import merge_people
from app.clustering.neighbours import EXACT, NeighbourSearch
from app.core.arrays import Floats
from app.core.roles import Roles, assign_core

HALF_STRENGTH = 200
"""Provisional people of a gallery in which the local scaling counts half."""
DRIFT = 0.5
"""Once so many faces have changed since, as a part of those grouped at once, all are looked at together again."""


@dataclass(frozen=True)
class Grouping:
    """What a run found out, and the next one needs.

    `labels` (N,) int64 people of the graph's faces, UNASSIGNED where none. `beyond` (N,) float64 how much nearer than
    `typical` others lie to a face, and `beyond_people` (N,) the same of its person's mean and `typical_people`, both 0
    but for founding faces; `strength` how far it counts. `all_at_once` faces were grouped by the last run over all of
    them, and `changed` came or went since.
    """

    graph: FaceGraph
    labels: Labels
    excess: NDArray[np.float64]
    excess_people: NDArray[np.float64]
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
        return replace(
            self,
            graph=self.graph.take(rows),
            labels=self.labels[rows],
            excess=self.excess[rows],
            excess_people=self.excess_people[rows],
            changed=self.changed + gone,
        )


def cluster(
    embeddings: Floats,
    image_ids: Sequence[str],
    threshold: float,
    roles: Roles | None = None,
    search: NeighbourSearch = EXACT,
) -> Labels:
    """(N,D) float32 unit length, N image ids, cosine threshold → (N,) int64 labels, numbered by first appearance.

    Without `roles` (N,) every face is a core face and gets a label: one that is similar to no other is a person of one
    photo. Border faces form no person and connect no two; those without a person are UNASSIGNED, as are noise faces.
    Rows sorted by face id give the same labels on every machine; another order gives the same groups as
    long as no two similarities are equal.
    """
    if len(image_ids) != len(embeddings):
        raise ValueError(f"{len(embeddings)} embeddings need as many image ids, not {len(image_ids)}")
    roles = assign_core(len(embeddings)) if roles is None else roles
    graph = build_graph(embeddings, number_photos(image_ids), roles, search)
    return group(graph, threshold).labels


def group(graph: FaceGraph, threshold: float, progress: Callable[[], None] = lambda: None) -> Grouping:
    """All people of a gallery. Calls `progress` between steps, each of which may take minutes for a million faces."""
    founders = graph.founding
    good = graph.take(founders)
    provisional = propagate_all(good, threshold)
    progress()
    nearness = measure_neighbourhood(good.neighbours, provisional, provisional)
    strength = choose_strength(len(np.unique(provisional)), HALF_STRENGTH)
    labels = propagate_all(_scale_graph(good, nearness.excess, strength), threshold)
    progress()
    labels = number_by_first_appearance(split_repeats_in_photos(good, labels, threshold))
    labels, of_people = merge_people(good, labels, threshold)
    progress()
    people = np.full(len(graph), UNASSIGNED, np.int64)
    people[founders] = number_by_first_appearance(split_repeats_in_photos(good, labels, threshold))
    excess, excess_people = np.zeros(len(graph)), np.zeros(len(graph))
    excess[founders], excess_people[founders] = nearness.excess, of_people.excess[labels]
    people = join_border_faces(graph, people, threshold)
    return Grouping(graph, people, excess, excess_people, nearness.typical, of_people.typical, strength, len(graph))


def split_repeats_in_photos(graph: FaceGraph, labels: Labels, threshold: float, rows: Rows | None = None) -> Labels:
    """A graph of N faces, (N,) labels → (N,) labels: of a person's faces in one photo, those that are like its mean
    least are somebody else, alone, unless nearly equal to the one that is like it most. Only these `rows` are looked
    at, people with all of their faces."""
    rows = np.arange(len(labels)) if rows is None else rows
    order = rows[np.lexsort((graph.photos[rows], labels[rows]))]
    again = np.diff(labels[order]) == 0
    again &= np.diff(graph.photos[order]) == 0
    people = np.unique(labels[order[1:][again]])
    begins, ends = (np.searchsorted(labels[order], people, side) for side in ("left", "right"))
    number = int(labels.max(initial=UNASSIGNED)) + 1
    labels = labels.copy()
    for begin, end in zip(begins, ends, strict=True):
        faces = np.sort(order[begin:end])
        vectors = graph.embeddings[faces]
        nearest_first = np.argsort(-(vectors @ vectors.sum(axis=0)), kind="stable")
        _, first, photo = np.unique(graph.photos[faces[nearest_first]], return_index=True, return_inverse=True)
        best = nearest_first[first[photo]]
        likeness = np.einsum("ij,ij->i", vectors[nearest_first], vectors[best])
        others = faces[nearest_first[(best != nearest_first) & (likeness <= get_duplicate_threshold(threshold))]]
        labels[others] = number + np.arange(len(others))
        number += len(others)
    return labels


def _scale_graph(graph: FaceGraph, excess: NDArray[np.float64], strength: float) -> FaceGraph:
    return replace(graph, neighbours=scale_similarities(graph.neighbours, excess, strength))
