"""Whether one setting serves everybody: strangers of every age and group, events, large galleries.

`python -m benchmarks everybody --eval DIR [--pack PACK] [--draws N] [--only PART ...] [--json]`

DIR has `faces-by-group/` (face crops with `groups.csv`: photo, age, sex, group, age_band; and `idols_dlib_dev.npz`) and
`lfw-dev/` (a folder of photos for each person). Photos are analysed as the detection service does it; of each photo the
face nearest the middle counts, and every face is a core face. Photos of one person under two names (MobileFaceNet's
similarity above 0.62, by the pack of tests/packs/shared-insightface.toml) count once.

strangers_BAND, strangers_GROUP   the share of faces that are grouped with a stranger, in galleries of 100 single photos
                        of children of an age band, or of adults of a group; `20_` in front: in galleries of 20.
                        `_interval`: the 2.5th and 97.5th percentile over the galleries.
pairs_kept_0_2          of the pairs of babies with such a similarity, the share that is one person in a gallery of all
                        of them; most of these pairs are two babies (docs/accuracy.md).
eventP_bcubed, _pairwise, _precision   the scores of galleries of P people of 5 photos or more, at most 12 of each; the
                        precision is the pairwise one.
lfw_bcubed, lfw_pairwise   the scores of all photos of `lfw-dev` as one gallery.
singers_dlib_fmr        the false match rate of the singers' dlib vectors, with dlib's part of the whitening of the pack
                        `open`, at its threshold.
false_match_rates       of the adults of each group at the pack's threshold for 100 people; `spread` is the largest over
                        the smallest.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.clustering.full import cluster
from app.core.arrays import Floats
from app.core.thresholds import Threshold
from app.detection.device import Device, open_device
from app.packs.store import PackStore
from app.vision.whitening import read_whitening
from benchmarks.accuracy.verification_scores import compute_impostor_scores
from benchmarks.common.command import UnusableInput, print_result
from local.stack import ROOT
from workshop.calibration import embed_central_faces, embed_people
from workshop.samples import name_people_below
from workshop.scores import score_bcubed, score_pairwise

TWIN_PACK, TWIN_SIMILARITY = str(ROOT / "tests" / "packs" / "shared-insightface.toml"), 0.62
ADULTS = "20-59"
BANDS = ("0-2", "3-7", "8-14")
GROUPS = ("asian", "black", "indian", "white")
SIZES = (100, 20)
EVENTS = (20, 60, 134)
EVENT_PHOTOS = (5, 12)
PARTS = ("strangers", "events", "lfw", "singers")


@dataclass(frozen=True)
class Crowd:
    """N faces of strangers: `embeddings` (N,D) float32, and of each its `bands` and `groups` (N,); `twins` (P,2) are
    rows that likely show one person."""

    embeddings: Floats
    bands: NDArray[np.str_]
    groups: NDArray[np.str_]
    twins: NDArray[np.intp]

    def list_singles(self, of: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The chosen rows, without the second of each pair of twins."""
        chosen = of.copy()
        for first, second in self.twins:
            if chosen[first]:
                chosen[second] = False
        return np.flatnonzero(chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    return 1 if print_result(lambda: run(options), as_json=options.json) is None else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that are asked for. Returns the result as it is printed."""
    store = PackStore(ROOT / "models", accept_research_licence=True)
    pack = store.install(options.pack)
    threshold = pack.manifest.threshold
    result: dict[str, Any] = {"pack": pack.manifest.model_id, **asdict(threshold), "draws": options.draws}
    with open_device(pack, "cpu") as device:
        if "strangers" in options.only:
            folder = options.eval / "faces-by-group"
            rows = _read_rows(folder)
            embedded = embed_central_faces([folder / row["photo"] for row in rows], device)
            crowd = _make_crowd(folder, rows, embedded, store)
            result |= {"faces": len(crowd.bands)} | measure_strangers(crowd, threshold, options.draws)
        if {"events", "lfw"} & set(options.only):
            names, embeddings = _embed_people(options.eval / "lfw-dev", device)
            if "events" in options.only:
                result |= measure_events(names, embeddings, threshold, options.draws)
            if "lfw" in options.only:
                result |= _score("lfw", names, _group(embeddings, threshold))
    if "singers" in options.only:
        result |= measure_singers(options.eval / "faces-by-group" / "idols_dlib_dev.npz", store)
    return result


def measure_strangers(crowd: Crowd, threshold: Threshold, draws: int) -> dict[str, Any]:
    """The shares of faces grouped with strangers, the pairs of one baby that are kept, and the false match rates."""
    chosen = {band.replace("-", "_"): crowd.bands == band for band in BANDS}
    chosen |= {group: (crowd.groups == group) & (crowd.bands == ADULTS) for group in GROUPS}
    result: dict[str, Any] = {}
    for size in SIZES:
        prefix = "" if size == SIZES[0] else f"{size}_"
        for name, of in chosen.items():
            rows = crowd.list_singles(of)
            shares = [_share_with_strangers(crowd.embeddings[some], threshold) for some in _draw(rows, size, draws)]
            result[f"{prefix}strangers_{name}"] = round(float(np.mean(shares)), 4)
            result[f"{prefix}strangers_{name}_interval"] = np.percentile(shares, [2.5, 97.5]).round(4).tolist()
    babies = crowd.twins[(crowd.bands[crowd.twins] == BANDS[0]).all(axis=1)]
    rows = np.flatnonzero(crowd.bands == BANDS[0])
    labels = np.full(len(crowd.bands), -1)
    labels[rows] = _group(crowd.embeddings[rows], threshold)
    result["pairs_kept_0_2"] = round(float((labels[babies[:, 0]] == labels[babies[:, 1]]).mean()), 4)
    strangers = {group: crowd.embeddings[crowd.list_singles(chosen[group])] for group in GROUPS}
    rates = {
        group: _measure_false_match_rate(faces, range(len(faces)), threshold) for group, faces in strangers.items()
    }
    result["false_match_rates"] = {group: float(f"{rate:.3g}") for group, rate in rates.items()}
    result["spread"] = round(max(rates.values()) / max(min(rates.values()), 1e-6), 1)
    return result


def measure_events(names: NDArray[np.str_], embeddings: Floats, threshold: Threshold, draws: int) -> dict[str, float]:
    """The mean scores of events of several sizes."""
    people, counts = np.unique(names, return_counts=True)
    frequent = people[counts >= EVENT_PHOTOS[0]]
    result: dict[str, float] = {}
    for size in EVENTS:
        scores = []
        for seed in range(draws if size < len(frequent) else 1):
            random = np.random.default_rng(seed)
            rows = np.concatenate(
                [
                    random.permutation(np.flatnonzero(names == person))[: EVENT_PHOTOS[1]]
                    for person in random.permutation(frequent)[:size]
                ]
            )
            scores.append(_score(f"event{size}", names[rows], _group(embeddings[rows], threshold)))
        result |= {name: round(float(np.mean([score[name] for score in scores])), 4) for name in scores[0]}
    return result


def measure_singers(file: Path, store: PackStore) -> dict[str, float]:
    """The false match rate of dlib's vectors of singers, whitened as those of the pack `open`, at its threshold."""
    with np.load(file) as stored:
        vectors, people = stored["dlib_resnet_128"].astype(np.float32), stored["label"]
    pack = store.install("open")
    if pack.whitening:
        # dlib's is the first of the parts of the pack's vectors.
        vectors = read_whitening(pack.whitening, pack.manifest.embedder.dimension).parts[0].whiten(vectors)
    rate = _measure_false_match_rate(vectors, people.tolist(), pack.manifest.threshold)
    return {"singers_dlib_fmr": round(rate, 4)}


def _read_rows(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / "groups.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UnusableInput(f"{folder}/groups.csv can't be read: {error}.") from error


def _make_crowd(
    folder: Path, rows: Sequence[Mapping[str, str]], embedded: Mapping[Path, Floats], store: PackStore
) -> Crowd:
    seen = [row for row in rows if folder / row["photo"] in embedded]
    photos = [folder / row["photo"] for row in seen]
    # Without the whitening: the similarity that tells twins is the network's own.
    with open_device(store.install(TWIN_PACK, whitened=False), "cpu") as device:
        twins = embed_central_faces(photos, device)
    missing = np.zeros_like(next(iter(twins.values())))
    judged = np.stack([twins.get(photo, missing) for photo in photos])
    first, second = np.nonzero(np.triu(judged @ judged.T > TWIN_SIMILARITY, 1))
    return Crowd(
        np.stack([embedded[photo] for photo in photos]),
        np.array([row["age_band"] for row in seen]),
        np.array([row["group"] for row in seen]),
        np.stack([first, second], axis=1),
    )


def _embed_people(folder: Path, device: Device) -> tuple[NDArray[np.str_], Floats]:
    person_of = name_people_below(folder)
    if not person_of:
        raise UnusableInput(f"There are no folders with photos in {folder}.")
    _, names, embeddings = embed_people(person_of, device)
    return np.array(names), embeddings


def _draw(rows: NDArray[np.intp], size: int, draws: int) -> Iterator[NDArray[np.intp]]:
    """Galleries of `size` of the rows, the same at every call; smaller where there are fewer rows."""
    for seed in range(draws):
        yield np.sort(np.random.default_rng(seed).permutation(rows)[:size])


def _group(embeddings: Floats, threshold: Threshold) -> NDArray[np.int64]:
    """(N,D) → (N,) people, each face in a photo of its own."""
    return cluster(embeddings, [str(row) for row in range(len(embeddings))], threshold)


def _share_with_strangers(embeddings: Floats, threshold: Threshold) -> float:
    labels = _group(embeddings, threshold)
    return float((np.bincount(labels)[labels] > 1).mean())


def _measure_false_match_rate(embeddings: Floats, people: Sequence[object], threshold: Threshold) -> float:
    return float((compute_impostor_scores(embeddings, people) > threshold.at_reference).mean())


def _score(name: str, people: NDArray[np.str_], labels: NDArray[np.int64]) -> dict[str, float]:
    pairs = score_pairwise(people.tolist(), labels)
    return {
        f"{name}_bcubed": round(score_bcubed(people.tolist(), labels).f, 4),
        f"{name}_pairwise": round(pairs.f, 4),
        f"{name}_precision": round(pairs.precision, 4),
    }


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks everybody", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--eval", type=Path, default=ROOT.parent / "shared" / "eval", help="folder of the photos")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--draws", type=int, default=20, help="galleries drawn of each kind (20)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some of the parts alone")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
