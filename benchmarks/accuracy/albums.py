"""How well the people of group photos are found, 60 % of the faces degraded, compared with other projects' methods.

`python -m benchmarks albums --images DIR --pack MANIFEST [--pages N] [--people N] [--seed N] [--degraded SHARE]
[--services] [--baselines NAMES|all|none] [--json] [--keep DIR]`

DIR has a folder of photos for each person. Pages are composed of them (album_pages.py) and written as JPEGs. They are
processed as any gallery is: decode, detect, measure quality, embed, group by quality at the pack's settings. By default
the services' own functions do this in this process; with --services both services do it, as processes on the local
stack, as with `./dev_worker.sh album`.

faces_true, _found, _missed, _false    labelled faces; those whose nose lies in a detected box (`benchmarks album`);
                        those that were not detected; detected faces without a label, such as passers-by in a portrait.
recall_of_faces         the share of the labelled faces that was detected, in all and by the kind of degradation.
bcubed_f, pairwise_f    with precision and recall of each, over the detected labelled faces alone: how good the grouping
                        is, whatever detection missed. An unassigned face counts as a person of one face.
unassigned              share of the detected labelled faces that are unassigned.
missed_alone            the same scores over all labelled faces, each missed one a person of one face.
best                    the scores at the threshold that gives the highest BCubed F, which only labels can tell.
baselines               other projects' methods (grouping_baselines.py) on the same embeddings, each at its best
                        setting, scored over the same faces. They group all detected faces, too.
unlit_baselines         the same on embeddings of faces that were not brightened (app.vision.light), as other projects
                        make them. Not with --services, which doesn't store such embeddings.
above_best_baseline     BCubed F less that of the best of these, and `above_best_unlit_baseline` of the best of those.
seconds                 of detection (files to embeddings) and grouping; of both together with --services.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymongo import MongoClient

from app.adapters.mongo import Document
from app.adapters.mongo_faces import MongoFaceStore
from app.clustering.full import cluster
from app.clustering.graph import UNASSIGNED
from app.core.arrays import Floats
from app.core.records import FaceBatch, PhotoRef, join_batches, make_face_id, make_quality_columns
from app.core.roles import assign_roles
from app.detection.analysis import Analyser, analyse_photo
from app.detection.device import Device, open_device
from app.detection.stage_times import StageTimes
from app.host import count_cores
from app.packs.manifest import PackManifest
from app.packs.store import InstalledPack, PackStore
from app.vision.decode import read_header
from benchmarks.accuracy.album import FoundFace, match_faces, score_faces
from benchmarks.accuracy.album_pages import PageFace, choose_people, plan_pages, write_pages
from benchmarks.accuracy.grouping import choose_baselines
from benchmarks.accuracy.grouping_baselines import BASELINES, Labels, Method, Setting
from benchmarks.accuracy.grouping_measures import Figures, compute_scores, find_best_setting, separate_unassigned
from benchmarks.accuracy.verification_pairs import find_people
from benchmarks.common.command import UnusableInput, print_result
from benchmarks.common.running import run_local_stack, wait_until_grouped
from benchmarks.speed.detection import LIMITS
from local.album import Album, find_photos
from local.stack import LocalStack

GALLERY = "albums"
SCORES = ("bcubed_f", "bcubed_precision", "bcubed_recall", "pairwise_f", "pairwise_precision", "pairwise_recall")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    with _open_folder(options.keep) as folder:
        return 1 if print_result(lambda: run(options, folder), as_json=options.json) is None else 0


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compose pages in the folder, process them, and score. Returns the result as it is printed."""
    names = choose_baselines(options.baselines)
    random = np.random.default_rng(options.seed)
    people = choose_people(find_people(options.images), options.people, random)
    plan = plan_pages(people, options.pages, random)
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    with open_device(pack, "cpu") as device:
        print(f"{len(plan)} pages are composed", file=sys.stderr)
        labelled = write_pages(plan, folder, device, options.degraded, options.seed)
        if not labelled:
            raise UnusableInput(f"No page can be composed of {options.images}: it needs photos of faces of two people.")
        print(f"{pack.manifest.name} analyses them", file=sys.stderr)
        if options.services:
            (faces, seconds), unbrightened = group_by_services(folder, options.pack, pack), None
        else:
            faces, unbrightened, seconds = group_in_process(folder, device)
    head = {"pack": pack.manifest.name, "threshold": pack.manifest.similarity_threshold, "pages": len(plan)}
    return {**head, **judge_faces(labelled, faces, unbrightened, pack.manifest, names), "seconds": seconds}


