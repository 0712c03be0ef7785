"""How similar a guest is to each person of a gallery.

The similarity to a person is the mean of two cosines: to the person's mean, and to the exemplar that is most similar.
The first is steadier, and the second knows how one and the same person looks on different photos. To an unassigned face
it is the cosine.

Some selfies are a little similar to many people. So what decides is the similarity beyond the crowd: half of the mean
similarity to the NEIGHBOURS nearest others is taken off (adaptive score normalisation, as in speaker recognition: S.
Cumani et al., "Comparison of speaker recognition approaches for real applications", Interspeech 2011).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats
from app.core.gallery_vectors import UNASSIGNED, GalleryVectors
from app.core.thresholds import Threshold

NEIGHBOURS = 10
CROWD_PART = 0.5


@dataclass(frozen=True)
class FindBars:
    """From which similarity beyond the crowd on a guest is found. `crowd` is the usual similarity to the nearest
    others, in a large gallery."""

    threshold: Threshold
    crowd: float

    def choose(self, compared: int) -> tuple[float, float]:
        """The bars for being found and for being unsure, in a gallery of so many people and unassigned faces.

        Ten times as many strangers are unsure as are found.
        """
        sure = self.threshold.compute(compared)
        return sure, sure - self.threshold.per_tenfold


@dataclass(frozen=True, eq=False)
class Likenesses:
    """What guests are compared with: P people's `means` (P,D) and M `exemplars` (M,D) float32 of unit length; `owners`
    (M,) are the people's rows, UNASSIGNED for unassigned faces."""

    means: Floats
    exemplars: Floats
    owners: NDArray[np.int32]

    @property
    def unassigned(self) -> NDArray[np.intp]:
        """The U rows of unassigned faces among the exemplars."""
        return np.flatnonzero(self.owners == UNASSIGNED)

    def compare(self, guests: Floats) -> Floats:
        """(G,D) guests of unit length → (G,P+U) similarities to the people, then to the unassigned faces."""
        similarities = guests @ self.exemplars.T
        mine = self.owners != UNASSIGNED
        best: Floats = np.full((len(guests), len(self.means)), -1, np.float32)
        for row, nearest in enumerate(best):
            np.maximum.at(nearest, self.owners[mine], similarities[row, mine])
        of_people = (guests @ self.means.T + best) / 2
        compared: Floats = np.concatenate([of_people, similarities[:, ~mine]], axis=1).astype(np.float32)
        return compared


def measure_crowd(similarities: Floats) -> Floats:
    """(G,N) → (G,) the mean similarity to the NEIGHBOURS nearest others, without the very nearest; -1 where there are
    fewer others, who say nothing of a crowd."""
    if similarities.shape[1] <= NEIGHBOURS:
        return np.full(len(similarities), -1, np.float32)
    nearest = -np.partition(-similarities, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1]
    crowd: Floats = ((nearest.sum(axis=1) - nearest.max(axis=1)) / NEIGHBOURS).astype(np.float32)
    return crowd


def exceed_crowd(similarities: Floats, usual: float) -> Floats:
    """(G,N) similarities → (G,N) beyond the crowd. A crowd that is less similar than the `usual` one counts as that
    one: in a small gallery the nearest others are nearly everybody."""
    crowd = np.maximum(measure_crowd(similarities), np.float32(usual))
    beyond: Floats = (similarities - CROWD_PART * crowd[:, np.newaxis]).astype(np.float32)
    return beyond


def make_likenesses(vectors: GalleryVectors) -> Likenesses:
    """In float32, which is compared faster."""
    return Likenesses(vectors.means.astype(np.float32), vectors.exemplars.astype(np.float32), vectors.exemplar_person)
