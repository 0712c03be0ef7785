"""Faces found in photos that lie on their side or upside down, and what looking for them costs. One line of JSON.

`python -m benchmarks rotated --pack MANIFEST --images DIR [--limit N] [--json]`

The faces that the upright photo shows without a second look are what is to be found in the photo turned by 90, 180 and
270 degrees: by a box that, turned back, overlaps theirs by an IoU of 0.3. `cosine` compares the embeddings of those
that were found with the upright ones, `surplus` counts boxes on none of them. Costs are ratios of CPU seconds with the
second look to those without, on upright photos, both in turns: `cost` from a file's bytes to its embeddings,
`detect_cost` of the detector alone. `faceless` are strips beside the faces, blown up to a photo's size.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from app.core.arrays import Floats, Image
from app.core.pictures import PhotoLimits
from app.packs.store import InstalledPack, PackStore
from app.vision.boxes import compute_ious
from app.vision.decode import decode
from app.vision.face_pack import FacePack, load_pack
from app.vision.turned import RotationInvariantDetector, turn_faces_back, turn_image
from app.vision.types import Detections
from benchmarks.common.command import UnusableInput, find_photos, printed

LIMITS = PhotoLimits()
FOUND_IOU = 0.3
TURNS = {0: "upright", 1: "90", 2: "180", 3: "270"}
LEAST_STRIP = 0.15
"""Of a photo's longer side: a narrower strip is no picture of anything."""
AROUND = 0.5
"""Of a face's sides: what is left out around it, for its hair and neck."""


@dataclass
class Tally:
    """What was found in one position."""

    found: int = 0
    surplus: int = 0
    cosines: list[float] = field(default_factory=list)


@dataclass
class Costs:
    """CPU seconds of one way of looking, and how many photos it looked at again."""

    detect_s: float = 0.0
    all_s: float = 0.0


class Watched(RotationInvariantDetector):
    """Counts the photos that are shown in other positions, and those that are then looked at as a whole."""

    def __init__(self, inner: RotationInvariantDetector) -> None:
        super().__init__(inner.upright, inner._score_threshold, inner._sure_score)
        self.tried = self.turned = 0

    def _find_rotations(self, images: Sequence[Image], seen: Sequence[Detections]) -> dict[int, int]:
        turns = dict(super()._find_rotations(images, seen))
        self.tried += sum(
            bool(self.upright.make_probes(image, found)) and not self._is_confident(found)
            for image, found in zip(images, seen, strict=True)
        )
        self.turned += len(turns)
        return turns


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return 1 if printed(lambda: measure(options), as_json=options.json) is None else 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    without, with_look = opened(pack, sure_score=0.0), opened(pack)
    photos = [path.read_bytes() for path in find_photos(options.images, options.limit)]
    images = [decode(data, LIMITS, without.view_px) for data in photos]
    upright = without.detect(images)
    faces = sum(map(len, upright))
    if not faces:
        raise UnusableInput(f"No face is found in the photos of {options.images}, so none can be missed.")
    result: dict[str, Any] = {"photos": len(photos), "faces": faces}
    for name, pack_used in (("", with_look), ("without_", without)):
        tallies = {turn: tally(pack_used, images, upright, turn) for turn in TURNS}
        result[f"{name}recall"] = {TURNS[turn]: round(each.found / faces, 4) for turn, each in tallies.items()}
        result[f"{name}cosine"] = {TURNS[turn]: _median(each.cosines) for turn, each in tallies.items()}
        result[f"{name}surplus"] = {TURNS[turn]: each.surplus for turn, each in tallies.items()}
    result |= costs(photos, without, with_look, options.repeat)
    strips = faceless(images, upright)
    return {**result, **{f"faceless_{name}": value for name, value in costs(strips, without, with_look, 1).items()}}


def opened(pack: InstalledPack, **changes: float) -> FacePack:
    """The pack on one core, its detector's settings changed so."""
    manifest = pack.manifest
    changed = manifest.model_copy(update={"detector": manifest.detector.model_copy(update=changes)})
    return load_pack(changed, pack.weights, "cpu", 1)