def group_in_process(folder: Path, device: Device) -> tuple[FaceBatch, Floats, dict[str, float]]:
    """The pages of a folder → their faces with the person of each, embeddings without brightening, and the seconds."""
    began = time.perf_counter()
    analyser = Analyser(device, LIMITS)
    with ThreadPoolExecutor(count_cores()) as pool:
        analyses = list(pool.map(lambda page: _analyse_page(page, analyser), sorted(find_photos(folder).items())))
    faces, unbrightened = (
        join_batches([batch for batch, _ in analyses]),
        np.concatenate([vectors for _, vectors in analyses]),
    )
    analysed = time.perf_counter()
    labels = group_faces(faces, device.pack.manifest)
    people = [None if label == UNASSIGNED else str(label) for label in labels.tolist()]
    seconds = {"detection": analysed - began, "grouping": time.perf_counter() - analysed}
    return replace(faces, person_ids=people), unbrightened, {name: round(value, 1) for name, value in seconds.items()}


def group_by_services(folder: Path, pack: str, installed: InstalledPack) -> tuple[FaceBatch, dict[str, float]]:
    """The same by both services: the faces as they are stored."""
    named = str(Path(pack).resolve()) if Path(pack).exists() else pack
    with run_local_stack(named) as stack:
        began = time.perf_counter()
        with Album(folder, stack.environment, GALLERY) as album:
            album.send()
            wait_until_grouped(album, stack)
        seconds = {"services": round(time.perf_counter() - began, 1)}
        return _read_stored_faces(stack, installed.manifest.model_id), seconds


def group_faces(faces: FaceBatch, manifest: PackManifest, threshold: float | None = None) -> Labels:
    """N faces → (N,) people as the grouping service finds them, at the pack's threshold or another one."""
    roles = assign_roles(faces.quality["unified"], manifest.quality)
    return cluster(faces.embeddings, faces.image_ids, threshold or manifest.threshold, roles)


def judge_faces(
    labelled: Sequence[PageFace],
    faces: FaceBatch,
    unbrightened: Floats | None,
    manifest: PackManifest,
    baselines: Sequence[str],
) -> dict[str, Any]:
    """Labelled faces, detected faces with their people → the figures. Raises UnusableInput where none was detected."""
    predicted = _number_people(faces.person_ids)
    found = _list_found_faces(faces, predicted)
    matches = match_faces(labelled, found)
    if not matches:
        raise UnusableInput("No face was found on any page, so nothing can be scored.")
    rows = np.array(list(matches.values()))
    _, true = np.unique([labelled[row].person for row in matches], return_inverse=True)

    def ours(setting: Setting) -> Labels:
        assert setting.distance is not None
        return group_faces(faces, manifest, 1 - setting.distance)

    scored = compute_scores(true, predicted[rows])
    with_missed = score_faces(labelled, found)
    compared = _score_baselines("baseline", scored, faces.embeddings, rows, true, baselines)
    if unbrightened is not None and baselines:
        compared |= _score_baselines("unlit_baseline", scored, unbrightened, rows, true, baselines)
    return {
        "people": len({face.person for face in labelled}),
        "faces_true": len(labelled),
        "faces_found": len(matches),
        "faces_missed": len(labelled) - len(matches),
        "faces_false": len(found) - len(matches),
        "recall_of_faces": _compute_recall(labelled, matches),
        **{name: scored[name] for name in SCORES},
        "people_found": scored["people"],
        "unassigned": round(scored["nobody"] / len(rows), 4),
        "missed_alone": {name: round(with_missed[name], 4) for name in SCORES},
        "best": find_best_setting(_restrict_method(ours, rows), true, (1,), Setting(1 - manifest.similarity_threshold)),
        **compared,
    }


def _score_baselines(
    kind: str, ours: Figures, embeddings: Floats, rows: NDArray[np.intp], true: Labels, baselines: Sequence[str]
) -> dict[str, Any]:
    """The figures of other projects' methods on these embeddings, and how far `ours` are above the best of them."""
    found = {}
    for name in baselines:
        print(f"{name} groups them", file=sys.stderr)
        method, published = BASELINES[name].prepare(embeddings), BASELINES[name].published
        found[name] = find_best_setting(_restrict_method(method, rows), true, BASELINES[name].cores, published)
    above = {f"above_best_{kind}": _compute_lead(ours, list(found.values()))} if found else {}
    return {f"{kind}s": found, **above}


