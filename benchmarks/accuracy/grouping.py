"""How well faces are grouped into people, compared with other projects' methods, and at any size.

`python -m benchmarks grouping --embeddings FILE.npz [--vectors KEY] [--labels KEY] [--images KEY] [--threshold T]
[--pack PACK] [--baselines NAMES|all|none] [--scale N [--dimension D] [--seed N]] [--stream N] [--add N] [--json]`

FILE has an array of embeddings (KEY, by default its only one), and the person and the photo of each. The faces are
grouped by app.clustering.full at the threshold of the embedder's pack: for `mobilefacenet_128` that of
tests/packs/shared-insightface.toml, for `dlib_resnet_128` that of models/open-1.toml, for others as given by
--threshold, or that of --pack. Vectors of a KEY whose pack has a whitening are whitened first; those that
`python -m workshop embed` wrote are whitened already.

bcubed_f, pairwise_f    with precision and recall of each (workshop.scores). An unassigned face (-1, in FILE or in the
                        result) counts as a person of one face.
people, nobody          the number of people, and how many of them are such unassigned faces.
seconds                 from embeddings to people; ours also as `cpu_seconds`, of all cores together.
peak_memory_mb          the most resident memory of the process: every method runs in a process of its own, which
                        begins with some 200 MB of libraries and the embeddings.
neighbours_, clustering_seconds, neighbours_peak_memory_mb    ours by stage: the search for neighbours, and the rest.
best                    the same at the cosine distance that gives the highest BCubed F, which only labels can tell: an
                        oracle. `best_pairwise_f` is the highest of all distances, mostly at another one.
stream                  with --stream N, for faces that arrive in random order in N parts (grouping_stream.py): the
                        scores of incremental runs and of one full run, how people's ids changed, and the median
                        seconds of a run.
addition                with --add N: the seconds that N more faces take, against a full run.
baselines               other projects' methods (grouping_baselines.py): at the project's own setting
                        (`published`, null where there is none) and `best`.

With --scale the faces are synthetic, with the statistics of the file's (grouping_synthetic.py), one a photo, a fifth of
them hard; `likeness` gives the 5th, 50th and 95th percentile of the cosines within and between people, in the file and
of synthetic faces without hard ones. Above 20,000 faces no method runs that needs all distances at once, and there is
no search for the best setting.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.clustering.graph import number_photos
from app.core.thresholds import Threshold, make_threshold
from app.packs.manifest import read_manifest
from app.packs.store import PackStore
from app.vision.embedder import normalise
from app.vision.whitening import read_whitening
from benchmarks.accuracy.grouping_baselines import BASELINES, Floats, Labels
from benchmarks.accuracy.grouping_measures import measure_baseline, measure_ours
from benchmarks.accuracy.grouping_stream import measure_addition, measure_stream
from benchmarks.accuracy.grouping_synthetic import compute_statistics, make_synthetic_faces, sample_similarities
from benchmarks.common.command import UnusableInput, print_result

PACKS = {"mobilefacenet_128": "tests/packs/shared-insightface.toml", "dlib_resnet_128": "models/open-1.toml"}
MATRIX_FACES = 20_000
PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class Faces:
    """`embeddings` (N,D) float32 unit length and their `key` in the file; `people` (N,) int64, -1 for unassigned faces;
    `photos` N names."""

    embeddings: Floats
    people: Labels
    photos: Sequence[str]
    key: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    return 1 if print_result(lambda: run(options), as_json=options.json) is None else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure ours and each baseline, one after another. Returns the result as it is printed."""
    names = choose_baselines(options.baselines)
    faces = make_faces(options)
    threshold, source = _choose_threshold(options, faces.key)
    search = len(faces.people) <= MATRIX_FACES
    result: dict[str, Any] = {
        "embeddings": str(options.embeddings),
        "vectors": faces.key,
        "faces": len(faces.people),
        "dimension": faces.embeddings.shape[1],
        "true_people": int(len(np.unique(faces.people[faces.people >= 0])) + (faces.people < 0).sum()),
        **asdict(threshold),
        "threshold_from": source,
    }
    if options.scale:
        result["likeness"] = compare_similarities(options)
    del faces
    if options.stream:
        print(f"faces arrive in {options.stream} parts", file=sys.stderr)
        result["stream"] = _run_alone(_measure_stream, options, threshold)
    if options.add:
        print(f"{options.add} faces are added to the others", file=sys.stderr)
        result["addition"] = _run_alone(_measure_addition, options, threshold)
    print(f"ours groups {result['faces']} faces", file=sys.stderr)
    result.update(_run_alone(_measure_ours, options, threshold, search))
    return {**result, "baselines": {name: _run_baseline(name, options, search) for name in names}}


