"""`python -m app.packs`: list, install and describe model packs, and build their TensorRT engines.

`python -m workshop` makes variants of a pack's networks, and chooses its similarity threshold.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from app.core.errors import BadConfiguration, BadModelPack, FatalWorkerError
from app.packs.insightface import describe_directory
from app.packs.manifest import read_manifest
from app.packs.store import PackStore
from app.packs.variants import FOLDER

MOVED = {"optimise": " TensorRT engines are built by `python -m app.packs engines`.", "calibrate": ""}
"""Former commands of this module, which are commands of `python -m workshop` now, and what else to say of each."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.packs", description="Model packs: manifests and weights.")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the packs and their licences")
    install = commands.add_parser("install", help="get a pack's weights and check them")
    install.add_argument("pack")
    install.add_argument("--accept-research-licence", action="store_true")
    install.add_argument("--source", metavar="S3_URL", help="s3://bucket/prefix with <pack>/<file>, as MODEL_SOURCE")
    install.add_argument("--region", help="AWS region of the bucket that --source, or the manifest, names")
    describe = commands.add_parser("describe", help="print a manifest for a directory of InsightFace .onnx files")
    describe.add_argument("directory", type=Path)
    engines = commands.add_parser("engines", help="build TensorRT engines of a pack (on the GPU host, in the image)")
    engines.add_argument("pack")
    engines.add_argument("--output", type=Path, help=f"default: the folder {FOLDER!r} beside the weights")
    engines.add_argument("--accept-research-licence", action="store_true")
    for name in MOVED:
        commands.add_parser(name, help=f"moved: python -m workshop {name}", add_help=False)
    options, rest = parser.parse_known_args(arguments)
    if options.command in MOVED:
        moved = f"This command has moved: run `python -m workshop {options.command}`.{MOVED[options.command]}"
        print(moved, file=sys.stderr)
        return 2
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
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
        store = _open_store(options)
        if found := store.find_missing_hashes(options.pack):
            return _print_hashes(store.find_manifest(options.pack), found)
        installed = store.install(options.pack)
        print(f"{installed.manifest.name}: {installed.manifest.model_id} in {installed.weights}")
    elif options.command == "engines":
        return _build_engines(options)
    else:
        print(describe_directory(options.directory).model_dump_json(indent=2))
    return 0


def _open_store(options: argparse.Namespace) -> PackStore:
    store = PackStore(options.models_dir, options.accept_research_licence)
    if options.region:
        # boto3, which no other command needs, takes longer to import than most of them run.
        from app.adapters.models import make_model_downloader

        store = replace(store, model_source=options.source, download=make_model_downloader(options.region))
    elif options.source:
        raise BadConfiguration("--source needs --region: the AWS region of the bucket.")
    return store


def _print_hashes(manifest: Path, found: Mapping[str, str]) -> int:
    """Print the hashes as lines of a manifest, and what to do with them. Returns the exit code of a refusal."""
    print("[files]", *(f'"{name}" = "{sha256}"' for name, sha256 in found.items()), sep="\n")
    print(
        f"Not installed: {manifest} lacks these hashes, which are of the files as they came just now. Compare them "
        "with what the publisher states, write them into the manifest, and run the same command again.",
        file=sys.stderr,
    )
    return BadModelPack.exit_code


def _build_engines(options: argparse.Namespace) -> int:
    # Imported here, since it imports ONNX Runtime, which the other commands don't need.
    from app.vision.tensorrt import build_engines

    installed = PackStore(options.models_dir, options.accept_research_licence).install(options.pack)
    folder = (options.output or installed.weights / FOLDER) / "tensorrt"
    try:
        build_engines(installed, folder, say=print)
    except BadConfiguration as error:
        print(f"{installed.manifest.name} tensorrt: refused, because {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
