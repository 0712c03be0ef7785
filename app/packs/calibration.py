"""The cosine above which two faces are taken for one person's, chosen from photos of known people.

The rule: where a person's own pairs that are missed and the strangers that are met weigh least together,

    FNMR(t) + STRANGERS * FMR(t)

a detection cost as in NIST's speaker recognition evaluations (Doddington et al., "The NIST speaker recognition
evaluation", Speech Communication 31, 2000): the share of its own pairs that a face misses, and how many of STRANGERS
other people it would be taken for. A fixed false match rate is no rule for all embedders: one that tells people apart
well gains from a strict one, another loses more of its people to it than it keeps apart. The cost is flat about its
least, so that single pairs decide where that lies: of all thresholds that cost nearly as little the strictest is taken,
for a person in two pieces is put together more easily than two people are taken apart.

Every person weighs the same in FNMR, and every pair of people in FMR, however many photos there are of them.
"""

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomlkit
from numpy.typing import NDArray

from app.detection.device import Device
from app.detection.look import Eyes, look
from app.detection.stages import StageTimes
from app.errors import BadConfiguration, BadModelPack, BadPhoto
from app.packs.manifest import Calibration, read_manifest
from app.packs.parity import most_central
from app.packs.samples import LIMITS, SUFFIXES, people_below
from app.vision.decode import read_header
from app.vision.types import Floats
from app.worker.container import cores

log = logging.getLogger(__name__)

STRANGERS = 2000
NEARLY = 1.02
"""The cost that still counts as the least, as a part of it. With STRANGERS chosen of 1,000 to 4,000 and of 1 to 1.05:
fitted on halves of LFW's people and judged on the other halves, what loses little of the best grouping (BCubed F and
pairwise F) with each of two embedders that differ widely (`python -m benchmarks.calibration`)."""
FEWEST_IMPOSTOR_PAIRS = 100_000
"""A threshold's false match rate is near 1e-5: fewer would decide it by a single pair."""
BINS = 20_000
"""Of the cosines from -1 to 1: a tenth of a threshold's last decimal."""
PER_ONE = 1000
"""Thresholds have three decimals."""
BLOCK_ROWS = 256

Rates = NDArray[np.float64]
People = NDArray[np.int64]


@dataclass(frozen=True)
class ErrorRates:
    """At each of `thresholds` (B,), ascending: the weighted shares of genuine pairs that are not above it (FNMR) and of
    impostor pairs that are (FMR), both (B,)."""

    thresholds: Rates
    false_non_match: Rates
    false_match: Rates
    genuine_pairs: int
    impostor_pairs: int
    faces: int
    people: int

    def at(self, threshold: float) -> tuple[float, float]:
        """FMR and FNMR at the nearest of the thresholds."""
        row = int(np.abs(self.thresholds - threshold).argmin())
        return float(self.false_match[row]), float(self.false_non_match[row])


def embed_central_faces(photos: Sequence[Path], device: Device) -> dict[Path, Floats]:
    """The (D,) embedding of the face nearest the middle of each photo, seen as the detection service sees it.

    A file that can't be read, and a photo without a face, are left out.
    """
    eyes = Eyes(device, LIMITS)
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(lambda photo: _central_face(photo, eyes), photos)
        return {photo: row for photo, row in zip(photos, found, strict=True) if row is not None}


def calibrate(folder: Path, device: Device) -> ErrorRates:
    """A folder with a folder of photos for each person → the error rates of the pack on the device.

    Raises BadConfiguration where there are too few photos or faces.
    """
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    photos = {photo: person.name for person, some in people_below(folder, paths).items() for photo in some}
    # Told before an hour is spent on them, and again if too many show no face.
    _require_enough(folder, list(photos.values()))
    embeddings = embed_central_faces(list(photos), device)
    names = [photos[photo] for photo in embeddings]
    _require_enough(folder, names)
    _, people = np.unique(names, return_inverse=True)
    return error_rates(np.stack(list(embeddings.values())), people)


