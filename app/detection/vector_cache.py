"""The published vectors of the galleries that guests look for themselves in, kept in memory."""

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass

from app.core.errors import PhotoGone
from app.core.gallery_vectors import GalleryVectors, UnreadableVectors, decode
from app.core.likeness import Likenesses, make_likenesses
from app.core.ports import ObjectStore
from app.core.records import PhotoRef
from app.core.result_keys import ResultKeys

log = logging.getLogger(__name__)

MOST_FILE_BYTES = 2_000_000_000


@dataclass(frozen=True, eq=False)
class LoadedVectors:
    """A gallery's vectors, and what guests are compared with."""

    vectors: GalleryVectors
    likenesses: Likenesses

    @property
    def size_bytes(self) -> int:
        return self.vectors.size_bytes + self.likenesses.means.nbytes + self.likenesses.exemplars.nbytes


class VectorCache:
    """At most `max_bytes`; the galleries used longest ago make room. The newest file is always the one that is used."""

    def __init__(self, objects: ObjectStore, bucket: str, keys: ResultKeys, max_bytes: int) -> None:
        self._objects, self._bucket, self._keys, self._max_bytes = objects, bucket, keys, max_bytes
        self._kept: OrderedDict[str, tuple[str, LoadedVectors]] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, gallery_id: str) -> LoadedVectors | None:
        """The published vectors; None where there are none, or none that can be read."""
        file = PhotoRef(gallery_id, "", self._bucket, self._keys.vectors(gallery_id))
        try:
            etag = self._objects.describe(file).etag
            with self._lock:
                kept = self._kept.get(gallery_id)
                if kept and kept[0] == etag:
                    self._kept.move_to_end(gallery_id)
                    return kept[1]
            with self._objects.open(file, MOST_FILE_BYTES) as opened:
                etag, data = opened.etag, opened.read()
            vectors = decode(data)
        except PhotoGone:
            self._drop(gallery_id)
            return None
        except UnreadableVectors as error:
            log.warning("a gallery's vectors can't be read: %s", error, extra={"gallery": gallery_id})
            self._drop(gallery_id)
            return None
        loaded = LoadedVectors(vectors, make_likenesses(vectors))
        with self._lock:
            self._kept[gallery_id] = etag, loaded
            self._kept.move_to_end(gallery_id)
            while len(self._kept) > 1 and sum(one.size_bytes for _, one in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)
            if loaded.size_bytes > self._max_bytes:
                del self._kept[gallery_id]
        return loaded

    def _drop(self, gallery_id: str) -> None:
        with self._lock:
            self._kept.pop(gallery_id, None)
