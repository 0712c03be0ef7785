"""A full run: from the embeddings of all faces of a gallery to people.

Core faces form the people, in three steps:

1. Chinese Whispers on the nearest neighbours gives provisional people (chinese_whispers.py).
2. Every similarity is lowered by how similar the faces of other people are (local_scaling.py), and Chinese Whispers
   runs again on the scaled similarities.
3. People that are still in several parts are merged by the similarity of their mean faces (merging.py).

After step 2 and after step 3 a person keeps one face in each photo, or several in a collage of one person
(`split_repeats_in_photos`). Then border faces join the person to which they clearly belong (joining.py); noise faces
stay without a person.

The threshold depends on the number of people (app/core/thresholds.py). The first step uses the highest that there may
be, that of a gallery in which every face is another person, and tells about how many people there are. All other steps
use the threshold of so many people.
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
from app.core.thresholds import Threshold, make_threshold

HALF_STRENGTH = 200
"""With so many provisional people, half of the excess similarity is subtracted; see `choose_strength`."""
ALONE_IN_PHOTOS, ALONE_TO_REPEATED = 3, 0.5
"""A person may be several times in a photo where at least so many other photos show it once, and so many for each face
that shares its photo with another face of the person. With fewer, two people who are often photographed together may be
one cluster."""
CLEARLY_PART = 0.3
"""How far above the threshold, as a part of 1 - threshold, the similarity of such a face to the mean of the person's
faces in those photos must be."""
DRIFT = 0.5
"""The next run is a full one once the faces that came or went are more than this part of those of the last full run."""


@dataclass(frozen=True)
class Grouping:
    """The result of a run over N faces, with all that the next incremental run needs.

    `labels` (N,) int64: each face's person, UNASSIGNED where it has none.
    `excess` (N,) float64 and `typical`: the excess similarity of each face, and the mean that it is the difference to;
    see `Neighbourhood`. `person_excess` (N,) float64 and `typical_person`: the same, of the mean face of each face's
    person among the mean faces of all people. Both excesses are 0 for faces that are not core faces.
    `strength`: the part of the excess that is subtracted from similarities, 0 to 1.
    `threshold`: the one that the last full run chose; incremental runs keep it, so that nobody's person changes only
    because a gallery has grown a little.
    `full_run_faces`: the number of faces in the last full run. `changed`: how many faces came or went since that run.
    """

    graph: FaceGraph
    labels: Labels
    excess: NDArray[np.float64]
    person_excess: NDArray[np.float64]
    typical: float
    typical_person: float
    strength: float
    threshold: float
    full_run_faces: int
    changed: int = 0

    @property
    def has_drifted(self) -> bool:
        """Whether so many faces have changed that the next run should be a full one."""
        return self.changed > DRIFT * self.full_run_faces

    def take(self, rows: Rows) -> "Grouping":
        """The grouping of these faces alone, in this order; the others count as changed."""
        gone = len(self.graph) - len(rows)
        return replace(
            self,
            graph=self.graph.take(rows),
            labels=self.labels[rows],
            excess=self.excess[rows],
            person_excess=self.person_excess[rows],
            changed=self.changed + gone,
        )


def cluster(
    embeddings: Floats,
    image_ids: Sequence[str],
    threshold: Threshold | float,
    roles: Roles | None = None,
    search: NeighbourSearch = EXACT,
) -> Labels:
    """(N,D) float32 unit length, N image ids, cosine threshold → (N,) int64 labels, numbered by first appearance.

    A threshold that is a number serves galleries of every size.

    Without `roles` (N,) every face is a core face. Every core face gets a label; one that is similar to no other is a
    person of one face. Border faces form no person and connect no two people; a border face without a person is
    UNASSIGNED, as every noise face is. Rows in the order of their face ids give the same labels on every machine.
    Another order gives the same groups as long as no two similarities are equal.
    """
    if len(image_ids) != len(embeddings):
        raise ValueError(f"{len(embeddings)} embeddings need as many image ids, not {len(image_ids)}")
    roles = assign_core(len(embeddings)) if roles is None else roles
    graph = build_graph(embeddings, number_photos(image_ids), roles, search)
    return group(graph, threshold).labels


def group(graph: FaceGraph, threshold: Threshold | float, progress: Callable[[], None] = lambda: None) -> Grouping:
    """A full run over a gallery. Calls `progress` between steps, each of which may take minutes for a million faces."""
    core = graph.core_rows
    core_graph = graph.take(core)
    curve = make_threshold(threshold)
    provisional = propagate_all(core_graph, curve.compute(len(core)))
    progress()
    count = len(np.unique(provisional))
    chosen, strength = curve.compute(count), choose_strength(count, HALF_STRENGTH)
    of_faces = measure_neighbourhood(core_graph.neighbours, provisional, provisional)
    labels = propagate_all(_scale_graph(core_graph, of_faces.excess, strength), chosen)
    progress()
    labels = number_by_first_appearance(split_repeats_in_photos(core_graph, labels, chosen))
    labels, of_people = merge_people(core_graph, labels, chosen)
    progress()
    people = np.full(len(graph), UNASSIGNED, np.int64)
    people[core] = number_by_first_appearance(split_repeats_in_photos(core_graph, labels, chosen))
    excess, person_excess = np.zeros(len(graph)), np.zeros(len(graph))
    excess[core], person_excess[core] = of_faces.excess, of_people.excess[labels]
    people = join_border_faces(graph, people, chosen)
    return Grouping(
        graph, people, excess, person_excess, of_faces.typical, of_people.typical, strength, chosen, len(graph)
    )


def split_repeats_in_photos(graph: FaceGraph, labels: Labels, threshold: float, rows: Rows | None = None) -> Labels:
    """A graph of N faces, (N,) labels → (N,) labels by which hardly anybody is twice in a photo.

    Of a person's faces in one photo, the one most similar to the mean of the person stays. Each of the others becomes a
    person of its own, unless it is nearly equal to the one that stays (`get_duplicate_threshold`), or clearly shows the
    same person (`_is_clearly_the_person`), as in a collage. Only the faces `rows` (all by default) are examined; they
    must include all faces of their people.
    """
    rows = np.arange(len(labels)) if rows is None else rows
    order = rows[np.lexsort((graph.photos[rows], labels[rows]))]
    repeated = np.diff(labels[order]) == 0
    repeated &= np.diff(graph.photos[order]) == 0
    people = np.unique(labels[order[1:][repeated]])
    begins, ends = (np.searchsorted(labels[order], people, side) for side in ("left", "right"))
    number = int(labels.max(initial=UNASSIGNED)) + 1
    labels = labels.copy()
    for begin, end in zip(begins, ends, strict=True):
        faces = np.sort(order[begin:end])
        vectors = graph.embeddings[faces]
        nearest_first = np.argsort(-(vectors @ vectors.sum(axis=0)), kind="stable")
        _, first, photo, count = np.unique(
            graph.photos[faces[nearest_first]], return_index=True, return_inverse=True, return_counts=True
        )
        best = nearest_first[first[photo]]
        similarities = np.einsum("ij,ij->i", vectors[nearest_first], vectors[best])
        stays = (best == nearest_first) | (similarities > get_duplicate_threshold(threshold))
        stays |= _is_clearly_the_person(vectors[nearest_first], count[photo] == 1, similarities, threshold)
        others = faces[nearest_first[~stays]]
        labels[others] = number + np.arange(len(others))
        number += len(others)
    return labels


def _is_clearly_the_person(
    vectors: Floats, is_alone: NDArray[np.bool_], similarities: Floats, threshold: float
) -> NDArray[np.bool_]:
    """(N,D) the faces of a person, (N,) which of them are the person's only one in their photo, (N,) the similarity of
    each to the best of its photo → (N,) which of them are the person's beyond doubt, though the photo has another."""
    if is_alone.sum() < max(ALONE_IN_PHOTOS, ALONE_TO_REPEATED * (~is_alone).sum()):
        return np.zeros(len(vectors), np.bool_)
    mean = vectors[is_alone].sum(axis=0)
    clearly = threshold + CLEARLY_PART * (1 - threshold)
    return np.asarray((vectors @ mean >= clearly * np.linalg.norm(mean)) & (similarities > threshold))


def _scale_graph(graph: FaceGraph, excess: NDArray[np.float64], strength: float) -> FaceGraph:
    return replace(graph, neighbours=scale_similarities(graph.neighbours, excess, strength))