def error_rates(embeddings: Floats, people: People) -> ErrorRates:
    """(N,D) float32 unit length, (N,) person of each → the error rates of all pairs."""
    photos = np.bincount(people)[people].astype(np.float64)
    genuine, impostors, counts = np.zeros(BINS), np.zeros(BINS), np.zeros(2, np.int64)
    for begin in range(0, len(people), BLOCK_ROWS):
        rows = slice(begin, min(begin + BLOCK_ROWS, len(people)))
        cosines = embeddings[rows] @ embeddings[begin:].T
        bins = np.clip((cosines + 1) * (BINS / 2), 0, BINS - 1).astype(np.int32)
        later = np.arange(bins.shape[1]) > np.arange(len(bins))[:, None]
        same = people[rows, None] == people[None, begin:]
        products = photos[rows, None] * photos[None, begin:]
        # A person of n photos has n(n-1)/2 pairs of its own, two people of n and m have n*m.
        pairs = np.where(same, (products - photos[rows, None]) / 2, products)
        for kind, rates in ((later & same, genuine), (later & ~same, impostors)):
            rates += np.bincount(bins[kind], 1 / pairs[kind], BINS)
        counts += int((later & same).sum()), int((later & ~same).sum())
    return ErrorRates(
        thresholds=np.linspace(-1, 1, BINS + 1),
        false_non_match=1 - _share_above(genuine),
        false_match=_share_above(impostors),
        genuine_pairs=int(counts[0]),
        impostor_pairs=int(counts[1]),
        faces=len(people),
        people=len(np.unique(people)),
    )


def best_threshold(rates: ErrorRates, strangers: float = STRANGERS, nearly: float = NEARLY) -> float:
    """By the rule above, rounded down."""
    costs = rates.false_non_match + strangers * rates.false_match
    least = np.flatnonzero(costs <= costs.min() * nearly)
    # A hair more, for 0.945 of the edges is less than that in binary.
    return math.floor(float(rates.thresholds[least[-1]]) * PER_ONE + 1e-6) / PER_ONE


def write_calibration(path: Path, threshold: float, calibration: Calibration) -> None:
    """Put both into a manifest, whose other lines and comments stay. Raises BadModelPack where it can't be written."""
    document = tomlkit.parse(path.read_text("utf-8"))
    document["similarity_threshold"] = threshold
    # Where it stands already it stays, between the same lines.
    part = document.setdefault("calibration", tomlkit.table())
    part.update(calibration.model_dump())
    partial = path.with_suffix(".part")
    try:
        partial.write_text(tomlkit.dumps(document), "utf-8")
        read_manifest(partial)
        partial.replace(path)
    except OSError as error:
        raise BadModelPack(f"The manifest {path} can't be written: {error}. Copy it to a folder of yours.") from error
    finally:
        partial.unlink(missing_ok=True)


def _require_enough(folder: Path, names: Sequence[str]) -> None:
    """`names` has the person of each photo or face."""
    sizes = np.unique(names, return_counts=True)[1]
    impostors, several = (len(names) ** 2 - int((sizes**2).sum())) // 2, int((sizes > 1).sum())
    if impostors < FEWEST_IMPOSTOR_PAIRS or not several:
        raise BadConfiguration(
            f"In {folder} are {len(names):,} faces or photos of {len(sizes):,} people, {several:,} of whom have two or "
            f"more: {impostors:,} pairs of different people. A threshold needs {FEWEST_IMPOSTOR_PAIRS:,} (as 450 "
            "people have) and people with two photos; name a folder that has more, in a folder for each person."
        )


def _central_face(photo: Path, eyes: Eyes) -> Floats | None:
    try:
        data = photo.read_bytes()
        seen = look(data, read_header(data, LIMITS), eyes, StageTimes())
    except (BadPhoto, OSError) as error:
        log.warning("%s is left out: %s", photo, error)
        return None
    return seen.embeddings[most_central(seen.in_image, seen.image)] if len(seen.in_image) else None


def _share_above(weights: Rates) -> Rates:
    """(B,) weight in each bin → (B+1,) share of it above each edge."""
    above = np.append(np.cumsum(weights[::-1])[::-1], 0)
    shares: Rates = above / max(above[0], np.finfo(float).tiny)
    return shares
