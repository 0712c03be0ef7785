"""The pre-filter: judges before the networks run whether a face can be recognised in a photo."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from app.core.arrays import Image
from app.core.errors import BadPhoto, LowQuality, PhotoGone
from app.core.pictures import PhotoLimits
from app.core.ports import ObjectStore
from app.core.records import PhotoRef, make_thumbnail_key
from app.vision.decode import PhotoHeader
from app.vision.photo_quality import LEAST_COPY_PX, Verdict, judge_photo, judge_photo_size

log = logging.getLogger(__name__)

PrefilterMode = Literal["off", "record", "enforce"]


@dataclass(frozen=True)
class Prefilter:
    """`record` only stores the verdict. `enforce` raises LowQuality for a photo that fails.

    `thumbnail_key` is a template: with it, photos are judged by the object of that key in their own bucket.
    """

    mode: PrefilterMode = "off"
    thumbnail_key: str | None = None

    def find_thumbnail(self, photo: PhotoRef) -> PhotoRef | None:
        """The thumbnail by which a photo is judged before it is fetched. None where there is none, or no pre-filter."""
        if self.mode == "off" or self.thumbnail_key is None:
            return None
        return replace(photo, key=make_thumbnail_key(self.thumbnail_key, photo))

    def judge_thumbnail(
        self, thumbnail: PhotoRef, objects: ObjectStore, limits: PhotoLimits, decode: Callable[[bytes], Image]
    ) -> Verdict | None:
        """The verdict on a thumbnail. None where it is missing, too small or unreadable: then the photo is judged.

        `decode` gives its pixels with a longer side of LEAST_COPY_PX or more, where it has so many.
        """
        try:
            with objects.open(thumbnail, limits.max_bytes) as stored:
                image = decode(stored.read())
        except (BadPhoto, PhotoGone) as bad:
            log.info("no thumbnail to judge by: %s", bad, extra={"image": thumbnail.document_id})
            return None
        return self._decide(judge_photo(image)) if max(image.shape[:2]) >= LEAST_COPY_PX else None

    def judge_header(self, header: PhotoHeader) -> Verdict | None:
        """The verdict on a photo that fails by its size alone, else None."""
        verdict = None if self.mode == "off" else judge_photo_size(header.width_px, header.height_px)
        return verdict and self._decide(verdict)

    def judge_image(self, image: Image) -> Verdict | None:
        """(H,W,3) uint8 RGB, the photo or a smaller copy of it → its verdict. None where the pre-filter is off."""
        return None if self.mode == "off" else self._decide(judge_photo(image))

    def _decide(self, verdict: Verdict) -> Verdict:
        if verdict.reason is not None and self.mode == "enforce":
            raise LowQuality(verdict.reason, verdict.score)
        return verdict
