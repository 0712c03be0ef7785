"""The published vectors of a gallery: one private file (`people.vectors`), which grouping writes with each publish.

A file is one line of JSON (the header with all ids), then the arrays one after the other, then a digest of all of it.
It has no other model's vectors, and readers refuse a file of another model or format.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "face-worker-vectors"
VERSION = 1
"""To be increased with every change that an older reader can't read."""
UNASSIGNED = -1
DIGEST_BYTES = 32

Halves = NDArray[np.float16]


class UnreadableVectors(ValueError):
    """The file is damaged, or of another format."""


@dataclass(frozen=True, eq=False)
class GalleryVectors:
    """P people and M of the gallery's faces, all under one model. `published` is the version of the people in MongoDB.

    `means` (P,D) float16 are the means of the people's unit vectors, of unit length. `face_sets` (P) identify the faces
    that a mean is of: another set of faces has another one. `exemplars` (M,D) float16 of unit length are vectors of
    single faces: some of each person's, and unassigned ones. `exemplar_person` (M,) int32 is the row in `person_ids`,
    UNASSIGNED for an unassigned face. `face_ids`, `image_ids` and `digests` (M) belong to the exemplars; `boxes` (M,4)
    float32 are x1 y1 x2 y2 as shares of the photo's width and height.
    """

    gallery_id: str
    model_id: str
    published: int
    fence: int
    person_ids: list[str]
    means: Halves
    face_sets: list[str]
    exemplars: Halves
    exemplar_person: NDArray[np.int32]
    face_ids: list[str]
    image_ids: list[str]
    digests: list[str]
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 4), np.float32))

    @property
    def size_bytes(self) -> int:
        """About how much memory this takes."""
        texts = (self.person_ids, self.face_sets, self.face_ids, self.image_ids, self.digests)
        arrays = self.means.nbytes + self.exemplars.nbytes + self.exemplar_person.nbytes + self.boxes.nbytes
        # A Python string has a head of about 50 bytes, and a place in its list.
        return arrays + sum(len(text) + 58 for some in texts for text in some)


def make_face_set(faces: Sequence[tuple[str, str]]) -> str:
    """Identifies a set of faces, given as (face id, digest), in any order."""
    text = "".join(f"{face_id} {digest}\n" for face_id, digest in sorted(faces))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def encode(vectors: GalleryVectors) -> bytes:
    """The file's bytes: the same vectors always give the same bytes."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "gallery": vectors.gallery_id,
        "model": vectors.model_id,
        "published": vectors.published,
        "fence": vectors.fence,
        "dimension": int(vectors.means.shape[1] or vectors.exemplars.shape[1]),
        "person_ids": vectors.person_ids,
        "face_sets": vectors.face_sets,
        "face_ids": vectors.face_ids,
        "image_ids": vectors.image_ids,
        "digests": vectors.digests,
    }
    parts = [
        json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n",
        np.ascontiguousarray(vectors.means, "<f2").tobytes(),
        np.ascontiguousarray(vectors.exemplars, "<f2").tobytes(),
        np.ascontiguousarray(vectors.exemplar_person, "<i4").tobytes(),
        np.ascontiguousarray(vectors.boxes, "<f4").tobytes(),
    ]
    return b"".join([*parts, _compute_digest(parts)])


def decode(data: bytes) -> GalleryVectors:
    """The vectors of a file. Raises UnreadableVectors where it is damaged or of another format."""
    view = memoryview(data)[:-DIGEST_BYTES]
    if len(data) <= DIGEST_BYTES or _compute_digest([view]) != data[-DIGEST_BYTES:]:
        raise UnreadableVectors("The file of vectors is damaged: its digest is another one.")
    begin = data.index(b"\n") + 1
    header = json.loads(data[:begin].decode("utf-8", "surrogatepass"))
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise UnreadableVectors(f"The file of vectors has the version {header.get('version')!r:.20}, not {VERSION}.")
    people, faces, dimension = len(header["person_ids"]), len(header["face_ids"]), header["dimension"]
    arrays: list[NDArray[Any]] = []
    for kind, shape in (
        ("<f2", (people, dimension)),
        ("<f2", (faces, dimension)),
        ("<i4", (faces,)),
        ("<f4", (faces, 4)),
    ):
        count = int(np.prod(shape))
        try:
            arrays.append(np.frombuffer(view, kind, count, begin).reshape(shape))
        except ValueError as error:
            raise UnreadableVectors("The file of vectors is damaged: it is too short.") from error
        begin += arrays[-1].nbytes
    means, exemplars, exemplar_person, boxes = arrays
    return GalleryVectors(
        gallery_id=header["gallery"],
        model_id=header["model"],
        published=header["published"],
        fence=header["fence"],
        person_ids=header["person_ids"],
        means=means,
        face_sets=header["face_sets"],
        exemplars=exemplars,
        exemplar_person=exemplar_person,
        face_ids=header["face_ids"],
        image_ids=header["image_ids"],
        digests=header["digests"],
        boxes=boxes,
    )


def _compute_digest(parts: Sequence[bytes | memoryview]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()
