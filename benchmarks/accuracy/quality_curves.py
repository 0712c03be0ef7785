"""Error versus discard, and how well one number tells two kinds apart."""

import numpy as np

from app.core.arrays import Floats

DISCARDED = np.arange(31) / 100
"""Shares of the faces that are discarded, 0 to 30 %."""


def compute_error_versus_discard(genuine: Floats, quality: Floats, start_fnmr: float) -> Floats:
    """(N,) similarities of faces to their own person, (N,) quality, higher is better → (31,) FNMR.

    The threshold is where FNMR begins at `start_fnmr`; after that, those of the worst quality are discarded by 1 % a
    step. Grother and Tabassi, "Performance of biometric quality measures" (2007). Of equal qualities, which come first
    is left to chance, so that a constant measure does no better than chance.
    """
    threshold = np.quantile(genuine, start_fnmr)
    shuffled = np.random.default_rng(0).permutation(len(genuine))
    worst_first = shuffled[np.argsort(quality[shuffled], kind="stable")]
    is_missed = (genuine < threshold)[worst_first]
    dropped = np.floor(DISCARDED * len(genuine)).astype(int)
    return np.array([is_missed[count:].mean() for count in dropped], np.float32)


def compute_partial_area(curve: Floats) -> float:
    """(31,) FNMR → its mean over the discards: what is left of the start where discarding helps."""
    return float(np.trapezoid(curve, DISCARDED) / DISCARDED[-1])


def compute_auc(negative: Floats, positive: Floats) -> float:
    """(N,), (M,) → how often one of the positive is above one of the negative; ties count half."""
    both = np.concatenate([negative, positive])
    _, ranks, counts = np.unique(both, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = (ends - (counts - 1) / 2)[ranks]
    above = mean_rank[len(negative) :].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(negative) * len(positive)))
