"""Which photos the pre-filter rejects, which it should have rejected, and how many usable faces are lost by it.

`python -m benchmarks prefilter --images DIR --pack MANIFEST [--limit N] [--seed N] [--json]`

The face in the middle of each photo is framed in one of several ways, and the photo degraded in all ways of
`workshop/prefilter_photos.py`, whose sizes are for photos of some 250 px, such as LFW's. A face is usable if it is
detected in the degraded photo, and its similarity to the face in the clean photo is above the pack's threshold. A
degraded photo without a usable face is useless. The exit code is 1 where 0.5 % or more of the usable faces are in
rejected photos. Times are CPU times.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from app.core.arrays import Floats, Image
from app.core.boxes import compute_ious
from app.core.pictures import PhotoLimits
from app.packs.store import PackStore
from app.vision import photo_quality as prefilter
from app.vision.decode import decode
from app.vision.face_pack import FacePack, load_pack
from benchmarks.common.command import UnusableInput, find_photos, print_result
from workshop.prefilter_photos import DAMAGES, EMPTY, FRAMINGS, Subject

LIMITS = PhotoLimits()
MOST_LOST = 0.005
SAME_FACE_IOU = 0.3
MIX = (
    *("as it is", "close-up", "before a blurred background"),
    *("as it is", "close-up", "lit in the dark"),
    *("as it is", "before white"),
)
"""The framings that photos get in turn: most faces stay as they are, and a quarter is close up."""


@dataclass(frozen=True)
class Found:
    """The faces of a photo: boxes (N,4) float32 px, embeddings (N,D) float32 of unit length; the seconds of detection
    alone."""

    boxes: Floats
    embeddings: Floats
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The result for one degraded photo. `detection_s` is None where detection did not run."""

    framing: str
    damage: str
    rejected: bool
    usable: bool
    prefilter_s: float
    detection_s: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks prefilter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with photos of faces, or with such folders")
    parser.add_argument("--pack", default="open")
    parser.add_argument("--limit", type=int, help="at most so many photos, spread evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    result = print_result(lambda: measure(options), as_json=options.json)
    return 0 if result is not None and result["lost_share"] < MOST_LOST else 1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    photos = find_photos(options.images, options.limit)
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    return summarise(measure_outcomes(load_pack(pack, "cpu", 1), photos, options.seed))


def find(pack: FacePack, image: Image) -> Found:
    """(H,W,3) uint8 RGB → its faces, best first."""
    begin = time.process_time()
    (detections,) = pack.detect([image])
    seconds = time.process_time() - begin
    (embeddings,) = pack.embed([pack.cut_chips(image, detections.landmarks)])
    return Found(detections.boxes, embeddings, seconds)


def measure_outcomes(pack: FacePack, photos: Sequence[Path], seed: int) -> Iterator[Outcome]:
    """The results of every photo that has a face, in one framing and all kinds of degradation."""
    for number, (path, framing) in enumerate(zip(photos, cycle(MIX), strict=False)):
        photo, other = (decode(file.read_bytes(), LIMITS) for file in (path, photos[number - 1]))
        clean = find(pack, photo)
        if not len(clean.boxes):
            continue
        middle = _find_most_central(clean.boxes, photo)
        subject = Subject(photo, clean.boxes[middle])
        framed = FRAMINGS[framing](subject, other, np.random.default_rng([seed, number]))
        for kind, damage in enumerate(DAMAGES):
            damaged = DAMAGES[damage](framed.photo, np.random.default_rng([seed, number, kind]))
            rejected, prefilter_s = _judge_photo(damaged)
            found = None if damage in EMPTY else find(pack, damaged)
            usable = found is not None and _is_usable(
                found,
                framed.box * np.float32(damaged.shape[1] / framed.photo.shape[1]),
                clean.embeddings[middle],
                pack.manifest.similarity_threshold,
            )
            yield Outcome(framing, damage, rejected, usable, prefilter_s, None if found is None else found.seconds)


def _find_most_central(boxes: Floats, photo: Image) -> int:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    middle = np.array([photo.shape[1], photo.shape[0]]) / 2
    return int(np.abs(centres - middle).sum(axis=1).argmin())


def _judge_photo(picture: Image) -> tuple[bool, float]:
    """Whether the pre-filter rejects the picture, and the seconds that it took."""
    begin = time.process_time()
    verdict = prefilter.judge_photo_size(picture.shape[1], picture.shape[0]) or prefilter.judge_photo(picture)
    return verdict.reason is not None, time.process_time() - begin


def _is_usable(found: Found, box: Floats, embedding: Floats, least_similarity: float) -> bool:
    """Whether the face of this box (4,) px was detected and is still similar to its embedding (D,)."""
    if not len(found.boxes):
        return False
    overlaps = compute_ious(found.boxes, box[None])[:, 0]
    best = int(overlaps.argmax())
    return bool(overlaps[best] >= SAME_FACE_IOU and found.embeddings[best] @ embedding >= least_similarity)


def summarise(found: Iterable[Outcome]) -> dict[str, Any]:
    """The figures as they are printed. Raises UnusableInput where no photo had a face."""
    every = list(found)
    usable = sum(outcome.usable for outcome in every)
    if not usable:
        raise UnusableInput("No face was found in these photos; name a folder with photos of faces.")
    lost = [outcome for outcome in every if outcome.rejected and outcome.usable]
    useless = [outcome for outcome in every if not outcome.usable]
    prefilter_ms = _compute_mean_ms(outcome.prefilter_s for outcome in every)
    detection_ms = _compute_mean_ms(outcome.detection_s for outcome in every if outcome.detection_s is not None)
    return {
        "photos": len(every),
        "rejected": _compute_rejected_shares(every, "damage"),
        "useless": len(useless),
        "useless_rejected": _compute_rejected_shares(useless, "damage"),
        "useless_rejected_by_framing": _compute_rejected_shares(useless, "framing"),
        "usable_faces": usable,
        "usable_faces_lost": sum(outcome.usable for outcome in lost),
        "lost_by_damage": {name: sum(o.usable for o in lost if o.damage == name) for name in DAMAGES},
        "lost_share": round(sum(outcome.usable for outcome in lost) / usable, 5),
        "prefilter_ms": round(prefilter_ms, 3),
        "detection_ms": round(detection_ms, 3),
        "detection_per_prefilter": round(detection_ms / prefilter_ms, 1),
    }


def _compute_rejected_shares(some: Sequence[Outcome], attribute: str) -> dict[str, float]:
    """The share of rejected photos for each value of an attribute."""
    by_value: dict[str, list[bool]] = {}
    for outcome in some:
        by_value.setdefault(getattr(outcome, attribute), []).append(outcome.rejected)
    return {value: round(sum(rejected) / len(rejected), 4) for value, rejected in by_value.items()}


def _compute_mean_ms(seconds: Iterable[float]) -> float:
    return 1000 * float(np.mean(list(seconds)))


if __name__ == "__main__":
    sys.exit(main())
