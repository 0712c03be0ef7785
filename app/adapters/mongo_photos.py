"""Writing photos and their faces: all photos of one name together, each in one transaction.

`photo_names` has a document for each id that photos claim. Every transaction writes the documents of its names, so of
two that have a name in common only one is committed, and the other one runs again on what the first has left.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from pymongo import DeleteMany, DeleteOne, InsertOne, UpdateMany, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, run_in_transaction, translate_mongo_errors
from app.adapters.mongo_forgotten import read_all_forgotten
from app.adapters.mongo_records import decode_vectors, make_face_fields, make_image_fields, read_image_record
from app.core.naming import READ, find_orphaned_raws, make_long_id, settle_names
from app.core.records import Changes, FaceRecord, ImageRecord, PhotoRef, PhotoResult, get_rank, make_face_id
from app.core.same_faces import PlacedFaces, find_same_faces

SAID_OF_FACES = ("person_id", "assigned_by", "rejected", "version", "was")
"""What runs and users have said of a face."""
Writes = list[InsertOne[Document] | UpdateOne | UpdateMany | DeleteOne | DeleteMany]


@dataclass
class _Group:
    """The photos that claim one id, as they are stored, and the editions of all that ever did, by slot.

    `document_ids` are those of the photos when they were read; `members` get fewer as a photo is replaced or removed.
    """

    gallery_id: str
    name: str
    members: list[ImageRecord] = field(default_factory=list)
    document_ids: set[str] = field(default_factory=set)
    editions: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.gallery_id}/{self.name}"

    def find(self, photo: PhotoRef) -> ImageRecord | None:
        return next((one for one in self.members if is_same_photo(one.photo, photo)), None)

    def get_edition(self, photo: PhotoRef) -> int:
        return self.editions.get(photo.slot, 0)


@dataclass
class _Plan:
    """What a transaction writes, and what it leaves to be done after it."""

    images: Writes = field(default_factory=list)
    moves: Writes = field(default_factory=list)
    faces: Writes = field(default_factory=list)
    people: Writes = field(default_factory=list)
    names: Writes = field(default_factory=list)
    written: list[ImageRecord] = field(default_factory=list)
    pictures: set[str] = field(default_factory=set)
    to_index: list[PhotoRef] = field(default_factory=list)
    overtaken: list[PhotoResult] = field(default_factory=list)


class PhotoWriter:
    """Writes `images`, `faces`, the covers of `people`, and `photo_names`."""

    def __init__(self, database: Database[Document]) -> None:
        self._images: Collection[Document] = database["images"]
        self._faces: Collection[Document] = database["faces"]
        self._people: Collection[Document] = database["people"]
        self._names: Collection[Document] = database["photo_names"]
        self._tombstones: Collection[Document] = database["tombstones"]
        self._client = database.client

    def find(self, photos: Sequence[PhotoRef]) -> list[tuple[ImageRecord | None, int]]:
        with translate_mongo_errors("Reading photos' records"):
            groups = self._read_groups(photos)
        return [(groups[photo.claim].find(photo), groups[photo.claim].get_edition(photo)) for photo in photos]

    def find_group(self, photo: PhotoRef) -> list[ImageRecord]:
        """The records of all photos that claim the photo's id."""
        with translate_mongo_errors("Reading the photos of a name"):
            return self._read_groups([photo])[photo.claim].members

    def save(self, results: Sequence[PhotoResult]) -> Changes:
        rounds = _split_into_rounds(results)

        def write(session: ClientSession) -> Changes:
            return _join([self._save_round(one, session) for one in rounds])

        if not rounds:
            return Changes()
        with translate_mongo_errors("Storing photos"):
            return run_in_transaction(self._client, write)

    def remove(self, photo: PhotoRef, edition: int) -> Changes | None:
        def write(session: ClientSession) -> Changes | None:
            group = self._read_groups([photo], session)[photo.claim]
            if group.get_edition(photo) != edition:
                return None
            plan = _Plan()
            if mine := group.find(photo):
                plan.images.append(DeleteOne({"_id": mine.photo.document_id}))
                self._remove_faces(mine, plan, session)
                group.members.remove(mine)
            # All of them, since a worker may have died before their owner was told.
            plan.written = self._settle(group, group.members, plan, session)
            _count_edition(group, photo, plan)
            self._execute(plan, session)
            return _make_changes(plan)

        with translate_mongo_errors("Removing a photo"):
            return run_in_transaction(self._client, write)

    def drop_faces(
        self,
        before: ImageRecord,
        edition: int,
        after: ImageRecord,
        gone: Sequence[str],
        moved: Mapping[str, tuple[str, tuple[int, int]]],
        session: ClientSession,
    ) -> bool:
        """Within a transaction: remove faces of a photo, and store its record and where its other faces' crops are.

        False, and nothing is written, where the photo was stored or removed since, or has another id.
        """
        photo = before.photo
        group = self._read_groups([photo], session)[photo.claim]
        mine = group.find(photo)
        if mine is None or group.get_edition(photo) != edition or mine.photo != photo:
            return False
        plan = _Plan()
        of_this = {"gallery_id": photo.gallery_id, "image_id": photo.image_id}
        plan.moves.append(DeleteMany({**of_this, "_id": {"$in": list(gone)}}))
        for face_id, (key, part) in moved.items():
            plan.moves.append(UpdateOne({"_id": face_id}, {"$set": {"crop_key": key, "crop_range": list(part)}}))
        plan.images.append(UpdateOne({"_id": photo.document_id}, {"$set": make_image_fields(after)}))
        _count_edition(group, photo, plan)
        self._execute(plan, session)
        return True

    def _save_round(self, results: Sequence[PhotoResult], session: ClientSession) -> Changes:
        """Store photos of which no two claim one id."""
        plan = _Plan()
        groups = self._read_groups([result.image.photo for result in results], session)
        if len(results) > 1 and any(map(_has_stranger, groups.values())):
            # One photo is in two of the groups: each must see what the one before it has written.
            return _join([self._save_round([result], session) for result in results])
        forgotten = read_all_forgotten(self._tombstones, [result.image.photo for result in results], session)
        for result in results:
            photo = result.image.photo
            group = groups[photo.claim]
            # A photo that was never stored has no edition that its erasure could have changed.
            is_forgotten = forgotten[photo].covers(result.image.last_modified)
            if is_forgotten or group.get_edition(photo) != result.edition:
                plan.overtaken.append(result)
                continue
            self._save_one(result, group, plan, session)
            _count_edition(group, photo, plan)
        self._execute(plan, session)
        return _make_changes(plan)

    def _save_one(self, result: PhotoResult, group: _Group, plan: _Plan, session: ClientSession) -> None:
        mine = group.find(result.image.photo)
        if mine:
            group.members.remove(mine)
        image = self._settle(group, [*group.members, result.image], plan, session)[-1]
        same_content = mine is not None and image.content is not None and mine.content == image.content
        if mine:
            if mine.photo.image_id != image.photo.image_id:
                plan.images.append(DeleteOne({"_id": mine.photo.document_id}))
                self._move_faces(mine.photo, image.photo, plan, session)
            self._note_old_pictures(mine, result, plan, session, same_content=same_content)
        faces = [_readdress(face, image.photo) for face in result.faces]
        # A raw file that turns out to belong to a JPEG keeps none of the faces that were found in it.
        if image.status is not result.image.status:
            plan.pictures |= result.pictures
            faces = []
        said = {} if mine is None or same_content else self._find_said(mine, result, image, faces, plan, session)
        # Of a photo that was never written there is no former face to remove.
        is_new = mine is None and not result.edition
        plan.faces += _make_face_writes(image, faces, said, same_content=same_content, is_new=is_new)
        plan.images.append(UpdateOne({"_id": image.photo.document_id}, {"$set": _stamp(image)}, upsert=True))
        plan.written.append(image)

    def _find_said(
        self,
        mine: ImageRecord,
        result: PhotoResult,
        image: ImageRecord,
        faces: Sequence[FaceRecord],
        plan: _Plan,
        session: ClientSession,
    ) -> dict[str, Document]:
        """Face id → what is said of the face of the former content that is the same one. `mine` is the former record.

        It is taken over as it is stored, with the version: a run may be writing it. A cover that a user chose stays
        this face.
        """
        same_from = result.same_from
        of_this = {"gallery_id": mine.photo.gallery_id, "image_id": mine.photo.image_id, "model": image.model_id}
        fields = ["box", "embedding", *SAID_OF_FACES]
        former = list(self._faces.find(of_this, fields, session=session)) if faces and same_from is not None else []
        if not former or same_from is None:
            return {}
        before = PlacedFaces(
            (mine.width_px, mine.height_px),
            [np.array(face["box"], np.float32) for face in former],
            list(decode_vectors([face["embedding"] for face in former])),
        )
        now = PlacedFaces(
            (image.width_px, image.height_px), [face.box for face in faces], [face.embedding for face in faces]
        )
        said = {}
        for old, row in find_same_faces(before, now, same_from):
            face_id, face = faces[row].face_id, former[old]
            said[face_id] = {name: face[name] for name in SAID_OF_FACES if name in face}
            if face_id != face["_id"] and "person_id" in face:
                shown = {"_id": f"{image.photo.gallery_id}/{face['person_id']}", "chosen_cover": face["_id"]}
                plan.people.append(UpdateOne(shown, {"$set": {"chosen_cover": face_id}}))
        return said

    def _settle(
        self, group: _Group, members: Sequence[ImageRecord], plan: _Plan, session: ClientSession
    ) -> list[ImageRecord]:
        """The photos of a name with the ids that they have now; the group's are written where that changes them."""
        taken: set[str] = set()
        if len(members) > 1 or any(one.status not in READ for one in members):
            taken = self._find_taken(group, members, session)
        settled = settle_names(members, group.name, taken)
        for old, now in zip(group.members, settled, strict=False):
            if now != old:
                self._rewrite(old, now, plan, session)
        plan.to_index += find_orphaned_raws(settled)
        return settled

    def _find_taken(self, group: _Group, members: Iterable[ImageRecord], session: ClientSession) -> set[str]:
        """Of the ids that the members may get, those that other records of the gallery have."""
        wanted = [f"{group.gallery_id}/{make_long_id(one.photo)}" for one in members]
        found = self._images.find({"_id": {"$in": wanted}}, ["image_id"], session=session)
        return {one["image_id"] for one in found if one["_id"] not in group.document_ids}

    def _rewrite(self, old: ImageRecord, now: ImageRecord, plan: _Plan, session: ClientSession) -> None:
        """Give another photo's record the id and status that it has now."""
        if now.photo.image_id != old.photo.image_id:
            plan.images.append(DeleteOne({"_id": old.photo.document_id}))
        if now.status is not old.status:
            self._remove_faces(old, plan, session)
        elif now.photo.image_id != old.photo.image_id:
            self._move_faces(old.photo, now.photo, plan, session)
        stored = self._images.find_one({"_id": old.photo.document_id}, session=session) or {}
        fields = {name: value for name, value in {**stored, **make_image_fields(now)}.items() if name != "_id"}
        plan.images.append(UpdateOne({"_id": now.photo.document_id}, {"$set": fields}, upsert=True))
        plan.written.append(now)
        # A photo of another name is moved too, where it has the id of this one: no transaction of that name must run
        # beside this one.
        plan.names.append(UpdateOne({"_id": now.photo.claim}, {"$inc": {"writes": 1}}, upsert=True))

    def _move_faces(self, old: PhotoRef, now: PhotoRef, plan: _Plan, session: ClientSession) -> None:
        """What is known of the faces, and what users said of them, moves with the photo."""
        of_this = {"gallery_id": old.gallery_id, "image_id": old.image_id}
        for face in self._faces.find(of_this, session=session):
            former = face["_id"]
            moved = f"{now.document_id}{former.removeprefix(old.document_id)}"
            plan.moves.insert(0, DeleteOne({"_id": former}))
            plan.moves.append(InsertOne({**face, "_id": moved, "image_id": now.image_id}))
            for cover in ("cover_face_id", "chosen_cover"):
                shown = {"gallery_id": old.gallery_id, cover: former}
                plan.people.append(UpdateMany(shown, {"$set": {cover: moved}}))

    def _remove_faces(self, image: ImageRecord, plan: _Plan, session: ClientSession) -> None:
        of_this = {"gallery_id": image.photo.gallery_id, "image_id": image.photo.image_id}
        found = self._faces.find(of_this, ["crop_key"], session=session)
        plan.pictures |= {key for face in found if (key := face["crop_key"])}
        if image.preview_key:
            plan.pictures.add(image.preview_key)
        plan.moves.insert(0, DeleteMany(of_this))

    def _note_old_pictures(
        self, mine: ImageRecord, result: PhotoResult, plan: _Plan, session: ClientSession, *, same_content: bool
    ) -> None:
        """Note the crops and the preview that the photo's new faces don't have any more."""
        of_this = {"gallery_id": mine.photo.gallery_id, "image_id": mine.photo.image_id}
        found = list(self._faces.find(of_this, ["crop_key", "model"], session=session))
        kept = result.pictures
        if same_content:
            kept |= {face["crop_key"] for face in found if face["model"] != result.image.model_id}
        plan.pictures |= {key for face in found if (key := face["crop_key"])} - kept
        if mine.preview_key and mine.preview_key not in kept:
            plan.pictures.add(mine.preview_key)

    def _read_groups(self, photos: Sequence[PhotoRef], session: ClientSession | None = None) -> dict[str, _Group]:
        groups = {photo.claim: _Group(photo.gallery_id, photo.plain_id) for photo in photos}
        names: dict[str, list[str]] = {}
        for group in groups.values():
            names.setdefault(group.gallery_id, []).append(group.name)
        claims = [{"gallery_id": gallery, "name": {"$in": some}} for gallery, some in names.items()]
        for document in self._images.find({"$or": [*claims, {"_id": {"$in": list(groups)}}]}, session=session):
            image = read_image_record(document)
            # By the id that it has, or by the one that it claims.
            for key in dict.fromkeys([document["_id"], image.photo.claim]):
                if key in groups:
                    groups[key].members.append(image)
                    groups[key].document_ids.add(document["_id"])
        for document in self._names.find({"_id": {"$in": list(groups)}}, session=session):
            groups[document["_id"]].editions = document.get("editions", {})
        return groups

    def _execute(self, plan: _Plan, session: ClientSession) -> None:
        # Deletions come first, since a photo may get the id that another one has had.
        plan.images.sort(key=lambda write: not isinstance(write, DeleteOne))
        for collection, writes in (
            (self._names, plan.names),
            (self._images, plan.images),
            (self._faces, [*plan.moves, *plan.faces]),
            (self._people, plan.people),
        ):
            if writes:
                collection.bulk_write(writes, session=session)


