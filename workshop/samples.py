"""Photos to calibrate with and to measure on: folders of photos, or of folders with the photos of one person each."""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, zip_longest
from pathlib import Path

from app.core.arrays import Image
from app.core.errors import BadConfiguration, BadPhoto
from app.core.pictures import PhotoLimits, is_picture
from app.vision.decode import decode

log = logging.getLogger(__name__)

SEED = 20
CALIBRATION_PHOTOS = 128
PARITY_PHOTOS = 300
MOST_PAIRS = 3000
"""Most pairs of each kind, genuine and impostor: as many as in LFW's protocol of ten folds."""
PHOTOS_A_PERSON = 4
"""With more, the few people with many photos would decide, and each photo costs a run of the networks."""


@dataclass(frozen=True)
class Pair:
    """Two photos, each of one person: the same or not."""

    first: Path
    second: Path
    is_genuine: bool


@dataclass(frozen=True)
class Samples:
    """`calibration` and `parity` share no photo; `pairs` is empty where the folders are not those of people."""

    calibration: Sequence[Path]
    parity: Sequence[Path]
    pairs: Sequence[Pair]


def choose_samples(folders: Sequence[Path]) -> Samples:
    """The same photos at every call for the same folders, mixed from all folders.

    Raises BadConfiguration where there are too few.
    """
    chance = random.Random(SEED)  # noqa: S311 - nothing secret
    by_folder = [list_pictures(folder) for folder in folders]
    for paths in by_folder:
        chance.shuffle(paths)
    # Halved within each folder, so that photos of each kind are on both sides.
    calibration = _mix([paths[: len(paths) // 2] for paths in by_folder])[:CALIBRATION_PHOTOS]
    parity = _mix([paths[len(paths) // 2 :] for paths in by_folder])[:PARITY_PHOTOS]
    if not calibration:
        raise BadConfiguration(
            f"There are fewer than two photos in {', '.join(map(str, folders))}; name other --images."
        )
    people: dict[Path, list[Path]] = {}
    for folder, paths in zip(folders, by_folder, strict=True):
        people |= list_people_below(folder, paths)
    return Samples(calibration, parity, choose_pairs(people, chance))


def choose_pairs(people: Mapping[Path, Sequence[Path]], chance: random.Random) -> list[Pair]:
    """Folder of a person → its photos. Up to MOST_PAIRS genuine pairs, and as many impostor ones of the same photos."""
    few = [chance.sample(list(files), min(PHOTOS_A_PERSON, len(files))) for _, files in sorted(people.items())]
    chance.shuffle(few)
    genuine = [Pair(a, b, is_genuine=True) for files in few for a, b in combinations(files, 2)][:MOST_PAIRS]
    used = sorted({path for pair in genuine for path in (pair.first, pair.second)})
    if len({path.parent for path in used}) < 2:
        return []
    impostors: set[tuple[Path, Path]] = set()
    # Nearly every draw is a new pair of two people; the bound is for a few photos of two people.
    for _ in range(20 * len(genuine)):
        first, second = sorted(chance.sample(used, 2))
        if first.parent != second.parent and len(impostors) < len(genuine):
            impostors.add((first, second))
    return genuine + [Pair(a, b, is_genuine=False) for a, b in sorted(impostors)]


def read_images(paths: Sequence[Path], view_px: int) -> Iterator[tuple[Path, Image]]:
    """Photos decoded as detection decodes them, (H,W,3) uint8 RGB; those that can't be are left out."""
    for path in paths:
        try:
            yield path, decode(path.read_bytes(), PhotoLimits(), view_px)
        except (BadPhoto, OSError) as error:
            log.warning("%s is left out: %s", path, error)


def list_pictures(folder: Path) -> list[Path]:
    """All pictures in a folder and below it."""
    return sorted(path for path in folder.rglob("*") if is_picture(path))


def list_people_below(folder: Path, paths: Sequence[Path]) -> dict[Path, list[Path]]:
    """The folders right below, each with its photos."""
    people: dict[Path, list[Path]] = {}
    for path in sorted(paths):
        if path.parent.parent == folder:
            people.setdefault(path.parent, []).append(path)
    return people


def name_people_below(folder: Path) -> dict[Path, str]:
    """Each photo in a folder right below, and its person: the name of that folder."""
    people = list_people_below(folder, list_pictures(folder))
    return {photo: person.name for person, photos in people.items() for photo in photos}


def _mix(by_folder: Sequence[Sequence[Path]]) -> list[Path]:
    """One photo of each folder in turn, so that a small folder has its share."""
    return [path for path in chain.from_iterable(zip_longest(*by_folder)) if path is not None]
