"""The time, the memory and the recall of the search for neighbours.

`python -m benchmarks neighbours --embeddings FILE.npz [--vectors KEY] [--faces N] [--dimension D] [-k K] [--queries M]
[--device D] [--exact] [--json]`

The K nearest neighbours of each of N synthetic faces with the statistics of FILE's
(benchmarks.accuracy.grouping_synthetic) are searched for; with --queries, only those of the first M faces.

seconds, cpu_seconds    of the search alone, by the clock and of all cores together: on a machine with other work, half
                        of the second figure is what two free cores would take.
embeddings_mb           memory of the embeddings themselves.
peak_mb, above_mb       the most resident memory, and how much of it is the search's, its result included.
recall                  share of the true neighbours that is found, for 1,000 faces that are searched for exactly too;
                        `_likely` is that of neighbours above the pack's threshold, the only ones that grouping uses.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from app.clustering.neighbours import EXACT, Neighbours, NeighbourSearch
from app.config import SearchSettings
from app.core.arrays import Floats
from app.packs.manifest import read_manifest
from benchmarks.accuracy.grouping import PACKS, read_faces
from benchmarks.accuracy.grouping_measures import measure_cost
from benchmarks.accuracy.grouping_synthetic import compute_statistics, make_synthetic_faces
from benchmarks.common.command import UnusableInput, print_result

CHECKED_FACES = 1_000


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    return 1 if print_result(lambda: run(options), as_json=options.json) is None else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    embeddings, threshold = make_faces(options)
    exact_faces = None if options.exact else SearchSettings.model_fields["neighbours_exact_faces"].default
    search = NeighbourSearch(
        options.device, exact_faces, progress=lambda: print(".", end="", file=sys.stderr, flush=True)
    )
    before_mb = psutil.Process().memory_info().rss / 1e6
    began = time.process_time()
    queries = embeddings[: options.queries]
    found, seconds, peak_mb = measure_cost(
        lambda: (
            search.find_neighbours_in(queries, embeddings, options.k + 1)
            if options.queries
            else search.find_neighbours(embeddings, options.k)
        )
    )
    cpu_seconds = time.process_time() - began
    recall, likely = measure_recall(embeddings, found, options.k, threshold)
    return {
        "faces": len(embeddings),
        "queries": len(queries),
        "dimension": embeddings.shape[1],
        "k": options.k,
        "device": options.device,
        "exact": options.device == "gpu" or exact_faces is None or len(queries) * len(embeddings) <= exact_faces**2,
        "seconds": seconds,
        "cpu_seconds": round(cpu_seconds, 1),
        "embeddings_mb": round(embeddings.nbytes / 1e6),
        "peak_mb": round(peak_mb),
        "above_mb": round(peak_mb - before_mb),
        "recall": recall,
        "recall_likely": likely,
    }


def make_faces(options: argparse.Namespace) -> tuple[Floats, float]:
    """Synthetic faces, and the cosine above which two of them are likely of one person."""
    real = read_faces(options.embeddings, options.vectors, options.labels, "image")
    if real.key not in PACKS:
        raise UnusableInput(f"No pack is known for {real.key!r}: name one of {', '.join(PACKS)} by --vectors.")
    known = real.people >= 0
    try:
        made = make_synthetic_faces(
            compute_statistics(real.embeddings[known], real.people[known]), options.faces, options.dimension
        )
    except ValueError as error:
        raise UnusableInput(str(error)) from error
    return made.embeddings, read_manifest(Path(PACKS[real.key])).similarity_threshold


def measure_recall(embeddings: Floats, found: Neighbours, k: int, threshold: float) -> tuple[float, float]:
    """(N,D), neighbours of the first M rows → recall of the k nearest on a sample: of all, and of the likely ones."""
    count = len(found.indices)
    sample = np.random.default_rng(1).choice(count, min(CHECKED_FACES, count), replace=False)
    exact = EXACT.find_neighbours_in(embeddings[sample], embeddings, k + 1)
    others = exact.indices != sample[:, None]
    is_found = np.array([np.isin(row, near) for row, near in zip(exact.indices, found.indices[sample], strict=True)])
    likely = others & (exact.similarities > threshold)
    return round(float(is_found[others].mean()), 4), round(float(is_found[likely].mean()), 4)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--embeddings", type=Path, required=True, help=".npz of embeddings and labels")
    parser.add_argument("--vectors", metavar="KEY", help="of the embeddings (the only array of them)")
    parser.add_argument("--labels", metavar="KEY", default="label", help="of the people's names (label)")
    parser.add_argument("--faces", type=int, default=100_000, help="synthetic faces (100,000)")
    parser.add_argument("--dimension", type=int, default=512, help="of the faces (512)")
    parser.add_argument("-k", type=int, default=64, help="neighbours of each (64)")
    parser.add_argument("--queries", type=int, metavar="M", help="search for the first M of them only (all)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="cpu or gpu (cpu)")
    parser.add_argument("--exact", action="store_true", help="exact search at any size (always on a GPU)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
