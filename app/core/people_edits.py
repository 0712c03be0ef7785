"""What an edit does to people and faces: operations in, changed fields out. A store reads and writes them.

An edit works on a draft of the people and faces that it names. What differs in the end is written in one transaction,
and kept in the journal with the values before, so that every edit is undone in the same way: each field gets its former
value back where nobody has changed it since.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any

from pydantic import TypeAdapter

from app.core import edits as ops
from app.core.errors import RejectMessage
from app.core.journal import Edit, EditOutcome, EditState, FieldChange
from app.core.ports import PeopleReader
from app.core.records import FaceRef, FaceState, PersonRecord, PersonStatus, make_person_id

MOST_CHANGED_FACES = 20_000
"""An edit is one transaction, which has ten seconds; one that never fits would hold up all edits behind it."""
MOST_JOURNAL_BYTES = 8_000_000
"""Ids of the faces that an edit changes. MongoDB's documents have 16 MB."""
USER = "user"

_operations: TypeAdapter[list[ops.Operation]] = TypeAdapter(list[ops.Operation])


def decide_edit(edit: Edit, reader: PeopleReader) -> EditOutcome:
    """What this edit changes of what is stored. Raises RejectMessage, with the reason, where it can't be made."""
    draft = _Draft(edit.gallery_id, edit.edit_id, reader)
    for operation in _operations.validate_python(list(edit.operations)):
        _APPLY[type(operation)](draft, operation)
    return draft.finish()


