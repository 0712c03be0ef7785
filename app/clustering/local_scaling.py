"""Similarities less how near other people lie: a cut for each face instead of one for all.

Some faces are like everybody (children, dark photos, siblings in a family's gallery), some like nobody. So a
similarity s of x and y becomes s - (r(x) + r(y)) / 2, r being how much nearer than to a typical face the nearest faces
of other people lie: the local scaling of Conneau et al., "Word translation without parallel data" (ICLR 2018), known in
speaker recognition as score normalisation against a cohort. Who the other people are, a first grouping says.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import Labels
from app.clustering.neighbours import Neighbours

NEAREST, SKIPPED = 10, 2
"""So many faces of others give r, after the nearest few: those may be the person's own that were not recognised."""
FEWEST = 5
"""With fewer others in sight a face counts as typical."""


@dataclass(frozen=True)
class Neighbourhood:
    """How near others lie: `beyond` (N,) float64, how much nearer than `typical`."""

    excess: NDArray[np.float64]
    typical: float


def measure_neighbourhood(
    neighbours: Neighbours, labels: Labels, people: Labels, typical: float | None = None
) -> Neighbourhood:
    """(M,k) neighbours among N faces, most similar first, (M,) provisional people of the rows and (N,) of all faces →
    how near others lie to each row. `typical` is the mean over the rows unless given."""
    others = (neighbours.indices >= 0) & (people[neighbours.indices] != labels[:, None])
    rank = np.cumsum(others, axis=1)
    used = others & (rank > SKIPPED) & (rank <= SKIPPED + NEAREST)
    count = used.sum(axis=1)
    total = np.where(used, neighbours.similarities, 0).sum(axis=1, dtype=np.float64)
    seen = count >= FEWEST
    if typical is None:
        typical = float(np.mean(total[seen] / count[seen])) if seen.any() else 0.0
    return Neighbourhood(np.where(seen, total / np.maximum(count, 1) - typical, 0.0), typical)


def scale_similarities(neighbours: Neighbours, excess: NDArray[np.float64], strength: float) -> Neighbours:
    """(N,k) neighbours, (N,) → the same neighbours with scaled similarities, most similar first.

    A `strength` of 1 takes off all of it, 0 nothing.
    """
    both = excess[:, None] + excess[np.maximum(neighbours.indices, 0)]
    similarities = np.where(neighbours.indices >= 0, neighbours.similarities - strength * both / 2, -np.inf)
    order = np.argsort(-similarities, axis=1, kind="stable")
    return Neighbours(
        np.take_along_axis(neighbours.indices, order, axis=1),
        np.take_along_axis(similarities, order, axis=1).astype(np.float32),
    )


def choose_strength(people: int, half: int) -> float:
    """How far a gallery of so many people can be trusted to tell what is typical: 0.5 for `half`, 1 for many."""
    return people / (people + half)