def is_same_photo(one: PhotoRef, other: PhotoRef) -> bool:
    return (one.claim, one.slot) == (other.claim, other.slot)


def _has_stranger(group: _Group) -> bool:
    """Whether a photo has the group's id that claims another one."""
    return any(one.photo.claim != group.key for one in group.members)


def _count_edition(group: _Group, photo: PhotoRef, plan: _Plan) -> None:
    change = {"$inc": {f"editions.{photo.slot}": 1}, "$setOnInsert": {"gallery_id": group.gallery_id}}
    plan.names.append(UpdateOne({"_id": group.key}, change, upsert=True))


def _split_into_rounds(results: Sequence[PhotoResult]) -> list[list[PhotoResult]]:
    """The results in as few lists as possible in which no name occurs twice, each list ordered by name.

    Since all transactions write names in this order, two that share names conflict at the first of them, and one of
    the two always succeeds.
    """
    rounds: list[list[PhotoResult]] = []
    times: Counter[str] = Counter()
    for result in sorted(results, key=lambda one: one.image.photo.claim):
        key = result.image.photo.claim
        if times[key] == len(rounds):
            rounds.append([])
        rounds[times[key]].append(result)
        times[key] += 1
    return rounds


def _readdress(face: FaceRecord, photo: PhotoRef) -> FaceRecord:
    # Its rank stays: where a better face is forgotten, no other one gets its id.
    face_id = make_face_id(photo, face.model_id, get_rank(face.face_id))
    return replace(face, face_id=face_id, image_id=photo.image_id)


