"""Photos and their faces in MongoDB: `images` and `faces`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import bson
import numpy as np
from bson.binary import VECTOR_SUBTYPE, Binary, BinaryVectorDtype
from numpy.typing import NDArray
from pymongo import ASCENDING, DeleteMany, UpdateMany, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, run_in_transaction, split_into_batches, translate_mongo_errors
from app.core.errors import RetryLater
from app.core.records import (
    GROUPING_MEASURES,
    FaceBatch,
    FaceRecord,
    ImageRecord,
    ImageStatus,
    PhotoRef,
    PhotoResult,
    is_overtaken,
    make_quality_columns,
)

READ_BATCH = 10_000
READ_FIELDS = (
    "image_id",
    "box",
    "det_score",
    *(f"quality.{name}" for name in GROUPING_MEASURES),
    "crop_key",
    "person_id",
    "assigned_by",
    "rejected",
    "digest",
    "etag",
)
FLOAT32_HEADER = bytes([BinaryVectorDtype.FLOAT32.value[0], 0])
"""A BSON vector is a type byte, a padding byte, then little-endian numbers:
https://github.com/mongodb/specifications/blob/master/source/bson-binary-vector/bson-binary-vector.md"""


class MongoFaceStore:
    """`images` and `faces`."""

    def __init__(self, database: Database[Document]) -> None:
        self._images: Collection[Document] = database["images"]
        self._faces: Collection[Document] = database["faces"]
        self._client = database.client

    def find_image(self, photo: PhotoRef) -> ImageRecord | None:
        with translate_mongo_errors("Reading a photo's record"):
            document = self._images.find_one({"_id": photo.document_id})
        return _read_image_record(document) if document else None

    def save_photos(self, results: Sequence[PhotoResult]) -> list[PhotoResult]:
        rounds = _split_into_rounds(results)

        def save(session: ClientSession) -> list[PhotoResult]:
            return [late for one in rounds for late in self._save_round(one, session)]

        if not rounds:
            return []
        with translate_mongo_errors("Storing photos"):
            return run_in_transaction(self._client, save)

    def _save_round(self, results: Sequence[PhotoResult], session: ClientSession) -> list[PhotoResult]:
        """Store photos of which none occurs twice. Returns those of which a newer version is stored already.

        If a newer version is stored after `_find_overtaken`, the write of the photo's record conflicts with it.
        """
        overtaken = self._find_overtaken(results, session)
        to_write = [result for result in results if result not in overtaken]
        if to_write:
            self._faces.bulk_write(_make_face_writes(to_write), session=session)
            self._images.bulk_write([_make_image_upsert(result.image) for result in to_write], session=session)
        return overtaken

    def _find_overtaken(self, results: Sequence[PhotoResult], session: ClientSession) -> list[PhotoResult]:
        ids = [_get_photo_id(result) for result in results]
        found = self._images.find({"_id": {"$in": ids}}, ["last_modified"], session=session)
        stored = {image["_id"]: image["last_modified"] for image in found}
        return [one for one in results if is_overtaken(one.image.last_modified, stored.get(_get_photo_id(one)))]

    def find_twin(self, content: str, model_id: str) -> PhotoResult | None:
        analysed = {"$in": [ImageStatus.INDEXED.value, ImageStatus.NO_FACES.value]}
        with translate_mongo_errors("Looking for the same picture"):
            image = self._images.find_one({"content": content, "model": model_id, "status": analysed})
            if image is None:
                return None
            same_content = {"gallery_id": image["gallery_id"], "image_id": image["image_id"], "model": model_id}
            found = list(self._faces.find({**same_content, "etag": image["etag"]}))
        # A face's id ends with its place among the photo's detections, best first.
        faces = sorted(
            (_read_face_record(face) for face in found), key=lambda face: int(face.face_id.rpartition("/")[2])
        )
        record = _read_image_record(image)
        return PhotoResult(record, faces) if len(faces) == record.face_count else None

    def read_faces(self, gallery_id: str, model_id: str, *, with_embeddings: bool = True) -> Iterator[FaceBatch]:
        with translate_mongo_errors("Reading faces"):
            yield from map(
                decode_face_batch, read_raw_faces(self._faces, gallery_id, model_id, with_embeddings=with_embeddings)
            )

    def find_other_model(self, gallery_id: str, model_id: str) -> str | None:
        with translate_mongo_errors("Looking for faces of another model"):
            face = self._faces.find_one({"gallery_id": gallery_id, "model": {"$ne": model_id}}, ["model"])
        return face["model"] if face else None

    def read_embeddings(self, face_ids: Sequence[str]) -> NDArray[np.float32]:
        vectors: dict[str, bytes] = {}
        with translate_mongo_errors("Reading embeddings"):
            for some in split_into_batches(face_ids):
                found = self._faces.find({"_id": {"$in": some}}, ["embedding"], batch_size=READ_BATCH)
                vectors |= {face["_id"]: face["embedding"] for face in found}
        missing = [face_id for face_id in face_ids if face_id not in vectors]
        if missing:
            raise RetryLater(f"{len(missing)} faces are gone since they were read, such as {missing[0]}.")
        return decode_vectors([vectors[face_id] for face_id in face_ids])

    def read_images(self, gallery_id: str) -> Iterator[ImageRecord]:
        with translate_mongo_errors("Reading photos' records"):
            cursor = self._images.find({"gallery_id": gallery_id}).sort("image_id", ASCENDING).batch_size(READ_BATCH)
            yield from map(_read_image_record, cursor)