def make_faces(options: argparse.Namespace) -> Faces:
    """The file's faces or, with --scale, synthetic faces with their statistics."""
    real = read_faces(options.embeddings, options.vectors, options.labels, options.images)
    if not options.scale:
        return real
    made = _make_synthetic_faces(options, real, hard_share=None)
    return Faces(*made, [str(face) for face in range(options.scale)], real.key)


def read_faces(path: Path, vectors: str | None, labels: str, images: str) -> Faces:
    """Read a file of embeddings. Raises UnusableInput for a file that lacks an array."""
    try:
        arrays = np.load(path)
        key = vectors or _find_only_vectors({name: arrays[name] for name in arrays.files})
        embeddings, who = arrays[key].astype(np.float32), arrays[labels]
        photos = arrays[images].astype(str) if images in arrays.files else np.arange(len(who)).astype(str)
    except (OSError, ValueError, KeyError) as error:
        raise UnusableInput(f"{path} can't be read: {error}") from error
    if embeddings.ndim != 2 or not len(embeddings) == len(who) == len(photos):
        raise UnusableInput(f"{key!r} of {path} is not one row of numbers for each of {len(who)} faces.")
    embeddings = _whiten(embeddings, key)
    people = np.where(who.astype(str) == "-1", -1, np.unique(who, return_inverse=True)[1]).astype(np.int64)
    return Faces(embeddings, people, photos.tolist(), key)


def _whiten(vectors: Floats, key: str) -> Floats:
    """(N,D) vectors → (N,K) of unit length, as the pack of KEY makes them."""
    path = Path(PACKS.get(key, ""))
    embedder = read_manifest(path).embedder if path.is_file() else None
    if embedder and embedder.whitening:
        return read_whitening(path.with_name(embedder.whitening), embedder.dimension).whiten(vectors)
    return normalise(vectors)


def compare_similarities(options: argparse.Namespace) -> dict[str, Any]:
    """Percentiles of the cosines within and between people, of the file and of synthetic faces without hard ones."""
    real = read_faces(options.embeddings, options.vectors, options.labels, options.images)
    known = real.people >= 0
    sides = {
        "file": (real.embeddings[known], real.people[known]),
        "synthetic": _make_synthetic_faces(options, real, hard_share=0.0),
    }
    return {
        name: {
            kind: np.percentile(cosines, PERCENTILES).round(3).tolist()
            for kind, cosines in zip(("within", "between"), sample_similarities(*side), strict=True)
        }
        for name, side in sides.items()
    }


def _make_synthetic_faces(options: argparse.Namespace, real: Faces, hard_share: float | None) -> tuple[Floats, Labels]:
    known = real.people >= 0
    share = {} if hard_share is None else {"hard_share": hard_share}
    try:
        statistics = compute_statistics(real.embeddings[known], real.people[known])
        dimension = options.dimension or real.embeddings.shape[1]
        made = make_synthetic_faces(statistics, options.scale, dimension, seed=options.seed, **share)
    except ValueError as error:
        raise UnusableInput(str(error)) from error
    return made.embeddings, made.labels


def _find_only_vectors(arrays: dict[str, NDArray[Any]]) -> str:
    found = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "f"]
    if len(found) != 1:
        raise ValueError(f"--vectors must name one of {', '.join(found) or 'its arrays; none holds embeddings'}")
    return found[0]


