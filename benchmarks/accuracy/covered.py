"""How many faces are detected behind masks, glasses, hands and hair. One line of JSON.

`python -m benchmarks covered --pack MANIFEST --images DIR [--limit N] [--json]`

Every face that is detected in a photo as it is gets each kind of cover, drawn on by its landmarks, and must be detected
again, by a box that overlaps the first one by an IoU of 0.3. `found` is the share by kind, of all faces and of those
that are turned aside by TURNED_DEGREES or more; `cosine` is the median similarity of the embeddings with and without.
The covers are drawn, so a real mask may be easier or harder.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from app.core.arrays import Floats, Image
from app.core.boxes import compute_ious
from app.core.pictures import PhotoLimits
from app.packs.store import PackStore
from app.vision.decode import decode
from app.vision.face_pack import FacePack, load_pack
from app.vision.quality.pose import estimate_head_pose
from benchmarks.common.command import UnusableInput, find_photos, print_result
from workshop.degradations import COVERS, Portrait

LIMITS = PhotoLimits()
FOUND_IOU = 0.3
TURNED_DEGREES = 30.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks covered", description=__doc__)
    parser.add_argument("--pack", required=True, help="name, or path of a manifest")
    parser.add_argument("--images", type=Path, required=True, help="photos with one face in the middle")
    parser.add_argument("--limit", type=int, default=400, help="photos (400)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    return 1 if print_result(lambda: measure(options), as_json=options.json) is None else 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    pack = load_pack(PackStore(Path("models"), accept_research_licence=True).install(options.pack), "cpu", 1)
    random = np.random.default_rng(0)
    found: dict[str, list[bool]] = {name: [] for name in COVERS}
    cosines: dict[str, list[float]] = {name: [] for name in COVERS}
    turned: list[bool] = []
    for path in find_photos(options.images, options.limit):
        photo = decode(path.read_bytes(), LIMITS, pack.view_px)
        (faces,) = pack.detect([photo])
        if not len(faces):
            continue
        from_middle = (faces.boxes[:, :2] + faces.boxes[:, 2:] - np.array(photo.shape[1::-1])) / 2
        row = int(np.linalg.norm(from_middle, axis=1).argmin())
        box, landmarks = faces.boxes[row], faces.landmarks[row]
        own = embed(pack, photo, landmarks)
        turned.append(bool(abs(estimate_head_pose(landmarks[None])["yaw"][0]) >= TURNED_DEGREES))
        for name, cover in COVERS.items():
            picture = cover(Portrait(photo, landmarks), random)
            (seen,) = pack.detect([picture])
            overlaps = compute_ious(box[None], seen.boxes)[0] if len(seen) else np.zeros(0)
            hit = bool(len(overlaps) and overlaps.max() >= FOUND_IOU)
            found[name].append(hit)
            if hit:
                again = embed(pack, picture, seen.landmarks[int(overlaps.argmax())])
                cosines[name].append(float(own @ again))
    if not turned:
        raise UnusableInput(f"No face is found in the photos of {options.images}, so none can be missed.")
    sides = np.array(turned)
    return {
        "faces": len(turned),
        "turned_faces": int(sides.sum()),
        "found": {name: round(float(np.mean(hits)), 4) for name, hits in found.items()},
        "found_turned": {
            name: round(float(np.array(hits)[sides].mean()), 4) if sides.any() else None for name, hits in found.items()
        },
        "cosine": {name: round(statistics.median(values), 3) if values else None for name, values in cosines.items()},
    }


def embed(pack: FacePack, photo: Image, landmarks: Floats) -> Floats:
    """(H,W,3), (5,2) px → (D,) of unit length."""
    (vectors,) = pack.embed([pack.cut_chips(photo, landmarks[None])])
    return np.asarray(vectors[0], np.float32)


if __name__ == "__main__":
    sys.exit(main())