@dataclass
class _Draft:
    """The people and faces that an edit has looked at: as they are stored, and as they will be."""

    gallery_id: str
    edit_id: str
    reader: PeopleReader
    people: dict[str, PersonRecord | None] = field(default_factory=dict)
    faces: dict[str, FaceState] = field(default_factory=dict)
    stored_people: dict[str, PersonRecord | None] = field(default_factory=dict)
    stored_faces: dict[str, FaceState] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    undone: dict[str, str | None] = field(default_factory=dict)

    def find_person(self, person_id: str) -> PersonRecord | None:
        """The record of this very id, merged or not."""
        if person_id not in self.stored_people:
            self._keep_people([person_id], self.reader.find_people([person_id]).values())
        return self.people[person_id]

    def resolve(self, person_id: str | None) -> str | None:
        """The id that a merged person has now."""
        passed: set[str] = set()
        while person_id and person_id not in passed and (person := self.find_person(person_id)) and person.merged_into:
            passed.add(person_id)
            person_id = person.merged_into
        return person_id

    def get_person(self, person_id: str) -> PersonRecord:
        """The person of this id, or the one that it was merged into."""
        person = self.find_person(self.resolve(person_id) or person_id)
        if person is None:
            raise RejectMessage(f"The gallery {self.gallery_id} has no person {person_id}.")
        return person

    def list_ids(self, person_id: str) -> list[str]:
        """The person's id, and the ids that lead to it."""
        found = self.reader.find_merged_into(person_id)
        self._keep_people([one.person_id for one in found], found)
        return [person_id, *sorted(id_ for id_, one in self.people.items() if one and one.merged_into == person_id)]

    def list_faces(self, person_ids: Collection[str]) -> list[FaceState]:
        self._keep_faces(self.reader.find_faces_of(person_ids))
        return [face for face in self.faces.values() if face.person_id in person_ids]

    def get_faces(self, faces: Sequence[ops.EditedFace]) -> list[FaceState]:
        wanted = [face.refer() for face in faces]
        self.load_faces([face.face_id for face in wanted])
        missing = [one.face_id for one in wanted if one.face_id not in self.faces]
        if missing:
            raise RejectMessage(f"The gallery {self.gallery_id} has no face {', '.join(missing)}.")
        other = [one.face_id for one in wanted if not self._is_meant(one)]
        if other:
            raise RejectMessage(
                f"Under {', '.join(other)} there is another face now: the photo was replaced. Look at the gallery's "
                "newest page."
            )
        return [self.faces[one.face_id] for one in wanted]

    def load_faces(self, face_ids: Iterable[str]) -> None:
        missing = [face_id for face_id in face_ids if face_id not in self.stored_faces]
        if missing:
            self._keep_faces(self.reader.find_faces(missing))

    def clear_rejections(self, person_id: str) -> None:
        """The person's faces are the person's: that one was rejected for somebody whom this person is now, is over."""
        ids = set(self.list_ids(person_id))
        self._keep_faces(self.reader.find_faces_of(ids, rejected_for=ids))
        for face in list(self.faces.values()):
            if face.person_id in ids and not face.rejected.isdisjoint(ids):
                self.faces[face.face_id] = replace(face, rejected=face.rejected - ids)

    def set_person(self, person: PersonRecord) -> None:
        self.find_person(person.person_id)
        self.people[person.person_id] = person

    def remove_person(self, person_id: str) -> None:
        self.find_person(person_id)
        self.people[person_id] = None

    def assign(self, face: FaceState, person_id: str, also_not: Collection[str] = ()) -> None:
        """Make the face the person's, by a user's word, and note of whom it is not."""
        still = {one for one in face.rejected if self.resolve(one) != person_id}
        self.faces[face.face_id] = replace(
            face, person_id=person_id, assigned_by=USER, rejected=frozenset(still | set(also_not) - {person_id})
        )

    def confirm_cover(self, person: PersonRecord) -> None:
        """Users know a person by its cover, so an edit of the person confirms that face, if it still is the
        person's."""
        self.load_faces([person.cover_face_id])
        cover = self.faces.get(person.cover_face_id)
        if cover and cover.person_id == person.person_id:
            self.faces[cover.face_id] = replace(cover, assigned_by=USER)

    def find_edit(self, edit_id: str) -> Edit | None:
        edit = self.reader.find_edit(edit_id)
        return replace(edit, undone_by=self.undone[edit_id]) if edit and edit_id in self.undone else edit

    def finish(self) -> EditOutcome:
        people = {id_: one for id_, one in self.people.items() if one != self.stored_people[id_]}
        faces = [one for id_, one in self.faces.items() if one != self.stored_faces[id_]]
        journal_bytes = sum(len(face.face_id) + len(face.digest) for face in faces)
        if len(faces) > MOST_CHANGED_FACES or journal_bytes > MOST_JOURNAL_BYTES:
            raise RejectMessage(
                f"The edit changes {len(faces):,} faces, and {MOST_CHANGED_FACES:,} are the most. Edit fewer people or "
                "faces at a time, and merge the smaller person into the larger one."
            )
        changes = [_compare_person(id_, self.stored_people[id_], one) for id_, one in sorted(people.items())]
        changes += _compare_faces(self.stored_faces, faces)
        return EditOutcome(people, faces, tuple(changes), tuple(self.notes), self.undone)

    def _keep_people(self, asked: Iterable[str], found: Iterable[PersonRecord]) -> None:
        records = {one.person_id: one for one in found}
        for person_id in asked:
            if person_id not in self.stored_people:
                self.stored_people[person_id] = self.people[person_id] = records.get(person_id)

    def _keep_faces(self, found: Iterable[FaceState]) -> None:
        for face in found:
            if face.face_id not in self.stored_faces:
                self.stored_faces[face.face_id] = self.faces[face.face_id] = face

    def _is_meant(self, face: FaceRef) -> bool:
        return face.digest in (None, self.faces[face.face_id].digest)


def _name(draft: _Draft, operation: ops.NamePerson) -> None:
    draft.set_person(replace(draft.get_person(operation.person_id), name=operation.name))


def _merge(draft: _Draft, operation: ops.MergePeople) -> None:
    into = draft.get_person(operation.person_id)
    others = {one.person_id: one for one in map(draft.get_person, operation.others)}
    others.pop(into.person_id, None)
    for other in others.values():
        former = draft.list_ids(other.person_id)
        for face in draft.list_faces(former):
            draft.faces[face.face_id] = replace(face, person_id=into.person_id)
        for one in map(draft.find_person, former):
            if one:
                draft.set_person(replace(one, status=PersonStatus.MERGED, merged_into=into.person_id))
        draft.clear_rejections(into.person_id)
        draft.confirm_cover(into)
        draft.confirm_cover(replace(into, cover_face_id=other.cover_face_id))
    # The person keeps its name; without one, it takes the first name of the others.
    names = [one.name for one in (into, *others.values()) if one.name]
    draft.set_person(replace(into, name=names[0] if names else None))


