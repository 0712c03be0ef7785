"""The index of a gallery: its last grouping, kept on the local disk so that the next run can be an incremental one.

The index is a cache of one file a gallery; MongoDB has the truth. Where the file is missing, damaged, or of another
model or threshold, the run is a full one. A file is an archive of arrays (npz) and, after it, the archive's digest: the
archive's own checksums don't cover the headers that say how large an array is.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from app.clustering.full import Grouping
from app.clustering.graph import FaceGraph
from app.clustering.incremental import StoredGrouping
from app.clustering.neighbours import Neighbours
from app.core.thresholds import Threshold

log = logging.getLogger(__name__)

VERSION = 3
"""To be increased with every change of the arrays or of what clustering makes of them."""
ARRAYS = ("face_ids", "digests", "embeddings", "roles", "indices", "similarities", "labels", "beyond", "beyond_people")
SCALARS = {"typical": "typical", "typical_people": "typical_person", "strength": "strength"}
SCALARS |= {"all_at_once": "full_run_faces", "changed": "changed", "used_threshold": "threshold"}
"""Name in the file → name in `Grouping`."""
READ_AT = "read_at"
"""Seconds since the epoch at which the run began to read."""
OF_EACH_FACE = {"roles": np.int8, "labels": np.int64, "beyond": np.float64, "beyond_people": np.float64}
"""(N,) arrays → their type."""
LISTS_OF_EACH_FACE = {"embeddings": np.float32, "indices": np.int32, "similarities": np.float32}
"""(N,…) arrays → their type."""
DIGEST_BYTES = 32
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class GalleryIndex:
    """The files in `folder`, together at most `max_bytes`: the least recently used ones are removed."""

    folder: Path
    max_bytes: int

    def load(self, gallery_id: str, model_id: str, threshold: Threshold) -> StoredGrouping | None:
        """The grouping that the last run on this machine stored, None where none can be used.

        A file that is damaged is logged and removed.
        """
        path, about = self._path(gallery_id, model_id), _describe_contents(gallery_id, model_id, threshold)
        try:
            with path.open("rb") as file:
                _check_digest(file)
                with np.load(file) as stored:
                    header = json.loads(_decode_text(stored["header"]))
                    if {name: header.get(name) for name in about} != about:
                        log.info("gallery index rebuilt: it is of another setting", extra={"gallery": gallery_id})
                        return None
                    known = _read_known({name: stored[name] for name in ARRAYS}, header)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            log.warning("gallery index rebuilt: it is broken", extra={"gallery": gallery_id, "error": str(error)})
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return known

    def save(
        self,
        gallery_id: str,
        model_id: str,
        threshold: Threshold,
        known: StoredGrouping,
        read_at: datetime | None = None,
    ) -> None:
        """Store the grouping for the next run. On a full disk nothing is stored, and the next run is a full one.

        `read_at` is when the run began to read the gallery's faces; without it, now.
        """
        grouping = known.grouping
        graph = grouping.graph
        scalars = {stored: getattr(grouping, field) for stored, field in SCALARS.items()}
        about = _describe_contents(gallery_id, model_id, threshold)
        header = {**about, **scalars, READ_AT: (read_at or datetime.now(UTC)).timestamp()}
        arrays: dict[str, Any] = {
            "header": _encode_text(json.dumps(header)),
            # No id has a control character (app/core/messages.py), so a newline can end each.
            "face_ids": _encode_text("".join(f"{face_id}\n" for face_id in known.face_ids)),
            "digests": _encode_text("".join(f"{digest}\n" for digest in known.digests)),
            "embeddings": graph.embeddings,
            "roles": graph.roles,
            "indices": graph.neighbours.indices.astype(np.int32),
            "similarities": graph.neighbours.similarities,
            "labels": grouping.labels,
            "beyond": grouping.excess,
            "beyond_people": grouping.person_excess,
        }
        path = self._path(gallery_id, model_id)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _lock(self.folder):
                for part in self.folder.glob("tmp*.part"):
                    # Of a run that was killed: only the owner of the lock writes.
                    part.unlink()
                self._write(arrays, path)
                self._make_room()
        except OSError as error:
            log.warning("gallery index not kept", extra={"gallery": gallery_id, "error": str(error)})

    def remove_outdated(
        self, list_erasures: Callable[[Sequence[str]], Iterable[tuple[str, datetime]]], grace_s: float = 0
    ) -> list[Path]:
        """Remove the files of galleries of which something was erased, at least `grace_s` ago, since they were read.
        Returns the files.

        `list_erasures` gets ids of galleries, and tells of which of them something was erased, and when.
        """
        headers = {path: header for path in self.folder.glob("*.npz") if (header := _read_header(path))}
        galleries = sorted({str(header.get("gallery")) for header in headers.values()})
        erased = dict(list_erasures(galleries)) if galleries else {}
        grace = time.time() - grace_s
        late = {gallery_id: at for gallery_id, at in erased.items() if at.timestamp() <= grace}
        outdated = [path for path, one in headers.items() if _is_outdated(one, late.get(str(one.get("gallery"))))]
        for path in outdated:
            path.unlink(missing_ok=True)
        return outdated

    def _write(self, arrays: dict[str, Any], path: Path) -> None:
        with NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                np.savez(file, **arrays)
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                file.write(_compute_digest(file, size))
                file.close()
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _make_room(self) -> None:
        files = sorted(self.folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self.max_bytes:
                return
            total -= file.stat().st_size
            file.unlink(missing_ok=True)

    def _path(self, gallery_id: str, model_id: str) -> Path:
        name = hashlib.blake2b(f"{gallery_id}\n{model_id}".encode(), digest_size=16).hexdigest()
        return self.folder / f"{name}.npz"


def _read_header(path: Path) -> dict[str, Any]:
    """What a file says of itself; nothing where it can't be read, which the next run finds."""
    try:
        with np.load(path) as stored:
            header: dict[str, Any] = json.loads(_decode_text(stored["header"]))
            return header
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return {}


