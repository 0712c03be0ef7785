"""Galleries and the owner's metadata in MongoDB."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

from pymongo import ReadPreference, ReturnDocument, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from app.adapters.mongo import MAJORITY, Document, run_in_transaction, translate_mongo_errors
from app.config import SQS_MAX_DELAY_S
from app.core.errors import RetryLater, StaleFence
from app.core.ports import CHECK_AFTER_S, CLAIM_S, GalleryChange, GalleryLease, GalleryState, MessageClaim, RunProgress
from app.core.records import ImageRecord, PhotoRef, make_face_index
from app.core.roles import FORMER_NAMES, QualityBars

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REVISION = {"$ifNull": ["$revision", 0]}
NEXT_REVISION = {"$add": [REVISION, 1]}
IS_OWED = {"$ne": [{"$ifNull": ["$grouping_owed", None]}, None]}
CHANGED = {"revision": NEXT_REVISION, "grouping_check_at": "$$NOW"}
"""The caller sends the grouping message of this change. If it dies before, the next look at the gallery finds it."""
REQUESTS_KEPT = 100
"""So many of a gallery's last `set_gallery` requests are known, for one that comes again not to undo a later one."""
SKEW_S = 5
"""A command's `$$NOW` may be older than what another command has written before it."""
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
            with (
                self._client.start_session() as session,
                session.start_transaction(write_concern=MAJORITY, read_preference=ReadPreference.PRIMARY),
            ):
                lease = self._leases.find_one_and_update(
                    free, [{"$set": taken}], return_document=ReturnDocument.AFTER, session=session
                )
        except OperationFailure as error:
            if error.code == WRITE_CONFLICT:
                return None
            raise
        return int(lease["fence"]) if lease else None

    def lift(self, lease: GalleryLease, above: int) -> None:
        """Make `above` + 1 the fence of this lease. Raises StaleFence where it is no longer the gallery's newest."""
        held = {"_id": lease.gallery_id, "owner": lease.owner, "fence": lease.fence}
        if not self._leases.update_one(held, {"$set": {"fence": above + 1}}).matched_count:
            raise _make_stale(lease)

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
                raise _make_stale(lease)
            write(session=session)

        run_in_transaction(self._client, transaction)


