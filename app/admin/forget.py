"""`python -m app.admin forget`: have a photo, a person or a gallery forgotten, and prove that nothing is left.

forget photo GALLERY IMAGE --confirm      the photo, its faces and pictures; its object is left to its owner
forget person GALLERY PERSON --confirm    the person's faces on all photos that are stored now
forget gallery GALLERY --confirm GALLERY  all that is known of the gallery
forget … --prove                          read every store, and list what is left; exit code 1 where anything is
forget again                              after MongoDB was restored: follow the requests that it has lost
expire                                    forget the galleries whose retention is over
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

from app.adapters.mongo import MongoDatabase, open_database
from app.adapters.mongo_proof import MongoProof
from app.adapters.mongo_tombstones import MongoTombstones
from app.adapters.s3 import S3Store
from app.adapters.sqs import SqsQueue
from app.admin.people import SEND_VISIBILITY_S
from app.admin.printing import Say
from app.config import read_setting
from app.core.errors import WorkerError
from app.core.messages import Expire, Forget, parse_grouping
from app.core.ports import ObjectStore, ObjectVersion
from app.core.result_keys import ResultKeys
from app.core.tombstones import Tombstone, make_order

TOLD = b'"status":"forgotten"'
"""A part of the answer to a guest who asks for a forgotten gallery: it says nothing else."""
TEXT_ENDINGS = (".json", ".html", ".vectors")
"""Objects that may name somebody. Pictures don't."""


@dataclass(frozen=True)
class Proof:
    """Reads every store of this system for what is left of something forgotten."""

    mongo: MongoProof
    objects: ObjectStore
    keys: ResultKeys

    def list_left(self, tombstone: Tombstone) -> Iterator[str]:
        yield from self.mongo.list_left(tombstone)
        gallery_id = tombstone.gallery_id
        images = self.mongo.read_images(gallery_id)
        named = self.mongo.list_named(gallery_id)
        is_left = {"photo": self._shows_photo, "person": self._shows_person, "gallery": self._is_of_gallery}
        ids = {image.photo.image_id for image in images}
        newer = any(not tombstone.covers.covers(image.last_modified) for image in images)
        for version in self.objects.list_versions(self.keys.folder(gallery_id)):
            if self.keys.is_tombstone(version.key):
                continue
            if is_left[tombstone.scope](version, tombstone, named, ids, is_living=newer):
                yield f"S3: {version.key}, version {version.version_id}"
        for version in self.objects.list_versions(f"{gallery_id}/faces/"):
            if tombstone.scope == "gallery" and self.keys.is_result(version.key) and version.key not in named:
                yield f"S3: {version.key}, version {version.version_id}"

    def _is_of_gallery(
        self, version: ObjectVersion, tombstone: Tombstone, named: set[str], _ids: set[str], *, is_living: bool
    ) -> bool:
        if version.key.startswith(self.keys.finds(tombstone.gallery_id)) and self._mentions(version, [TOLD]):
            # A guest asked for the gallery since. Times can't tell that: S3's have no fractions of a second.
            return False
        if not is_living:
            return True
        is_picture = version.key.startswith(self.keys.picture_folders(tombstone.gallery_id))
        return version.at <= tombstone.at and not (is_picture and version.key in named)

    def _shows_person(
        self, version: ObjectVersion, tombstone: Tombstone, named: set[str], _ids: set[str], *, is_living: bool
    ) -> bool:
        del is_living
        if any(f"/{one}" in version.key for one in tombstone.people):
            return True
        starts = tuple(start for photo in self.mongo.list_places(tombstone) for start in self.keys.pictures_of(photo))
        if version.key.startswith(starts):
            return not version.is_current or version.key not in named
        return self._mentions(version, [one.encode() for one in tombstone.people])

    def _shows_photo(
        self, version: ObjectVersion, tombstone: Tombstone, named: set[str], ids: set[str], *, is_living: bool
    ) -> bool:
        del is_living
        photo = tombstone.photo
        if photo is None:
            return False
        if version.key.startswith(self.keys.pictures_of(photo)):
            return version.key not in named
        wanted = [] if photo.image_id in ids else [f'"image_id":{json.dumps(photo.image_id)}'.encode()]
        return self._mentions(version, wanted)

    def _mentions(self, version: ObjectVersion, words: list[bytes]) -> bool:
        """Whether an object names one of these."""
        if not words or not version.key.endswith(TEXT_ENDINGS):
            return False
        data = self.objects.read_version(version) or b""
        return any(word in data for word in words)


def open_proof(stack: ExitStack) -> tuple[Proof, MongoDatabase]:
    database = open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    owner = open_database(read_setting("huemn_mongo_uri"), "huemn", "HUEMN_MONGO_URI")
    stack.callback(database.client.close)
    stack.callback(owner.client.close)
    objects = S3Store(read_setting("face_group_bucket_name"), read_setting("aws_default_region"))
    return Proof(MongoProof(database, owner), objects, ResultKeys(read_setting("results_prefix"))), database


