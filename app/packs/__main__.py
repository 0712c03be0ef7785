"""`python -m app.packs`: list, install, describe, optimise and calibrate model packs."""

import argparse
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from app.errors import BadConfiguration, FatalWorkerError
from app.packs.insightface import describe_directory
from app.packs.manifest import Calibration, read_manifest
from app.packs.store import InstalledPack, PackStore
from app.packs.variants import FOLDER, PRECISIONS, Variant

TENSORRT, ALL = "tensorrt", "all"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.packs", description="Model packs: manifests and weights.")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the packs that are known, and their licences")
    install = commands.add_parser("install", help="get a pack's weights and check them")
    install.add_argument("pack")
    install.add_argument("--accept-research-licence", action="store_true")
    install.add_argument("--source", metavar="S3_URL", help="s3://bucket/prefix with <pack>/<file>, as MODEL_SOURCE")
    install.add_argument("--region", help="AWS region of the bucket that --source, or the manifest, names")
    describe = commands.add_parser("describe", help="what is in a directory of InsightFace .onnx files")
    describe.add_argument("directory", type=Path)
    _add_optimise(commands.add_parser("optimise", help="make faster variants of a pack's networks, and measure them"))
    _add_calibrate(commands.add_parser("calibrate", help="choose a pack's similarity threshold and write it down"))
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except FatalWorkerError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    if options.command == "list":
        for path in sorted(options.models_dir.glob("*.toml")):
            manifest = read_manifest(path)
            use = "commercial use" if manifest.commercial_use else "research only"
            print(f"{manifest.name:14} {use:15} {manifest.licence}")
    elif options.command == "install":
        installed = _install(options)
        print(f"{installed.manifest.name}: {installed.manifest.model_id} in {installed.weights}")
    elif options.command == "optimise":
        return _optimise(options)
    elif options.command == "calibrate":
        _calibrate(options)
    else:
        print(describe_directory(options.directory).model_dump_json(indent=2))
    return 0


def _install(options: argparse.Namespace) -> InstalledPack:
    store = PackStore(options.models_dir, options.accept_research_licence)
    if options.region:
        # boto3, which no other command needs, takes longer to import than most of them run.
        from app.adapters.models import model_downloader

        store = replace(store, model_source=options.source, download=model_downloader(options.region))
    elif options.source:
        raise BadConfiguration("--source needs --region: the AWS region of the bucket.")
    return store.install(options.pack)


def _add_optimise(parser: argparse.ArgumentParser) -> None:
    parser.description = "Exit code 1 where a variant was refused. The report lies beside the variants."
    parser.add_argument("pack")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="photos to calibrate with and to measure on; with a folder a person, verification is measured too",
    )
    parser.add_argument(
        "--variant", choices=(*PRECISIONS, TENSORRT, ALL), default=ALL, help=f"{ALL} (default): {', '.join(PRECISIONS)}"
    )
    parser.add_argument("--output", type=Path, help=f"default: the folder {FOLDER!r} beside the weights")
    parser.add_argument("--accept-research-licence", action="store_true")


def _optimise(options: argparse.Namespace) -> int:
    # They bring in onnxruntime's tools, which no other command needs.
    from app.packs.optimise import Optimiser
    from app.packs.samples import choose_samples

    installed = PackStore(options.models_dir, options.accept_research_licence).install(options.pack)
    folder = options.output or installed.weights / FOLDER
    if options.variant == TENSORRT:
        return _build_engines(installed, folder / TENSORRT)
    optimiser = Optimiser(installed, choose_samples(options.images), folder, say=print)
    made: list[Variant] = []
    for precision in PRECISIONS if options.variant == ALL else [options.variant]:
        made += optimiser.make(precision)
    for variant in made:
        print(_sentence(variant))
    return 1 if any(variant.refused for variant in made) else 0


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compares the faces nearest the middle of all photos, and writes similarity_threshold and [calibration] into "
        "the pack's manifest."
    )
    parser.add_argument("pack", help="name, or path of a manifest")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="a folder of photos for each person")
    parser.add_argument("--collection", help="what to call the photos in the manifest (the folder's name)")
    parser.add_argument("--dry-run", action="store_true", help="only print")
    parser.add_argument("--accept-research-licence", action="store_true")


def _calibrate(options: argparse.Namespace) -> None:
    # It brings in all that looks at photos, which the other commands can do without.
    from app.detection.device import open_device
    from app.packs.calibration import best_threshold, error_rates, known_faces, write_calibration

    store = PackStore(options.models_dir, options.accept_research_licence)
    path = store.manifest_path(options.pack)
    pack = store.install(options.pack)
    with open_device(pack, "cpu") as device:
        known = known_faces(options.images, device)
    rates = error_rates(known)
    threshold = best_threshold(known, rates)
    false_match, false_non_match = rates.at(threshold)
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
        command=f"python -m app.packs calibrate {named} --images {collection}",
        date=datetime.now(UTC).date(),
    )
    print(
        f"{pack.manifest.name}: similarity_threshold {threshold} (was {pack.manifest.similarity_threshold}). Above it "
        f"are {calibration.false_match_rate:g} of different people's pairs and {1 - false_non_match:.1%} of one "
        f"person's, of {rates.faces:,} faces of {rates.people:,} people."
    )
    if not options.dry_run:
        write_calibration(path, threshold, calibration)


def _build_engines(installed: InstalledPack, folder: Path) -> int:
    from app.packs.tensorrt import build_engines

    try:
        build_engines(installed, folder, say=print)
    except BadConfiguration as error:
        print(f"{installed.manifest.name} {TENSORRT}: refused, because {error}")
        return 1
    return 0


def _sentence(variant: Variant) -> str:
    if variant.refused:
        return f"{variant.network} {variant.precision}: refused, because {variant.refused}."
    numbers = {
        name: value for name, value in variant.parity.model_dump().items() if name not in ("photos", "faces")
    } | (variant.verification.model_dump() if variant.verification else {})
    measured = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
    return f"{variant.network} {variant.precision}: {variant.speed:.2f} times as fast, {measured}"


if __name__ == "__main__":
    sys.exit(main())
