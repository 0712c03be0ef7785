"""How well predicted groups agree with the true ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = Sequence[str] | NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """`precision` and `recall` in 0..1."""

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """Their harmonic mean; 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class _Contingency:
    """How many items share a true and a predicted group: one entry a pair of groups that meet.

    `shared`, `true_size` and `predicted_size` (M,) float64.
    """

    shared: NDArray[np.float64]
    true_size: NDArray[np.float64]
    predicted_size: NDArray[np.float64]


def score_bcubed(labels_true: Labels, labels_pred: Labels) -> Score:
    """N true labels, N predicted ones → the mean over the items of each item's own precision and recall.

    Bagga and Baldwin, "Entity-based cross-document coreferencing using the vector space model" (1998).
    """
    table = _count_contingency(labels_true, labels_pred)
    items = len(labels_true)
    return Score(
        precision=float((table.shared**2 / table.predicted_size).sum() / items),
        recall=float((table.shared**2 / table.true_size).sum() / items),
    )


def score_pairwise(labels_true: Labels, labels_pred: Labels) -> Score:
    """N true labels, N predicted ones → precision and recall over the pairs of items put together.

    Without a pair, the value is 1: no pair is wrong.
    """
    table = _count_contingency(labels_true, labels_pred)
    # Ordered pairs, counted from the item's side: each has (size of its group - 1) of them.
    right = (table.shared * (table.shared - 1)).sum()
    predicted = (table.shared * (table.predicted_size - 1)).sum()
    true = (table.shared * (table.true_size - 1)).sum()
    return Score(float(right / predicted) if predicted else 1.0, float(right / true) if true else 1.0)


def _count_contingency(labels_true: Labels, labels_pred: Labels) -> _Contingency:
    """N true labels, N predicted ones → the sizes of all groups that meet.

    Raises ValueError for labels that can't be compared.
    """
    if len(labels_true) != len(labels_pred) or len(labels_true) == 0:
        raise ValueError(f"{len(labels_true)} true and {len(labels_pred)} predicted labels can't be compared")
    _, true, true_sizes = np.unique(np.asarray(labels_true), return_inverse=True, return_counts=True)
    _, predicted, predicted_sizes = np.unique(np.asarray(labels_pred), return_inverse=True, return_counts=True)
    cells, shared = np.unique(true * len(predicted_sizes) + predicted, return_counts=True)
    true_rows, predicted_columns = np.divmod(cells, len(predicted_sizes))
    return _Contingency(
        shared.astype(np.float64),
        true_sizes[true_rows].astype(np.float64),
        predicted_sizes[predicted_columns].astype(np.float64),
    )
