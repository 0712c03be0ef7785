"""The collection `outbox`: events that wait to be sent.

A document is one event. `due_at` is when it may be taken, by the server's clock; taking it moves that on. Photo events
are put together as they are taken: the first one that is due gets a `batch`, as do those of its gallery and type that
have none, and these lose their `due_at`. So what is taken again, after its sender died, is the same batch.
"""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from pymongo import ASCENDING, ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from app.adapters.mongo import MAJORITY, Document, split_into_batches, translate_mongo_errors
from app.core.events import COLLECTED, Event, collect
from app.core.ports import EVENT_CLAIM_S

MOST_COLLECTED = 1_000
"""Photos that one event speaks of."""
DUPLICATE_KEY = 11_000
"""https://www.mongodb.com/docs/manual/reference/error-codes/"""
# Compared as numbers, which all servers with MongoDB's protocol do alike.
IS_DUE = {"due_at": {"$type": "date"}, "$expr": {"$lte": [{"$toLong": "$due_at"}, {"$toLong": "$$NOW"}]}}


class MongoEventOutbox:
    """`collect_s` is how long a photo's event waits for others of its gallery; with 0 each is sent by itself."""

    def __init__(self, database: Database[Document], collect_s: int) -> None:
        self._outbox: Collection[Document] = database.get_collection("outbox", write_concern=MAJORITY)
        self._collect_s = collect_s

    def add(self, events: Sequence[Event]) -> None:
        with translate_mongo_errors("Adding events"):
            for some in split_into_batches({event.event_id: event for event in events}.values()):
                try:
                    self._outbox.bulk_write([self._make_insert(event) for event in some], ordered=False)
                except BulkWriteError as error:
                    # Of two upserts of one id at the same time, one may find the other's document.
                    failed = error.details.get("writeErrors", [])
                    if not failed or any(one.get("code") != DUPLICATE_KEY for one in failed):
                        raise

    def _make_insert(self, event: Event) -> UpdateOne:
        fields = {"type": event.type, "gallery_id": event.gallery_id, "data": dict(event.data), "at": event.at}
        waits_s = self._collect_s if event.type in COLLECTED else 0
        new = {"$mergeObjects": [{"_id": "$_id"}, {"$literal": fields}, {"due_at": _after(waits_s)}]}
        is_new = {"$eq": [{"$ifNull": ["$type", None]}, None]}
        # Not by $setOnInsert, which does not know the server's clock.
        return UpdateOne({"_id": event.event_id}, [{"$replaceWith": {"$cond": [is_new, new, "$$ROOT"]}}], upsert=True)

    def take(self) -> Event | None:
        claim = {"due_at": _after(EVENT_CLAIM_S), "batch": {"$ifNull": ["$batch", uuid4().hex]}}
        with translate_mongo_errors("Taking an event"):
            first = self._outbox.find_one_and_update(
                IS_DUE, [{"$set": claim}], sort=[("due_at", ASCENDING)], return_document=ReturnDocument.AFTER
            )
            if first is None:
                return None
            is_collected = first["type"] in COLLECTED and (self._collect_s or first.get("collected"))
            return self._collect(first) if is_collected else _read_event(first)

    def _collect(self, first: Document) -> Event:
        batch = first["batch"]
        if not first.get("collected"):
            alike = {"gallery_id": first["gallery_id"], "type": first["type"], "batch": {"$exists": False}}
            ids = [one["_id"] for one in self._outbox.find(alike, ["_id"]).limit(MOST_COLLECTED - 1)]
            join = {"$set": {"batch": batch}, "$unset": {"due_at": ""}}
            self._outbox.update_many({"_id": {"$in": ids}, "batch": {"$exists": False}}, join)
            self._outbox.update_one({"_id": first["_id"]}, {"$set": {"collected": True}})
        members = [_read_event(one) for one in self._outbox.find({"batch": batch})]
        return collect(sorted(members, key=lambda event: (event.at, event.event_id)), batch)

    def note_sent(self, events: Sequence[Event]) -> None:
        sent = _name(events)
        with translate_mongo_errors("Removing events that were sent"):
            # Those that can be taken last: if this ends in between, what is left is sent again, and removed then.
            self._outbox.delete_many({**sent, "due_at": {"$exists": False}})
            self._outbox.delete_many(sent)

    def give_back(self, events: Sequence[Event], for_s: int) -> None:
        again = {**_name(events), "due_at": {"$type": "date"}}
        with translate_mongo_errors("Giving events back"):
            self._outbox.update_many(again, [{"$set": {"due_at": _after(for_s)}}])

    def count_waiting(self) -> int:
        with translate_mongo_errors("Counting events"):
            return self._outbox.estimated_document_count()


def _name(events: Sequence[Event]) -> dict[str, Any]:
    """The filter of the documents of these events."""
    ids = [event.event_id for event in events]
    return {"$or": [{"_id": {"$in": ids}}, {"batch": {"$in": ids}}]}


def _read_event(document: Document) -> Event:
    return Event(document["type"], document["gallery_id"], document["data"], document["_id"], document["at"])


def _after(seconds: int) -> Document:
    return {"$add": ["$$NOW", seconds * 1000]}
