"""The records that are stored, independent of any database, and the S3 keys that are derived from them."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

GROUPING_MEASURES = (
    "unified",
    "size_px",
    "sharpness",
    "yaw",
    "eyes_covered",
    "mouth_covered",
    "eyes_covered_score",
    "mouth_covered_score",
    "under_exposure_score",
    "over_exposure_score",
    "inside_score",
    "yaw_score",
    "sharpness_score",
    "inter_eye_score",
)
"""The measures of a face's quality that grouping reads: roles, covers, published measures and reasons need them."""
QUALITY_DIGITS = 3
"""Decimals of a stored measure: enough to compare faces, and few enough to be the same on every machine."""


class ImageStatus(StrEnum):
    """How a photo ended."""

    INDEXED = "indexed"
    NO_FACES = "no_faces"
    LOW_QUALITY = "low_quality"
    REJECTED = "rejected"
    NOT_A_PHOTO = "not_a_photo"


@dataclass(frozen=True)
class PhotoRef:
    """A photo of a gallery, and where its file is stored.

    `name` is the id that was made of the key: the photo is the object of this key, and has another id where another
    photo has that one (see app/core/naming.py). It is None for an id that the sender chose: then the photo is whatever
    is sent under the id.
    """

    gallery_id: str
    image_id: str
    bucket: str
    key: str
    name: str | None = None

    @property
    def document_id(self) -> str:
        return f"{self.gallery_id}/{self.image_id}"

    @property
    def plain_id(self) -> str:
        """The id that the photo has unless another photo has it."""
        return self.image_id if self.name is None else self.name

    @property
    def claim(self) -> str:
        """The document id that the photo has unless another photo has it."""
        return f"{self.gallery_id}/{self.plain_id}"

    @property
    def slot(self) -> str:
        """Eight hex digits that tell the photo from every other one of its gallery, and stay when its id changes."""
        who = f"id {self.image_id}" if self.name is None else f"{self.bucket}/{self.key}"
        return hashlib.blake2b(who.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


@dataclass(frozen=True)
class ImageRecord:
    """One photo's result. `width_px` and `height_px` are the upright original's; 0 where it could not be read.

    `content` is the SHA-256 of the file's bytes, None where they were not read. `prefilter_score` (0 to 100, failing
    below 50) and `prefilter_reason` are the pre-filter's result, None where it did not run or found no fault.
    `left_out` has a sentence for each noise face, which says why it can have no person. `sequencer` is S3's, of the
    newest event that the record follows. `excluded` faces were found that are forgotten: they are not stored.
    """

    photo: PhotoRef
    status: ImageStatus
    reason: str | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    width_px: int = 0
    height_px: int = 0
    face_count: int = 0
    model_id: str = ""
    content: str | None = None
    prefilter_score: float | None = None
    prefilter_reason: str | None = None
    left_out: tuple[str, ...] = ()
    preview_key: str | None = None
    sequencer: str | None = None
    excluded: int = 0
    timings_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FaceRecord:
    """One face. Coordinates are pixels of the upright original.

    `box` (4,) float32 is x1 y1 x2 y2; `landmarks` (5,2) float32 are the left eye, right eye, nose, left and
    right corner of the mouth as seen by the viewer; `embedding` (D,) float32 has unit length. `quality` maps
    measure to value. `crop_range` says where the crop is in the object `crop_key`: its first byte and its length in
    bytes; None where the object is this one crop, as former versions wrote it. Without a `crop_key` it has none.
    """

    face_id: str
    gallery_id: str
    image_id: str
    model_id: str
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    det_score: float
    quality: Mapping[str, float]
    embedding: NDArray[np.float32]
    crop_key: str | None
    crop_range: tuple[int, int] | None = None

    @property
    def digest(self) -> str:
        """Identifies the embedding: another embedding has another digest."""
        return hashlib.blake2b(self.embedding.astype("<f4").tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class FaceRef:
    """A face that a user means: its id, and the digest with which it was shown. Without one, any face of the id."""

    face_id: str
    digest: str | None = None


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """All that is stored of one photo: its record, and its faces under the record's model.

    `edition` is the photo's before it was examined (see FaceStore). `same_from` is the cosine from which a face is
    taken for the one that was at its place in the photo's former content; None where that must not be asked. A result
    is equal only to itself, for `result in overtaken`: a batch may have two equal results of one photo.
    """

    image: ImageRecord
    faces: Sequence[FaceRecord] = ()
    edition: int = 0
    same_from: float | None = None

    @property
    def pictures(self) -> set[str]:
        """Keys of the crops and of the preview that the result names."""
        return {key for key in (self.image.preview_key, *(face.crop_key for face in self.faces)) if key}


@dataclass(frozen=True)
class Changes:
    """What a change of photos has brought with it.

    `images` are all records that were written, with the ids that they have now: of the photos themselves, and of others
    that have another id or status since. `pictures` are keys of crops and previews that no record names any more.
    `to_index` are photos that must be examined anew. `overtaken` are results of which nothing was written, since their
    photo was written or removed after it began to be examined.
    """

    images: Sequence[ImageRecord] = ()
    pictures: Sequence[str] = ()
    to_index: Sequence[PhotoRef] = ()
    overtaken: Sequence[PhotoResult] = ()


@dataclass(frozen=True)
class FaceBatch:
    """Some faces of one gallery as columns, ordered by face id: what grouping reads.

    `boxes` (N,4) float32 pixels, `embeddings` (N,D) float32 of unit length; `quality` maps each of
    GROUPING_MEASURES to (N,) float32, NaN for a face that was stored without it; `person_ids` are those of the last
    run, None for a face without a person; `digests` identify embeddings, "" for a face that was stored without one;
    `etags` name the content of each face's photo; `crop_ranges` say where a crop is in its object, as in
    FaceRecord. `confirmed` has the ids of faces whose person a user confirmed, and `rejected` maps the ids of faces
    to the people that users rejected for them.
    """

    face_ids: list[str]
    image_ids: list[str]
    boxes: NDArray[np.float32]
    det_scores: NDArray[np.float32]
    quality: Mapping[str, NDArray[np.float32]]
    embeddings: NDArray[np.float32]
    crop_keys: Sequence[str | None]
    person_ids: list[str | None]
    digests: list[str]
    etags: list[str | None]
    crop_ranges: list[tuple[int, int] | None]
    confirmed: frozenset[str] = frozenset()
    rejected: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.face_ids)

    def measure(self, name: str, row: int) -> float | None:
        """One measure of a face's quality, None where the face was stored without it."""
        value = float(self.quality[name][row])
        return None if math.isnan(value) else round(value, QUALITY_DIGITS)

    def get_quality(self, row: int) -> dict[str, float]:
        """Measure → value of one face, for the measures that it was stored with."""
        values = ((name, self.measure(name, row)) for name in self.quality)
        return {name: value for name, value in values if value is not None}


def make_quality_columns(faces: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float32]]:
    """N mappings of measure to value → GROUPING_MEASURES as columns: (N,) float32, NaN where there is none."""
    return {name: np.array([face.get(name, np.nan) for face in faces], np.float32) for name in GROUPING_MEASURES}


