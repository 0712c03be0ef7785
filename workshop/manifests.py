"""Changes a manifest's values; its other lines and comments stay."""

from collections.abc import Callable
from pathlib import Path

import tomlkit

from app.core.errors import BadModelPack
from app.packs.manifest import read_manifest


def rewrite_manifest(path: Path, put: Callable[[tomlkit.TOMLDocument], None]) -> None:
    """Let `put` change the manifest. Raises BadModelPack where it can't be written or would not be valid."""
    document = tomlkit.parse(path.read_text("utf-8"))
    put(document)
    partial = path.with_suffix(".part")
    try:
        partial.write_text(tomlkit.dumps(document), "utf-8")
        read_manifest(partial)
        partial.replace(path)
    except OSError as error:
        raise BadModelPack(f"The manifest {path} can't be written: {error}. Copy it to a folder of yours.") from error
    finally:
        partial.unlink(missing_ok=True)
