"""The commands of `python -m app.admin people`: a gallery's people, and users' edits of them as messages.

people list GALLERY                       all people, those in most photos first
people show GALLERY PERSON                one person, with its faces
people name GALLERY PERSON (NAME | --remove)
people merge GALLERY PERSON OTHER…        the others are this person
people split GALLERY PERSON FACE…         these faces of the person are somebody else (--name NAME)
people move GALLERY PERSON FACE…          these faces are this person, and not the one that they have
people confirm GALLERY PERSON FACE…       these faces are this person
people reject GALLERY PERSON FACE…        these faces are not this person
people hide | show-again GALLERY PERSON   don't show the person, or show it again
people cover GALLERY PERSON FACE          show the person by this face
people keep-apart GALLERY PERSON OTHER    these two are not one person
people undo GALLERY EDIT                  undo an edit
people edit GALLERY EDIT                  what became of an edit

FACE is a face's id, or id@digest: then the edit is refused where its photo was replaced since it was looked at.
An edit is queued for the grouping service, which applies it as soon as the gallery is not being grouped. With --wait
the command says what became of it.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from uuid import uuid4

from app.adapters.mongo import MongoDatabase, open_database
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_people import PublishedPeople
from app.adapters.sqs import SqsQueue
from app.admin.printing import Say
from app.config import read_setting
from app.core.errors import WorkerError
from app.core.journal import Edit, EditState
from app.core.messages import GroupGallery, GroupingOrder, parse_grouping
from app.core.records import PersonRecord, PersonStatus

SEND_VISIBILITY_S = 30
WAIT_S = 60.0
ASK_EVERY_S = 0.2
_DIGEST = re.compile("[0-9a-f]{16}")

MakeOperation = Callable[[argparse.Namespace], dict[str, object]]


def make_grouping_order(gallery_id: str, mode: str) -> GroupGallery:
    """Raises RejectMessage for an id that no gallery can have."""
    order = parse_grouping(json.dumps({"type": "group_gallery", "gallery_id": gallery_id, "mode": mode}))
    assert isinstance(order, GroupGallery)  # noqa: S101 - by its type
    return order


def send_grouping(order: GroupingOrder) -> None:
    url, region = read_setting("group_face_queue_url"), read_setting("aws_default_region")
    SqsQueue(url, region, SEND_VISIBILITY_S).send(order.model_dump_json(exclude_unset=True))


def open_galleries() -> MongoDatabase:
    return open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")


def list_people(options: argparse.Namespace, say: Say) -> None:
    database = open_galleries()
    with database.client:
        people = PublishedPeople(database).list_people(options.gallery)
    if not people:
        raise WorkerError(f"The gallery {options.gallery} has no people.")
    for person in sorted(people, key=lambda one: (-one.photo_count, one.person_id)):
        if options.all or person.status is PersonStatus.ACTIVE:
            say(_describe(person), _make_fields(person))


def show_person(options: argparse.Namespace, say: Say) -> None:
    database = open_galleries()
    with database.client:
        reader = PublishedPeople(database)
        people = {one.person_id: one for one in reader.list_people(options.gallery)}
        person = people.get(options.person)
        while person and person.merged_into and person.merged_into in people:
            person = people[person.merged_into]
        faces = reader.list_faces(options.gallery, person.person_id) if person else []
    if person is None:
        raise WorkerError(f"The gallery {options.gallery} has no person {options.person}.")
    fields = _make_fields(person)
    lines = [f"{name}: {value}" for name, value in fields.items() if value not in (None, [])]
    lines += [f"face: {face}@{digest}{' confirmed' if confirmed else ''}" for face, digest, confirmed in faces]
    listed = [{"face_id": face, "digest": digest, "confirmed": confirmed} for face, digest, confirmed in faces]
    say("\n".join(lines), {**fields, "faces": listed})


def show_edit(options: argparse.Namespace, say: Say) -> None:
    edit = _find_edit(options.gallery, options.edit)
    if edit is None:
        raise WorkerError(f"The gallery {options.gallery} has no edit {options.edit}.")
    _say_edit(edit, say)


def edit_people(options: argparse.Namespace, say: Say) -> None:
    make: MakeOperation = options.make
    edit_id = options.edit_id or uuid4().hex
    fields = {"type": "edit_people", "gallery_id": options.gallery, "edit_id": edit_id, "by": options.by}
    order = parse_grouping(json.dumps({**fields, "edits": [make(options)]}))
    if options.wait is not None:
        read_setting("gallery_images_mongo_uri")
    send_grouping(order)
    if options.wait is None:
        say(f"{options.gallery}: queued as the edit {edit_id}", {**fields, "state": EditState.QUEUED.value})
        return
    _say_edit(_await_edit(options.gallery, edit_id, options.wait), say)


def _await_edit(gallery_id: str, edit_id: str, patience_s: float) -> Edit:
    until = time.monotonic() + patience_s
    database = open_galleries()
    with database.client:
        journal = MongoEditJournal(database)
        while (edit := journal.find(gallery_id, edit_id)) is None or edit.state is EditState.QUEUED:
            if time.monotonic() > until:
                raise WorkerError(
                    f"The edit {edit_id} is {'queued' if edit else 'not taken in'} after {patience_s:g} s. Its gallery "
                    f"is being grouped, or no grouping service runs; `people edit {gallery_id} {edit_id}` tells later."
                )
            time.sleep(ASK_EVERY_S)
    return edit


def _find_edit(gallery_id: str, edit_id: str) -> Edit | None:
    database = open_galleries()
    with database.client:
        return MongoEditJournal(database).find(gallery_id, edit_id)


def _say_edit(edit: Edit, say: Say) -> None:
    """Raises WorkerError, with the reason, for one that was refused."""
    if edit.state is EditState.REFUSED:
        raise WorkerError(f"The edit {edit.edit_id} was refused: {edit.reason}")
    notes = "".join(f" {note}" for note in edit.notes)
    fields = asdict(replace(edit, changes=()))
    del fields["changes"]
    shown = {**fields, "at": edit.at.isoformat(timespec="seconds"), "state": edit.state.value}
    say(f"{edit.gallery_id}: the edit {edit.edit_id} is {edit.state.value}.{notes}", shown)


def _describe(person: PersonRecord) -> str:
    about = [
        person.name or "(no name)",
        f"{person.face_count} faces in {person.photo_count} photos",
        *([] if person.status is PersonStatus.ACTIVE else [person.status.value]),
        *([f"is {person.merged_into}"] if person.merged_into else []),
        *(["hidden"] if person.hidden else []),
    ]
    return f"{person.person_id}  {'  '.join(about)}"


def _make_fields(person: PersonRecord) -> dict[str, object]:
    return {**asdict(person), "status": person.status.value, "kept_apart": list(person.kept_apart)}


def _name_person(options: argparse.Namespace) -> dict[str, object]:
    name = None if options.remove else (options.name or "").strip()
    if name == "":
        raise WorkerError("Give a name, or --remove to take it away.")
    return {"op": "name", "person_id": options.person, "name": name}


def _merge_people(options: argparse.Namespace) -> dict[str, object]:
    return {"op": "merge", "person_id": options.person, "others": options.others}


def _split_person(options: argparse.Namespace) -> dict[str, object]:
    return {**_change_faces(options), "name": options.name}


def _change_faces(options: argparse.Namespace) -> dict[str, object]:
    return {"op": options.op, "person_id": options.person, "faces": list(map(_read_face, options.faces))}


def _change_person(options: argparse.Namespace) -> dict[str, object]:
    return {"op": options.op, "person_id": options.person}


def _choose_cover(options: argparse.Namespace) -> dict[str, object]:
    return {"op": "cover", "person_id": options.person, "face": _read_face(options.face)}


def _keep_apart(options: argparse.Namespace) -> dict[str, object]:
    return {"op": "keep_apart", "person_id": options.person, "other": options.other}


def _undo(options: argparse.Namespace) -> dict[str, object]:
    return {"op": "undo", "edit_id": options.edit}


def _read_face(text: str) -> dict[str, object]:
    face_id, _, digest = text.rpartition("@")
    return {"face_id": face_id, "digest": digest} if _DIGEST.fullmatch(digest) and face_id else {"face_id": text}


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", every: argparse.ArgumentParser
) -> None:
    of_gallery = argparse.ArgumentParser(add_help=False, parents=[every])
    of_gallery.add_argument("gallery")
    of_person = argparse.ArgumentParser(add_help=False, parents=[of_gallery])
    of_person.add_argument("person", help="its id, as in groups.json; a former id will do")
    sent = argparse.ArgumentParser(add_help=False)
    sent.add_argument("--by", default="operator", help="who says it, for the journal")
    sent.add_argument("--edit-id", help="the edit's own id: the same id again changes nothing")
    sent.add_argument(
        "--wait", nargs="?", type=float, const=WAIT_S, metavar="SECONDS", help="say what became of it (60 s at most)"
    )
    whom = argparse.ArgumentParser(add_help=False, parents=[of_person, sent])

    every_one = commands.add_parser("list", parents=[of_gallery], help="a gallery's people")
    every_one.add_argument("--all", action="store_true", help="also those without a face, and merged ones")
    every_one.set_defaults(run=list_people)
    commands.add_parser("show", parents=[of_person], help="a person and its faces").set_defaults(run=show_person)
    became = commands.add_parser("edit", parents=[of_gallery], help="what became of an edit")
    became.add_argument("edit", help="its id")
    became.set_defaults(run=show_edit)

    name = commands.add_parser("name", parents=[whom], help="give a person a name")
    name.add_argument("name", nargs="?")
    name.add_argument("--remove", action="store_true", help="take the name away")
    name.set_defaults(run=edit_people, make=_name_person)

    merge = commands.add_parser("merge", parents=[whom], help="the others are this person")
    merge.add_argument("others", nargs="+", metavar="other", help="the id of a person who is the same")
    merge.set_defaults(run=edit_people, make=_merge_people)

    split = _add_faces(commands.add_parser("split", parents=[whom], help="these faces of the person are somebody else"))
    split.add_argument("--name", help="the name of the other person")
    split.set_defaults(run=edit_people, make=_split_person, op="split")
    for op, what in (
        ("move", "these faces are this person, and not the one that they have"),
        ("confirm", "these faces are this person"),
        ("reject", "these faces are not this person"),
    ):
        changed = _add_faces(commands.add_parser(op, parents=[whom], help=what))
        changed.set_defaults(run=edit_people, make=_change_faces, op=op)

    hide = commands.add_parser("hide", parents=[whom], help="don't show the person")
    hide.set_defaults(run=edit_people, make=_change_person, op="hide")
    shown = commands.add_parser("show-again", parents=[whom], help="show a hidden person again")
    shown.set_defaults(run=edit_people, make=_change_person, op="show")
    cover = commands.add_parser("cover", parents=[whom], help="show the person by this face")
    cover.add_argument("face", help="its id, or id@digest, as in groups.json")
    cover.set_defaults(run=edit_people, make=_choose_cover)
    apart = commands.add_parser("keep-apart", parents=[whom], help="these two are not one person")
    apart.add_argument("other", help="the id of the other person")
    apart.set_defaults(run=edit_people, make=_keep_apart)
    undo = commands.add_parser("undo", parents=[of_gallery, sent], help="undo an edit")
    undo.add_argument("edit", help="its id")
    undo.set_defaults(run=edit_people, make=_undo)


def _add_faces(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("faces", nargs="+", metavar="face", help="its id, or id@digest, as in groups.json")
    return parser
