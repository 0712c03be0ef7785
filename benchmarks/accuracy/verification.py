"""How accurately a pack verifies whether two photos show one person, compared with insightface's own pipeline.

`python -m benchmarks verification --images DIR --pack MANIFEST [--pairs N] [--seed N] [--limit N] [--alone] [--json]`

DIR has a folder of photos for each person. As many pairs of one person as of two are made of them, in ten folds that
share no person. Of a photo the face nearest its middle is used, detected and embedded as in the detection service
(app.detection.analysis) and, where the detector is SCRFD, by `FaceAnalysis.get` at 640 x 640.

accuracy                share of the pairs judged right, each fold by the threshold that is best on the other nine: mean
                        of the folds, and `_std`, their standard deviation. Pairs with a photo without a face are left
                        out.
accuracy_with_failures  the same, with these pairs judged wrong.
failure_to_acquire      share of the photos without a face.
tar_at_far_1e3, _1e4    share of the pairs of one person that is accepted where 0.1 % or 0.01 % of the impostors are.
                        Impostors are all comparisons of different people between these embeddings
                        (`impostor_comparisons`), the impostor pairs among them. null where there are fewer than 30
                        false accepts.
accuracy_difference     ours less insightface's in percentage points, both measured again on the pairs for which both
                        detected all faces (`pairs_of_both`). `_se` is its standard error over the folds, and
                        `only_ours_right`, `only_insightface_right` count the pairs that differ.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from insightface.app import FaceAnalysis

from app.core.arrays import Floats
from app.detection.device import open_device
from app.packs.store import InstalledPack, PackStore
from app.vision.types import Detections
from benchmarks.accuracy.verification_pairs import FoldedPair, find_people, make_folded_pairs
from benchmarks.accuracy.verification_scores import (
    Flags,
    Folds,
    Scores,
    compute_impostor_scores,
    compute_share_by_fold,
    compute_tar_at_far,
    judge_in_folds,
)
from benchmarks.common.command import UnusableInput, print_result
from benchmarks.speed.detection import make_insightface_loop
from workshop.calibration import embed_central_faces
from workshop.parity import find_most_central

Embeddings = Mapping[Path, Floats]
"""Photo → (D,) float32 of unit length; without the photos in which no face was detected."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="verification-") as aside:
        return 1 if print_result(lambda: run(options, Path(aside)), as_json=options.json) is None else 0


def run(options: argparse.Namespace, aside: Path) -> dict[str, Any]:
    """Run both pipelines on the photos of all pairs. Returns the result as it is printed."""
    pairs = make_folded_pairs(find_people(options.images), options.pairs, options.seed, options.limit)
    photos = sorted({photo for pair in pairs for photo in pair.photos})
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    print(f"{len(pairs)} pairs of {len(photos)} photos; {pack.manifest.name} embeds them", file=sys.stderr)
    ours = embed(pack, photos)
    result = {
        "pack": pack.manifest.name,
        "people": len({photo.parent for photo in photos}),
        "photos": len(photos),
        "genuine_pairs": sum(pair.pair.is_genuine for pair in pairs),
        "impostor_pairs": sum(not pair.pair.is_genuine for pair in pairs),
        **measure_pipeline(pairs, ours),
    }
    if options.alone or pack.manifest.detector.kind != "scrfd":
        return result
    print("insightface embeds them", file=sys.stderr)
    theirs = embed_by_insightface(make_insightface_loop(pack, "cpu", aside), photos)
    compared = {f"insightface_{name}": value for name, value in measure_pipeline(pairs, theirs).items()}
    return {**result, **compared, **compare_pipelines(pairs, ours, theirs)}


def embed(pack: InstalledPack, photos: Sequence[Path]) -> dict[Path, Floats]:
    """The middle face of each photo by the service's functions; a file that can't be read is a photo without a face."""
    with open_device(pack, "cpu") as device:
        return embed_central_faces(photos, device)


