"""Faces that arrive in parts: do incremental runs give the same people as one full run, and what do they cost?

As in the service, each arrival leads to an incremental run, or to a full run where the grouping has drifted, and people
get their ids from app.clustering.identity.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app.clustering.full import Grouping, group
from app.clustering.graph import Labels, add_faces, build_graph
from app.clustering.identity import match_people
from app.clustering.incremental import has_same_companions
from app.clustering.regrouping import regroup
from app.core.arrays import Floats
from app.core.records import FaceBatch, PersonRecord, make_quality_columns
from app.core.roles import assign_core
from app.core.thresholds import Threshold
from benchmarks.accuracy.grouping_measures import SEARCH, compute_scores

Figures = dict[str, Any]
SEED = 0
ADDITIONS = 5
"""So often is the addition measured. The first one also waits for memory that is new to the process; in a service most
additions don't."""


def measure_stream(embeddings: Floats, photos: Labels, people: Labels, threshold: Threshold, arrivals: int) -> Figures:
    """(N,D) unit vectors, (N,) photos, (N,) true people → the scores after the last arrival and those of a full run
    over the same faces, how often ids changed, and the seconds of each kind of run. Faces arrive in random order.

    `id_changes`: the share of the known faces whose person id an arrival changed, as a mean over the arrivals.
    `id_churn`: the same for faces that are still together with the same known faces, so that only the id changed.
    """
    order = np.random.default_rng(SEED).permutation(len(people))
    search, roles = SEARCH, assign_core(len(people))
    before: Grouping | None = None
    ids: list[str | None] = []
    known: dict[str, PersonRecord] = {}
    changes, churn = [], []
    seconds: dict[str, list[float]] = {"full": [], "incremental": []}
    for arrival, new in enumerate(np.array_split(order, arrivals)):
        began = time.perf_counter()
        if before is None or before.has_drifted:
            kind, rows = "full", order[: len(ids) + len(new)]
            now = group(build_graph(embeddings[rows], photos[rows], roles[rows], search), threshold)
        else:
            kind = "incremental"
            graph = add_faces(before.graph, embeddings[new], photos[new], roles[new], search)
            now = regroup(before, graph)
        seconds[kind].append(time.perf_counter() - began)
        faces = _make_stored_faces(now, order, ids)
        matched = match_people(now.labels, faces, known.values())
        after = matched.person_ids
        for person in {person for person in after if person} - known.keys():
            known[person] = PersonRecord(person, "", 0, 0, since=arrival)
        known |= {old: replace(known[old], merged_into=stays) for old, stays in matched.merged.items()}
        if before is not None:
            changed = np.array([old != new for old, new in zip(ids, after, strict=False)])
            changes.append(changed.mean())
            churn.append((changed & has_same_companions(before.labels, now.labels[: len(ids)])).mean())
        before, ids = now, after
    assert before is not None
    full = group(build_graph(embeddings[order], photos[order], roles, search), threshold)
    return {
        "arrivals": arrivals,
        "incremental": compute_scores(people[order], before.labels),
        "full": compute_scores(people[order], full.labels),
        "id_changes": round(float(np.mean(changes)), 5),
        "id_churn": round(float(np.mean(churn)), 5),
        "seconds": {kind: round(float(np.median(some)), 3) for kind, some in seconds.items() if some},
        "runs": {kind: len(some) for kind, some in seconds.items()},
    }


def _make_stored_faces(grouping: Grouping, order: Labels, ids: Sequence[str | None]) -> FaceBatch:
    """The faces with their former people. Columns that are not needed for ids are left empty."""
    count = len(grouping.labels)
    names = [f"face{face:08}" for face in order[:count]]
    nothing = [""] * count
    return FaceBatch(
        face_ids=names,
        image_ids=names,
        boxes=np.zeros((count, 4), np.float32),
        det_scores=np.ones(count, np.float32),
        quality=make_quality_columns([]),
        embeddings=grouping.graph.embeddings,
        crop_keys=nothing,
        person_ids=[*ids, *[None] * (count - len(ids))],
        digests=nothing,
        etags=list(nothing),
        crop_ranges=[None] * count,
    )


def measure_addition(embeddings: Floats, photos: Labels, people: Labels, threshold: Threshold, added: int) -> Figures:
    """Seconds of a full run, and of adding the last `added` faces to all the others, the median of ADDITIONS times."""
    search, roles = SEARCH, assign_core(len(people))
    old, new = slice(0, len(people) - added), slice(len(people) - added, None)
    before = group(build_graph(embeddings[old], photos[old], roles[old], search), threshold)
    taken = []
    for _ in range(ADDITIONS):
        began = time.perf_counter()
        graph = add_faces(before.graph, embeddings[new], photos[new], roles[new], search)
        extending = time.perf_counter() - began
        regroup(before, graph)
        taken.append((time.perf_counter() - began, extending))
    slowest, _ = max(taken)
    adding, extending = sorted(taken)[ADDITIONS // 2]
    began = time.perf_counter()
    group(build_graph(embeddings, photos, roles, search), threshold)
    full = time.perf_counter() - began
    rounded = {
        "full_seconds": full,
        "adding_seconds": adding,
        "of_these_searching": extending,
        "slowest_seconds": slowest,
        "share": adding / full,
    }
    return {"added": added, **{name: round(value, 4) for name, value in rounded.items()}}