def _is_outdated(header: dict[str, Any], erased_at: datetime | None) -> bool:
    """A file that doesn't tell its time is of a former version."""
    return erased_at is not None and float(header.get(READ_AT, 0)) <= erased_at.timestamp()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """While inside, no other process of this machine writes to the folder. The lock ends with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check_digest(file: IO[bytes]) -> None:
    """Raises ValueError where the file is not as it was written."""
    size = file.seek(0, os.SEEK_END) - DIGEST_BYTES
    file.seek(0)
    if size < 0 or _compute_digest(file, size) != file.read():
        raise ValueError("its digest is another one")
    file.seek(0)


def _compute_digest(file: IO[bytes], size: int) -> bytes:
    """The digest of the next `size` bytes, which are read."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while size > 0 and (chunk := file.read(min(size, CHUNK_BYTES))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()


def _describe_contents(gallery_id: str, model_id: str, threshold: Threshold) -> dict[str, Any]:
    return {"version": VERSION, "gallery": gallery_id, "model": model_id, "threshold": asdict(threshold)}


def _read_known(arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> StoredGrouping:
    """Raises ValueError where the arrays are not those of one grouping."""
    face_ids, digests = _decode_lines(arrays["face_ids"]), _decode_lines(arrays["digests"])
    for name, kind in (OF_EACH_FACE | LISTS_OF_EACH_FACE).items():
        array, axes = arrays[name], 1 if name in OF_EACH_FACE else 2
        if array.dtype != kind or array.ndim != axes or len(array) != len(face_ids):
            raise ValueError(f"{name} has the type {array.dtype} and the shape {array.shape}")
    indices = arrays["indices"]
    if len(digests) != len(face_ids) or indices.shape != arrays["similarities"].shape:
        raise ValueError("its arrays are of different lengths")
    if indices.min(initial=-1) < -1 or indices.max(initial=-1) >= len(face_ids):
        raise ValueError("it has neighbours that are no faces")
    neighbours = Neighbours(arrays["indices"].astype(np.int64), arrays["similarities"])
    # Every run numbers the photos again.
    photos = np.zeros(len(arrays["labels"]), np.int64)
    grouping = Grouping(
        graph=FaceGraph(arrays["embeddings"], photos, arrays["roles"], neighbours),
        labels=arrays["labels"],
        excess=arrays["beyond"],
        person_excess=arrays["beyond_people"],
        **{field: header[stored] for stored, field in SCALARS.items()},
    )
    return StoredGrouping(face_ids, digests, grouping)


def _encode_text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _decode_text(data: NDArray[np.uint8]) -> str:
    return data.tobytes().decode()


def _decode_lines(data: NDArray[np.uint8]) -> list[str]:
    return _decode_text(data).split("\n")[:-1]
