"""How many faces are detected in photos that are rotated by 90, 180 or 270 degrees, and what that costs.

`python -m benchmarks rotated --pack MANIFEST --images DIR [--limit N] [--json]`

The faces that are detected in the upright photo, without detection in other rotations, must be detected in the rotated
photo: by a box that, rotated back, overlaps theirs by an IoU of 0.3. `recall` is their share. `cosine` compares the
embeddings of both, `surplus` counts boxes that overlap none. Costs are ratios of CPU seconds with detection in other
rotations to those without, on upright photos, both in turns: `cost` from a file's bytes to its embeddings,
`detect_cost` of the detector alone. `faceless` photos are strips without a face, enlarged to a photo's size.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from app.core.arrays import Floats, Image
from app.core.boxes import compute_ious
from app.core.pictures import PhotoLimits
from app.packs.store import InstalledPack, PackStore
from app.vision.decode import decode
from app.vision.face_pack import FacePack, load_pack
from app.vision.turned import RotationInvariantDetector, turn_faces_back, turn_image
from app.vision.types import Detections
from benchmarks.common.command import UnusableInput, find_photos, print_result

LIMITS = PhotoLimits()
FOUND_IOU = 0.3
TURNS = {0: "upright", 1: "90", 2: "180", 3: "270"}
LEAST_STRIP = 0.15
"""The smallest side of a strip, as a part of the photo's longer side: a narrower one shows nothing."""
AROUND = 0.5
"""The margin around a face that no strip contains, for hair and neck, as a part of the face's sides."""


@dataclass
class Tally:
    """The faces that were detected in one rotation."""

    found: int = 0
    surplus: int = 0
    cosines: list[float] = field(default_factory=list)


@dataclass
class Costs:
    """CPU seconds of one pack: of detection alone, and of all stages."""

    detect_s: float = 0.0
    all_s: float = 0.0


class Watched(RotationInvariantDetector):
    """Counts the photos of which probes are tried in other rotations, and those that are then detected rotated."""

    def __init__(self, inner: RotationInvariantDetector) -> None:
        super().__init__(inner.upright, inner._score_threshold, inner._sure_score)
        self.tried = self.turned = 0

    def _find_rotations(self, images: Sequence[Image], seen: Sequence[Detections]) -> dict[int, int]:
        turns = dict(super()._find_rotations(images, seen))
        self.tried += sum(
            bool(self._make_probes(row, image, found))
            for row, (image, found) in enumerate(zip(images, seen, strict=True))
        )
        self.turned += len(turns)
        return turns