def _analyse_page(page: tuple[str, Path], analyser: Analyser) -> tuple[FaceBatch, Floats]:
    """A page's image id and file → its faces as the detection service makes them, and embeddings without
    brightening."""
    image_id, path = page
    data = path.read_bytes()
    analysis = analyse_photo(data, read_header(data, LIMITS), analyser, StageTimes())
    photo, model_id = PhotoRef(GALLERY, image_id, "", path.name), analyser.device.pack.model_id
    count = len(analysis.detections)
    pack = analyser.device.pack
    unbrightened = analysis.embeddings
    if count:
        (unbrightened,) = pack.embed([pack.cut_chips(analysis.image, analysis.in_image.landmarks)], brighten_dark=False)
    faces = FaceBatch(
        face_ids=[make_face_id(photo, model_id, index) for index in range(count)],
        image_ids=[image_id] * count,
        boxes=analysis.detections.boxes,
        det_scores=analysis.detections.scores,
        quality=make_quality_columns(analysis.quality),
        embeddings=analysis.embeddings,
        crop_keys=[""] * count,
        person_ids=[None] * count,
        digests=[""] * count,
        etags=[None] * count,
        crop_ranges=[None] * count,
    )
    return faces, unbrightened


def _read_stored_faces(stack: LocalStack, model_id: str) -> FaceBatch:
    with MongoClient[Document](stack.environment["GALLERY_IMAGES_MONGO_URI"], tz_aware=True) as mongo:
        store = MongoFaceStore(mongo.get_default_database("gallery_images"))
        return join_batches(list(store.read_faces(GALLERY, model_id)))


def _number_people(person_ids: Sequence[str | None]) -> Labels:
    """N person ids → (N,) numbers, UNASSIGNED for None."""
    numbers = {person: number for number, person in enumerate(sorted({one for one in person_ids if one is not None}))}
    return np.array([UNASSIGNED if person is None else numbers[person] for person in person_ids], np.int64)


def _list_found_faces(faces: FaceBatch, labels: Labels) -> list[FoundFace]:
    groups = separate_unassigned(labels).tolist() if len(labels) else []
    rows = zip(faces.image_ids, groups, faces.boxes.tolist(), strict=True)
    return [FoundFace(image_id, group, (x1, y1, x2, y2)) for image_id, group, (x1, y1, x2, y2) in rows]


def _restrict_method(method: Method, rows: Labels) -> Method:
    """A method that groups all rows and returns the labels of some of them."""
    return lambda setting: method(setting)[rows]


def _compute_recall(labelled: Sequence[PageFace], matches: dict[int, int]) -> dict[str, float]:
    true = Counter(face.kind for face in labelled)
    found = Counter(labelled[row].kind for row in matches)
    return {"all": round(len(matches) / len(labelled), 4)} | {
        kind: round(found[kind] / count, 4) for kind, count in sorted(true.items())
    }


def _compute_lead(scored: dict[str, Any], compared: Sequence[dict[str, Any]]) -> float:
    return round(float(scored["bcubed_f"] - max(figures["bcubed_f"] for figures in compared)), 4)


@contextmanager
def _open_folder(kept: Path | None) -> Iterator[Path]:
    """The folder to keep, which is created where it is missing, or a temporary one."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="albums-") as folder:
        yield Path(folder)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks albums", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with a folder of photos for each person")
    parser.add_argument("--pack", default="open", help="pack name, manifest or InsightFace folder (open)")
    parser.add_argument("--pages", type=int, help="at most so many (as many as the photos fill)")
    parser.add_argument("--people", type=int, help="at most so many, at random (all)")
    parser.add_argument("--seed", type=int, default=0, help="of people, pages and damage (0)")
    parser.add_argument("--degraded", type=float, default=0.6, metavar="SHARE", help="of the faces, by chance (0.6)")
    parser.add_argument("--services", action="store_true", help="through both services on the local stack")
    parser.add_argument("--baselines", default="all", help=f"all, none, or some of {','.join(BASELINES)} (all)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="an empty folder for the pages and labels.csv")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
