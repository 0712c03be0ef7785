"""The real workload: files that come in twins, are replaced, deleted and restored, and events that come late and twice.

A plan is drawn from a seed: changes of two buckets, one of them versioned, and the messages that announce them. Every
change is announced at least once, as S3 promises, at any time after it and in any order.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image

from app.core.pictures import split_ending
from benchmarks.chaos.workload import make_picture

GALLERIES = 4
STEMS = ("IMG_1", "IMG_1.png", "faces/é+3")
"""The second one's JPEG claims the id that the first one's PNG has beside a JPEG."""
ENDINGS = {".jpg": 10, ".png": 5, ".heic": 3, ".nef": 3, ".mov": 1, ".xmp": 1}
"""Endings, and how often each is drawn. What is inside is a JPEG but in `.png`, for its first bytes tell its format."""
PICTURES = 48
"""Few, so that the same bytes often have several keys."""
FORMATS = {".png": "PNG"}
SAME_NAME_IN_BOTH = 3
"""The gallery with photos in both buckets."""
BURSTS, BURST_S = 0.45, 1.5
"""The share of changes that follow the one before within this time, at the same name: workers race for them."""
SAME_ENDING = 0.7
REPEATED, MERGED, WITH_BAD = 0.2, 0.3, 0.3
LATE_S = ((0.5, 0.0), (0.8, 3.0), (1.0, 15.0))
"""By share of the messages: how long after its change a message is sent at most."""
TINTS = (0.55, 0.7, 0.85, 1.0)

ChangeKind = Literal["put", "put in parts", "delete", "restore", "roll back"]
Outcome = Literal["indexed", "no_faces", "rejected", "not_a_photo"]
Place = tuple[str, str]
"""Bucket and key."""


@dataclass(frozen=True)
class Change:
    """One change of a bucket, `at_s` after the begin. `restore` removes a deletion's marker, `roll back` the newest
    version, so that the one before it is there again."""

    number: int
    at_s: float
    kind: ChangeKind
    place: Place
    picture: int | None = None


@dataclass(frozen=True)
class Delivery:
    """A message, `at_s` after the begin: the changes it announces, by number, and how many bad records it has."""

    at_s: float
    changes: tuple[int, ...]
    bad: tuple[int, ...] = ()


@dataclass(frozen=True)
class AlbumPlan:
    """Changes and messages, each in the order of time. `plain` and `versioned` are the buckets."""

    changes: list[Change] = field(repr=False)
    deliveries: list[Delivery] = field(repr=False)

    @property
    def bad_records(self) -> list[int]:
        return [number for one in self.deliveries for number in one.bad]


def make_plan(count: int, seed: int, seconds: float, plain: str, versioned: str) -> AlbumPlan:
    """`count` changes within `seconds`; the last messages come a little later."""
    chance = random.Random(seed)  # noqa: S311 - a fixed order, not a secret
    buckets = _Buckets(chance, plain, versioned)
    changes: list[Change] = []
    for number, at_s in enumerate(sorted(chance.uniform(0, seconds) for _ in range(count))):
        last = changes[-1] if changes else None
        if last and chance.random() < BURSTS:
            changes.append(buckets.change(number, last.at_s + chance.uniform(0, BURST_S), last.place))
        else:
            changes.append(buckets.change(number, max(at_s, last.at_s if last else 0)))
    return AlbumPlan(changes, _plan_deliveries(changes, chance))


class _Buckets:
    """What the buckets have while the plan is drawn: by place the versions, None for a deletion's marker."""

    def __init__(self, chance: random.Random, plain: str, versioned: str) -> None:
        self._chance, self._plain, self._versioned = chance, plain, versioned
        self._versions: dict[Place, list[int | None]] = {}

    def change(self, number: int, at_s: float, near: Place | None = None) -> Change:
        """Draw a change, with `near` one of the same name."""
        place = self._draw_place(near)
        versions = self._versions.setdefault(place, [])
        kind = self._draw_kind(versions, is_versioned=place[0] == self._versioned)
        picture = None
        if kind == "put" and versions and versions[-1] is not None and self._chance.random() < 0.25:
            # The same bytes once more; in parts they have another ETag.
            picture, kind = versions[-1], self._chance.choice(["put", "put in parts"])
        elif kind == "put":
            picture = self._chance.randrange(PICTURES)
        if kind in ("restore", "roll back"):
            versions.pop()
        elif place[0] == self._versioned:
            versions.append(picture)
        else:
            versions[:] = [] if picture is None else [picture]
        return Change(number, at_s, kind, place, picture)

    def _draw_place(self, near: Place | None) -> Place:
        if near and self._chance.random() < SAME_ENDING:
            return near
        ending = self._chance.choices(list(ENDINGS), list(ENDINGS.values()))[0]
        if near:
            return near[0], split_ending(near[1])[0] + ending
        gallery = self._chance.randrange(GALLERIES)
        key = f"gallery-{gallery}/{self._chance.choice(STEMS)}{ending}"
        in_both = self._chance.choice([self._plain, self._versioned])
        return (in_both if gallery == SAME_NAME_IN_BOTH else [self._plain, self._versioned][gallery % 2]), key

    def _draw_kind(self, versions: Sequence[int | None], *, is_versioned: bool) -> ChangeKind:
        if not versions:
            return "put"
        if versions[-1] is None:
            again: list[ChangeKind] = ["put", "restore"]
            return self._chance.choice(again)
        can_roll_back = is_versioned and len(versions) > 1 and versions[-2] is not None
        kinds: list[ChangeKind] = ["put", "delete", "roll back"]
        return self._chance.choices(kinds, [60, 30, 60 * can_roll_back])[0]


