"""The collection `edits`: a gallery's journal of what owners said of its people."""

from dataclasses import asdict, replace
from itertools import repeat

from pymongo import ASCENDING, DESCENDING
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.adapters.mongo import MAJORITY, Document, translate_mongo_errors
from app.core.errors import RejectMessage, RetryLater
from app.core.journal import Edit, EditState, FieldChange

MOST_TRIES = 50
MOST_UNSETTLED = 1_000


class MongoEditJournal:
    """`edits`. A document has `unsettled`, the gallery's id, until the edit is applied or refused and that was told."""

    def __init__(self, database: Database[Document]) -> None:
        # What a fail-over undid would be an edit that somebody was told of.
        self._edits: Collection[Document] = database.get_collection("edits", write_concern=MAJORITY)

    def add(self, edit: Edit) -> Edit:
        with translate_mongo_errors("Writing an edit down"):
            for _ in repeat(None, MOST_TRIES):
                if known := self._edits.find_one({"_id": make_edit_key(edit.gallery_id, edit.edit_id)}):
                    return _require_same(read_edit(known), edit)
                last = self._edits.find_one({"gallery_id": edit.gallery_id}, ["number"], sort=[("number", DESCENDING)])
                numbered = replace(edit, number=last["number"] + 1 if last else 1)
                try:
                    self._edits.insert_one(_make_document(numbered))
                except DuplicateKeyError:  # Somebody took the number, or wrote the same edit.
                    continue
                return numbered
        raise RetryLater(f"Others write edits of the gallery {edit.gallery_id} down too fast.")

    def find(self, gallery_id: str, edit_id: str) -> Edit | None:
        with translate_mongo_errors("Reading an edit"):
            return find_edit(self._edits, gallery_id, edit_id)

    def list_unsettled(self, gallery_id: str) -> list[Edit]:
        with translate_mongo_errors("Reading edits"):
            found = self._edits.find({"unsettled": gallery_id}).sort("number", ASCENDING).limit(MOST_UNSETTLED)
            return list(map(read_edit, found))

    def settle(self, edit: Edit) -> None:
        this = {"_id": make_edit_key(edit.gallery_id, edit.edit_id), "state": {"$ne": EditState.QUEUED.value}}
        with translate_mongo_errors("Noting that an edit was told of"):
            self._edits.update_one(this, {"$unset": {"unsettled": ""}})


def make_edit_key(gallery_id: str, edit_id: str) -> str:
    return f"{gallery_id}/{edit_id}"


def find_edit(
    edits: Collection[Document], gallery_id: str, edit_id: str, session: ClientSession | None = None
) -> Edit | None:
    found = edits.find_one({"_id": make_edit_key(gallery_id, edit_id)}, session=session)
    return read_edit(found) if found else None


def make_result_fields(edit: Edit) -> Document:
    """What is stored of what became of an edit."""
    return {
        "state": edit.state.value,
        "reason": edit.reason,
        "inverse": [asdict(change) for change in edit.changes],
        "notes": list(edit.notes),
        "undone_by": edit.undone_by,
    }


def read_edit(document: Document) -> Edit:
    return Edit(
        gallery_id=document["gallery_id"],
        edit_id=document["edit_id"],
        by=document["by"],
        operations=tuple(document["operations"]),
        at=document["at"],
        number=document["number"],
        state=EditState(document["state"]),
        reason=document["reason"],
        changes=tuple(_read_change(change) for change in document["inverse"]),
        notes=tuple(document["notes"]),
        undone_by=document.get("undone_by"),
    )


def _read_change(document: Document) -> FieldChange:
    before, after = document["before"], document["after"]
    return FieldChange(document["kind"], tuple(document["ids"]), before, after, tuple(document["digests"]))


def _make_document(edit: Edit) -> Document:
    return {
        "_id": make_edit_key(edit.gallery_id, edit.edit_id),
        "gallery_id": edit.gallery_id,
        "edit_id": edit.edit_id,
        "number": edit.number,
        "by": edit.by,
        "at": edit.at,
        "operations": list(edit.operations),
        "unsettled": edit.gallery_id,
        **make_result_fields(edit),
    }


def _require_same(known: Edit, edit: Edit) -> Edit:
    if not known.is_same_request(edit):
        raise RejectMessage(
            f"The gallery {edit.gallery_id} has another edit {edit.edit_id}. Send this one with an id of its own."
        )
    return known