def main(arguments: list[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    return 1 if print_result(lambda: measure(options), as_json=options.json) is None else 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    without, with_look = open_pack(pack, sure_score=0.0), open_pack(pack)
    photos = [path.read_bytes() for path in find_photos(options.images, options.limit)]
    images = [decode(data, LIMITS, without.view_px) for data in photos]
    upright = without.detect(images)
    faces = sum(map(len, upright))
    if not faces:
        raise UnusableInput(f"No face is found in the photos of {options.images}, so none can be missed.")
    result: dict[str, Any] = {"photos": len(photos), "faces": faces}
    for name, pack_used in (("", with_look), ("without_", without)):
        tallies = {turn: count_found(pack_used, images, upright, turn) for turn in TURNS}
        result[f"{name}recall"] = {TURNS[turn]: round(each.found / faces, 4) for turn, each in tallies.items()}
        result[f"{name}cosine"] = {TURNS[turn]: _compute_median(each.cosines) for turn, each in tallies.items()}
        result[f"{name}surplus"] = {TURNS[turn]: each.surplus for turn, each in tallies.items()}
    result |= measure_costs(photos, without, with_look, options.repeat)
    strips = cut_faceless_strips(images, upright)
    return {
        **result,
        **{f"faceless_{name}": value for name, value in measure_costs(strips, without, with_look, 1).items()},
    }


def open_pack(pack: InstalledPack, **changes: float) -> FacePack:
    """The pack on one core, with these changes to its detector's settings."""
    manifest = pack.manifest
    changed = manifest.model_copy(update={"detector": manifest.detector.model_copy(update=changes)})
    return load_pack(replace(pack, manifest=changed), "cpu", 1)


def count_found(pack: FacePack, images: Sequence[Image], upright: Sequence[Detections], turn: int) -> Tally:
    """How many of the upright photos' faces are detected in the photos rotated by `turn` quarters."""
    counted = Tally()
    for image, wanted in zip(images, upright, strict=True):
        picture = turn_image(image, turn)
        (found,) = pack.detect([picture])
        pairs = match_boxes(wanted.boxes, turn_faces_back(found, turn, image.shape).boxes)
        counted.found += len(pairs)
        counted.surplus += len(found) - len(pairs)
        if pairs:
            rows, others = map(np.array, zip(*pairs, strict=True))
            chips = [pack.cut_chips(image, wanted.landmarks[rows]), pack.cut_chips(picture, found.landmarks[others])]
            first, second = pack.embed(chips)
            counted.cosines += (first * second).sum(axis=1).tolist()
    return counted


def match_boxes(wanted: Floats, found: Floats) -> list[tuple[int, int]]:
    """(N,4), (M,4) px → pairs of rows with an IoU of FOUND_IOU or more, largest first, each row in one pair at most."""
    ious = compute_ious(wanted, found)
    pairs: list[tuple[int, int]] = []
    while ious.size and ious.max() >= FOUND_IOU:
        row, other = map(int, np.unravel_index(ious.argmax(), ious.shape))
        pairs.append((row, other))
        ious[row], ious[:, other] = 0, 0
    return pairs


def measure_costs(photos: Sequence[bytes], without: FacePack, with_look: FacePack, repeat: int) -> dict[str, Any]:
    """Costs of both packs in turns, photo by photo. Which one is first changes, so that none has the warmer cache."""
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
                analyse(pack, data, spent)
    return {
        "photos": len(photos),
        "tried_share": round(watched.tried / len(photos), 4),
        "turned_share": round(watched.turned / len(photos), 4),
        "cost": round(again.all_s / plain.all_s, 3),
        "detect_cost": round(again.detect_s / plain.detect_s, 3),
    }


def analyse(pack: FacePack, data: bytes, spent: Costs) -> None:
    """Process one photo from its bytes to its embeddings; the CPU seconds are added to `spent`."""
    began = time.process_time()
    image = decode(data, LIMITS, pack.view_px)
    before = time.process_time()
    (found,) = pack.detect([image])
    spent.detect_s += time.process_time() - before
    if len(found):
        pack.embed([pack.cut_chips(image, found.landmarks)])
    spent.all_s += time.process_time() - began


def cut_faceless_strips(images: Iterable[Image], upright: Iterable[Detections]) -> list[bytes]:
    """JPEGs of the largest strip of each photo that contains no face, where it is wide enough (LEAST_STRIP)."""
    strips = []
    for image, faces in zip(images, upright, strict=True):
        strip = _cut_largest_strip(image, faces.boxes)
        if min(strip.shape[:2]) >= LEAST_STRIP * max(image.shape[:2]):
            scale = max(image.shape[:2]) / max(strip.shape[:2])
            large = cv2.resize(strip, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            strips.append(cv2.imencode(".jpg", large[..., ::-1])[1].tobytes())
    return strips


def _cut_largest_strip(image: Image, boxes: Floats) -> Image:
    if not len(boxes):
        return image
    edges = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    around = AROUND * (boxes[:, 2:] - boxes[:, :2]).max(axis=0)
    low, high = edges[:2] - around, edges[2:] + around
    (left, top), (right, bottom) = np.stack([low, high]).clip(0, image.shape[1::-1]).astype(int)
    return max((image[:, :left], image[:, right:], image[:top], image[bottom:]), key=lambda strip: strip.size)


def _compute_median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None


def _make_parser() -> argparse.ArgumentParser:
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
