"""The journal of a gallery's edits: what was asked for, what became of it, and how it was before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from app.core.messages import EditPeople
from app.core.records import FaceState, PersonRecord


class EditState(StrEnum):
    """`queued`: written down, and applied once no run has the gallery."""

    QUEUED = "queued"
    APPLIED = "applied"
    REFUSED = "refused"


@dataclass(frozen=True)
class FieldChange:
    """One change that an edit has made of a person, or of several faces in the same way.

    `ids` are a person's id, or faces' ids, whose digests are `digests`. `before` and `after` map names of fields to
    values; None where the person did not exist.
    """

    kind: Literal["person", "faces"]
    ids: tuple[str, ...]
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edit:
    """An edit and its state. `operations` are those of the message; `number` gives the order in the gallery.

    `reason` says why it was refused. `changes` are what it has changed, for undoing it; `notes` say what an undo could
    not bring back. `undone_by` is the id of the edit that undid it, if any.
    """

    gallery_id: str
    edit_id: str
    by: str
    operations: tuple[Mapping[str, object], ...]
    at: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)
    number: int = 0
    state: EditState = EditState.QUEUED
    reason: str | None = None
    changes: tuple[FieldChange, ...] = ()
    notes: tuple[str, ...] = ()
    undone_by: str | None = None

    def is_same_request(self, other: "Edit") -> bool:
        return (self.by, self.operations) == (other.by, other.operations)


@dataclass(frozen=True)
class EditOutcome:
    """What an edit changes. `people` maps ids to records, None for a person who is removed; `faces` are faces as they
    are now; `undone` maps ids of edits to the edit that undoes them, None where an edit counts again."""

    people: Mapping[str, PersonRecord | None]
    faces: Sequence[FaceState]
    changes: tuple[FieldChange, ...]
    notes: tuple[str, ...]
    undone: Mapping[str, str | None]


def make_edit(order: EditPeople, refusal: str | None = None) -> Edit:
    """The message as an entry of the journal: queued, or refused for that reason."""
    state = EditState.QUEUED if refusal is None else EditState.REFUSED
    operations = tuple(operation.model_dump(mode="json") for operation in order.edits)
    return Edit(order.gallery_id, order.edit_id, order.by, operations, state=state, reason=refusal)
