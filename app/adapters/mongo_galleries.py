"""Galleries and the owner's metadata in MongoDB."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from pymongo import ReturnDocument, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from app.adapters.mongo import MAJORITY, Document, run_in_transaction, translate_mongo_errors
from app.core.errors import RetryLater, StaleFence
from app.core.ports import GalleryLease, GalleryState, RunProgress
from app.core.records import ImageRecord, PhotoRef
from app.core.roles import FORMER_NAMES, QualityBars

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEXT_REVISION = {"$add": [{"$ifNull": ["$revision", 0]}, 1]}
WRITE_CONFLICT = 112
"""https://www.mongodb.com/docs/manual/reference/error-codes/"""


class GalleryLeases:
    """The collection `leases`: owner and fence of each gallery. It is apart from `galleries`, so that a run's writes
    never delay detection.

    Transactions need a replica set, as every Atlas cluster is.
    """

    def __init__(self, database: Database[Document]) -> None:
        # If a fail-over could undo a lease, the gallery would have two owners.
        self._leases: Collection[Document] = database.get_collection("leases", write_concern=MAJORITY)
        self._client = database.client

    def take(self, gallery_id: str, owner: str, ttl_s: float) -> int | None:
        """The fence of the lease that `owner` holds now; None while another owner holds it."""
        with suppress(DuplicateKeyError):
            self._leases.insert_one({"_id": gallery_id, "fence": 0})
        own = {"$eq": [{"$ifNull": ["$owner", ""]}, owner]}
        taken = {
            "owner": owner,
            "until": {"$add": ["$$NOW", round(ttl_s * 1000)]},
            "fence": {"$cond": [own, "$fence", {"$add": ["$fence", 1]}]},
        }
        free = {"_id": gallery_id, "$expr": {"$or": [own, _is_past("$until")]}}
        try:
            # In a transaction a conflict fails at once; outside, this would wait for whoever is writing, and a worker
            # that died in the middle of `run_fenced` counts as writing until the server ends its transaction (60 s).
            with self._client.start_session() as session, session.start_transaction(write_concern=MAJORITY):
                lease = self._leases.find_one_and_update(
                    free, [{"$set": taken}], return_document=ReturnDocument.AFTER, session=session
                )
        except OperationFailure as error:
            if error.code == WRITE_CONFLICT:
                return None
            raise
        return int(lease["fence"]) if lease else None

    def release(self, lease: GalleryLease) -> None:
        held = {"_id": lease.gallery_id, "owner": lease.owner}
        self._leases.update_one(held, {"$unset": {"owner": "", "until": ""}})

    def run_fenced(self, lease: GalleryLease, write: Callable[..., object]) -> None:
        """Call `write(session=…)`, all or nothing, while the lease is the gallery's newest; else raise StaleFence.

        The lease itself is written first, so that a take-over conflicts with the whole transaction: if the take-over
        comes first, nothing is written; else all is written before it. A fence in each document would not suffice,
        since a run writes only documents that changed. `write` may be called again, and must be short: a transaction
        has 60 s.
        """

        def transaction(session: ClientSession) -> None:
            held = {"_id": lease.gallery_id, "owner": lease.owner, "fence": lease.fence}
            if not self._leases.update_one(held, {"$inc": {"writes": 1}}, session=session).matched_count:
                raise StaleFence(f"The lease of the gallery {lease.gallery_id} is no longer fence {lease.fence}.")
            write(session=session)

        run_in_transaction(self._client, transaction)


