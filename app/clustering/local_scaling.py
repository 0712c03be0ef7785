"""Local scaling: each similarity is lowered by how similar its two faces are to faces of other people.

Some faces are similar to many other people: those of children, of siblings, in dark photos. Others are similar to no
one. One threshold can't serve both. So the similarity s of two faces x and y becomes

    scaled(x, y) = s(x, y) - strength * (excess(x) + excess(y)) / 2
    excess(x) = r(x) - typical

r(x) is the mean similarity of x to the NEAREST most similar faces of other people, the first SKIPPED left out.
`typical` is the mean of r over all faces. A negative excess raises the similarity. Which faces are of other people is
taken from a first grouping without scaling.

This is CSLS, cross-domain similarity local scaling (Conneau et al., "Word translation without parallel data", ICLR
2018). Speaker recognition knows it as score normalisation against a cohort.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import Labels
from app.clustering.neighbours import Neighbours

NEAREST, SKIPPED = 10, 2
"""r is the mean over NEAREST faces of other people. The SKIPPED most similar ones are left out: they may be faces of
the same person that the first grouping missed."""
FEWEST = 5
"""A face with fewer such faces among its neighbours has an excess of 0."""


@dataclass(frozen=True)
class Neighbourhood:
    """How similar faces are to other people: `excess` (N,) float64 = r - `typical`, as the module's docstring has
    it."""

    excess: NDArray[np.float64]
    typical: float


def measure_neighbourhood(
    neighbours: Neighbours, labels: Labels, people: Labels, typical: float | None = None
) -> Neighbourhood:
    """(M,k) neighbours among N faces, most similar first, (M,) provisional people of the rows and (N,) of all faces →
    the excess similarity of the M rows. `typical` is the mean of r over these rows unless it is given."""
    others = (neighbours.indices >= 0) & (people[neighbours.indices] != labels[:, None])
    rank = np.cumsum(others, axis=1)
    used = others & (rank > SKIPPED) & (rank <= SKIPPED + NEAREST)
    count = used.sum(axis=1)
    total = np.where(used, neighbours.similarities, 0).sum(axis=1, dtype=np.float64)
    enough = count >= FEWEST
    if typical is None:
        typical = float(np.mean(total[enough] / count[enough])) if enough.any() else 0.0
    return Neighbourhood(np.where(enough, total / np.maximum(count, 1) - typical, 0.0), typical)


def scale_similarities(neighbours: Neighbours, excess: NDArray[np.float64], strength: float) -> Neighbours:
    """(N,k) neighbours, (N,) excess → the same neighbours with scaled similarities, most similar first.

    A `strength` of 1 subtracts all of the excess, 0 nothing.
    """
    both = excess[:, None] + excess[np.maximum(neighbours.indices, 0)]
    similarities = np.where(neighbours.indices >= 0, neighbours.similarities - strength * both / 2, -np.inf)
    order = np.argsort(-similarities, axis=1, kind="stable")
    return Neighbours(
        np.take_along_axis(neighbours.indices, order, axis=1),
        np.take_along_axis(similarities, order, axis=1).astype(np.float32),
    )


def choose_strength(people: int, half: int) -> float:
    """The part of the excess to subtract: 0.5 for a gallery of `half` people, near 1 for one of many people.

    `typical` is a mean over few people in a small gallery, and less to be trusted.
    """
    return people / (people + half)
