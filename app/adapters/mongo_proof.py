"""What MongoDB still has of something that is forgotten: every collection is read, also those of other parts."""

from collections.abc import Iterator, Mapping
from typing import Any

import bson
import numpy as np
from pymongo.database import Database

from app.adapters.mongo import Document, translate_mongo_errors
from app.adapters.mongo_forgotten import read_all_forgotten
from app.adapters.mongo_photos import PhotoWriter
from app.adapters.mongo_records import read_image_record
from app.adapters.mongo_tombstones import KEPT, OUTBOX, RECEIPT, MongoTombstones, make_gallery_filter
from app.core.records import ImageRecord, PhotoRef
from app.core.tombstones import Tombstone


class MongoProof:
    """Reads both databases. Raises RetryLater while one does not answer."""

    def __init__(self, database: Database[Document], owner: Database[Document]) -> None:
        self._database = database
        self._owner = owner["images"]
        self._tombstones = MongoTombstones(database)

    def list_left(self, tombstone: Tombstone) -> Iterator[str]:
        """A few words for each document that is left."""
        find = {"photo": self._find_photo, "person": self._find_person, "gallery": self._find_gallery}
        with translate_mongo_errors("Looking for what is left"):
            yield from find[tombstone.scope](tombstone)

    def read_images(self, gallery_id: str) -> list[ImageRecord]:
        with translate_mongo_errors("Reading photos' records"):
            return [read_image_record(one) for one in self._database["images"].find({"gallery_id": gallery_id})]

    def list_named(self, gallery_id: str) -> set[str]:
        """Keys of crops and previews that a gallery's photos name."""
        return set(self._tombstones.list_old_pictures(gallery_id))

    def list_places(self, tombstone: Tombstone) -> list[PhotoRef]:
        """The photos with a face of a forgotten person."""
        return self._tombstones.list_places(tombstone)

    def list_requests(self, gallery_id: str | None = None) -> list[Tombstone]:
        """All requests to forget, by the time of each."""
        return self._tombstones.list_all(gallery_id)

    def _find_gallery(self, tombstone: Tombstone) -> Iterator[str]:
        gallery_id = tombstone.gallery_id
        newer = [one for one in self.read_images(gallery_id) if not tombstone.covers.covers(one.last_modified)]
        kept_ids = {one.photo.image_id for one in newer}
        kept_names = {name for one in newer for name in (one.photo.document_id, one.photo.claim)}
        for name, document in self._read_all(gallery_id):
            is_newer = {
                "images": document.get("image_id") in kept_ids,
                "faces": document.get("image_id") in kept_ids,
                "photo_names": document["_id"] in kept_names,
            }.get(name, bool(newer))
            is_receipt = name == OUTBOX and document.get("type") == RECEIPT
            if not is_newer and not is_receipt:
                yield f"MongoDB, {name}: {document['_id']}"
        for document in self._owner.find({"gallery_id": gallery_id, "face_index": {"$exists": True}}):
            if document.get("image_id") not in {*kept_ids, *(one.photo.plain_id for one in newer)}:
                yield f"the owner's images: face_index of {document.get('image_id')}"

    def _find_person(self, tombstone: Tombstone) -> Iterator[str]:
        gallery_id, ids = tombstone.gallery_id, [one.encode() for one in tombstone.people]
        for name, document in self._read_all(gallery_id):
            # An event has ids alone, and goes as soon as it is sent.
            if name != OUTBOX and any(one in bson.encode(document) for one in ids):
                yield f"MongoDB, {name}: {document['_id']} names the person"
        for photo in self._tombstones.list_places(tombstone):
            yield from self._find_at_places(photo)

    def _find_at_places(self, photo: PhotoRef) -> Iterator[str]:
        image, _ = PhotoWriter(self._database).find([photo])[0]
        faces = self._tombstones.read_photo_faces(image.photo) if image else []
        if image is None or not faces:
            return
        places = read_all_forgotten(self._database["tombstones"], [photo])[photo]
        boxes = np.stack([face.box for face in faces])
        found = places.find_faces(boxes, (image.width_px, image.height_px), image.content, image.etag)
        yield from (
            f"MongoDB, faces: {face.face_id} is at the place of a forgotten face"
            for face, is_there in zip(faces, found, strict=True)
            if is_there
        )

    def _find_photo(self, tombstone: Tombstone) -> Iterator[str]:
        photo = tombstone.photo
        if photo is None:
            return
        image, _ = PhotoWriter(self._database).find([photo])[0]
        if image and tombstone.covers.covers(image.last_modified):
            yield f"MongoDB, images: {image.photo.document_id}"
        if self._database["images"].find_one({"_id": photo.document_id}) is None:
            mine = {"gallery_id": photo.gallery_id, "image_id": photo.image_id}
            yield from (f"MongoDB, faces: {face['_id']}" for face in self._database["faces"].find(mine, ["_id"]))
            if self._owner.find_one({**mine, "face_index": {"$exists": True}}):
                yield f"the owner's images: face_index of {photo.image_id}"

    def _read_all(self, gallery_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """All documents of a gallery, with the name of their collection."""
        for name in sorted(set(self._database.list_collection_names()) - set(KEPT)):
            for document in self._database[name].find(make_gallery_filter(gallery_id)):
                yield name, document
