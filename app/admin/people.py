"""The commands of `python -m app.admin people`: users' edits of people, made by an operator.

people name GALLERY PERSON (NAME | --remove)
people confirm GALLERY PERSON FACE…       these faces are this person
people reject GALLERY PERSON FACE…        these faces are not this person
people merge GALLERY PERSON OTHER…        the others are this person

FACE is a face's id, or id@digest: then the edit is refused where its photo was replaced since it was looked at.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from app.adapters.mongo import MongoDatabase, open_database
from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.sqs import SqsQueue
from app.admin.printing import Say
from app.config import read_setting
from app.core.errors import WorkerError
from app.core.messages import GroupGallery, parse_grouping
from app.core.ports import GalleryLease, PeopleEditor
from app.core.records import FaceRef

SEND_VISIBILITY_S = 30
_DIGEST = re.compile("[0-9a-f]{16}")
LEASE_S = 30.0

Edit = Callable[[PeopleEditor, GalleryLease, argparse.Namespace], str]
"""Makes an edit, and returns a few words on the new state."""


def make_grouping_order(gallery_id: str, mode: str) -> GroupGallery:
    """Raises RejectMessage for an id that no gallery can have."""
    order = parse_grouping(json.dumps({"type": "group_gallery", "gallery_id": gallery_id, "mode": mode}))
    assert isinstance(order, GroupGallery)  # noqa: S101 - by its type
    return order


def send_grouping(order: GroupGallery) -> None:
    url, region = read_setting("group_face_queue_url"), read_setting("aws_default_region")
    SqsQueue(url, region, SEND_VISIBILITY_S).send(order.model_dump_json())


def edit_people(options: argparse.Namespace, say: Say) -> None:
    order = make_grouping_order(options.gallery, "auto")
    read_setting("group_face_queue_url")
    edit: Edit = options.edit
    database = open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    with database.client, _hold_gallery(database, options.gallery) as lease:
        now = edit(MongoPeopleEditor(database), lease, options)
    send_grouping(order)
    say(f"{options.gallery}: {now}; it is grouped anew", {"gallery_id": options.gallery, "now": now})


@contextmanager
def _hold_gallery(database: MongoDatabase, gallery_id: str) -> Iterator[GalleryLease]:
    """Hold the gallery's lease, since a grouping run writes by what it read at its start, and would undo the edit."""
    galleries = MongoGalleryStore(database)
    lease = galleries.take_lease(gallery_id, f"admin-{uuid4().hex}", LEASE_S)
    if lease is None:
        raise WorkerError(f"The gallery {gallery_id} is being grouped just now; try again in a moment.")
    try:
        yield lease
    finally:
        galleries.release(lease)


def _name_person(editor: PeopleEditor, lease: GalleryLease, options: argparse.Namespace) -> str:
    name = None if options.remove else (options.name or "").strip()
    if name == "":
        raise WorkerError("Give a name, or --remove to take it away.")
    editor.name_person(lease, options.person, name)
    return f"{options.person} has no name" if name is None else f"{options.person} is called {name}"


def _confirm_faces(editor: PeopleEditor, lease: GalleryLease, options: argparse.Namespace) -> str:
    editor.confirm_faces(lease, options.person, list(map(_read_face, options.faces)))
    return f"confirmed as {options.person}: {', '.join(options.faces)}"


def _reject_faces(editor: PeopleEditor, lease: GalleryLease, options: argparse.Namespace) -> str:
    editor.reject_faces(lease, options.person, list(map(_read_face, options.faces)))
    return f"rejected for {options.person}: {', '.join(options.faces)}"


def _read_face(text: str) -> FaceRef:
    face_id, _, digest = text.rpartition("@")
    return FaceRef(face_id, digest) if _DIGEST.fullmatch(digest) and face_id else FaceRef(text)


def _merge_people(editor: PeopleEditor, lease: GalleryLease, options: argparse.Namespace) -> str:
    editor.merge_people(lease, options.person, options.others)
    return f"merged into {options.person}: {', '.join(options.others)}"


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", every: argparse.ArgumentParser
) -> None:
    whom = argparse.ArgumentParser(add_help=False, parents=[every])
    whom.add_argument("gallery")
    whom.add_argument("person", help="its id, as in groups.json; a former id will do")

    name = commands.add_parser("name", parents=[whom], help="give a person a name")
    name.add_argument("name", nargs="?")
    name.add_argument("--remove", action="store_true", help="take the name away")
    name.set_defaults(run=edit_people, edit=_name_person)

    confirm = commands.add_parser("confirm", parents=[whom], help="these faces are this person")
    confirm.add_argument("faces", nargs="+", metavar="face", help="its id, or id@digest, as in groups.json")
    confirm.set_defaults(run=edit_people, edit=_confirm_faces)

    reject = commands.add_parser("reject", parents=[whom], help="these faces are not this person")
    reject.add_argument("faces", nargs="+", metavar="face", help="its id, or id@digest, as in groups.json")
    reject.set_defaults(run=edit_people, edit=_reject_faces)

    merge = commands.add_parser("merge", parents=[whom], help="the others are this person")
    merge.add_argument("others", nargs="+", metavar="other", help="the id of a person who is the same")
    merge.set_defaults(run=edit_people, edit=_merge_people)
