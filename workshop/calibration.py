"""Chooses a pack's similarity threshold: the cosine above which two faces are taken for one person's.

Two numbers are chosen: the threshold for galleries of 100 people, and how much it rises for ten times as many
(app/core/thresholds.py).

The rise follows from the tail of the similarities of different people: how much higher a similarity must be so that a
tenth of the pairs reach it. With the whole of it, the expected number of false pairs of a face would be the same in
galleries of all sizes. TAIL_PART of it is used, since grouping corrects a part of the false pairs, more of them in a
larger gallery (local scaling).

The threshold is that of the best grouping of photos of known people. Galleries of several shapes are grouped: random
halves of the people, with all their photos and many people of one photo, and events of 20 to 300 people with several
photos each. Each is grouped at thresholds with false match rates from 1e-3 to 1e-6, and scored by the mean of BCubed F
and pairwise F. Of the thresholds that score nearly as high as the best one, the strictest is taken: a person who is
split in two is merged more easily than two merged people are separated, and photos of known people have hardly any
children or siblings in them.

A fixed false match rate would not suit all embedders: an accurate embedder gains from a strict rate, while a less
accurate one splits more people by it than it keeps separate. How many errors of each kind grouping corrects also
depends on grouping itself.

The rates that are written to the manifest are of all pairs. Every person has the same weight in the FNMR (false
non-match rate), and every pair of people in the FMR (false match rate), however many photos there are of them.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomlkit
from numpy.typing import NDArray

from app.clustering.full import group
from app.clustering.graph import build_graph
from app.clustering.neighbours import EXACT
from app.core.arrays import Floats
from app.core.errors import BadConfiguration, BadPhoto
from app.core.likeness import FindBars
from app.core.pictures import PhotoLimits
from app.core.roles import assign_core
from app.core.thresholds import Threshold
from app.detection.analysis import Analyser, analyse_photo
from app.detection.device import Device
from app.detection.selfies import embed_mirrored
from app.detection.stage_times import StageTimes
from app.host import count_cores
from app.packs.manifest import Calibration
from app.vision.decode import read_header
from workshop.manifests import rewrite_manifest
from workshop.parity import find_most_central
from workshop.samples import name_people_below
from workshop.scores import score_bcubed, score_pairwise

log = logging.getLogger(__name__)

CANDIDATE_RATES = np.geomspace(1e-3, 1e-6, 25)
"""False match rates of the thresholds that are tried: from many merged people to many split ones."""
TAIL_RATES = 1e-3, 1e-5
"""False match rates between which the tail is measured: few enough pairs are above, and enough to be counted."""
TAIL_PART = 0.3
"""Measured on packs with and without whitening: with the whole tail, people of large galleries are split."""
EVENT_PEOPLE, EVENTS = (20, 60, 150, 300), 4
"""Sizes of the events, and how many of each size."""
EVENT_PHOTOS = 2, 12
"""Fewest and most photos of a person in an event."""
HALVES = 6
"""With fewer, single people decide who are merged at one threshold and not at the next."""
MORE_ERRORS = 0.5
"""What a threshold may lack to a perfect score, beyond what the best one lacks: half as much again."""
PHOTOS_A_PERSON = 40
"""Most photos of a person in a gallery: the pairs of a person with hundreds would outweigh those of all others."""
MOST_FACES = 5000
"""Most faces of a gallery, so that its grouping ends within minutes."""
FEWEST_IMPOSTOR_PAIRS = 100_000
"""A threshold's false match rate is near 1e-5: with fewer pairs, a single one would decide."""
BINS = 20_000
"""Bins of the cosines from -1 to 1: a tenth of a threshold's last decimal."""
PER_ONE = 1000
"""Thresholds have three decimals."""
BLOCK_ROWS = 256

Rates = NDArray[np.float64]
People = NDArray[np.int64]


@dataclass(frozen=True)
class KnownFaces:
    """`embeddings` (N,D) float32 of unit length, and `people` (N,) int64, the person of each, numbered from 0 on.

    `mirrored` (N,D) are the embeddings of the mirrored faces, and `quality` (N,) is their unified quality; None where
    they were not measured.
    """

    embeddings: Floats
    people: People
    mirrored: Floats | None = None
    quality: Floats | None = None


