"""Any number of synthetic embeddings whose similarities are distributed as those of a file of real embeddings.

An embedding is the sum of a person's part and a face's own part. The person's part is drawn from a normal distribution
with the covariance of the file's people. The face's own part is mixed from those of two faces of the file, and as long
as that of a face of one person of the file, the same person for all faces of a synthetic person: some people differ
more from photo to photo than others. Both parts have the file's dimensions and are rotated into as many as are asked
for, which changes no similarity. What is missing: ages, beards and glasses, by which the photos of a real person fall
into groups.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

SIZE_EXPONENT = 2.0
"""A person has n photos with a probability in proportion to n^-2: three fifths have one, a few have hundreds."""
LARGEST_SHARE = 0.05
"""No person has more than this share of the faces; in the half of LFW the largest person has 0.08."""
HARD_SHARE = 0.2
HARD_KEEPS = 0.57
"""The weight of its person in a hard face; the rest is another person's. The similarity to its person falls from 0.65
to 0.37, as measured on the half of LFW for faces that are half covered or blurred by motion (MobileFaceNet)."""

ENOUGH_FACES = 4
"""How much a person's faces differ is taken from people with at least so many: two photos may be nearly the same."""
STRETCH = 1.4
"""The length of a face's own part, relative to the median, is raised to this power, because a mixture of two varies
less than each of them. Of 1, 1.4, 1.7 and 2 it fits the cosines within people best, for both embedders on the half of
LFW."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a file in d dimensions: `mean` (d,), `people` (d,d) whose square is the covariance of people, `own`
    (M,d) the faces' own parts, person by person; all float32. `begins` and `sizes` (M,) int64 are the first row of the
    same person in `own`, and how many rows it has."""

    mean: Floats
    people: Floats
    own: Floats
    begins: Labels
    sizes: Labels


@dataclass(frozen=True)
class Gallery:
    """`embeddings` (N,D) float32 unit length, `labels` (N,) int64 people, `is_hard` (N,) bool."""

    embeddings: Floats
    labels: Labels
    is_hard: NDArray[np.bool_]


def compute_statistics(embeddings: Floats, labels: Labels) -> Statistics:
    """(N,d) float32 unit length, (N,) people → the statistics from which synthetic faces are drawn.

    The covariance of people is that of one face of each person, less that of the faces' own parts. Raises ValueError
    where no person has two faces.
    """
    _, first, person, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    several = np.argsort(person, kind="stable")
    several = several[sizes[person[several]] > 1]
    if not len(several):
        raise ValueError("Nobody has two faces, so it isn't known how much faces of one person differ.")
    sums = np.zeros((len(sizes), embeddings.shape[1]), np.float64)
    np.add.at(sums, person, embeddings)
    size = sizes[person[several]]
    own = embeddings[several] - sums[person[several]] / size[:, None]
    # The mean of n faces contains 1/n of each face's own part, which is missing in the difference.
    own *= np.sqrt(size / (size - 1))[:, None]
    spread = np.cov(embeddings[first], rowvar=False) - own.T @ own / len(own)
    values, vectors = np.linalg.eigh(spread)
    people = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    mean = embeddings[first].mean(axis=0).astype(np.float32)
    begins = np.searchsorted(person[several], person[several])
    return Statistics(mean, people.astype(np.float32), own.astype(np.float32), begins, size)


def make_synthetic_faces(
    statistics: Statistics, count: int, dimension: int = 512, hard_share: float = HARD_SHARE, seed: int = 0
) -> Gallery:
    """`count` faces, in random order. Raises ValueError for fewer dimensions than the statistics have."""
    known = len(statistics.mean)
    if dimension < known:
        raise ValueError(f"Faces of {known} dimensions don't fit into {dimension}.")
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(*_draw_sizes(count, generator)))
    faces = _draw_faces(statistics, labels, generator)
    is_hard = generator.random(count) < hard_share
    hard = int(is_hard.sum())
    others = _draw_faces(statistics, np.arange(hard), generator)
    part = np.float32(HARD_KEEPS)
    faces[is_hard] = part * faces[is_hard] + np.sqrt(1 - part**2) * others
    turn, _ = np.linalg.qr(generator.standard_normal((dimension, known)))
    embeddings = (faces + statistics.mean) @ turn.T.astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Gallery(embeddings, labels, is_hard)


def sample_similarities(embeddings: Floats, labels: Labels, seed: int = 0) -> tuple[Floats, Floats]:
    """(N,D), (N,) → cosines of each face with one other face of its person, if any, and with one of another person.

    There is one pair a face: with all pairs, the person with most photos would have more than all others together.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    begins = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    sizes = np.diff(np.r_[begins, len(order)])
    # The partner of a face is the next one of its person in random order; that of the last one is the first.
    following = np.arange(1, len(order) + 1)
    following[begins + sizes - 1] = begins
    several = np.repeat(sizes > 1, sizes)
    within = np.einsum("ij,ij->i", embeddings[order[several]], embeddings[order[following[several]]])
    others = generator.permutation(len(labels))
    differ = labels != labels[others]
    return within, np.einsum("ij,ij->i", embeddings[differ], embeddings[others[differ]])


def _draw_sizes(count: int, generator: np.random.Generator) -> tuple[Labels, Labels]:
    """People's numbers and how many faces each has, `count` together."""
    largest = max(1, round(LARGEST_SHARE * count))
    possible = np.arange(1, largest + 1)
    chances = possible**-SIZE_EXPONENT
    sizes = generator.choice(possible, size=count, p=chances / chances.sum())
    people = int(np.searchsorted(np.cumsum(sizes), count)) + 1
    sizes = sizes[:people]
    sizes[-1] -= sizes.sum() - count
    return np.arange(people), sizes


def _draw_faces(statistics: Statistics, labels: Labels, generator: np.random.Generator) -> Floats:
    """(N,) people from 0 on → (N,d) float32: faces less the mean, not of unit length."""
    if not len(labels):
        return np.zeros((0, len(statistics.mean)), np.float32)
    count = int(labels.max()) + 1
    people = generator.standard_normal((count, len(statistics.mean)), np.float32) @ statistics.people
    own = statistics.own
    known_well = np.flatnonzero(statistics.sizes >= min(ENOUGH_FACES, statistics.sizes.max()))
    model = generator.choice(known_well, count)[labels]
    like = statistics.begins[model] + (generator.random(len(labels)) * statistics.sizes[model]).astype(np.int64)
    one, two = generator.integers(0, len(own), (2, len(labels)))
    angle = generator.uniform(0, np.pi / 2, (len(labels), 1)).astype(np.float32)
    mixed = np.cos(angle) * own[one] + np.sin(angle) * own[two]
    # Only the length is taken from the model's few faces: with their directions, a person would fall into as many
    # groups.
    size = np.linalg.norm(own[like], axis=1, keepdims=True)
    size *= (size / np.median(size)) ** (STRETCH - 1)
    mixed *= size / np.linalg.norm(mixed, axis=1, keepdims=True)
    faces: Floats = people[labels] + mixed
    return faces
