"""How well scores separate pairs of one person from pairs of two: accuracy in ten folds, and TAR at a FAR.

Scores are cosines; a pair is judged to be of one person where its score reaches the threshold.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Folds = NDArray[np.intp]

BEYOND_COSINES = 2.0
FEWEST_FALSE_ACCEPTS = 30
"""With fewer, a rate is not reliable: the rule of 30 (Doddington et al., "The NIST speaker recognition evaluation",
2000)."""


def judge_in_folds(scores: Scores, genuine: Flags, fold: Folds) -> Flags:
    """(N,) cosines, (N,) whether of one person, (N,) fold → (N,) whether judged right.

    Each fold is judged by the threshold that is best on the others: LFW's view 2 (Huang et al., 2007). A NaN is a pair
    without a score: it has no influence on a threshold, and is judged wrong.
    """
    right = np.zeros(len(scores), bool)
    scored = ~np.isnan(scores)
    for held_out in np.unique(fold):
        others, own = scored & (fold != held_out), fold == held_out
        threshold = find_best_threshold(scores[others], genuine[others])
        right[own] = (scores[own] >= threshold) == genuine[own]
    return right & scored


def find_best_threshold(scores: Scores, genuine: Flags) -> float:
    """(N,) cosines, (N,) whether of one person → the threshold that judges most of them right, of equal ones the
    lowest.

    It is midway between two adjacent scores, or below or above all of them.
    """
    edges = np.concatenate([[-BEYOND_COSINES], np.unique(scores), [BEYOND_COSINES]])
    thresholds = (edges[:-1] + edges[1:]) / 2
    impostors_below = np.searchsorted(np.sort(scores[~genuine]), thresholds)
    genuine_below = np.searchsorted(np.sort(scores[genuine]), thresholds)
    return float(thresholds[np.argmax(impostors_below - genuine_below)])


def compute_share_by_fold(right: Flags, fold: Folds) -> Scores:
    """(N,) whether judged right, (N,) fold → (F,) the share judged right in each fold."""
    return np.array([right[fold == each].mean() for each in np.unique(fold)])


def compute_tar_at_far(genuine: Scores, impostors: Scores, far: float) -> float | None:
    """(N,) scores of pairs of one person, (M,) of two people → the true accept rate at the false accept rate `far`.

    The threshold is just above the impostor score whose acceptance would exceed `far`. None where `far` of the M are
    fewer than FEWEST_FALSE_ACCEPTS or all of them, or where N is 0.
    """
    accepted = int(round(far * len(impostors), 6))  # rounded, for 0.0001 * 300,000 is just below 30 in binary
    if accepted < FEWEST_FALSE_ACCEPTS or accepted >= len(impostors) or not len(genuine):
        return None
    at = len(impostors) - 1 - accepted
    return float((genuine > np.partition(impostors, at)[at]).mean())


def compute_impostor_scores(embeddings: Floats, people: Sequence[object]) -> Scores:
    """(N,D) of unit length, N people → (M,) the cosines of all pairs of different people, each pair once."""
    _, labels = np.unique(np.asarray(people), return_inverse=True)
    rows = embeddings[np.argsort(labels, kind="stable")]
    ends = np.cumsum(np.bincount(labels))
    # In the order of people, each person is compared only with those after it, so that no pair comes twice.
    blocks = [
        (rows[end - size : end] @ rows[end:].T).ravel() for end, size in zip(ends, np.bincount(labels), strict=True)
    ]
    return np.concatenate([np.empty(0), *blocks])