def _choose_threshold(options: argparse.Namespace, key: str) -> tuple[Threshold, str]:
    """The cosine above which two faces are likely of one person, and its source."""
    if options.threshold is not None:
        return make_threshold(options.threshold), "--threshold"
    if key not in PACKS and not options.pack:
        raise UnusableInput(f"No pack is known for {key!r}: give its --pack or --threshold.")
    path = PackStore(Path("models")).find_manifest(options.pack or PACKS[key])
    return read_manifest(path).threshold, str(path)


def choose_baselines(names: str) -> list[str]:
    """The names that `--baselines` selects. Raises UnusableInput for an unknown name."""
    chosen = {"all": list(BASELINES), "none": []}.get(names, names.split(","))
    unknown = sorted(set(chosen) - set(BASELINES))
    if unknown:
        raise UnusableInput(f"No baseline is called {unknown[0]!r}: there are {', '.join(BASELINES)}.")
    return chosen


def _run_baseline(name: str, options: argparse.Namespace, search: bool) -> dict[str, Any]:
    if BASELINES[name].needs_matrix and not search:
        reason = f"needs all distances at once, of more than {MATRIX_FACES} faces"
        print(f"{name} is left out: it {reason}", file=sys.stderr)
        return {"skipped": reason}
    print(f"{name} groups them", file=sys.stderr)
    return _run_alone(_measure_theirs, options, name, search)


def _measure_ours(options: argparse.Namespace, threshold: Threshold, search: bool) -> dict[str, Any]:
    faces = make_faces(options)
    return measure_ours(faces.embeddings, faces.photos, faces.people, threshold, search=search)


def _measure_stream(options: argparse.Namespace, threshold: Threshold) -> dict[str, Any]:
    faces = make_faces(options)
    return measure_stream(faces.embeddings, number_photos(faces.photos), faces.people, threshold, options.stream)


def _measure_addition(options: argparse.Namespace, threshold: Threshold) -> dict[str, Any]:
    faces = make_faces(options)
    return measure_addition(faces.embeddings, number_photos(faces.photos), faces.people, threshold, options.add)


def _measure_theirs(options: argparse.Namespace, name: str, search: bool) -> dict[str, Any]:
    faces = make_faces(options)
    return measure_baseline(BASELINES[name], faces.embeddings, faces.people, search=search)


def _run_alone(work: Any, *arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the functions above
    """Run `work` in a process of its own, so that memory which other work used before is not counted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result: dict[str, Any] = pool.submit(work, *arguments).result()
        return result


def make_embeddings_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark that takes a file of embeddings, with the options that name the file's arrays."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--embeddings", type=Path, required=True, help=".npz of embeddings, labels and images")
    parser.add_argument("--vectors", metavar="KEY", help="of the embeddings (the only array of them)")
    parser.add_argument("--labels", metavar="KEY", default="label", help="of the people's names (label)")
    parser.add_argument("--images", metavar="KEY", default="image", help="of the photos (image; else each its own)")
    return parser


def _make_parser() -> argparse.ArgumentParser:
    parser = make_embeddings_parser("grouping", __doc__)
    parser.add_argument("--threshold", type=float, help="cosine, the same for every size (that of the pack of KEY)")
    parser.add_argument("--pack", help="name, or path of a manifest, whose threshold is used")
    parser.add_argument("--baselines", default="all", help=f"all, none, or some of {','.join(BASELINES)} (all)")
    parser.add_argument("--scale", type=int, metavar="N", help="N synthetic faces with the statistics of the file's")
    parser.add_argument("--dimension", type=int, help="of the synthetic faces (that of the file's)")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic faces (0)")
    parser.add_argument("--stream", type=int, metavar="N", help="also group faces that arrive in N parts")
    parser.add_argument("--add", type=int, metavar="N", help="also time the addition of N faces to all the others")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