def _split(draft: _Draft, operation: ops.SplitPerson) -> None:
    person = draft.get_person(operation.person_id)
    faces = draft.get_faces(operation.faces)
    _require_own(draft, person, faces)
    first = min(faces, key=lambda face: face.face_id)
    ids = (make_person_id(first.face_id, first.etag, attempt) for attempt in count())
    new_id = next(one for one in ids if draft.find_person(one) is None)
    photos = len({face.image_id for face in faces})
    draft.set_person(PersonRecord(new_id, first.face_id, len(faces), photos, name=operation.name))
    for face in faces:
        draft.assign(face, new_id, also_not=[person.person_id])
    draft.confirm_cover(person)


def _move(draft: _Draft, operation: ops.MoveFaces) -> None:
    person = draft.get_person(operation.person_id)
    for face in draft.get_faces(operation.faces):
        former = draft.resolve(face.person_id)
        draft.assign(face, person.person_id, also_not=[former] if former else [])
    draft.confirm_cover(person)


def _confirm(draft: _Draft, operation: ops.ConfirmFaces) -> None:
    person = draft.get_person(operation.person_id)
    for face in draft.get_faces(operation.faces):
        draft.assign(face, person.person_id)
    draft.confirm_cover(person)


def _reject(draft: _Draft, operation: ops.RejectFaces) -> None:
    person_id = draft.get_person(operation.person_id).person_id
    for face in draft.get_faces(operation.faces):
        is_own = draft.resolve(face.person_id) == person_id
        rest = replace(face, person_id=None, assigned_by=None) if is_own else face
        draft.faces[face.face_id] = replace(rest, rejected=face.rejected | {person_id})


def _hide(draft: _Draft, operation: ops.HidePerson) -> None:
    draft.set_person(replace(draft.get_person(operation.person_id), hidden=True))


def _show(draft: _Draft, operation: ops.ShowPerson) -> None:
    draft.set_person(replace(draft.get_person(operation.person_id), hidden=False))


def _choose_cover(draft: _Draft, operation: ops.ChooseCover) -> None:
    person = draft.get_person(operation.person_id)
    faces = draft.get_faces([operation.face])
    _require_own(draft, person, faces)
    face_id = faces[0].face_id
    draft.set_person(replace(person, chosen_cover=face_id, cover_face_id=face_id))


def _keep_apart(draft: _Draft, operation: ops.KeepApart) -> None:
    one, other = draft.get_person(operation.person_id), draft.get_person(operation.other)
    if one.person_id == other.person_id:
        raise RejectMessage(
            f"{operation.person_id} and {operation.other} are one person, {one.person_id}. Undo their merge, or split "
            "the person, to keep them apart."
        )
    for person, apart in ((one, other), (other, one)):
        draft.set_person(replace(person, kept_apart=_sort({*person.kept_apart, apart.person_id})))


def _require_own(draft: _Draft, person: PersonRecord, faces: Sequence[FaceState]) -> None:
    foreign = [face.face_id for face in faces if draft.resolve(face.person_id) != person.person_id]
    if foreign:
        raise RejectMessage(
            f"{', '.join(foreign)} is not a face of {person.person_id} now. Look at the gallery's newest page."
        )


def _undo(draft: _Draft, operation: ops.UndoEdit) -> None:
    edit, notes = _find_undoable(draft, operation.edit_id), len(draft.notes)
    people = [one for one in edit.changes if one.kind == "person"]
    # First the people, since faces go back to people who are there; and of these first those who are themselves again,
    # since others are merged into them.
    people.sort(key=lambda one: bool((one.before or {}).get("merged_into")))
    undone = [_restore_person(draft, change) for change in people if change.before is not None]
    undone += [_restore_faces(draft, change) for change in edit.changes if change.kind == "faces"]
    for change in people:
        _follow_merge(draft, change.ids[0])
    undone += [_remove_made_person(draft, change.ids[0]) for change in people if change.before is None]
    if edit.changes and not any(undone):
        raise RejectMessage(f"Nothing of the edit {edit.edit_id} is left to undo. {' '.join(draft.notes[notes:])}")
    _mark_undone(draft, edit, draft.edit_id)


