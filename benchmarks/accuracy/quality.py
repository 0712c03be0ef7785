"""Whether the quality measures predict recognition, as NIST and ISO/IEC 29794-1 ask: error versus discard.

`python -m benchmarks quality [fit [--embedder-only]] --images DIR --pack MANIFEST [--limit PEOPLE] [--seed N] [--json]
[--plot FILE.svg]`

DIR has a folder of photos for each person. Each photo is degraded with the odds of 0.6 (`workshop/degradations.py`);
its face is compared with its person's other, clean photos. The threshold lets FNMR begin at 5 or 10 %; then the faces
that a measure holds worst are discarded step by step. `pauc` is the area under FNMR to 30 % discarded, as a share of
what discarding at random leaves; `fnmr_after_10` the FNMR once the worst 10 % are gone. Occlusion: AUC of each kind of
cover against clean faces, and the share of clean faces called covered. `grouping`: the degraded faces in groups,
without quality, with dark faces lit, and with all that quality says.

`fit` makes the parameters that are shipped, of all people: those that serve every pack, and those of this pack's
embedder; with `--embedder-only` the latter alone, beside those that are shipped. It prints how functions fitted on one
half of the people do on the other half, with the kinds of covers of `UNSEEN_COVERS` kept from the fit.
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
from benchmarks.accuracy.quality_curves import auc, error_versus_discard, partial_area
from benchmarks.accuracy.quality_plot import write_plot
from benchmarks.common.command import printed
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
    options = _parser().parse_args(arguments)
    return 1 if printed(lambda: run(options), as_json=options.json) is None else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    loaded = load_pack(pack.manifest, pack.weights, "cpu", 1)
    people = list_people(options.images, options.limit)
    samples = make_samples(loaded, people, options.seed, variants=2 if options.what == "fit" else 1)
    covers = None
    if not options.embedder_only:
        covers = make_covered_samples(loaded, _spread(people, COVER_PEOPLE), COVERS, options.seed)
    if options.what == "fit":
        return fitting(samples, covers, pack.manifest, options.plot)
    return judged(samples, covers, loaded.quality, pack.manifest, options.plot)


def fitting(
    samples: QualitySamples, covers: QualitySamples | None, manifest: PackManifest, plot: Path | None
) -> dict[str, Any]:
    """Writes the parameters that are shipped; the result, and the plot of the first half, is of functions that have not
    seen the faces they judge. Without `covers` those that serve every pack stay as they are."""

    def half(side: int) -> tuple[QualitySamples, QualitySamples | None]:
        mine = samples.take(_half(samples.people, side))
        return mine, covers and covers.take(_half(covers.people, side))

    judgements = [
        judged(*half(1 - side), _fitted(*half(side), unseen=True), manifest, None if side else plot) for side in (0, 1)
    ]
    everything = _fitted(samples, covers, unseen=False)
    assert everything.embedder is not None
    written = [fitted.find_embedder_file(manifest.files[manifest.embedder.file])]
    quality_parameters.write_embedder_view(everything.embedder, written[0])
    if covers:
        written.append(fitted.PARAMETERS)
        quality_parameters.write_functions(everything.functions)
    return {"halves": judgements, "bytes": {path.name: path.stat().st_size for path in written}}


def _fitted(samples: QualitySamples, covers: QualitySamples | None, *, unseen: bool) -> QualityModel:
    return (
        fit_quality_model(samples, covers, unseen=unseen)
        if covers
        else fit_embedder(samples, fitted.load_quality_model().functions)
    )


def judged(
    samples: QualitySamples,
    covers: QualitySamples | None,
    functions: QualityModel,
    manifest: PackManifest,
    plot: Path | None,
) -> dict[str, Any]:
    """What is printed, and drawn into `plot`."""
    chosen = degraded(samples)
    ranked = {start: curves(chosen, functions, start) for start in START_FNMR}
    if plot:
        write_plot(plot, ranked[0.10])
    areas = {
        f"{start:.2f}": {name: round(partial_area(curve) / start, 3) for name, curve in of_start.items()}
        for start, of_start in ranked.items()
    }
    after = {name: round(float(curve[10]), 4) for name, curve in ranked[0.10].items()}
    return {
        "faces": len(chosen.people),
        "missed": dict(samples.missed),
        "pauc": areas,
        "fnmr_after_10": after,
        **(occlusion(covers, functions) if covers else {}),
        "grouping": grouping(samples, functions, manifest),
        "ms_per_face": round(1000 * seconds_a_face(chosen, functions), 3),
    }


def grouping(samples: QualitySamples, functions: QualityModel, manifest: PackManifest) -> dict[str, Any]:
    """One face of every photo in groups, at the pack's threshold: `without` quality, with dark faces `lit` alone, and
    `with` all that quality says."""
    _, first = np.unique(np.where(samples.kinds == "reference", "", samples.photos), return_index=True)
    chosen = samples.take(first[samples.kinds[first] != "reference"])
    unified = measured(chosen, functions)["unified"]
    photos, threshold = list(chosen.photos), manifest.similarity_threshold
    roles = assign_roles(unified, manifest.quality)
    by_quality = cluster(chosen.embeddings, photos, threshold, roles)
    founding = roles == Role.CORE
    return {
        "faces": len(unified),
        "without": _scored(chosen.people, cluster(chosen.unbrightened, photos, threshold)),
        "lit": _scored(chosen.people, cluster(chosen.embeddings, photos, threshold)),
        "with": _scored(chosen.people, by_quality),
        "founded_precision": round(score_bcubed(chosen.people[founding].tolist(), by_quality[founding]).precision, 4),
        "unassigned": round(float((by_quality == UNASSIGNED).mean()), 4),
    }


def _scored(people: NDArray[np.str_], labels: NDArray[np.int64]) -> dict[str, float]:
    """Faces of nobody count as people of one face."""
    alone = labels == UNASSIGNED
    labels = np.where(alone, labels.max() + 1 + np.cumsum(alone), labels)
    together, pairs = score_bcubed(people.tolist(), labels), score_pairwise(people.tolist(), labels)
    return {
        "bcubed_f": round(together.f, 4),
        "bcubed_precision": round(together.precision, 4),
        "pairwise_f": round(pairs.f, 4),
        "pairwise_precision": round(pairs.precision, 4),
    }


def degraded(samples: QualitySamples) -> QualitySamples:
    """All but the references, of people who have any."""
    return samples.take((samples.kinds != "reference") & ~np.isnan(samples.genuine))


def curves(samples: QualitySamples, functions: QualityModel, start: float = 0.10) -> dict[str, Floats]:
    """Measure → (31,) FNMR with 0 to 30 % discarded."""
    everything = measured(samples, functions)
    ranked = {
        "unified": everything["unified"],
        "detector score": samples.faces.det_scores,
        "Laplacian variance": laplacian_variance(samples.faces),
        "inter-eye distance": everything["inter_eye_px"],
        "random": np.random.default_rng(0).random(len(samples.people)).astype(np.float32),
        **{name.removesuffix("_score"): everything[name] for name in everything if name.endswith("_score")},
    }
    return {name: error_versus_discard(samples.genuine, values, start) for name, values in ranked.items()}


def measured(samples: QualitySamples, functions: QualityModel) -> dict[str, Floats]:
    """Measures of many faces, in batches as a service has them."""
    batches = [
        measures.measure_quality(samples.faces.take(rows), functions, samples.vectors[rows])
        for start in range(0, len(samples.people), TIMED_FACES)
        if (rows := slice(start, start + TIMED_FACES))
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def laplacian_variance(faces: FaceColumns) -> Floats:
    """The usual measure of blur (Pech-Pacheco et al., 2000)."""
    grey = [cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)[22:90, 22:90] for chip in faces.chips]
    return np.array([cv2.Laplacian(chip, cv2.CV_32F).var() for chip in grey], np.float32)


def occlusion(covers: QualitySamples, functions: QualityModel) -> dict[str, Any]:
    found = measured(covers, functions)
    clean = covers.kinds == "reference"
    kinds = {"eyes": OVER_EYES, "mouth": OVER_MOUTH}
    areas = {
        kind: round(auc(found[f"{part}_covered"][clean], found[f"{part}_covered"][covers.kinds == kind]), 4)
        for part in PARTS
        for kind in sorted(kinds[part])
    }
    alarms = np.any([found[f"{part}_covered"][clean] > COVERED_AT for part in PARTS], axis=0)
    return {"occlusion_auc": areas, "occlusion_false_alarms": round(float(alarms.mean()), 4)}


def seconds_a_face(samples: QualitySamples, functions: QualityModel) -> float:
    """Of one core, in batches of TIMED_FACES; the median of several."""
    rows = slice(0, TIMED_FACES)
    batch, vectors = samples.faces.take(rows), samples.vectors[rows]
    seconds = []
    for _ in range(9):
        began = time.process_time()
        measures.measure_quality(batch, functions, vectors)
        seconds.append(time.process_time() - began)
    return float(np.median(seconds)) / len(batch)


def _half(people: NDArray[np.str_], side: int) -> NDArray[np.bool_]:
    """Rows of every second person, by name."""
    _, number = np.unique(people, return_inverse=True)
    return np.asarray(number % 2 == side)


def _spread(people: Mapping[str, Sequence[Path]], count: int) -> dict[str, Sequence[Path]]:
    names = list(people)
    return {name: people[name] for name in names[:: max(1, len(names) // count)]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["judge", "fit"], default="judge")
    parser.add_argument("--images", type=Path, required=True, help="folder with a folder of photos for each person")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--limit", type=int, help="at most so many people, spread evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--embedder-only", action="store_true", help="fit: leave what serves every pack as it is")
    parser.add_argument("--plot", type=Path, help="draw the curves into this SVG")
    return parser


if __name__ == "__main__":
    sys.exit(main())
