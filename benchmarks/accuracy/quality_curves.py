"""Error versus discard, and AUC."""

import numpy as np

from app.core.arrays import Floats

DISCARDED = np.arange(31) / 100
"""Shares of the faces that are discarded, 0 to 30 %."""


def compute_error_versus_discard(genuine: Floats, quality: Floats, start_fnmr: float) -> Floats:
    """(N,) similarities of faces to their own person, (N,) quality, higher is better → (31,) FNMR.

    The threshold is the one at which FNMR is `start_fnmr` with all faces. Then 1 % of the faces a step is discarded,
    the worst quality first. Grother and Tabassi, "Performance of biometric quality measures" (2007). Faces of equal
    quality are in random order, so that a constant measure does no better than chance.
    """
    threshold = np.quantile(genuine, start_fnmr)
    shuffled = np.random.default_rng(0).permutation(len(genuine))
    worst_first = shuffled[np.argsort(quality[shuffled], kind="stable")]
    is_missed = (genuine < threshold)[worst_first]
    dropped = np.floor(DISCARDED * len(genuine)).astype(int)
    return np.array([is_missed[count:].mean() for count in dropped], np.float32)


def compute_partial_area(curve: Floats) -> float:
    """(31,) FNMR → its mean over the discards: below the first FNMR where discarding helps."""
    return float(np.trapezoid(curve, DISCARDED) / DISCARDED[-1])


def compute_auc(negative: Floats, positive: Floats) -> float:
    """(N,), (M,) → in which share of all pairs the positive one is above the negative one; ties count half."""
    both = np.concatenate([negative, positive])
    _, ranks, counts = np.unique(both, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = (ends - (counts - 1) / 2)[ranks]
    above = mean_rank[len(negative) :].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(negative) * len(positive)))