def _find_undoable(draft: _Draft, edit_id: str) -> Edit:
    edit = draft.find_edit(edit_id)
    if edit is None:
        raise RejectMessage(f"The gallery {draft.gallery_id} has no edit {edit_id}.")
    if edit.state is EditState.REFUSED:
        raise RejectMessage(f"The edit {edit_id} was refused, so there is nothing to undo.")
    if edit.state is EditState.QUEUED:
        raise RejectMessage(f"The edit {edit_id} is not applied yet. Undo it once it is.")
    if edit.undone_by is not None:
        raise RejectMessage(f"The edit {edit_id} is undone already, by the edit {edit.undone_by}.")
    return edit


def _mark_undone(draft: _Draft, edit: Edit, by: str | None) -> None:
    """Note that the edit is undone by that one, or counts again. What it undid itself is then the other way round."""
    draft.undone[edit.edit_id] = by
    for operation in edit.operations:
        undid = draft.find_edit(str(operation["edit_id"])) if operation["op"] == "undo" else None
        if undid:
            _mark_undone(draft, undid, None if by else edit.edit_id)


def _restore_person(draft: _Draft, change: FieldChange) -> bool:
    """Give a person's fields their former values where they are still what the edit made them."""
    before, after, person_id = _read_fields(change.before), _read_fields(change.after), change.ids[0]
    person = draft.find_person(person_id)
    if person is None:
        if change.after is not None:
            draft.notes.append(f"The person {person_id} is gone.")
            return False
        draft.set_person(PersonRecord(**{**before, "status": PersonStatus(before["status"])}))
        return True
    if change.after is None:
        draft.notes.append(f"The person {person_id} is there again already.")
        return False
    now = person
    if "kept_apart" in before:
        was, became = {*before["kept_apart"]}, {*after["kept_apart"]}
        now = replace(now, kept_apart=_sort({*person.kept_apart} - (became - was) | (was - became)))
    if "merged_into" in before:
        into = draft.resolve(before["merged_into"])
        is_left = draft.resolve(person.merged_into) == draft.resolve(after["merged_into"])
        if is_left and into != person_id and (into is None or draft.find_person(into)):
            now = replace(now, status=PersonStatus(before["status"]), merged_into=into)
        else:
            draft.notes.append(f"The person {person_id} was merged otherwise since, and stays so.")
    now = _restore_values(draft, now, before, after)
    draft.set_person(now)
    return now != person


def _restore_values(
    draft: _Draft, person: PersonRecord, before: Mapping[str, Any], after: Mapping[str, Any]
) -> PersonRecord:
    for name in sorted(before.keys() & {"name", "hidden", "chosen_cover", "cover_face_id"}):
        if getattr(person, name) == after[name]:
            person = replace(person, **{name: before[name]})
        elif name in _WORDS:  # The cover that is shown is not a user's word: runs choose it.
            draft.notes.append(f"{_WORDS[name]} of {person.person_id} was changed since, and stays.")
    return person


def _restore_faces(draft: _Draft, change: FieldChange) -> bool:
    """Give faces their former person and rejections back, where nobody has moved them since."""
    before, after = _read_fields(change.before), _read_fields(change.after)
    assignment = before["person_id"], before["assigned_by"]
    moved = assignment != (after["person_id"], after["assigned_by"])
    added, removed = {*after["rejected"]} - {*before["rejected"]}, {*before["rejected"]} - {*after["rejected"]}
    draft.load_faces(change.ids)
    gone = elsewhere = 0
    changed = False
    person_id, expected = draft.resolve(assignment[0]), draft.resolve(after["person_id"])
    is_there = person_id is None or draft.find_person(person_id) is not None
    for face_id, digest in zip(change.ids, change.digests, strict=True):
        face = draft.faces.get(face_id)
        if face is None or face.digest != digest:
            gone += 1
            continue
        rejected, now = face.rejected - added, face
        if moved:
            is_left = draft.resolve(face.person_id) == expected and face.assigned_by == after["assigned_by"]
            # A run assigns what a user has left unassigned; that is no user's word.
            is_left |= expected is None and face.assigned_by != USER
            if is_left and is_there and person_id not in map(draft.resolve, rejected):
                now = replace(now, person_id=person_id, assigned_by=assignment[1])
            else:
                elsewhere += 1
        rejected |= {one for one in removed if now.person_id is None or draft.resolve(one) != now.person_id}
        draft.faces[face_id] = now = replace(now, rejected=frozenset(rejected))
        changed |= now != face
    if gone:
        draft.notes.append(f"{gone} of {len(change.ids)} faces are gone or were replaced.")
    if elsewhere:
        draft.notes.append(f"{elsewhere} of {len(change.ids)} faces were moved since, and stay where they are.")
    return changed


