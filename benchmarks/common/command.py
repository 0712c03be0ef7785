"""Common functions of the benchmarks' commands: finding photos, printing results, and reporting unusable input."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from app.core.errors import WorkerError
from local.database import DATABASE_NAMES

PHOTO_ENDINGS = frozenset({".jpg", ".jpeg", ".png"})
"""Formats that both OpenCV and the service decode."""


class UnusableInput(Exception):
    """The measurement is not possible with this input; the message is one sentence for the user."""


def add_database_option(parser: argparse.ArgumentParser) -> None:
    """`--database`: the server in MongoDB's place."""
    parser.add_argument(
        "--database", choices=DATABASE_NAMES, help="server in MongoDB's place (mongod where one starts, else secantus)"
    )


def is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_ENDINGS


def find_photos(folder: Path, limit: int | None) -> list[Path]:
    """The photos below a folder; with a limit, so many of them at equal steps. Raises UnusableInput for none."""
    photos = sorted(filter(is_photo, folder.rglob("*")))
    if not photos:
        raise UnusableInput(f"There are no photos in {folder}; name a folder with photos of faces.")
    return photos if limit is None else list(islice(photos, 0, None, -(-len(photos) // limit)))


def print_result(measure: Callable[[], Mapping[str, Any]], *, as_json: bool) -> Mapping[str, Any] | None:
    """Print the result of `measure` and return it; where it raises, print the error's sentence and return None."""
    try:
        result = measure()
    except (WorkerError, UnusableInput) as error:
        print(error, file=sys.stderr)
        return None
    print(json.dumps(result) if as_json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return result