def tally(pack: FacePack, images: Sequence[Image], upright: Sequence[Detections], turn: int) -> Tally:
    """How many of the upright photos' faces are found again in the photos turned by `turn` quarters."""
    counted = Tally()
    for image, wanted in zip(images, upright, strict=True):
        picture = turn_image(image, turn)
        (found,) = pack.detect([picture])
        pairs = matched(wanted.boxes, turn_faces_back(found, turn, image.shape).boxes)
        counted.found += len(pairs)
        counted.surplus += len(found) - len(pairs)
        if pairs:
            rows, others = map(np.array, zip(*pairs, strict=True))
            chips = [pack.cut_chips(image, wanted.landmarks[rows]), pack.cut_chips(picture, found.landmarks[others])]
            first, second = pack.embed(chips)
            counted.cosines += (first * second).sum(axis=1).tolist()
    return counted


def matched(wanted: Floats, found: Floats) -> list[tuple[int, int]]:
    """(N,4), (M,4) px → pairs of rows whose IoU is enough, largest first, each row in one pair at most."""
    ious = compute_ious(wanted, found)
    pairs: list[tuple[int, int]] = []
    while ious.size and ious.max() >= FOUND_IOU:
        row, other = map(int, np.unravel_index(ious.argmax(), ious.shape))
        pairs.append((row, other))
        ious[row], ious[:, other] = 0, 0
    return pairs


def costs(photos: Sequence[bytes], without: FacePack, with_look: FacePack, repeat: int) -> dict[str, Any]:
    """Both ways in turns, photo by photo; which goes first changes, so that neither has the warmer cache."""
    if not photos:
        return {"photos": 0}
    plain, again = Costs(), Costs()
    assert isinstance(with_look._detector, RotationInvariantDetector)
    watched = Watched(with_look._detector)
    counting = FacePack(with_look.manifest, watched, with_look._embedder)
    for data in photos:
        counting.detect([decode(data, LIMITS, counting.view_px)])
    ways = [(without, plain), (with_look, again)]
    for number in range(repeat):
        for data in photos:
            for pack, spent in ways if number % 2 else reversed(ways):
                go(pack, data, spent)
    return {
        "photos": len(photos),
        "tried_share": round(watched.tried / len(photos), 4),
        "turned_share": round(watched.turned / len(photos), 4),
        "cost": round(again.all_s / plain.all_s, 3),
        "detect_cost": round(again.detect_s / plain.detect_s, 3),
    }


def go(pack: FacePack, data: bytes, spent: Costs) -> None:
    """One photo from its bytes to its embeddings."""
    began = time.process_time()
    image = decode(data, LIMITS, pack.view_px)
    before = time.process_time()
    (found,) = pack.detect([image])
    spent.detect_s += time.process_time() - before
    if len(found):
        pack.embed([pack.cut_chips(image, found.landmarks)])
    spent.all_s += time.process_time() - began


def faceless(images: Iterable[Image], upright: Iterable[Detections]) -> list[bytes]:
    """JPEGs of the largest strip of each photo that lies beside all its faces, where there is one of some width."""
    strips = []
    for image, faces in zip(images, upright, strict=True):
        strip = _strip(image, faces.boxes)
        if min(strip.shape[:2]) >= LEAST_STRIP * max(image.shape[:2]):
            scale = max(image.shape[:2]) / max(strip.shape[:2])
            large = cv2.resize(strip, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            strips.append(cv2.imencode(".jpg", large[..., ::-1])[1].tobytes())
    return strips


def _strip(image: Image, boxes: Floats) -> Image:
    if not len(boxes):
        return image
    edges = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    around = AROUND * (boxes[:, 2:] - boxes[:, :2]).max(axis=0)
    low, high = edges[:2] - around, edges[2:] + around
    (left, top), (right, bottom) = np.stack([low, high]).clip(0, image.shape[1::-1]).astype(int)
    return max((image[:, :left], image[:, right:], image[:top], image[bottom:]), key=lambda strip: strip.size)


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks rotated", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", required=True, help="pack name or manifest")
    parser.add_argument("--images", type=Path, required=True, help="folder of upright photos")
    parser.add_argument("--limit", type=int, help="so many photos of the folder, spread evenly")
    parser.add_argument("--repeat", type=int, default=2, help="turns of the costs on photos with faces (2)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
