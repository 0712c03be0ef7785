"""What all MongoDB adapters share: connecting, the translation of errors, transactions, indexes, batches."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pymongo
from pymongo import ASCENDING, MongoClient, ReadPreference
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from app.core.errors import BadConfiguration, RetryLater, StoreUnavailable

Document = dict[str, Any]
MongoDatabase = Database[Document]
T = TypeVar("T")
DOCUMENTDB_HOST = re.compile(r"\.docdb(-elastic)?\.amazonaws\.com", re.IGNORECASE)
WRITE_BATCH = 1_000
MAJORITY = WriteConcern("majority")
TRANSACTION_S = 10.0
"""The driver alone would try for two minutes, and for as long nobody would learn of an outage."""


@contextmanager
def translate_mongo_errors(action: str) -> Iterator[None]:
    """Turns pymongo's errors into this system's, with a sentence that begins with what was tried."""
    try:
        yield
    except (ConnectionFailure, ExecutionTimeout) as error:
        # Away, timed out (in a transaction too), or its primary stepped down. Ids are deterministic, so the same
        # writes again are safe.
        raise StoreUnavailable("MongoDB", f"{action} in MongoDB failed: {error}") from error
    except PyMongoError as error:
        raise RetryLater(f"{action} in MongoDB failed: {error}") from error


def open_database(uri: str, default_name: str, setting: str) -> Database[Document]:
    """The database an URI names, or `default_name`. Connects lazily. Raises BadConfiguration for a wrong URI.

    Whatever the URI prefers, the primary is asked: what a secondary has not got yet would be taken for missing. And
    only what a majority has counts: a fail-over could undo a photo for which the message is deleted already.
    """
    bounds = {"serverSelectionTimeoutMS": 5_000, "socketTimeoutMS": 30_000}
    missing: dict[str, Any] = {name: value for name, value in bounds.items() if name.lower() not in uri.lower()}
    try:
        client: MongoClient[Document] = MongoClient(uri, tz_aware=True, appname="face-worker", **missing)
        return client.get_default_database(
            default_name,
            read_preference=ReadPreference.PRIMARY,
            write_concern=MAJORITY,
            read_concern=ReadConcern("majority"),
        )
    except (ConfigurationError, InvalidURI, ValueError) as error:
        # The URI holds a password, so the message must not repeat it.
        raise BadConfiguration(f"{setting} is not a usable MongoDB URI: {type(error).__name__}.") from None


def ping(database: Database[Document]) -> None:
    """Raises RetryLater while the server does not answer."""
    with translate_mongo_errors("Asking for a sign of life"):
        database.command("ping")


def refuse_documentdb(database: Database[Document], setting: str) -> None:
    """Raises BadConfiguration where the server is Amazon DocumentDB, which lacks what leases and windows are made of.

    It is told by its name or, behind a tunnel, by a command that no other server knows:
    https://docs.aws.amazon.com/documentdb/latest/developerguide/db-instance-maintain.html
    """
    hosts = [host for host, _ in database.client.topology_description.server_descriptions()]
    if not any(DOCUMENTDB_HOST.search(host) for host in hosts):
        with translate_mongo_errors("Asking which server it is"):
            try:
                database.client.admin.command("getEngineVersion")
            except OperationFailure:
                return
    raise BadConfiguration(
        f"{setting} leads to Amazon DocumentDB, which has no pipelines in updates, no $$NOW and no retryable writes. "
        "The services can't work with it: use MongoDB Atlas, or a replica set of MongoDB 4.4 or newer."
    )


def run_in_transaction(client: MongoClient[Document], write: Callable[[ClientSession], T]) -> T:
    """What `write(session)` returns, with all that it wrote, or nothing of it. Needs a replica set.

    Where another transaction writes the same document, or the server is away for a moment, the driver runs `write`
    again, for TRANSACTION_S at most. Raises pymongo's errors.
    """
    with pymongo.timeout(TRANSACTION_S), client.start_session() as session:
        # Reads are the primary's whatever the URI prefers: the driver refuses any other in a transaction.
        return session.with_transaction(write, write_concern=MAJORITY, read_preference=ReadPreference.PRIMARY)


def ensure_indexes(database: Database[Document]) -> None:
    """Make the indexes that the queries below use; nothing happens where they exist."""
    with translate_mongo_errors("Making indexes"):
        faces = database["faces"]
        faces.create_index([("gallery_id", ASCENDING), ("model", ASCENDING), ("_id", ASCENDING)])
        faces.create_index([("gallery_id", ASCENDING), ("image_id", ASCENDING)])
        faces.create_index([("gallery_id", ASCENDING), ("person_id", ASCENDING)])
        # Readers look for a person's faces in both, since a run may be moving some of them.
        faces.create_index([("gallery_id", ASCENDING), ("was", ASCENDING)])
        database["images"].create_index([("gallery_id", ASCENDING), ("image_id", ASCENDING)])
        database["images"].create_index([("gallery_id", ASCENDING), ("name", ASCENDING)])
        database["images"].create_index([("content", ASCENDING), ("model", ASCENDING)])
        # Made here for another reason too: transactions that both make a collection would conflict.
        database["photo_names"].create_index([("gallery_id", ASCENDING)])
        database["people"].create_index([("gallery_id", ASCENDING), ("status", ASCENDING)])
        # Two edits of a gallery never have one number. Few edits are unsettled at any time.
        database["edits"].create_index([("gallery_id", ASCENDING), ("number", ASCENDING)], unique=True)
        database["edits"].create_index([("unsettled", ASCENDING)], sparse=True)
        database["tombstones"].create_index([("gallery_id", ASCENDING), ("scope", ASCENDING)])
        database["images"].create_index([("gallery_id", ASCENDING), ("processed_at", ASCENDING)])
        # Only galleries that have changed a short time ago have the field.
        database["galleries"].create_index([("grouping_check_at", ASCENDING)], sparse=True)
        outbox = database["outbox"]
        # Of the photos that are sent as one event, only the first has the field.
        outbox.create_index([("due_at", ASCENDING)], sparse=True)
        outbox.create_index([("gallery_id", ASCENDING), ("type", ASCENDING)])
        outbox.create_index([("batch", ASCENDING)], sparse=True)


def split_into_batches(items: Iterable[T], size: int = WRITE_BATCH) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