def _make_face_writes(
    image: ImageRecord,
    faces: Sequence[FaceRecord],
    said: Mapping[str, Document],
    *,
    same_content: bool,
    is_new: bool,
) -> Iterator[UpdateOne | UpdateMany | DeleteMany]:
    """Exactly these faces under the model of the record, and no face of other content. `said` has for some of them what
    was said of the same face in the former content."""
    of_this: Document = {"gallery_id": image.photo.gallery_id, "image_id": image.photo.image_id}
    superfluous = {"model": image.model_id, "_id": {"$nin": [face.face_id for face in faces]}}
    if same_content:
        # The same bytes may have another ETag, as after an upload in other parts.
        yield UpdateMany({**of_this, "etag": {"$ne": image.etag}}, {"$set": {"etag": image.etag}})
        yield DeleteMany({**of_this, **superfluous})
    elif not is_new:
        yield DeleteMany({**of_this, "$or": [{"etag": {"$ne": image.etag}}, superfluous]})
    for face in faces:
        fields = make_face_fields(face, image.etag) | said.get(face.face_id, {})
        yield UpdateOne({"_id": face.face_id}, {"$set": fields}, upsert=True)


def _make_changes(plan: _Plan) -> Changes:
    return Changes(plan.written, sorted(plan.pictures), plan.to_index, plan.overtaken)


def _join(parts: Iterable[Changes]) -> Changes:
    parts = list(parts)
    return Changes(
        [image for part in parts for image in part.images],
        [key for part in parts for key in part.pictures],
        [photo for part in parts for photo in part.to_index],
        [result for part in parts for result in part.overtaken],
    )


def _stamp(image: ImageRecord) -> Document:
    return {**make_image_fields(image), "processed_at": datetime.now(UTC)}
