"""A user who confirms and rejects faces while their photos are replaced, deleted and renamed."""

import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from uuid import uuid4

from botocore.exceptions import ClientError
from pymongo.errors import PyMongoError

from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.mongo_journal import MongoEditJournal
from app.core.errors import RejectMessage, RetryLater
from app.core.journal import make_edit
from app.core.messages import EditPeople, GroupGallery
from app.core.people_edits import decide_edit
from app.core.ports import GalleryLease
from app.core.records import FaceRef
from app.core.threads import BackgroundThread, repeat
from benchmarks.chaos.album import GALLERIES
from benchmarks.chaos.snapshot import read_groups
from benchmarks.chaos.world import World

EVERY_S = 0.7
LOOKS_FOR_S = 6.0
"""The longest time from the look at a page to the edit."""
LEASE_S = 20.0

Kind = Literal["confirm", "reject"]


@dataclass(frozen=True)
class Word:
    """What a user has said: this face is (confirm) or is not (reject) this person.

    `digest` is the face's, `place` and `content` are its photo's bucket, key and SHA-256. `is_sure` is False where the
    photo changed while the word was said, so that the word may be lost with it.
    """

    at: float
    kind: Kind
    gallery_id: str
    person_id: str
    digest: str
    place: tuple[str, str] | None
    content: str | None
    is_sure: bool


@dataclass(frozen=True)
class _Seen:
    digest: str
    place: tuple[str, str] | None
    content: str | None


@dataclass
class Diary:
    """`words` in their order; `refused` counts the edits that were refused, as for a face that was replaced."""

    words: list[Word] = field(default_factory=list)
    refused: int = 0