class PersonStatus(StrEnum):
    """`absent`: without a face now, kept for the name and for links. `merged`: merged into another person."""

    ACTIVE = "active"
    ABSENT = "absent"
    MERGED = "merged"


@dataclass(frozen=True)
class PersonRecord:
    """One person of a gallery. `merged_into` is the id that a merged person has now; that one is not merged itself.

    Users set `name`, `hidden`, `chosen_cover` (the face to show while it is the person's) and `kept_apart` (ids of
    people who are not this one). The store sets `since`, the number of the run that made the person, and `number`, by
    which the person is shown until somebody names it. Runs write none of these. Only a person whom a former version
    stored, or who was never stored, has no number.
    """

    person_id: str
    cover_face_id: str
    face_count: int
    photo_count: int
    name: str | None = None
    status: PersonStatus = PersonStatus.ACTIVE
    merged_into: str | None = None
    since: int = 0
    number: int | None = None
    hidden: bool = False
    chosen_cover: str | None = None
    kept_apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class FaceState:
    """What an edit may change of a face, and what it is known by. `assigned_by` is `auto` or `user`, None for a face
    without a person; `rejected` are the people that users rejected for it."""

    face_id: str
    image_id: str
    digest: str
    etag: str | None
    person_id: str | None
    assigned_by: str | None
    rejected: frozenset[str]