def forget(options: argparse.Namespace, say: Say) -> None:
    if options.prove:
        prove(options, say)
        return
    if not options.confirm:
        raise WorkerError("What is forgotten can't be brought back: give --confirm.")
    fields = {"type": "forget", "request_id": options.request_id or f"admin-{uuid4().hex}", "scope": options.scope}
    fields |= {"gallery_id": options.gallery}
    if options.scope == "gallery":
        fields["confirm"] = options.confirm
    else:
        fields["image_id" if options.scope == "photo" else "person_id"] = options.which
    order = parse_grouping(json.dumps(fields))
    assert isinstance(order, Forget)  # noqa: S101 - by its type
    _send(order.model_dump_json(exclude_none=True))
    say(f"queued: {order.scope} of {order.gallery_id}, request {order.request_id}", order.model_dump(exclude_none=True))


def prove(options: argparse.Namespace, say: Say) -> None:
    with ExitStack() as stack:
        proof, _ = open_proof(stack)
        requests = [one for one in proof.mongo.list_requests(options.gallery) if _is_meant(one, options)]
        if not requests:
            raise WorkerError(f"There is no request to forget this {options.scope} of {options.gallery}.")
        left = 0
        for tombstone in requests:
            for what in proof.list_left(tombstone):
                left += 1
                say(f"left: {what}", {"left": what})
            fields = {"request_id": tombstone.request_id, "at": tombstone.at.isoformat(), "left": left}
            fields |= {"erased": tombstone.erased_at is not None, "checked": tombstone.checked_at is not None}
            say(f"{_describe(tombstone)}; left: {left or 'nothing'}", {**fields, "removed": dict(tombstone.removed)})
            if tombstone.erased_at is None:
                raise WorkerError("It is not erased yet: look again in a minute, and at the grouping dead letters.")
    if left:
        raise WorkerError(f"{left} things are left; send the request again with another request_id.")


def _describe(tombstone: Tombstone) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in tombstone.removed.items())
    state = "looked at again" if tombstone.checked_at else "erased" if tombstone.erased_at else "not erased yet"
    return f"{tombstone.scope} of {tombstone.gallery_id}, asked {tombstone.at:%Y-%m-%d %H:%M:%S}, {state} ({counts})"


def _is_meant(tombstone: Tombstone, options: argparse.Namespace) -> bool:
    if tombstone.scope != options.scope:
        return False
    if tombstone.scope == "photo":
        return tombstone.photo is not None and tombstone.photo.image_id == options.which
    return tombstone.scope == "gallery" or options.which in (tombstone.person_id, *tombstone.people)


def forget_again(options: argparse.Namespace, say: Say) -> None:
    with ExitStack() as stack:
        proof, database = open_proof(stack)
        tombstones = MongoTombstones(database)
        copies = [one for one in proof.objects.list_versions(proof.keys.tombstone_folder) if one.is_current]
        for copy in copies:
            data = proof.objects.read_version(copy)
            if data and proof.keys.is_tombstone(copy.key):
                tombstones.read_copy(data)
        pending = [one for one in tombstones.list_all(None) if one.erased_at is None]
        for tombstone in pending:
            _send(make_order(tombstone).model_dump_json(exclude_none=True))
            say(f"queued: {_describe(tombstone)}", {"request_id": tombstone.request_id, "scope": tombstone.scope})
    if not options.json:
        say(f"{len(copies)} requests looked at, {len(pending)} queued.", {})


def send_expire(_options: argparse.Namespace, say: Say) -> None:
    _send(Expire().model_dump_json())
    say("queued: galleries whose retention is over are forgotten", {"type": "expire"})


def _send(body: str) -> None:
    url, region = read_setting("group_face_queue_url"), read_setting("aws_default_region")
    SqsQueue(url, region, SEND_VISIBILITY_S).send(body)


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", every: argparse.ArgumentParser
) -> None:
    scopes = commands.add_parser("forget", help="have a photo, a person or a gallery forgotten, or prove it")
    kinds = scopes.add_subparsers(required=True)
    whom = argparse.ArgumentParser(add_help=False, parents=[every])
    whom.add_argument("gallery")
    whom.add_argument("--prove", action="store_true", help="send nothing: read every store, and list what is left")
    whom.add_argument("--request-id", metavar="ID", help="the request's own id; the same one again changes nothing")
    for scope, which in (("photo", "image"), ("person", "person")):
        one = kinds.add_parser(scope, parents=[whom], help=f"one {scope} of a gallery")
        one.add_argument("which", metavar=which)
        one.add_argument("--confirm", action="store_true", help="it can't be brought back")
        one.set_defaults(run=forget, scope=scope)
    gallery = kinds.add_parser("gallery", parents=[whom], help="all that is known of a gallery")
    gallery.add_argument("--confirm", metavar="GALLERY", help="its id once more: it can't be brought back")
    gallery.set_defaults(run=forget, scope="gallery")
    again = kinds.add_parser("again", parents=[every], help="follow the requests that a restored database has lost")
    again.set_defaults(run=forget_again)
    expire = commands.add_parser("expire", parents=[every], help="forget the galleries whose retention is over")
    expire.set_defaults(run=send_expire)