def embed_by_insightface(loop: FaceAnalysis, photos: Sequence[Path]) -> dict[Path, Floats]:
    """The middle face of each photo, chosen by the same rule."""
    embeddings = {}
    for photo in photos:
        image = cv2.imread(str(photo))
        faces = [] if image is None else loop.get(image)
        if faces:
            boxes, landmarks = (np.stack([face[name] for face in faces]) for name in ("bbox", "kps"))
            found = Detections(boxes, landmarks, np.array([face.det_score for face in faces]))
            embeddings[photo] = faces[find_most_central(found, np.asarray(image, np.uint8))].normed_embedding
    return embeddings


def measure_pipeline(pairs: Sequence[FoldedPair], embeddings: Embeddings) -> dict[str, Any]:
    """The figures of one pipeline. Raises UnusableInput where a fold has no pair with two faces."""
    scores, genuine, fold = score_pairs(pairs, embeddings)
    right, compared = judge_in_folds(scores, genuine, fold), ~np.isnan(scores)
    _require_all_folds(fold, compared)
    accuracies = compute_share_by_fold(right[compared], fold[compared])
    impostors = compute_impostor_scores(
        np.stack(list(embeddings.values())), [photo.parent.name for photo in embeddings]
    )
    photos = {photo for pair in pairs for photo in pair.photos}
    return {
        "accuracy": round(float(accuracies.mean()), 5),
        "accuracy_std": round(float(accuracies.std(ddof=1)), 5),
        "accuracy_with_failures": round(float(compute_share_by_fold(right, fold).mean()), 5),
        "failure_to_acquire": round(1 - len(embeddings) / len(photos), 5),
        "pairs_left_out": int((~compared).sum()),
        "tar_at_far_1e3": _round_share(compute_tar_at_far(scores[genuine & compared], impostors, 1e-3)),
        "tar_at_far_1e4": _round_share(compute_tar_at_far(scores[genuine & compared], impostors, 1e-4)),
        "impostor_comparisons": len(impostors),
    }


def compare_pipelines(pairs: Sequence[FoldedPair], ours: Embeddings, theirs: Embeddings) -> dict[str, Any]:
    """The difference of both pipelines, on the pairs for which both detected all faces."""
    mine, genuine, fold = score_pairs(pairs, ours)
    other, _, _ = score_pairs(pairs, theirs)
    both = ~np.isnan(mine) & ~np.isnan(other)
    _require_all_folds(fold, both)
    mine_right, other_right = (judge_in_folds(side[both], genuine[both], fold[both]) for side in (mine, other))
    by_fold = 100 * (compute_share_by_fold(mine_right, fold[both]) - compute_share_by_fold(other_right, fold[both]))
    return {
        "pairs_of_both": int(both.sum()),
        "accuracy_difference": round(float(by_fold.mean()), 3),
        "accuracy_difference_se": round(float(by_fold.std(ddof=1)) / len(by_fold) ** 0.5, 3),
        "only_ours_right": int((mine_right & ~other_right).sum()),
        "only_insightface_right": int((other_right & ~mine_right).sum()),
    }


def score_pairs(pairs: Sequence[FoldedPair], embeddings: Embeddings) -> tuple[Scores, Flags, Folds]:
    """P pairs → (P,) cosines, NaN where a face is missing; (P,) whether one person's; (P,) fold."""

    def cosine(first: Path, second: Path) -> float:
        known = first in embeddings and second in embeddings
        return float(embeddings[first] @ embeddings[second]) if known else float("nan")

    scores = np.array([cosine(*pair.photos) for pair in pairs])
    genuine = np.array([pair.pair.is_genuine for pair in pairs])
    return scores, genuine, np.array([pair.fold for pair in pairs], np.intp)


def _require_all_folds(fold: Folds, compared: Flags) -> None:
    if len(np.unique(fold[compared])) < len(np.unique(fold)):
        raise UnusableInput("Too few faces are found in these photos to compare any pair of each fold.")


def _round_share(share: float | None) -> float | None:
    return None if share is None else round(share, 5)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks verification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with a folder of photos for each person")
    parser.add_argument("--pack", default="open", help="pack name, manifest or InsightFace folder (open)")
    parser.add_argument("--pairs", type=int, default=3000, help="of one person, and as many of two (3000)")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs (0)")
    parser.add_argument("--limit", type=int, help="so many of the people")
    parser.add_argument("--alone", action="store_true", help="without insightface's pipeline")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
