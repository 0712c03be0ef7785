"""Whitening: what is common to people is taken out of embeddings, so that what is left tells one person from another.

An embedder that learned from adults of few groups gives similar vectors to all children, and to all people of a group
that it saw seldom. With m and C = V·diag(λ)·Vᵀ, the mean and the covariance of the unit vectors of a mixed crowd of
strangers, a vector x becomes

    x' = unit(diag(λ_k)^(-p) · V_kᵀ · (unit(x) - m))

for the k largest λ. p = 1/2 is full whitening; a smaller p shrinks directions in which strangers differ much less
severely. Whitening of embeddings is described by Jégou and Chum, "Negative evidences and co-occurrences in image
retrieval: the benefit of PCA and whitening" (ECCV 2012); subtraction of a cohort's mean is common in speaker
recognition.

An embedder may give several parts, which come from several networks. Each part is whitened by itself, so that none
outweighs another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.core.arrays import Floats
from app.core.errors import BadModelPack
from app.vision.embedder import normalise, split_parts

VERSION = 1


@dataclass(frozen=True)
class WhitenedPart:
    """`mean` (D,), and `projection` (D,K) = V_k·diag(λ_k)^(-p)."""

    mean: Floats
    projection: Floats

    def whiten(self, vectors: Floats) -> Floats:
        """(N,D) of unit length → (N,K) float32 of unit length."""
        return normalise(np.asarray((vectors - self.mean) @ self.projection, np.float32))


@dataclass(frozen=True)
class Whitening:
    """The parts of a vector in their order. `crowd` says which pictures they were learned from, for attribution."""

    parts: Sequence[WhitenedPart]
    crowd: str

    @property
    def dimension(self) -> int:
        """The dimension of whitened vectors."""
        return sum(part.projection.shape[1] for part in self.parts)

    def whiten(self, vectors: Floats) -> Floats:
        """(N,D) vectors as the network gives them → (N,K) float32 of unit length."""
        split = split_parts(vectors, [len(part.mean) for part in self.parts])
        return normalise(
            np.hstack([part.whiten(normalise(some)) for some, part in zip(split, self.parts, strict=True)])
        )


def read_whitening(path: Path, dimension: int) -> Whitening:
    """What `workshop.crowd.write_whitening` wrote, for vectors of this dimension.

    Raises BadModelPack for a file of another version or of another embedder.
    """
    with np.load(path) as stored:
        if int(stored["version"]) != VERSION:
            raise BadModelPack(f"{path} has version {stored['version']}; this worker reads version {VERSION}.")
        numbers = range(int(stored["parts"]))
        parts = [WhitenedPart(stored[f"mean{number}"], stored[f"projection{number}"]) for number in numbers]
        whitening = Whitening(parts, str(stored["crowd"]))
    if sum(len(part.mean) for part in parts) != dimension:
        raise BadModelPack(f"{path} is not for vectors of {dimension} numbers. Run `python -m workshop crowd` again.")
    return whitening