def read_raw_faces(
    faces: Collection[Document], gallery_id: str, model_id: str, *, with_embeddings: bool = True
) -> Iterator[bytes]:
    """The server's answers as bytes, for `decode_face_batch`: some 6,000 faces of 512 dimensions each."""
    query = {"gallery_id": gallery_id, "model": model_id}
    # pymongo's annotation is wrong: it says that this yields documents.
    fields = [*READ_FIELDS, "embedding"] if with_embeddings else list(READ_FIELDS)
    answers: Iterator[Any] = faces.find_raw_batches(query, fields, batch_size=READ_BATCH).sort("_id", ASCENDING)
    return answers


def decode_face_batch(raw: bytes) -> FaceBatch:
    """One answer of `read_raw_faces` as columns."""
    faces = bson.decode_all(raw)
    return FaceBatch(
        face_ids=[face["_id"] for face in faces],
        image_ids=[face["image_id"] for face in faces],
        boxes=np.array([face["box"] for face in faces], np.float32).reshape(-1, 4),
        det_scores=np.array([face["det_score"] for face in faces], np.float32),
        quality=make_quality_columns([face["quality"] for face in faces]),
        embeddings=decode_vectors([face.get("embedding", FLOAT32_HEADER) for face in faces]),
        crop_keys=[face["crop_key"] for face in faces],
        person_ids=[face.get("person_id") for face in faces],
        digests=[face.get("digest", "") for face in faces],
        etags=[face["etag"] for face in faces],
        confirmed=frozenset(face["_id"] for face in faces if face.get("assigned_by") == "user"),
        rejected={face["_id"]: frozenset(face["rejected"]) for face in faces if face.get("rejected")},
    )


def encode_vector(vector: NDArray[np.float32]) -> Binary:
    """(D,) float32 → BSON vector."""
    return Binary(FLOAT32_HEADER + vector.astype("<f4").tobytes(), VECTOR_SUBTYPE)