class MongoGalleryStore:
    """`galleries` and `leases`."""

    def __init__(self, database: Database[Document]) -> None:
        # A fail-over that undid a change or a run would leave a gallery ungrouped.
        self._galleries: Collection[Document] = database.get_collection("galleries", write_concern=MAJORITY)
        self._leases = GalleryLeases(database)

    def mark_dirty(self, gallery_id: str, delay_s: int, changes: int = 1) -> MessageClaim | None:
        return self._owe(gallery_id, delay_s, {"revision": {"$add": [REVISION, changes]}})

    def claim_message(self, gallery_id: str, delay_s: int) -> MessageClaim | None:
        return self._owe(gallery_id, delay_s, {})

    def _owe(self, gallery_id: str, delay_s: int, fields: Document) -> MessageClaim | None:
        # A clock that was put back would show a message as under way that has come long ago: none is sent further
        # ahead than `delay_s`, and no claim lasts longer than CLAIM_S.
        owes = {"$or": [IS_OWED, _is_over("$grouping_due_at", delay_s)]}
        free = {"$and": [owes, {"$or": [{"$not": [IS_OWED]}, _is_over("$grouping_check_at", CLAIM_S)]}]}
        token = uuid4().hex
        check = {"$ifNull": ["$grouping_check_at", _after(delay_s + CHECK_AFTER_S)]}
        claim = {
            "grouping_owed": {"$cond": [owes, {"$ifNull": ["$grouping_owed", "$$NOW"]}, "$$REMOVE"]},
            "grouping_check_at": {"$cond": [free, _after(CLAIM_S), check]},
            "claimed_by": {"$cond": [free, token, "$claimed_by"]},
        }
        return _read_claim(self._change(gallery_id, {**fields, **claim}), token)

    def claim_overdue(self) -> MessageClaim | None:
        is_due = _is_over("$grouping_check_at", SQS_MAX_DELAY_S + CHECK_AFTER_S)
        overdue = {"grouping_check_at": {"$type": "date"}, "$expr": is_due}
        grouped = {"$ifNull": ["$last_run.revision", 0]}
        forgotten = {"$and": [{"$gt": ["$revision", grouped]}, {"$ne": ["$grouping_rescued", "$revision"]}]}
        owes = {"$or": [IS_OWED, forgotten]}
        rescued = {"$cond": [{"$and": [{"$not": [IS_OWED]}, forgotten]}, "$revision", "$grouping_rescued"]}
        while True:
            token = uuid4().hex
            claim = {
                "grouping_owed": {"$cond": [owes, {"$ifNull": ["$grouping_owed", "$$NOW"]}, "$$REMOVE"]},
                "grouping_check_at": {"$cond": [owes, _after(CLAIM_S), "$$REMOVE"]},
                "grouping_rescued": rescued,
                "claimed_by": {"$cond": [owes, token, "$claimed_by"]},
            }
            with translate_mongo_errors("Looking for owed grouping messages"):
                gallery = self._galleries.find_one_and_update(
                    overdue, [{"$set": claim}], return_document=ReturnDocument.AFTER
                )
            if gallery is None or (found := _read_claim(gallery, token)):
                return found if gallery else None

    def note_sent(self, claim: MessageClaim, delay_s: int) -> None:
        comes_at = claim.at + timedelta(seconds=delay_s)
        # A change since the claim is covered too, but for one after the message came: where sending took that long.
        is_covered = {"$or": [{"$eq": [REVISION, claim.revision]}, {"$not": [_is_past(comes_at)]}]}
        sent = {
            "grouping_due_at": comes_at,
            "grouping_owed": {"$cond": [is_covered, "$$REMOVE", "$$NOW"]},
            "grouping_check_at": {"$cond": [is_covered, comes_at + timedelta(seconds=CHECK_AFTER_S), "$$NOW"]},
        }
        self._settle(claim, sent)

    def give_claim_back(self, claim: MessageClaim) -> None:
        self._settle(claim, {"grouping_check_at": "$$NOW"})

    def _settle(self, claim: MessageClaim, fields: Document) -> None:
        mine = {"_id": claim.gallery_id, "claimed_by": claim.token}
        with translate_mongo_errors("Noting a grouping message"):
            self._galleries.update_one(mine, [{"$set": fields}])

    def find_gallery(self, gallery_id: str) -> GalleryState | None:
        with translate_mongo_errors("Reading a gallery"):
            gallery = self._galleries.find_one({"_id": gallery_id})
        if gallery is None:
            return None
        progress = gallery.get("progress")
        if progress is not None:
            progress = RunProgress(progress["stage"], progress["share"], progress["eta_s"], progress["at"])
        bars = gallery.get("quality")
        return GalleryState(
            gallery.get("revision", 0),
            gallery.get("last_run"),
            progress,
            gallery.get("published", 0),
            gallery.get("display_name"),
            gallery.get("retention_days"),
            QualityBars(**bars) if bars else None,
            gallery.get("threshold"),
        )

    def list_galleries(self) -> list[str]:
        """Ids of all galleries."""
        with translate_mongo_errors("Listing galleries"):
            return sorted(one["_id"] for one in self._galleries.find({}, ["_id"]))

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
        self._change(gallery_id, {"quality": _make_quality_fields(bars), **CHANGED})

    def set_threshold(self, gallery_id: str, threshold: float | None) -> None:
        self._change(gallery_id, {"threshold": threshold, **CHANGED})

    def set_gallery(self, gallery_id: str, request_id: str, change: GalleryChange) -> bool:
        new = {"_id": gallery_id, "requests": {"$ne": request_id}}
        values = {
            name: _make_quality_fields(value) if isinstance(value, QualityBars) else value
            for name, value in change.values.items()
        }
        requests = {"$slice": [{"$concatArrays": [{"$ifNull": ["$requests", []]}, [request_id]]}, -REQUESTS_KEPT]}
        fields = {**{name: {"$literal": value} for name, value in values.items()}, "requests": requests}
        with translate_mongo_errors("Setting what belongs to a gallery"):
            with suppress(DuplicateKeyError):
                self._galleries.insert_one({"_id": gallery_id})
            set_now = self._galleries.update_one(new, [{"$set": {**fields, **(CHANGED if change.regroups else {})}}])
        return bool(set_now.matched_count)

    def lift_fence(self, lease: GalleryLease, above: int) -> GalleryLease:
        with translate_mongo_errors("Lifting a gallery's fence"):
            self._leases.lift(lease, above)
        return replace(lease, fence=above + 1)

    def release(self, lease: GalleryLease) -> None:
        with translate_mongo_errors("Giving back a gallery's lease"):
            self._leases.release(lease)
            mine = {"_id": lease.gallery_id, "progress.fence": {"$lte": lease.fence}}
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