@dataclass(frozen=True)
class CentralFace:
    """The face nearest the middle of a photo: its embedding, that of its mirrored picture, and its unified quality."""

    embedding: Floats
    mirrored: Floats
    quality: float


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

    def find_least(self, false_match_rate: float) -> float:
        """The least threshold with at most this FMR."""
        return float(self.thresholds[np.argmax(self.false_match <= false_match_rate)])

    def get_rates_at(self, threshold: float) -> tuple[float, float]:
        """FMR and FNMR at the nearest of the thresholds."""
        row = int(np.abs(self.thresholds - threshold).argmin())
        return float(self.false_match[row]), float(self.false_non_match[row])


def embed_central_faces(photos: Sequence[Path], device: Device) -> dict[Path, Floats]:
    """The (D,) embedding of the face nearest the middle of each photo, analysed as the detection service does it.

    A file that can't be read, and a photo without a face, are left out.
    """
    return {photo: face.embedding for photo, face in measure_central_faces(photos, device).items()}


def measure_central_faces(photos: Sequence[Path], device: Device) -> dict[Path, CentralFace]:
    """The same with the mirrored face and the quality."""
    analyser = Analyser(device, PhotoLimits())
    with ThreadPoolExecutor(count_cores()) as pool:
        measured = pool.map(lambda photo: _measure_central_face(photo, analyser), photos)
        return {photo: face for photo, face in zip(photos, measured, strict=True) if face is not None}


def embed_people(photos: Mapping[Path, str], device: Device) -> tuple[list[Path], list[str], Floats]:
    """Photo → person: the photos that have a face, the person of each, and the (N,D) embeddings of the faces nearest
    the middle.

    Raises BadConfiguration where no photo has a face.
    """
    embeddings = embed_central_faces(list(photos), device)
    if not embeddings:
        raise BadConfiguration("No photo with a face was found. Name a folder that has a folder of photos a person.")
    return list(embeddings), [photos[photo] for photo in embeddings], np.stack(list(embeddings.values()))


def embed_known_faces(folder: Path, device: Device) -> KnownFaces:
    """A folder with a folder of photos for each person → the face nearest the middle of each photo.

    Raises BadConfiguration where there are too few photos or faces.
    """
    photos = name_people_below(folder)
    # Checked before an hour of analysis, and again after it, since photos may have no face.
    _require_enough(folder, list(photos.values()))
    faces = measure_central_faces(list(photos), device)
    names = [photos[photo] for photo in faces]
    _require_enough(folder, names)
    return KnownFaces(
        np.stack([face.embedding for face in faces.values()]),
        np.unique(names, return_inverse=True)[1].astype(np.int64),
        np.stack([face.mirrored for face in faces.values()]),
        np.array([face.quality for face in faces.values()], np.float32),
    )


def compute_error_rates(faces: KnownFaces) -> ErrorRates:
    """The error rates of all pairs of the faces."""
    embeddings, people = faces.embeddings, faces.people
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
        false_non_match=1 - _sum_above(genuine),
        false_match=_sum_above(impostors),
        genuine_pairs=int(counts[0]),
        impostor_pairs=int(counts[1]),
        faces=len(people),
        people=len(np.unique(people)),
    )


def choose_threshold(faces: KnownFaces, rates: ErrorRates) -> Threshold:
    """The threshold by the rule of this module, with three decimals."""
    per_tenfold = _measure_rise(rates)
    candidates = [rates.find_least(rate) for rate in CANDIDATE_RATES]
    levels = sorted({min(math.ceil(threshold * PER_ONE), PER_ONE - 1) / PER_ONE for threshold in candidates})
    tried = [Threshold(level, per_tenfold) for level in levels]
    shapes = [_draw_galleries(faces.people), *_draw_events(faces.people)]
    # Each shape has the same weight, however many galleries there are of it.
    scores = np.mean([np.mean([_score(faces, rows, tried) for rows in shape], axis=0) for shape in shapes], axis=0)
    good_enough = scores >= scores.max() - MORE_ERRORS * (1 - scores.max())
    return tried[int(np.flatnonzero(good_enough)[-1])]


def write_calibration(path: Path, threshold: Threshold, find: FindBars | None, calibration: Calibration) -> None:
    """Put all of it into a manifest. Raises BadModelPack where it can't be written."""

    def put(document: tomlkit.TOMLDocument) -> None:
        document["similarity_threshold"] = threshold.at_reference
        document["threshold_per_tenfold"] = threshold.per_tenfold
        if find is not None:
            document["find_threshold"] = find.threshold.at_reference
            document["find_per_tenfold"] = find.threshold.per_tenfold
            document["find_crowd"] = find.crowd
        # An existing table keeps its place, between the same lines.
        document.setdefault("calibration", tomlkit.table()).update(calibration.model_dump())

    rewrite_manifest(path, put)


