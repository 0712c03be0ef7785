"""What the benchmarks' command lines share: their photos, their output, and how they say what can't be measured."""

import json
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from app.core.errors import WorkerError

PHOTO_ENDINGS = frozenset({".jpg", ".jpeg", ".png"})
"""What both OpenCV's reader and the service's decoder take."""


class UnusableInput(Exception):
    """What was asked for can't be measured; the message is one sentence for the user."""


def is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_ENDINGS


def find_photos(folder: Path, limit: int | None) -> list[Path]:
    """The photos below a folder; with a limit, so many spread evenly. Raises UnusableInput for none."""
    photos = sorted(filter(is_photo, folder.rglob("*")))
    if not photos:
        raise UnusableInput(f"There are no photos in {folder}; name a folder with photos of faces.")
    return photos if limit is None else list(islice(photos, 0, None, -(-len(photos) // limit)))


def print_result(measure: Callable[[], Mapping[str, Any]], *, as_json: bool) -> Mapping[str, Any] | None:
    """Prints what `measure` returns and returns it; None where it can't be measured, and a sentence has said why."""
    try:
        result = measure()
    except (WorkerError, UnusableInput) as error:
        print(error, file=sys.stderr)
        return None
    print(json.dumps(result) if as_json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return result