def _plan_deliveries(changes: Sequence[Change], chance: random.Random) -> list[Delivery]:
    single: list[tuple[float, int]] = []
    for change in changes:
        for _ in range(1 + (chance.random() < REPEATED)):
            roll = chance.random()
            late_s = next(late_s for share, late_s in LATE_S if roll <= share)
            single.append((change.at_s + chance.uniform(0, late_s), change.number))
    single.sort()
    deliveries, bad = [], 0
    while single:
        most = chance.randint(2, 4) if chance.random() < MERGED else 1
        taken, single = single[:most], single[most:]
        numbers = [number for _, number in taken]
        chance.shuffle(numbers)
        with_bad = most > 1 and chance.random() < WITH_BAD
        deliveries.append(Delivery(taken[-1][0], tuple(numbers), (bad,) if with_bad else ()))
        bad += with_bad
    return deliveries


@cache
def make_file(picture: int, ending: str) -> bytes:
    """The bytes of a picture under a name of this ending. The same numbers give the same bytes."""
    if ending in (".mov", ".xmp"):
        return f"{ending} {picture}".encode() * 20
    data = BytesIO()
    if (image := _make_image(picture)) is None:
        # Half a picture would still be decoded; a header alone is not.
        _make_image(0).save(data, "JPEG")  # type: ignore[union-attr]
        return data.getvalue()[:120] + picture.to_bytes(4, "big")
    image.save(data, FORMATS.get(ending, "JPEG"), **({} if ending in FORMATS else {"quality": 92}))
    return data.getvalue()


def _make_image(picture: int) -> Image.Image | None:
    """Of every twelve, nine have a face, two have none, and one is None: a file that can't be read. Each has a colour
    of its own, so that a crop tells from which it is."""
    kind = picture % 12
    if kind == 11:
        return None
    # Few people, so that each of them has several faces.
    image = make_picture(picture % 4 if kind < 4 else kind if kind in (4, 9) else 12 + kind)
    tint = [TINTS[picture // step % len(TINTS)] for step in (1, 4, 16)]
    pixels = np.asarray(image.convert("RGB"), np.float32) * tint
    return Image.fromarray(pixels.astype(np.uint8))


def list_outcomes() -> dict[str, Outcome]:
    """SHA-256 of each file that the plan may put → how it ends as a photo of its own."""
    outcomes: dict[str, Outcome] = {}
    for picture in range(PICTURES):
        for ending in ENDINGS:
            outcomes[hashlib.sha256(make_file(picture, ending)).hexdigest()] = _get_outcome(picture, ending)
    return outcomes


def _get_outcome(picture: int, ending: str) -> Outcome:
    if ending in (".mov", ".xmp"):
        return "not_a_photo"
    if picture % 12 == 11:
        return "rejected"
    return "no_faces" if picture % 12 in (4, 9) else "indexed"
