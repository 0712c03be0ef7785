"""Whether a photo, or a gallery, is forgotten: what detection and the disks of workers need to know of `tombstones`."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from app.adapters.mongo import Document, translate_mongo_errors
from app.adapters.mongo_records import read_face_record
from app.core.records import FaceRecord, PhotoRef
from app.core.tombstones import Forgotten, Place, make_gallery_key, make_photo_key, make_place_key


class MongoForgottenPhotos:
    """What detection asks of `tombstones`."""

    def __init__(self, database: Database[Document]) -> None:
        self._tombstones: Collection[Document] = database["tombstones"]
        self._galleries: Collection[Document] = database["galleries"]
        self._faces: Collection[Document] = database["faces"]

    def find_all(self, photos: Sequence[PhotoRef]) -> list[Forgotten]:
        with translate_mongo_errors("Looking whether photos are forgotten"):
            found = read_all_forgotten(self._tombstones, photos)
        return [found[photo] for photo in photos]

    def find_gallery(self, gallery_id: str) -> datetime | None:
        with translate_mongo_errors("Looking whether a gallery is forgotten"):
            found = self._tombstones.find_one({"_id": make_gallery_key(gallery_id)}, ["at"])
        return found["at"] if found else None

    def is_forgotten(self, gallery_id: str) -> bool:
        """Whether a gallery is forgotten, and has got no new photos since."""
        if self.find_gallery(gallery_id) is None:
            return False
        with translate_mongo_errors("Looking for a forgotten gallery"):
            return self._galleries.find_one({"_id": gallery_id}, ["_id"]) is None

    def read_photo_faces(self, photo: PhotoRef) -> list[FaceRecord]:
        mine = {"gallery_id": photo.gallery_id, "image_id": photo.image_id}
        with translate_mongo_errors("Reading a photo's faces"):
            return [read_face_record(one) for one in self._faces.find(mine).sort("_id")]

    def note_erasure(self, gallery_id: str) -> None:
        with translate_mongo_errors("Noting that a photo was erased"):
            self._galleries.update_one({"_id": gallery_id}, [{"$set": {"erased_at": "$$NOW"}}])


def read_all_forgotten(
    tombstones: Collection[Document], photos: Sequence[PhotoRef], session: ClientSession | None = None
) -> dict[PhotoRef, Forgotten]:
    """What is forgotten of photos. Raises pymongo's errors."""
    keys = {
        photo: (make_gallery_key(photo.gallery_id), make_photo_key(photo), make_place_key(photo)) for photo in photos
    }
    wanted = {"_id": {"$in": list({key for some in keys.values() for key in some})}}
    found = {one["_id"]: one for one in tombstones.find(wanted, ["at", "places"], session=session)}
    forgotten = {}
    for photo, some in keys.items():
        mine = [found[key] for key in some if key in found]
        times = [one["at"] for one in mine if one.get("at")]
        places = [_read_place(place) for one in mine for place in one.get("places", ())]
        forgotten[photo] = Forgotten(max(times, default=None), tuple(places))
    return forgotten


def list_index_erasures(database: Database[Document], gallery_ids: Sequence[str]) -> Iterator[tuple[str, datetime]]:
    """Of these galleries, those of which something was erased, each with the time: what a worker has kept on its disk
    from before must go."""
    with translate_mongo_errors("Looking for galleries of which something was erased"):
        known = {
            one["_id"]: one.get("erased_at")
            for one in database["galleries"].find({"_id": {"$in": list(gallery_ids)}}, ["erased_at"])
        }
        keys = {make_gallery_key(one): one for one in gallery_ids}
        buried = {
            keys[one["_id"]]: one.get("erased_at") or one["at"]
            for one in database["tombstones"].find({"_id": {"$in": list(keys)}}, ["at", "erased_at"])
        }
    for gallery_id in gallery_ids:
        times = [at for at in (known.get(gallery_id), buried.get(gallery_id)) if at]
        if times:
            yield gallery_id, max(times)


def _read_place(document: Document) -> Place:
    x1, y1, x2, y2 = document["box"]
    return Place(document["content"], document["etag"], (x1, y1, x2, y2))