def decode_vectors(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    """N BSON vectors of one length → (N,D) float32."""
    if not vectors:
        return np.empty((0, 0), np.float32)
    raw = np.frombuffer(b"".join(vectors), np.uint8).reshape(len(vectors), -1)
    return raw[:, len(FLOAT32_HEADER) :].copy().view("<f4").astype(np.float32, copy=False)


def _split_into_rounds(results: Sequence[PhotoResult]) -> list[list[PhotoResult]]:
    """The results in as few lists as possible in which no photo occurs twice, each list ordered by photo.

    Since all transactions write photos in this order, two that share photos conflict at the first of them, and one of
    the two always succeeds.
    """
    rounds: list[list[PhotoResult]] = []
    times: Counter[str] = Counter()
    for result in sorted(results, key=_get_photo_id):
        number = times[_get_photo_id(result)]
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(result)
        times[_get_photo_id(result)] += 1
    return rounds


def _get_photo_id(result: PhotoResult) -> str:
    return result.image.photo.document_id


def _make_face_writes(results: Sequence[PhotoResult]) -> list[UpdateMany | UpdateOne | DeleteMany]:
    """All updates before all deletes: each change from one kind of write to another costs a round trip."""
    unassign = [_unassign_faces_of_other_content(result.image) for result in results]
    upserts = [
        UpdateOne({"_id": face.face_id}, {"$set": make_face_fields(face, result.image.etag)}, upsert=True)
        for result in results
        for face in result.faces
    ]
    return [*unassign, *upserts, *map(_delete_other_faces, results)]


def _unassign_faces_of_other_content(image: ImageRecord) -> UpdateMany:
    """Where the photo has new content under the same id, the people of its old faces do not apply to its new faces."""
    other = {"gallery_id": image.photo.gallery_id, "image_id": image.photo.image_id, "etag": {"$ne": image.etag}}
    return UpdateMany(other, {"$unset": dict.fromkeys(("person_id", "assigned_by", "rejected", "was"), "")})


def _delete_other_faces(result: PhotoResult) -> DeleteMany:
    photo, kept = result.image.photo, [face.face_id for face in result.faces]
    of_this_photo = {"gallery_id": photo.gallery_id, "image_id": photo.image_id}
    return DeleteMany({**of_this_photo, "model": result.image.model_id, "_id": {"$nin": kept}})


def _make_image_upsert(image: ImageRecord) -> UpdateOne:
    return UpdateOne({"_id": image.photo.document_id}, {"$set": _make_image_fields(image)}, upsert=True)


def _make_image_fields(image: ImageRecord) -> Document:
    photo = image.photo
    return {
        "gallery_id": photo.gallery_id,
        "image_id": photo.image_id,
        "s3": {"bucket": photo.bucket, "key": photo.key, "version_id": photo.version_id},
        "etag": image.etag,
        "last_modified": image.last_modified,
        "width": image.width_px,
        "height": image.height_px,
        "status": image.status.value,
        "reason": image.reason,
        "face_count": image.face_count,
        "model": image.model_id,
        "content": image.content,
        "prefilter": {"score": image.prefilter_score, "reason": image.prefilter_reason},
        "left_out": list(image.left_out),
        "timings_s": dict(image.timings_s),
        "processed_at": datetime.now(UTC),
    }


def _read_image_record(document: Document) -> ImageRecord:
    s3, prefilter = document["s3"], document.get("prefilter", {})
    return ImageRecord(
        photo=PhotoRef(document["gallery_id"], document["image_id"], s3["bucket"], s3["key"], s3["version_id"]),
        status=ImageStatus(document["status"]),
        reason=document["reason"],
        etag=document["etag"],
        last_modified=document["last_modified"],
        width_px=document["width"],
        height_px=document["height"],
        face_count=document["face_count"],
        model_id=document["model"],
        content=document.get("content"),
        prefilter_score=prefilter.get("score"),
        prefilter_reason=prefilter.get("reason"),
        left_out=tuple(document.get("left_out", ())),
        timings_s=document["timings_s"],
    )


def make_face_fields(face: FaceRecord, etag: str | None) -> Document:
    """What detection stores of a face beside its id; `etag` is that of the photo's content."""
    return {
        "gallery_id": face.gallery_id,
        "image_id": face.image_id,
        "model": face.model_id,
        "box": face.box.tolist(),
        "landmarks": face.landmarks.tolist(),
        "det_score": face.det_score,
        "quality": dict(face.quality),
        "embedding": encode_vector(face.embedding),
        "digest": face.digest,
        "crop_key": face.crop_key,
        "etag": etag,
    }


def _read_face_record(document: Document) -> FaceRecord:
    return FaceRecord(
        face_id=document["_id"],
        gallery_id=document["gallery_id"],
        image_id=document["image_id"],
        model_id=document["model"],
        box=np.array(document["box"], np.float32),
        landmarks=np.array(document["landmarks"], np.float32),
        det_score=document["det_score"],
        quality=document["quality"],
        embedding=decode_vectors([document["embedding"]])[0],
        crop_key=document["crop_key"],
    )