def _require_enough(folder: Path, names: Sequence[str]) -> None:
    """Raises BadConfiguration where a threshold needs more. `names` has the person of each photo or face."""
    sizes = np.unique(names, return_counts=True)[1]
    impostors, several = (len(names) ** 2 - int((sizes**2).sum())) // 2, int((sizes > 1).sum())
    if impostors < FEWEST_IMPOSTOR_PAIRS or not several:
        raise BadConfiguration(
            f"In {folder} are {len(names):,} faces or photos of {len(sizes):,} people, {several:,} of whom have two or "
            f"more: {impostors:,} pairs of different people. A threshold needs {FEWEST_IMPOSTOR_PAIRS:,} (as 450 "
            "people have) and people with two photos; name a folder that has more, in a folder for each person."
        )


def _draw_galleries(people: People) -> Iterator[NDArray[np.intp]]:
    """(N,) people → HALVES times the rows of the faces of a random half of them."""
    for seed in range(HALVES):
        random = np.random.default_rng(seed)
        half = random.permutation(int(people.max()) + 1)[::2]
        rows = random.permutation(np.flatnonzero(np.isin(people, half)))
        rows = rows[np.argsort(people[rows], kind="stable")]
        begins = np.searchsorted(people[rows], people[rows])
        yield np.sort(rows[np.arange(len(rows)) - begins < PHOTOS_A_PERSON][:MOST_FACES])


def _measure_rise(rates: ErrorRates) -> float:
    """How much the threshold rises for ten times as many people, with three decimals."""
    common, rare = TAIL_RATES
    tail = rates.find_least(rare) - rates.find_least(common)
    return round(TAIL_PART * tail / math.log10(common / rare), 3)


def _draw_events(people: People) -> Iterator[list[NDArray[np.intp]]]:
    """(N,) people → for each size of event that there are enough people for, EVENTS times the rows of the faces."""
    fewest, most = EVENT_PHOTOS
    frequent = np.flatnonzero(np.bincount(people) >= fewest)
    for size in EVENT_PEOPLE:
        if len(frequent) >= size:
            yield [_draw_event(people, frequent, size, most, seed) for seed in range(EVENTS)]


def _draw_event(people: People, frequent: NDArray[np.intp], size: int, most: int, seed: int) -> NDArray[np.intp]:
    random = np.random.default_rng(seed)
    guests = random.permutation(frequent)[:size]
    return np.sort(np.concatenate([random.permutation(np.flatnonzero(people == guest))[:most] for guest in guests]))


def _score(faces: KnownFaces, rows: NDArray[np.intp], thresholds: Sequence[Threshold]) -> list[float]:
    """The mean of BCubed F and pairwise F at each threshold, for some of the faces, all of them core faces."""
    photos, roles = np.arange(len(rows)), assign_core(len(rows))
    graph = build_graph(faces.embeddings[rows], photos, roles, EXACT)
    true = faces.people[rows]
    labellings = (group(graph, threshold).labels for threshold in thresholds)
    return [(score_bcubed(true, labels).f + score_pairwise(true, labels).f) / 2 for labels in labellings]


def _measure_central_face(photo: Path, analyser: Analyser) -> CentralFace | None:
    times = StageTimes()
    try:
        data = photo.read_bytes()
        analysis = analyse_photo(data, read_header(data, PhotoLimits()), analyser, times)
    except (BadPhoto, OSError) as error:
        log.warning("%s is left out: %s", photo, error)
        return None
    if not len(analysis.in_image):
        return None
    row = find_most_central(analysis.in_image, analysis.image)
    mirrored = embed_mirrored(analysis, row, analyser.device, times)
    return CentralFace(analysis.embeddings[row], mirrored, analysis.quality[row]["unified"])


def _sum_above(weights: Rates) -> Rates:
    """(B,) weight in each bin → (B+1,) share of it above each edge."""
    above = np.append(np.cumsum(weights[::-1])[::-1], 0)
    shares: Rates = above / max(above[0], np.finfo(float).tiny)
    return shares
