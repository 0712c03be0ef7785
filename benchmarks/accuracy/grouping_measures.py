"""The scores and the costs of one method of grouping, at one setting and at the best of many."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psutil

from app.clustering.full import group
from app.clustering.graph import build_graph, number_photos
from app.clustering.neighbours import NeighbourSearch
from app.config import SearchSettings
from app.core.roles import assign_core
from app.core.thresholds import Threshold
from benchmarks.accuracy.grouping_baselines import UNASSIGNED, Baseline, Floats, Labels, Setting
from benchmarks.common.peak import PeakMemory
from workshop.scores import score_bcubed, score_pairwise

Figures = dict[str, Any]

DISTANCES = tuple(np.geomspace(0.01, 0.8, 15).tolist())
"""Cosine distances that are tried, from strict to loose. Faces of one person are within 0.06 of each other with dlib's
embedder, and within 0.5 with MobileFaceNet."""
SEARCH = NeighbourSearch(exact_faces=SearchSettings.model_fields["neighbours_exact_faces"].default)
"""As the service searches on a CPU."""
FINER = 6
"""So many more distances are tried between the best of these and each adjacent one, in steps of 5 %."""
GIVEN_UP_BELOW = 0.9
"""The search ends at a score below this part of the best: at looser distances all faces are one person, which takes
long."""


def measure_ours(
    embeddings: Floats, photos: Sequence[str], people: Labels, threshold: Threshold, *, search: bool
) -> Figures:
    """(N,D) unit vectors, N photos, (N,) true people → figures at the shipped threshold, by stage, and the best."""
    roles = assign_core(len(people))
    began = time.process_time()
    graph, seconds, peak = measure_cost(lambda: build_graph(embeddings, number_photos(photos), roles, SEARCH))
    figures = measure_grouping(lambda: group(graph, threshold).labels, people)
    figures |= {
        "cpu_seconds": round(time.process_time() - began, 3),
        "seconds": round(seconds + figures["seconds"], 3),
        "peak_memory_mb": max(peak, figures["peak_memory_mb"]),
        "neighbours_seconds": seconds,
        "neighbours_peak_memory_mb": peak,
        "clustering_seconds": figures["seconds"],
    }

    def method(setting: Setting) -> Labels:
        assert setting.distance is not None
        return group(graph, 1 - setting.distance).labels

    return figures | (
        {"best": find_best_setting(method, people, (1,), Setting(1 - threshold.at_reference))} if search else {}
    )


def measure_baseline(baseline: Baseline, embeddings: Floats, people: Labels, *, search: bool) -> Figures:
    """(N,D) unit vectors, (N,) true people → figures at the project's own setting, None without one, and the best."""
    published = baseline.published
    figures: Figures = {"published": None}
    if published is not None:
        work = measure_grouping(lambda: baseline.prepare(embeddings)(published), people)
        figures["published"] = {**_describe_setting(published), **work}
    if search:
        method = baseline.prepare(embeddings)
        figures["best"] = find_best_setting(method, people, baseline.cores, published)
    return figures


def find_best_setting(
    method: Callable[[Setting], Labels], people: Labels, cores: Sequence[int], published: Setting | None
) -> Figures:
    """The figures at the setting of the highest BCubed F, and the highest pairwise F of all that were tried.

    The project's own setting is tried too; where it has no distance, only the cores differ.
    """

    def at(setting: Setting) -> Figures:
        return {**_describe_setting(setting), **compute_scores(people, method(setting))}

    tried = [] if published is None else [at(published)]
    if published is not None and published.distance is None:
        tried += [at(Setting(None, core)) for core in cores]
    else:
        coarse = [figures for core in cores for figures in _try_distances(core, at)]
        tried += coarse + [at(setting) for setting in _make_settings_around(_find_highest(coarse))]
    return {**_find_highest(tried), "best_pairwise_f": max(figures["pairwise_f"] for figures in tried)}


def measure_grouping(group: Callable[[], Labels], people: Labels) -> Figures:
    """The scores of one grouping, and the seconds and the memory that it took."""
    found, seconds, peak_mb = measure_cost(group)
    return {**compute_scores(people, found), "seconds": seconds, "peak_memory_mb": peak_mb}


def compute_scores(people: Labels, found: Labels) -> Figures:
    """(N,) true people, (N,) found people → scores. Unassigned faces are people of one face in both."""
    true, predicted = separate_unassigned(people), separate_unassigned(found)
    figures: Figures = {}
    for name, score in (("bcubed", score_bcubed(true, predicted)), ("pairwise", score_pairwise(true, predicted))):
        values = (("f", score.f), ("precision", score.precision), ("recall", score.recall))
        figures |= {f"{name}_{kind}": round(value, 4) for kind, value in values}
    return {**figures, "people": len(np.unique(predicted)), "nobody": int((found == UNASSIGNED).sum())}


def separate_unassigned(labels: Labels) -> Labels:
    """(N,) labels → (N,) labels in which each unassigned face has a new label of its own."""
    separate = labels.astype(np.int64)
    unassigned = separate == UNASSIGNED
    separate[unassigned] = separate.max() + 1 + np.arange(unassigned.sum())
    return separate


def measure_cost(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Run `work` → its result, the seconds it took, and the most resident megabytes of this process meanwhile."""
    began = time.perf_counter()
    with PeakMemory() as memory:
        result = work()
    seconds = time.perf_counter() - began
    # Work that ends before the first sample of the memory has used at least what is resident now.
    peak = max(memory.peak, psutil.Process().memory_info().rss)
    return result, round(seconds, 3), round(peak / 1e6, 1)


def _find_highest(tried: Sequence[Figures]) -> Figures:
    return max(tried, key=lambda figures: figures["bcubed_f"])


def _make_settings_around(middle: Figures) -> list[Setting]:
    """Finer settings between one of DISTANCES and both adjacent ones."""
    step = DISTANCES[1] / DISTANCES[0]
    distances = middle["distance"] * step ** np.linspace(-1, 1, 2 * FINER + 3)
    return [Setting(float(distance), middle["core"]) for distance in np.delete(distances[1:-1], FINER)]


def _try_distances(core: int, at: Callable[[Setting], Figures]) -> Iterator[Figures]:
    highest = 0.0
    for distance in DISTANCES:
        figures = at(Setting(distance, core))
        yield figures
        highest = max(highest, figures["bcubed_f"])
        if figures["bcubed_f"] < GIVEN_UP_BELOW * highest:
            return


def _describe_setting(setting: Setting) -> Figures:
    return {"distance": None if setting.distance is None else round(setting.distance, 4), "core": setting.core}
