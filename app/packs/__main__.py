"""`python -m app.packs`: list, install and describe model packs."""

import argparse
import sys
from pathlib import Path

from app.errors import BadModelPack
from app.packs.insightface import describe_directory
from app.packs.manifest import read_manifest
from app.packs.store import PackStore


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.packs", description="Model packs: manifests and weights.")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the packs that are known, and their licences")
    install = commands.add_parser("install", help="get a pack's weights and check them")
    install.add_argument("pack")
    install.add_argument("--accept-research-licence", action="store_true")
    describe = commands.add_parser("describe", help="what is in a directory of InsightFace .onnx files")
    describe.add_argument("directory", type=Path)
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except BadModelPack as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    if options.command == "list":
        for path in sorted(options.models_dir.glob("*.toml")):
            manifest = read_manifest(path)
            use = "commercial use" if manifest.commercial_use else "research only"
            print(f"{manifest.name:14} {use:15} {manifest.licence}")
    elif options.command == "install":
        installed = PackStore(options.models_dir, options.accept_research_licence).install(options.pack)
        print(f"{installed.manifest.name}: {installed.manifest.model_id} in {installed.weights}")
    else:
        print(describe_directory(options.directory).model_dump_json(indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