def _make_stale(lease: GalleryLease) -> StaleFence:
    return StaleFence(f"The lease of the gallery {lease.gallery_id} is no longer fence {lease.fence}.")


def _is_past(time: str | datetime) -> Document:
    # Compared as numbers, which all servers with MongoDB's protocol do alike.
    return {"$lte": [_to_ms(time), {"$toLong": "$$NOW"}]}


def _is_over(time: str, longest_s: int) -> Document:
    """Whether the time is past, or further ahead than it can be unless the clock was put back."""
    return {"$or": [_is_past(time), {"$gt": [_to_ms(time), {"$toLong": _after(longest_s + SKEW_S)}]}]}


def _to_ms(time: str | datetime) -> Document:
    return {"$toLong": {"$ifNull": [time, EPOCH]}}


def _after(seconds: int) -> Document:
    return {"$add": ["$$NOW", seconds * 1000]}


def _read_claim(gallery: Document, token: str) -> MessageClaim | None:
    if gallery.get("claimed_by") != token:
        return None
    at = gallery["grouping_check_at"] - timedelta(seconds=CLAIM_S)
    return MessageClaim(gallery["_id"], token, gallery.get("revision", 0), at)


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
            # The document of the plain id may have got the field too; a photo that has this id gets it again.
            ids = {"$in": list({photo.image_id, photo.plain_id})}
            mine = {"gallery_id": photo.gallery_id, "image_id": ids}
            self._images.update_many(mine, {"$unset": {"face_index": ""}})

    def clear_gallery(self, gallery_id: str) -> int:
        mine = {"gallery_id": gallery_id, "face_index": {"$exists": True}}
        with translate_mongo_errors("Removing the owner's face_index"):
            return self._images.update_many(mine, {"$unset": {"face_index": ""}}).modified_count


def _find_owner_document(photo: PhotoRef) -> Document:
    return {"gallery_id": photo.gallery_id, "image_id": photo.image_id}


def _make_quality_fields(bars: QualityBars | None) -> dict[str, float] | None:
    # Under the former names, which workers of the previous version read too: during a deploy both versions run.
    return {former: getattr(bars, name) for former, name in FORMER_NAMES.items()} if bars else None


def _make_face_index_updates(image: ImageRecord) -> Iterator[UpdateOne]:
    face_index = make_face_index(image)
    yield UpdateOne(_find_owner_document(image.photo), {"$set": {"face_index": face_index}})
    if image.photo.image_id != image.photo.plain_id:
        # The owner may know the file by its plain id, and must learn of it while no other file has a result there.
        plain = {"gallery_id": image.photo.gallery_id, "image_id": image.photo.plain_id}
        yield UpdateOne({**plain, "face_index": {"$exists": False}}, {"$set": {"face_index": face_index}})