class User(BackgroundThread):
    """Edits galleries in a thread, as the page's owner would do: by what groups.json says."""

    def __init__(self, world: World, seed: int) -> None:
        self.diary = Diary()
        self._world = world
        self._chance = random.Random(seed)  # noqa: S311 - a fixed order, not a secret
        self._galleries = MongoGalleryStore(world.database)
        self._editor = MongoPeopleEditor(world.database)
        self._journal = MongoEditJournal(world.database)
        super().__init__("user", partial(repeat, every_s=EVERY_S, action=self._edit_something))

    def await_words(self, count: int, patience_s: float) -> None:
        """Wait until so many words were said, or until it has taken too long."""
        until = time.monotonic() + patience_s
        while len(self.diary.words) < count and self.is_alive and time.monotonic() < until:
            time.sleep(0.2)

    def _edit_something(self) -> None:
        gallery_id = f"gallery-{self._chance.randrange(GALLERIES)}"
        with suppress(ClientError, PyMongoError, RetryLater):
            if edit := self._look(gallery_id):
                time.sleep(self._chance.choice([0, self._chance.uniform(0, LOOKS_FOR_S)]))
                self._edit(gallery_id, *edit)

    def _look(self, gallery_id: str) -> tuple[Kind, str, list[FaceRef]] | None:
        """Choose an edit from the gallery's groups.json."""
        groups = read_groups(self._world, gallery_id)
        people = groups["people"]
        if not people:
            return None
        person = self._chance.choice(people)
        others = [*groups["unassigned"], *(face for one in people if one is not person for face in one["faces"])]
        kind: Kind = self._chance.choice(["confirm", "confirm", "reject"])
        is_other = kind == "confirm" and others and self._chance.random() < 0.3
        faces = others if is_other else person["faces"]
        chosen = self._chance.sample(faces, min(len(faces), self._chance.choice([1, 1, 2])))
        return kind, person["person_id"], [FaceRef(face["face_id"], face["digest"]) for face in chosen]

    def _edit(self, gallery_id: str, kind: Kind, person_id: str, faces: list[FaceRef]) -> None:
        lease = self._galleries.take_lease(gallery_id, f"user-{uuid4().hex}", LEASE_S)
        if lease is None:
            return
        try:
            self._say(lease, kind, person_id, faces)
        except RejectMessage:
            self.diary.refused += 1
            return
        finally:
            self._galleries.release(lease)
        order = GroupGallery(gallery_id=gallery_id).model_dump_json()
        self._world.sqs.send_message(QueueUrl=self._world.queues["grouping"], MessageBody=order)

    def _say(self, lease: GalleryLease, kind: Kind, person_id: str, faces: list[FaceRef]) -> None:
        """Make the edit, and note what was meant. Only photos change meanwhile: the lease keeps all others away."""
        cover_id = self._find_cover(lease.gallery_id, person_id) if kind == "confirm" else None
        named = [face.face_id for face in faces] + ([cover_id] if cover_id else [])
        before = self._read_faces(named)
        self._apply(lease, kind, person_id, faces)
        after = self._read_faces(named)
        for face in faces:
            seen = [one for one in (before.get(face.face_id), after.get(face.face_id)) if one]
            meant = [one for one in seen if one.digest == face.digest] or [_Seen(str(face.digest), None, None)]
            self._note(lease.gallery_id, kind, person_id, meant[0], is_sure=len(seen) == 2 and seen[0] == seen[1])
        # The cover is confirmed with the person where it still is the person's, whichever face has its id just then.
        for one in {seen for seen in (before.get(cover_id or ""), after.get(cover_id or "")) if seen}:
            self._note(lease.gallery_id, kind, person_id, one, is_sure=False)

    def _apply(self, lease: GalleryLease, kind: Kind, person_id: str, faces: list[FaceRef]) -> None:
        """What the grouping service does with an edit of a free gallery. Raises RejectMessage where it is refused."""
        named = [{"face_id": face.face_id, "digest": face.digest} for face in faces]
        said = [{"op": kind, "person_id": person_id, "faces": named}]
        fields = {"gallery_id": lease.gallery_id, "edit_id": uuid4().hex, "by": "a user", "edits": said}
        edit = self._journal.add(make_edit(EditPeople.model_validate(fields)))
        try:
            ended = self._editor.apply_edit(lease, edit, partial(decide_edit, edit))
        except RetryLater:
            # Whoever has the lease next applies it.
            for face in faces:
                seen = _Seen(str(face.digest), None, None)
                self._note(lease.gallery_id, kind, person_id, seen, is_sure=False)
            raise
        self._journal.settle(ended)
        if ended.reason is not None:
            raise RejectMessage(ended.reason)

    def _note(self, gallery_id: str, kind: Kind, person_id: str, seen: "_Seen", *, is_sure: bool) -> None:
        word = Word(time.time(), kind, gallery_id, person_id, seen.digest, seen.place, seen.content, is_sure)
        self.diary.words.append(word)

    def _find_cover(self, gallery_id: str, person_id: str) -> str | None:
        person = self._world.database["people"].find_one({"_id": f"{gallery_id}/{person_id}"})
        while person and person.get("merged_into"):
            person = self._world.database["people"].find_one({"_id": f"{gallery_id}/{person['merged_into']}"})
        return person["cover_face_id"] if person else None

    def _read_faces(self, face_ids: list[str]) -> dict[str, _Seen]:
        """Face id → what it is now, for those that are not being changed at this moment."""
        faces = self._find("faces", face_ids)
        image_ids = [f"{face['gallery_id']}/{face['image_id']}" for face in faces.values()]
        images, again = self._find("images", image_ids), self._find("faces", face_ids)
        return {
            face_id: _Seen(face["digest"], (image["s3"]["bucket"], image["s3"]["key"]), image.get("content"))
            for face_id, face in faces.items()
            if (image := images.get(f"{face['gallery_id']}/{face['image_id']}"))
            and again.get(face_id, {}).get("etag") == face["etag"] == image["etag"]
            and again[face_id]["digest"] == face["digest"]
        }

    def _find(self, collection: str, ids: list[str]) -> dict[str, dict[str, Any]]:
        found = self._world.database[collection].find({"_id": {"$in": ids}}, {"embedding": 0})
        return {document["_id"]: document for document in found}
