"""Chooses from which similarity on a selfie is taken for somebody of a gallery (see app/core/likeness.py).

Each person of a collection is looked for in a gallery of all people, by photos that are not in it. What a selfie
reaches with people other than its own is what a stranger reaches. The threshold is the similarity above which
STRANGERS_SHOWN of the strangers get anybody, in a gallery of 100 people. With ten times as many people ten times as
many strangers would lie above it, so it rises by what makes them ten times fewer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats
from app.core.likeness import FindBars, Likenesses, exceed_crowd, measure_crowd
from app.core.thresholds import REFERENCE_PEOPLE, Threshold
from app.detection.selfies import combine
from app.grouping.vectors import choose_exemplars
from workshop.calibration import KnownFaces

STRANGERS_SHOWN = 0.005
"""Of strangers, in the collection that is calibrated on: others' rate is below twice that."""
FEWEST_STRANGERS = 200
"""With fewer, a single one would decide."""
TENFOLD = 10
SEEDS = 4
DECIMALS = 4

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Guests:
    """Guests with G selfies' vectors (G,D), and the gallery in which each is looked for: `own` (G,) are their rows in
    it, -1 for strangers. `missing` are guests without a good selfie."""

    vectors: Floats
    own: Rows
    gallery: Likenesses
    missing: int

    def compare_to_others(self) -> Floats:
        """(G,P) the similarities as a stranger has them: -1 to the guest's own person."""
        compared = self.gallery.compare(self.vectors)
        guests = np.flatnonzero(self.own >= 0)
        compared[guests, self.own[guests]] = -1
        return compared


def invite(faces: KnownFaces, least_quality: float, selfies: int, seed: int) -> Guests:
    """Draw guests and a gallery at random. Of each person with several photos, up to so many are selfies, half of them
    at most, and the others are in the gallery. Of the people with one photo, half are in the gallery, and half are
    strangers. Selfies have the quality that a find demands."""
    random = np.random.default_rng(seed)
    good = np.ones(len(faces.people), np.bool_) if faces.quality is None else faces.quality >= least_quality
    people, guests = list[Rows](), list[tuple[Rows, int]]()
    missing = 0
    for person in random.permutation(int(faces.people.max()) + 1):
        rows = random.permutation(np.flatnonzero(faces.people == person))
        chosen = rows[good[rows]][: min(selfies, max(len(rows) // 2, 1))]
        is_stranger = len(rows) == 1 and random.random() < 1 / 2
        missing += not len(chosen)
        if len(chosen) and (len(rows) > 1 or is_stranger):
            guests.append((chosen, -1 if is_stranger else len(people)))
        if not is_stranger:
            rest = rows if len(rows) == 1 else np.setdiff1d(rows, chosen)
            people.append(rest)
    combined = [combine(_list_vectors(faces, chosen)) for chosen, _ in guests]
    vectors = np.array(combined, np.float32).reshape(-1, faces.embeddings.shape[1])
    return Guests(vectors, np.array([own for _, own in guests], np.intp), _make_gallery(faces, people), missing)


def choose_find_bars(faces: KnownFaces, least_quality: float) -> FindBars | None:
    """The bars by the rule of this module; None where there are fewer than FEWEST_STRANGERS guests."""
    all_guests = [invite(faces, least_quality, selfies=1, seed=seed) for seed in range(SEEDS)]
    if min(len(guests.own) for guests in all_guests) < FEWEST_STRANGERS:
        return None
    compared = [guests.compare_to_others() for guests in all_guests]
    crowd = float(np.median(np.concatenate([measure_crowd(some) for some in compared])))
    ascending = np.sort(np.concatenate([exceed_crowd(some, crowd).max(axis=1) for some in compared]))
    threshold = _find_bar(ascending, STRANGERS_SHOWN)
    rise = threshold - _find_bar(ascending, TENFOLD * STRANGERS_SHOWN)
    people = float(np.mean([some.shape[1] for some in compared]))
    at_reference = threshold - rise * math.log10(people / REFERENCE_PEOPLE)
    return FindBars(Threshold(round(at_reference, DECIMALS), round(rise, DECIMALS)), round(crowd, DECIMALS))


def _find_bar(ascending: Floats, share: float) -> float:
    """The similarity that at most this share lie above."""
    return float(ascending[math.ceil(len(ascending) * (1 - share)) - 1])


def _list_vectors(faces: KnownFaces, rows: Sequence[int] | Rows) -> list[Floats]:
    plain = [faces.embeddings[row] for row in rows]
    return plain if faces.mirrored is None else [*plain, *(faces.mirrored[row] for row in rows)]


def _make_gallery(faces: KnownFaces, people: Sequence[Rows]) -> Likenesses:
    means = [combine(list(faces.embeddings[rows])) for rows in people]
    exemplars = [
        faces.embeddings[rows][choose_exemplars(faces.embeddings[rows], mean)]
        for rows, mean in zip(people, means, strict=True)
    ]
    owners = np.repeat(np.arange(len(people), dtype=np.int32), [len(some) for some in exemplars])
    return Likenesses(np.stack(means), np.concatenate(exemplars), owners)
