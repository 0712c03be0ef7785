"""Whether a threshold that `python -m workshop calibrate` chooses is right for other people than those it was chosen
on.

`python -m benchmarks calibration --embeddings FILE.npz [--vectors KEY] [--labels KEY] [--images KEY] [--splits N]
[--json]`

The people are split at random into halves, N times. On each half thresholds are chosen: by the rule (`shipped`), and
for comparison at fixed false match rates. The other half is grouped with each threshold, every face as a core face, and
searched for its own best threshold.

threshold, threshold_std    mean and standard deviation over the halves.
bcubed_f_lost, pairwise_f_lost    by how much the score is below that at the best threshold: mean, and `_worst`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.core.thresholds import Threshold
from benchmarks.accuracy.grouping import Faces, make_embeddings_parser, read_faces
from benchmarks.accuracy.grouping_measures import Figures, measure_ours
from benchmarks.common.command import UnusableInput, print_result
from workshop.calibration import KnownFaces, choose_threshold, compute_error_rates

SHIPPED = "shipped"
FIXED_RATES = (1e-4, 3e-5, 1e-5, 3e-6)


@dataclass(frozen=True)
class Fit:
    """A threshold that was chosen on one half, and what the scores of the other half lose by it."""

    threshold: float
    bcubed_f_lost: float
    pairwise_f_lost: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    return 1 if print_result(lambda: run(options), as_json=options.json) is None else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all thresholds. Returns the result as it is printed."""
    faces = read_faces(options.embeddings, options.vectors, options.labels, options.images)
    if len(np.unique(faces.people)) < 4 or (faces.people < 0).any():
        raise UnusableInput(f"{options.embeddings} must have faces of four people or more, and tell whose each is.")
    fits: dict[str, list[Fit]] = {}
    for fitted, judged in _split_into_halves(faces, options.splits):
        print(
            f"{len(judged.people)} faces are grouped with thresholds chosen on {len(fitted.people)} others",
            file=sys.stderr,
        )
        thresholds = _choose_thresholds(KnownFaces(fitted.embeddings, fitted.people))
        best = _measure_ours(judged, thresholds[SHIPPED], search=True)["best"]
        for name, threshold in thresholds.items():
            fits.setdefault(name, []).append(_compare_to_best(threshold, _measure_ours(judged, threshold), best))
    rules = {name: _summarise_fits(some) for name, some in fits.items()}
    return {"vectors": faces.key, "halves": 2 * options.splits, "rules": rules}


def _split_into_halves(faces: Faces, splits: int) -> Iterator[tuple[Faces, Faces]]:
    """Yields the faces of a random half of the people and of the other half, and then the same halves exchanged."""
    for seed in range(splits):
        side = np.random.default_rng(seed).permutation(int(faces.people.max()) + 1)[faces.people] % 2
        first, second = (_take_faces(faces, np.flatnonzero(side == half)) for half in (0, 1))
        yield first, second
        yield second, first


def _take_faces(faces: Faces, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Faces:
    people = np.unique(faces.people[rows], return_inverse=True)[1].astype(np.int64)
    return Faces(faces.embeddings[rows], people, [faces.photos[row] for row in rows], faces.key)


def _choose_thresholds(faces: KnownFaces) -> dict[str, Threshold]:
    rates = compute_error_rates(faces)
    fixed = {f"false match rate {rate:g}": Threshold(rates.find_least(rate)) for rate in FIXED_RATES}
    return {SHIPPED: choose_threshold(faces, rates), **fixed}


def _measure_ours(faces: Faces, threshold: Threshold, *, search: bool = False) -> Figures:
    return measure_ours(faces.embeddings, faces.photos, faces.people, threshold, search=search)


def _compare_to_best(threshold: Threshold, figures: Figures, best: Figures) -> Fit:
    return Fit(
        threshold.at_reference, best["bcubed_f"] - figures["bcubed_f"], best["best_pairwise_f"] - figures["pairwise_f"]
    )


def _summarise_fits(fits: Sequence[Fit]) -> dict[str, float]:
    thresholds = np.array([fit.threshold for fit in fits])
    summary = {"threshold": float(thresholds.mean()), "threshold_std": float(thresholds.std())}
    for name in ("bcubed_f_lost", "pairwise_f_lost"):
        lost = np.array([getattr(fit, name) for fit in fits])
        summary |= {name: float(lost.mean()), f"{name}_worst": float(lost.max())}
    return {name: round(value, 4) for name, value in summary.items()}


def _make_parser() -> argparse.ArgumentParser:
    parser = make_embeddings_parser("calibration", __doc__)
    parser.add_argument("--splits", type=int, default=3, help="of the people into halves (3)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