@dataclass(frozen=True)
class FaceMove:
    """A face whose person has changed; None where it has no person. `digest` is that of the face that is meant: under
    its id may be another one by now.

    What users said of the face under a former model comes along: `confirmed`, its person is a user's word; `rejected`,
    all people that were rejected for it, None where that stays as it is.
    """

    face_id: str
    before: str | None
    now: str | None
    digest: str = ""
    confirmed: bool = False
    rejected: frozenset[str] | None = None


def join_batches(batches: Sequence[FaceBatch]) -> FaceBatch:
    """All batches as one; of no batches, a batch without faces."""
    if not batches:
        empty = np.empty((0, 0), np.float32)
        boxes, scores = np.empty((0, 4), np.float32), np.empty(0, np.float32)
        return FaceBatch([], [], boxes, scores, make_quality_columns([]), empty, [], [], [], [], [])
    return FaceBatch(
        face_ids=[face for batch in batches for face in batch.face_ids],
        image_ids=[image for batch in batches for image in batch.image_ids],
        boxes=np.concatenate([batch.boxes for batch in batches]),
        det_scores=np.concatenate([batch.det_scores for batch in batches]),
        quality={name: np.concatenate([batch.quality[name] for batch in batches]) for name in batches[0].quality},
        embeddings=np.concatenate([batch.embeddings for batch in batches]),
        crop_keys=[key for batch in batches for key in batch.crop_keys],
        person_ids=[person for batch in batches for person in batch.person_ids],
        digests=[digest for batch in batches for digest in batch.digests],
        etags=[etag for batch in batches for etag in batch.etags],
        crop_ranges=[part for batch in batches for part in batch.crop_ranges],
        confirmed=frozenset[str]().union(*(batch.confirmed for batch in batches)),
        rejected={face: people for batch in batches for face, people in batch.rejected.items()},
    )


def is_older(sequencer: str | None, stored: str | None) -> bool:
    """Whether an event of S3 is older than the one that a record follows; False where either is not known.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html says how they compare.
    """
    if sequencer is None or stored is None:
        return False
    length = max(len(sequencer), len(stored))
    return sequencer.ljust(length, "0").upper() < stored.ljust(length, "0").upper()


def make_face_id(photo: PhotoRef, model_id: str, index: int) -> str:
    """The `_id` of a face: the same photo, model and index of the face give the same id on every machine."""
    return f"{photo.document_id}/{model_id}/{index}"


def make_person_id(face_id: str, etag: str | None, attempt: int) -> str:
    """The id of a person that is made from this face; another attempt where that id is taken."""
    # With the ETag: a new photo under an old name must not give former people's names to the people on it now.
    origin = f"{face_id}#{etag}#{attempt}"
    return f"p{hashlib.blake2b(origin.encode(), digest_size=8).hexdigest()}"


def get_rank(face_id: str) -> int:
    """A face's place among the detector's results, best first."""
    return int(face_id.rpartition("/")[2])


def make_face_index(image: ImageRecord) -> dict[str, object]:
    """What the owner's document of a photo gets as its field `face_index`."""
    return {
        "status": image.status.value,
        "reason": image.reason,
        "face_count": image.face_count,
        "model": image.model_id,
        "etag": image.etag,
        "left_out": list(image.left_out),
    }


def make_thumbnail_key(template: str, photo: PhotoRef) -> str:
    """The key of a photo's thumbnail, which its owner made: `template` with parts of the photo for the names in braces.

    Raises ValueError, with a sentence, for a template that has other names.
    """
    folder, _, name = photo.key.rpartition("/")
    parts = {"gallery_id": photo.gallery_id, "image_id": photo.image_id, "key": photo.key}
    parts |= {"folder": folder, "name": name, "stem": name.rpartition(".")[0] or name}
    try:
        return template.format_map(parts)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        names = ", ".join(f"{{{part}}}" for part in parts)
        raise ValueError(f"may name {names} in braces, and nothing else") from error