class MongoGalleryStore:
    """`galleries` and `leases`."""

    def __init__(self, database: Database[Document]) -> None:
        self._galleries: Collection[Document] = database["galleries"]
        self._leases = GalleryLeases(database)

    def mark_dirty(self, gallery_id: str, delay_s: int) -> bool:
        return self._claim(gallery_id, delay_s, {"revision": NEXT_REVISION})

    def claim_message(self, gallery_id: str, delay_s: int) -> bool:
        return self._claim(gallery_id, delay_s, {})

    def _claim(self, gallery_id: str, delay_s: int, fields: Document) -> bool:
        """Whether this call opened the window of `delay_s`, and not another call before it."""
        due, claim = _is_past("$grouping_due_at"), uuid4().hex
        window = {
            "grouping_due_at": {"$cond": [due, {"$add": ["$$NOW", delay_s * 1000]}, "$grouping_due_at"]},
            "claimed_by": {"$cond": [due, claim, "$claimed_by"]},
        }
        return bool(self._change(gallery_id, {**fields, **window})["claimed_by"] == claim)

    def find_gallery(self, gallery_id: str) -> GalleryState | None:
        with translate_mongo_errors("Reading a gallery"):
            gallery = self._galleries.find_one({"_id": gallery_id})
        if gallery is None:
            return None
        progress = gallery.get("progress")
        if progress is not None:
            progress = RunProgress(progress["stage"], progress["share"], progress["eta_s"], progress["at"])
        return GalleryState(gallery.get("revision", 0), gallery.get("last_run"), progress)

    def take_lease(self, gallery_id: str, owner: str, ttl_s: float) -> GalleryLease | None:
        with translate_mongo_errors("Taking a gallery's lease"):
            fence = self._leases.take(gallery_id, owner, ttl_s)
            if fence is None:
                return None
            gallery = self._galleries.find_one({"_id": gallery_id}) or {}
        run = gallery.get("last_run")
        grouped = (run["revision"], run["model"]) if run else None
        bars = gallery.get("quality")
        quality = QualityBars(**bars) if bars else None
        output = run.get("output") if run and run.get("fence") == fence - 1 else None
        revision = gallery.get("revision", 0)
        threshold = gallery.get("threshold")
        return GalleryLease(gallery_id, owner, fence, revision, grouped, quality, threshold, output, run or {})

    def set_quality(self, gallery_id: str, bars: QualityBars | None) -> None:
        self._change(gallery_id, {"quality": _make_quality_fields(bars), "revision": NEXT_REVISION})

    def set_threshold(self, gallery_id: str, threshold: float | None) -> None:
        self._change(gallery_id, {"threshold": threshold, "revision": NEXT_REVISION})

    def release(self, lease: GalleryLease) -> None:
        with translate_mongo_errors("Giving back a gallery's lease"):
            self._leases.release(lease)
            mine = {"_id": lease.gallery_id, "progress.fence": lease.fence}
            self._galleries.update_one(mine, {"$unset": {"progress": ""}})

    def report_progress(self, lease: GalleryLease, progress: RunProgress) -> None:
        # Not by `run_fenced`: its transaction would delay the run's own writes only for a display.
        not_newer = {"_id": lease.gallery_id, "progress.fence": {"$not": {"$gt": lease.fence}}}
        change = {"$set": {"progress": {**asdict(progress), "fence": lease.fence}}}
        # An upsert, since a run may be requested for a gallery without a document. It fails where a newer run's is
        # stored.
        with translate_mongo_errors("Reporting a run's progress"), suppress(DuplicateKeyError):
            self._galleries.update_one(not_newer, change, upsert=True)

    def record_run(self, lease: GalleryLease, model_id: str, summary: Mapping[str, object]) -> None:
        run = {**summary, "revision": lease.revision, "model": model_id, "fence": lease.fence, "at": datetime.now(UTC)}
        this, change = {"_id": lease.gallery_id}, {"$set": {"last_run": run}}
        with translate_mongo_errors("Recording a grouping run"):
            self._leases.run_fenced(lease, partial(self._galleries.update_one, this, change, upsert=True))

    def _change(self, gallery_id: str, fields: Document) -> Document:
        with translate_mongo_errors("Updating a gallery"):
            gallery = self._update(gallery_id, fields)
            if gallery is None:
                # Inserted apart from the update: of several concurrent upserts, all but one may fail or see no
                # document.
                with suppress(DuplicateKeyError):
                    self._galleries.insert_one({"_id": gallery_id})
                gallery = self._update(gallery_id, fields)
        if gallery is None:
            raise RetryLater(f"The gallery {gallery_id} was removed while it was updated.")
        return gallery

    def _update(self, gallery_id: str, fields: Document) -> Document | None:
        return self._galleries.find_one_and_update(
            {"_id": gallery_id}, [{"$set": fields}], return_document=ReturnDocument.AFTER
        )


def _is_past(field: str) -> Document:
    # Compared as numbers, which all servers with MongoDB's protocol do alike.
    return {"$lte": [{"$toLong": {"$ifNull": [field, EPOCH]}}, {"$toLong": "$$NOW"}]}


class MongoOwnerMetadata:
    """The owner's image documents. Never creates one: a photo without a document there gets none."""

    def __init__(self, database: Database[Document], collection: str = "images") -> None:
        self._images: Collection[Document] = database[collection]

    def set_face_indexes(self, images: Sequence[ImageRecord]) -> None:
        # Each photo once, so that the writes may be unordered: a document that the owner's validation rules refuse must
        # not prevent the writes behind it.
        updates = [
            update
            for image in {image.photo.document_id: image for image in images}.values()
            for update in _make_face_index_updates(image)
        ]
        if updates:
            with translate_mongo_errors("Writing the owner's face_index"):
                self._images.bulk_write(updates, ordered=False)

    def clear_face_index(self, photo: PhotoRef) -> None:
        with translate_mongo_errors("Removing the owner's face_index"):
            self._images.update_one(_find_owner_document(photo), {"$unset": {"face_index": ""}})


def _find_owner_document(photo: PhotoRef) -> Document:
    return {"gallery_id": photo.gallery_id, "image_id": photo.image_id}


def _make_quality_fields(bars: QualityBars | None) -> dict[str, float] | None:
    # Under the former names, which workers of the previous version read too: during a deploy both versions run.
    return {former: getattr(bars, name) for former, name in FORMER_NAMES.items()} if bars else None


def _make_face_index_updates(image: ImageRecord) -> Iterator[UpdateOne]:
    face_index = {
        "status": image.status.value,
        "reason": image.reason,
        "face_count": image.face_count,
        "model": image.model_id,
        "etag": image.etag,
        "left_out": list(image.left_out),
    }
    yield UpdateOne(_find_owner_document(image.photo), {"$set": {"face_index": face_index}})
    if image.photo.image_id != image.photo.plain_id:
        # The owner may know the file by its plain id, and must learn of it while no other file has a result there.
        plain = {"gallery_id": image.photo.gallery_id, "image_id": image.photo.plain_id}
        yield UpdateOne({**plain, "face_index": {"$exists": False}}, {"$set": {"face_index": face_index}})
