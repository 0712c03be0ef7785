"""Whether the quality measures predict recognition, as NIST and ISO/IEC 29794-1 ask: error versus discard.

`python -m benchmarks quality [fit [--embedder-only]] --images DIR --pack MANIFEST [--limit PEOPLE] [--seed N] [--json]
[--plot FILE.svg]`

DIR has a folder of photos for each person. Each photo is degraded with a probability of 0.6
(`workshop/degradations.py`); its face is compared with its person's other, clean photos. The threshold is chosen so
that FNMR (false non-match rate) begins at 5 or 10 %; then the faces of the worst quality by a measure are discarded
step by step. `pauc` is the area under FNMR up to 30 % discarded, as a share of the area with random discards;
`fnmr_after_10` is the FNMR once the worst 10 % are discarded. Occlusion: AUC of each kind of cover against clean faces,
and the share of clean faces that are reported as covered. `grouping`: the scores of grouping the degraded faces without
quality, with dark faces brightened, and with roles by quality.

`fit` writes the parameters that are shipped, fitted on all people: those that serve every pack, and those of this
pack's embedder; with `--embedder-only` the latter alone, and the former stay as they are. It prints how functions that
are fitted on one half of the people do on the other half; the kinds of covers in `UNSEEN_COVERS` are kept from the fit.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.clustering.full import cluster
from app.clustering.graph import UNASSIGNED
from app.core.arrays import Floats
from app.core.roles import Role, assign_roles
from app.packs.manifest import PackManifest
from app.packs.store import PackStore
from app.vision.face_pack import load_pack
from app.vision.quality import fitted, measures
from app.vision.quality.fitted import QualityModel
from app.vision.quality.inputs import FaceColumns
from app.vision.quality.occlusion import PARTS
from benchmarks.accuracy.quality_curves import compute_auc, compute_error_versus_discard, compute_partial_area
from benchmarks.accuracy.quality_plot import write_plot
from benchmarks.common.command import print_result
from workshop import quality_parameters
from workshop.degradations import COVERS, OVER_EYES, OVER_MOUTH
from workshop.quality_fit import fit_embedder, fit_quality_model
from workshop.quality_samples import QualitySamples, list_people, make_covered_samples, make_samples
from workshop.scores import score_bcubed, score_pairwise

START_FNMR = (0.05, 0.10)
COVERED_AT = 0.5
TIMED_FACES = 64
COVER_PEOPLE = 400


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    return 1 if print_result(lambda: run(options), as_json=options.json) is None else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    loaded = load_pack(pack, "cpu", 1)
    people = list_people(options.images, options.limit)
    samples = make_samples(loaded, people, options.seed, variants=2 if options.what == "fit" else 1)
    covers = None
    if not options.embedder_only:
        covers = make_covered_samples(loaded, _choose_evenly(people, COVER_PEOPLE), COVERS, options.seed)
    if options.what == "fit":
        return fit_parameters(samples, covers, pack.manifest, options.plot)
    return judge_measures(samples, covers, loaded.quality, pack.manifest, options.plot)


def fit_parameters(
    samples: QualitySamples, covers: QualitySamples | None, manifest: PackManifest, plot: Path | None
) -> dict[str, Any]:
    """Write the parameters that are shipped. The figures, and the plot of the first half, are of functions that were
    fitted on other faces. Without `covers` the parameters that serve every pack stay as they are."""

    def half(side: int) -> tuple[QualitySamples, QualitySamples | None]:
        mine = samples.take(_choose_half(samples.people, side))
        return mine, covers and covers.take(_choose_half(covers.people, side))

    judgements = [
        judge_measures(*half(1 - side), _fit_model(*half(side), unseen=True), manifest, None if side else plot)
        for side in (0, 1)
    ]
    everything = _fit_model(samples, covers, unseen=False)
    assert everything.embedder is not None
    written = [fitted.find_embedder_file(manifest.files[manifest.embedder.file])]
    quality_parameters.write_embedder_view(everything.embedder, written[0])
    if covers:
        written.append(fitted.PARAMETERS)
        quality_parameters.write_functions(everything.functions)
    return {"halves": judgements, "bytes": {path.name: path.stat().st_size for path in written}}


def _fit_model(samples: QualitySamples, covers: QualitySamples | None, *, unseen: bool) -> QualityModel:
    return (
        fit_quality_model(samples, covers, unseen=unseen)
        if covers
        else fit_embedder(samples, fitted.load_quality_model().functions)
    )


def judge_measures(
    samples: QualitySamples,
    covers: QualitySamples | None,
    functions: QualityModel,
    manifest: PackManifest,
    plot: Path | None,
) -> dict[str, Any]:
    """The figures as they are printed; the curves are drawn into `plot`."""
    chosen = take_degraded(samples)
    ranked = {start: compute_curves(chosen, functions, start) for start in START_FNMR}
    if plot:
        write_plot(plot, ranked[0.10])
    areas = {
        f"{start:.2f}": {name: round(compute_partial_area(curve) / start, 3) for name, curve in of_start.items()}
        for start, of_start in ranked.items()
    }
    after = {name: round(float(curve[10]), 4) for name, curve in ranked[0.10].items()}
    return {
        "faces": len(chosen.people),
        "missed": dict(samples.missed),
        "pauc": areas,
        "fnmr_after_10": after,
        **(measure_occlusion(covers, functions) if covers else {}),
        "grouping": group_by_quality(samples, functions, manifest),
        "ms_per_face": round(1000 * measure_seconds_a_face(chosen, functions), 3),
    }


def group_by_quality(samples: QualitySamples, functions: QualityModel, manifest: PackManifest) -> dict[str, Any]:
    """Scores of grouping one face of every photo at the pack's threshold: `without` quality, with dark faces brightened
    (`lit`), and `with` roles by quality."""
    _, first = np.unique(np.where(samples.kinds == "reference", "", samples.photos), return_index=True)
    chosen = samples.take(first[samples.kinds[first] != "reference"])
    unified = measure_faces(chosen, functions)["unified"]
    photos, threshold = list(chosen.photos), manifest.threshold
    roles = assign_roles(unified, manifest.quality)
    by_quality = cluster(chosen.embeddings, photos, threshold, roles)
    core = roles == Role.CORE
    return {
        "faces": len(unified),
        "without": _score_grouping(chosen.people, cluster(chosen.unbrightened, photos, threshold)),
        "lit": _score_grouping(chosen.people, cluster(chosen.embeddings, photos, threshold)),
        "with": _score_grouping(chosen.people, by_quality),
        "founded_precision": round(score_bcubed(chosen.people[core].tolist(), by_quality[core]).precision, 4),
        "unassigned": round(float((by_quality == UNASSIGNED).mean()), 4),
    }


def _score_grouping(people: NDArray[np.str_], labels: NDArray[np.int64]) -> dict[str, float]:
    """Unassigned faces count as people of one face."""
    alone = labels == UNASSIGNED
    labels = np.where(alone, labels.max() + 1 + np.cumsum(alone), labels)
    together, pairs = score_bcubed(people.tolist(), labels), score_pairwise(people.tolist(), labels)
    return {
        "bcubed_f": round(together.f, 4),
        "bcubed_precision": round(together.precision, 4),
        "pairwise_f": round(pairs.f, 4),
        "pairwise_precision": round(pairs.precision, 4),
    }


def take_degraded(samples: QualitySamples) -> QualitySamples:
    """All samples but the references, of people who have references."""
    return samples.take((samples.kinds != "reference") & ~np.isnan(samples.genuine))


def compute_curves(samples: QualitySamples, functions: QualityModel, start: float = 0.10) -> dict[str, Floats]:
    """Measure → (31,) FNMR with 0 to 30 % of the faces discarded."""
    everything = measure_faces(samples, functions)
    ranked = {
        "unified": everything["unified"],
        "detector score": samples.faces.det_scores,
        "Laplacian variance": measure_laplacian_variance(samples.faces),
        "inter-eye distance": everything["inter_eye_px"],
        "random": np.random.default_rng(0).random(len(samples.people)).astype(np.float32),
        **{name.removesuffix("_score"): everything[name] for name in everything if name.endswith("_score")},
    }
    return {name: compute_error_versus_discard(samples.genuine, values, start) for name, values in ranked.items()}


def measure_faces(samples: QualitySamples, functions: QualityModel) -> dict[str, Floats]:
    """The quality measures of many faces, in batches as a service has them."""
    batches = [
        measures.measure_quality(samples.faces.take(rows), functions, samples.vectors[rows])
        for start in range(0, len(samples.people), TIMED_FACES)
        if (rows := slice(start, start + TIMED_FACES))
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def measure_laplacian_variance(faces: FaceColumns) -> Floats:
    """The usual measure of blur (Pech-Pacheco et al., 2000)."""
    grey = [cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)[22:90, 22:90] for chip in faces.chips]
    return np.array([cv2.Laplacian(chip, cv2.CV_32F).var() for chip in grey], np.float32)


def measure_occlusion(covers: QualitySamples, functions: QualityModel) -> dict[str, Any]:
    found = measure_faces(covers, functions)
    clean = covers.kinds == "reference"
    kinds = {"eyes": OVER_EYES, "mouth": OVER_MOUTH}
    areas = {
        kind: round(compute_auc(found[f"{part}_covered"][clean], found[f"{part}_covered"][covers.kinds == kind]), 4)
        for part in PARTS
        for kind in sorted(kinds[part])
    }
    alarms = np.any([found[f"{part}_covered"][clean] > COVERED_AT for part in PARTS], axis=0)
    return {"occlusion_auc": areas, "occlusion_false_alarms": round(float(alarms.mean()), 4)}


def measure_seconds_a_face(samples: QualitySamples, functions: QualityModel) -> float:
    """CPU seconds a face, in batches of TIMED_FACES; the median of several batches."""
    rows = slice(0, TIMED_FACES)
    batch, vectors = samples.faces.take(rows), samples.vectors[rows]
    seconds = []
    for _ in range(9):
        began = time.process_time()
        measures.measure_quality(batch, functions, vectors)
        seconds.append(time.process_time() - began)
    return float(np.median(seconds)) / len(batch)


def _choose_half(people: NDArray[np.str_], side: int) -> NDArray[np.bool_]:
    """(N,) names → (N,) whether it is one of every second person, in the order of names."""
    _, number = np.unique(people, return_inverse=True)
    return np.asarray(number % 2 == side)


def _choose_evenly(people: Mapping[str, Sequence[Path]], count: int) -> dict[str, Sequence[Path]]:
    names = list(people)
    return {name: people[name] for name in names[:: max(1, len(names) // count)]}


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["judge", "fit"], default="judge")
    parser.add_argument("--images", type=Path, required=True, help="folder with a folder of photos for each person")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--limit", type=int, help="at most so many people, spread evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--embedder-only", action="store_true", help="fit: keep the parameters that serve every pack")
    parser.add_argument("--plot", type=Path, help="draw the curves into this SVG")
    return parser


if __name__ == "__main__":
    sys.exit(main())
