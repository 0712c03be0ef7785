"""Packs a Lambda function's source as a zip file, the same bytes from the same source.

`python -m infra.package_lambda batch_submitter build/batch_submitter.zip`

Terraform deploys when the file's hash changes, so the hash must depend on the source alone: entries are sorted and
stored with one date, one mode and without compression (whose bytes vary with zlib's version); compiled files stay out.
"""

import argparse
import sys
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

LAMBDAS = Path(__file__).parent / "lambda"
EARLIEST_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that the zip format knows."""
READABLE_FILE = 0o100644 << 16
"""Lambda runs the code as a user of its own, so everybody must be able to read it."""
UNIX = 3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m infra.package_lambda",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("function", help="a folder in infra/lambda")
    parser.add_argument("file", type=Path, help="the zip file to write")
    options = parser.parse_args(arguments)
    folder = LAMBDAS / options.function
    if not folder.is_dir():
        print(f"There is no function {options.function} in {LAMBDAS}.", file=sys.stderr)
        return 1
    write_zip(folder, options.file)
    print(f"{options.file}: {options.file.stat().st_size} bytes")
    return 0


def write_zip(package: Path, target: Path) -> None:
    """Write the package's Python files to `target`, below the package's own name. Replaces it in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    with ZipFile(unfinished, "w", ZIP_STORED) as archive:
        for path in sorted(package.rglob("*.py")):
            archive.writestr(_make_entry(path.relative_to(package.parent).as_posix()), path.read_bytes())
    unfinished.replace(target)


def _make_entry(name: str) -> ZipInfo:
    entry = ZipInfo(name, EARLIEST_DATE)
    entry.create_system, entry.external_attr = UNIX, READABLE_FILE
    return entry


if __name__ == "__main__":
    sys.exit(main())
