"""Edits as the grouping service makes them, for tests: each returns what the journal has of it."""

from collections.abc import Mapping
from functools import partial
from uuid import uuid4

from app.core.journal import Edit, make_edit
from app.core.messages import EditPeople
from app.core.people_edits import decide_edit
from app.core.ports import GalleryLease
from app.core.records import FaceRef
from tests.stores import Stores

Operation = Mapping[str, object]


def edit(stores: Stores, lease: GalleryLease, *operations: Mapping[str, object], edit_id: str = "") -> Edit:
    """What the grouping service does with an edit of these operations whose gallery is free."""
    fields = {"gallery_id": lease.gallery_id, "edit_id": edit_id or uuid4().hex, "by": "Eve", "edits": operations}
    order = EditPeople.model_validate(fields)
    queued = stores.journal.add(make_edit(order))
    return stores.editor.apply_edit(lease, queued, partial(decide_edit, queued))


def name(stores: Stores, lease: GalleryLease, person_id: str, name: str | None) -> Edit:
    return edit(stores, lease, {"op": "name", "person_id": person_id, "name": name})


def confirm(stores: Stores, lease: GalleryLease, person_id: str, *faces: FaceRef) -> Edit:
    return edit(stores, lease, of_faces("confirm", person_id, *faces))


def reject(stores: Stores, lease: GalleryLease, person_id: str, *faces: FaceRef) -> Edit:
    return edit(stores, lease, of_faces("reject", person_id, *faces))


def merge(stores: Stores, lease: GalleryLease, person_id: str, *others: str) -> Edit:
    return edit(stores, lease, {"op": "merge", "person_id": person_id, "others": others})


def undo(stores: Stores, lease: GalleryLease, undone: Edit) -> Edit:
    return edit(stores, lease, {"op": "undo", "edit_id": undone.edit_id})


def of_faces(op: str, person_id: str, *faces: FaceRef, **more: object) -> Operation:
    named = [{"face_id": face.face_id, "digest": face.digest} for face in faces]
    return {"op": op, "person_id": person_id, "faces": named, **more}
