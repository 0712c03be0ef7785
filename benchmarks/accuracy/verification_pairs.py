"""Pairs of photos of one person and of two, in folds that share no person, as in LFW's view 2."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice, zip_longest
from pathlib import Path

from benchmarks.common.command import UnusableInput, is_photo
from workshop.samples import Pair

FOLDS = 10
DRAWS_A_PAIR = 20
"""At most so many draws for each impostor pair. Nearly every draw is a new pair, except in folds of few photos."""


@dataclass(frozen=True)
class FoldedPair:
    """A pair and the number of its fold."""

    pair: Pair
    fold: int

    @property
    def photos(self) -> tuple[Path, Path]:
        return self.pair.first, self.pair.second


def find_people(folder: Path) -> dict[Path, list[Path]]:
    """The folders right below `folder`, each one person's, with their photos."""
    if not folder.is_dir():
        raise UnusableInput(f"There is no folder {folder}.")
    people: dict[Path, list[Path]] = {}
    for photo in sorted(filter(is_photo, folder.glob("*/*"))):
        people.setdefault(photo.parent, []).append(photo)
    return people


def make_folded_pairs(
    people: Mapping[Path, Sequence[Path]], count: int, seed: int, limit: int | None = None
) -> list[FoldedPair]:
    """`count` pairs of one person and as many of two, or as many as there are; the same at every call.

    With a limit, pairs of so many people. Raises UnusableInput where a fold would lack one kind of pairs.
    """
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    names = sorted(people)
    chosen = chance.sample(names, min(limit or len(names), len(names)))
    # In the order of their numbers of photos, so that each fold has its share of the people with many.
    dealt = sorted(chosen, key=lambda person: -len(people[person]))
    pairs = []
    for number in range(FOLDS):
        fold = [people[person] for person in dealt[number::FOLDS]]
        share = len(range(number, count, FOLDS))
        genuine = choose_genuine_pairs(fold, share, chance)
        impostors = choose_impostor_pairs(fold, len(genuine), chance)
        if not genuine or not impostors:
            raise UnusableInput("There are too few people, or too few with two photos, for ten folds with pairs.")
        pairs += [FoldedPair(pair, number) for pair in chain(genuine, impostors)]
    return pairs


def choose_genuine_pairs(people: Sequence[Sequence[Path]], count: int, chance: random.Random) -> list[Pair]:
    """Photos by person → pairs of photos of one person, none twice; people give one pair each in turn."""
    by_person = [_shuffle_pairs(photos, count, chance) for photos in people if len(photos) > 1]
    chance.shuffle(by_person)
    in_turn = (pair for turn in zip_longest(*by_person) for pair in turn if pair is not None)
    return list(islice(in_turn, count))


def _shuffle_pairs(photos: Sequence[Path], most: int, chance: random.Random) -> list[Pair]:
    every = list(combinations(photos, 2))
    return [Pair(a, b, is_genuine=True) for a, b in chance.sample(every, min(most, len(every)))]


def choose_impostor_pairs(people: Sequence[Sequence[Path]], count: int, chance: random.Random) -> list[Pair]:
    """Photos by person → pairs of photos of two people, none twice; two people are drawn first, then a photo of
    each."""
    if len(people) < 2:
        return []
    drawn = dict.fromkeys(islice(_draw_impostors(people, chance), DRAWS_A_PAIR * count))
    return [Pair(a, b, is_genuine=False) for a, b in islice(drawn, count)]


def _draw_impostors(people: Sequence[Sequence[Path]], chance: random.Random) -> Iterator[tuple[Path, Path]]:
    while True:
        first, second = sorted(chance.choice(photos) for photos in chance.sample(people, 2))
        yield first, second
