"""`python -m workshop`: prepares a model pack for shipping: its networks, its whitening and its threshold."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from app.core.errors import BadConfiguration, FatalWorkerError
from app.core.likeness import FindBars
from app.detection.device import open_device
from app.packs.manifest import Calibration
from app.packs.store import PackStore
from app.packs.variants import FOLDER, VARIANT_PRECISIONS, Variant
from workshop.calibration import (
    choose_threshold,
    compute_error_rates,
    embed_central_faces,
    embed_known_faces,
    measure_central_faces,
    write_calibration,
)
from workshop.crowd import COMPONENTS, EXPONENT, fit_whitening, write_crowd
from workshop.faceres import convert_faceres
from workshop.find_calibration import FEWEST_STRANGERS, choose_find_bars
from workshop.samples import choose_samples, list_pictures, name_people_below

ALL = "all"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workshop", description="Model packs: measure and improve them.")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    commands = parser.add_subparsers(required=True)
    _add_optimise(commands.add_parser("optimise", help="make faster variants of a pack's networks, and measure them"))
    _add_calibrate(commands.add_parser("calibrate", help="choose a pack's similarity threshold and write it down"))
    _add_crowd(commands.add_parser("crowd", help="learn a pack's whitening from pictures of strangers"))
    _add_faceres(commands.add_parser("faceres", help="convert FaceRes, a part of the pack open, to ONNX"))
    _add_embed(commands.add_parser("embed", help="write the embeddings of known people's photos, for benchmarks"))
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except FatalWorkerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return code


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", help="name, or path of a manifest")
    parser.add_argument("--accept-research-licence", action="store_true")


def _open_store(options: argparse.Namespace) -> PackStore:
    return PackStore(options.models_dir, options.accept_research_licence)


def _add_optimise(parser: argparse.ArgumentParser) -> None:
    parser.description = "Exit code 1 where a variant was refused. The report lies beside the variants."
    _add_pack(parser)
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="photos to calibrate with and to measure on; with a folder for each person, verification is measured too",
    )
    parser.add_argument(
        "--variant",
        choices=(*VARIANT_PRECISIONS, ALL),
        default=ALL,
        help=f"{ALL} (default): {', '.join(VARIANT_PRECISIONS)}",
    )
    parser.add_argument("--output", type=Path, help=f"default: the folder {FOLDER!r} beside the weights")
    parser.set_defaults(run=_optimise)


def _optimise(options: argparse.Namespace) -> int:
    # Imported here, since it imports onnxruntime's tools, which no other command needs.
    from workshop.optimise import Optimiser

    installed = _open_store(options).install(options.pack)
    folder = options.output or installed.weights / FOLDER
    optimiser = Optimiser(installed, choose_samples(options.images), folder, say=print)
    made: list[Variant] = []
    for precision in VARIANT_PRECISIONS if options.variant == ALL else [options.variant]:
        made += optimiser.make(precision)
    for variant in made:
        print(_describe_variant(variant))
    return 1 if any(variant.refused for variant in made) else 0


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compares the faces nearest the middle of all photos, and writes similarity_threshold, find_threshold and "
        "[calibration] into the pack's manifest."
    )
    _add_pack(parser)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="a folder of photos for each person")
    parser.add_argument("--collection", help="name of the photos in the manifest (the folder's name)")
    parser.add_argument("--dry-run", action="store_true", help="print, but do not write")
    parser.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    store = _open_store(options)
    path = store.find_manifest(options.pack)
    pack = store.install(options.pack)
    with open_device(pack, "cpu") as device:
        known = embed_known_faces(options.images, device)
    rates = compute_error_rates(known)
    threshold = choose_threshold(known, rates)
    find = choose_find_bars(known, pack.manifest.quality.core)
    false_match, false_non_match = rates.get_rates_at(threshold.at_reference)
    collection = options.collection or options.images.resolve().name
    named = path.name if Path(options.pack).is_absolute() else options.pack
    calibration = Calibration(
        false_match_rate=float(f"{false_match:.3g}"),
        false_non_match_rate=float(f"{false_non_match:.3g}"),
        genuine_pairs=rates.genuine_pairs,
        impostor_pairs=rates.impostor_pairs,
        faces=rates.faces,
        people=rates.people,
        collection=collection,
        command=f"python -m workshop calibrate {named} --images {collection}",
        date=datetime.now(UTC).date(),
    )
    print(
        f"{pack.manifest.name}: similarity_threshold {threshold.at_reference} (was "
        f"{pack.manifest.similarity_threshold}), and {threshold.per_tenfold} more for ten times as many people. Above "
        f"it are {calibration.false_match_rate:g} of different people's pairs and {1 - false_non_match:.1%} of one "
        f"person's, of {rates.faces:,} faces of {rates.people:,} people. "
        f"{_describe_find_bars(find)}"
    )
    if not options.dry_run:
        write_calibration(path, threshold, find, calibration)
    return 0


def _describe_find_bars(bars: FindBars | None) -> str:
    if bars is None:
        return f"find_threshold stays: it needs {FEWEST_STRANGERS} people with a face that is good enough for a selfie."
    threshold = bars.threshold
    return f"find_threshold {threshold.at_reference}, and {threshold.per_tenfold} more for ten times as many people."


def _add_crowd(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Learns what is common to people from the face nearest the middle of each picture, writes it beside the pack's "
        "manifest, and its hash into it. The pack's vectors change by it: run `calibrate` afterwards."
    )
    _add_pack(parser)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures, each of another person")
    parser.add_argument("--crowd", help="name and licence of the pictures, which the file keeps (the folder's name)")
    parser.add_argument("--exponent", type=float, default=EXPONENT, help=f"0 to 0.5 ({EXPONENT})")
    parser.add_argument("--components", type=int, default=COMPONENTS, help=f"of each part of a vector ({COMPONENTS})")
    parser.set_defaults(run=_learn_crowd)


def _learn_crowd(options: argparse.Namespace) -> int:
    store = _open_store(options)
    path, manifest = store.find_manifest(options.pack), store.read(options.pack)
    with open_device(store.install(options.pack, whitened=False), "cpu") as device:
        embedded = embed_central_faces(list_pictures(options.images), device)
    if not embedded:
        raise BadConfiguration(f"There is no picture with a face in {options.images}.")
    whitening = fit_whitening(
        np.stack(list(embedded.values())),
        manifest.embedder.parts or (manifest.embedder.dimension,),
        options.crowd or options.images.resolve().name,
        options.exponent,
        options.components,
    )
    written = write_crowd(path, manifest, whitening)
    print(
        f"{manifest.name}: {written} of {len(embedded):,} faces; {whitening.dimension} numbers a face. "
        f"The vectors of the pack are new ones: run `python -m workshop calibrate {options.pack}`."
    )
    return 0


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes an .npz with the embedding of the face nearest the middle of each photo, that of the mirrored face "
        "(`mirrored`), its unified `quality`, its person (`label`) and its photo (`image`). It is biometric data: keep "
        "it where the photos are kept."
    )
    _add_pack(parser)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="a folder of photos for each person")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.npz")
    parser.set_defaults(run=_embed_people)


def _embed_people(options: argparse.Namespace) -> int:
    people = name_people_below(options.images)
    with open_device(_open_store(options).install(options.pack), "cpu") as device:
        faces = measure_central_faces(list(people), device)
    if not faces:
        raise BadConfiguration(f"No photo with a face was found in {options.images}.")
    np.savez(
        options.output,
        embedding=np.stack([face.embedding for face in faces.values()]),
        mirrored=np.stack([face.mirrored for face in faces.values()]),
        quality=np.array([face.quality for face in faces.values()], np.float32),
        label=np.array([people[photo] for photo in faces]),
        image=np.array([photo.relative_to(options.images).as_posix() for photo in faces]),
    )
    print(f"{options.output}: {len(faces):,} faces")
    return 0


def _add_faceres(parser: argparse.ArgumentParser) -> None:
    parser.description = "Makes models/parts/faceres.onnx (see models/parts/README.md)."
    parser.add_argument("--package", type=Path, required=True, help="folder with the npm package @vladmandic/human")
    parser.add_argument("--output", type=Path, required=True, help="the .onnx file to write")
    parser.set_defaults(run=_convert_faceres)


def _convert_faceres(options: argparse.Namespace) -> int:
    model = convert_faceres(options.package)
    options.output.write_bytes(model.SerializeToString(deterministic=True))
    return 0


def _describe_variant(variant: Variant) -> str:
    if variant.refused:
        return f"{variant.network} {variant.precision}: refused, because {variant.refused}."
    numbers = {
        name: value for name, value in variant.parity.model_dump().items() if name not in ("photos", "faces")
    } | (variant.verification.model_dump() if variant.verification else {})
    measured = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
    return f"{variant.network} {variant.precision}: {variant.speed:.2f} times as fast, {measured}"


if __name__ == "__main__":
    sys.exit(main())