def _follow_merge(draft: _Draft, person_id: str) -> None:
    """Where the person is merged again, what it has got since is the other's: faces, and ids that led to it."""
    person, into = draft.find_person(person_id), draft.resolve(person_id)
    if person is None or into is None or into == person_id:
        return
    ids = draft.list_ids(person_id)
    for one in map(draft.find_person, ids):
        if one and one.merged_into != into:
            draft.set_person(replace(one, merged_into=into))
    for face in draft.list_faces(ids):
        draft.faces[face.face_id] = replace(face, person_id=into)
    draft.clear_rejections(into)


def _remove_made_person(draft: _Draft, person_id: str) -> bool:
    """Remove a person that the edit made, once no face and no former id leads to it."""
    person = draft.find_person(person_id)
    if person is None:
        return False
    ids = draft.list_ids(person_id)
    if person.merged_into or len(ids) > 1 or draft.list_faces(ids):
        draft.notes.append(f"The person {person_id}, which the edit made, has got other faces since, and stays.")
        return False
    draft.remove_person(person_id)
    return True


_APPLY: dict[type, Callable[[_Draft, Any], None]] = {
    ops.NamePerson: _name,
    ops.MergePeople: _merge,
    ops.SplitPerson: _split,
    ops.MoveFaces: _move,
    ops.ConfirmFaces: _confirm,
    ops.RejectFaces: _reject,
    ops.HidePerson: _hide,
    ops.ShowPerson: _show,
    ops.ChooseCover: _choose_cover,
    ops.KeepApart: _keep_apart,
    ops.UndoEdit: _undo,
}
_WORDS = {"name": "The name", "hidden": "Whether it is shown", "chosen_cover": "The cover"}
_PERSON_FIELDS = [one.name for one in fields(PersonRecord)]


def _compare_person(person_id: str, before: PersonRecord | None, after: PersonRecord | None) -> FieldChange:
    names = [
        name
        for name in _PERSON_FIELDS
        if before is None or after is None or getattr(before, name) != getattr(after, name)
    ]
    if "merged_into" in names and "status" not in names:
        names.append("status")
    return FieldChange("person", (person_id,), _pick(before, names), _pick(after, names))


def _pick(person: PersonRecord | None, names: Sequence[str]) -> dict[str, object] | None:
    if person is None:
        return None
    values = {name: getattr(person, name) for name in names}
    return {name: str(value) if isinstance(value, PersonStatus) else value for name, value in values.items()}


def _compare_faces(stored: Mapping[str, FaceState], faces: Sequence[FaceState]) -> list[FieldChange]:
    """Faces that change in the same way are one change, for the journal to stay small."""
    alike: dict[tuple[tuple[object, ...], tuple[object, ...]], list[FaceState]] = {}
    for face in sorted(faces, key=lambda one: one.face_id):
        alike.setdefault((_list_words(stored[face.face_id]), _list_words(face)), []).append(face)
    names = ("person_id", "assigned_by", "rejected")
    return [
        FieldChange(
            "faces",
            tuple(one.face_id for one in some),
            dict(zip(names, before, strict=True)),
            dict(zip(names, after, strict=True)),
            tuple(one.digest for one in some),
        )
        for (before, after), some in alike.items()
    ]


def _list_words(face: FaceState) -> tuple[object, ...]:
    return face.person_id, face.assigned_by, _sort(face.rejected)


def _read_fields(values: Mapping[str, object] | None) -> dict[str, Any]:
    """With tuples, as records have them, for the lists that a store gives back."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in (values or {}).items()}


def _sort(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(ids))
