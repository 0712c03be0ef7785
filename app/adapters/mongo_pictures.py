"""Which pictures a gallery's records and faces name."""

from dataclasses import dataclass
from itertools import chain

from pymongo.client_session import ClientSession
from pymongo.database import Database

from app.adapters.mongo import Document, run_in_transaction, translate_mongo_errors
from app.adapters.mongo_records import read_image_record
from app.core.errors import WorkerError


class UnreadableRecord(WorkerError):
    """A record that can't be read: what it names is not known."""


@dataclass(frozen=True)
class NamedPictures:
    """Keys of crops and previews that are named, and the edition of each photo that ever was stored, by slot."""

    keys: frozenset[str]
    editions: dict[str, int]


def list_galleries(database: Database[Document]) -> list[str]:
    """All galleries that have changed or have photos, in order."""
    with translate_mongo_errors("Listing galleries"):
        of_photos = database["images"].distinct("gallery_id")
        return sorted({*of_photos, *(one["_id"] for one in database["galleries"].find({}, ["_id"]))})


def read_named_pictures(gallery_id: str, database: Database[Document]) -> NamedPictures:
    """Read in one transaction: the faces of a photo that gets another id meanwhile would be missed otherwise.

    Raises UnreadableRecord, and RetryLater while the database does not answer.
    """
    of_this: Document = {"gallery_id": gallery_id}
    names = {"_id": {"$gte": f"{gallery_id}/", "$lt": f"{gallery_id}0"}}  # `0` is the character after `/`.

    def read(session: ClientSession) -> tuple[list[Document], set[str], list[Document]]:
        faces = database["faces"].find(of_this, ["crop_key"], session=session)
        return (
            list(database["images"].find(of_this, session=session)),
            {key for face in faces if (key := face["crop_key"])},
            list(database["photo_names"].find(names, ["editions"], session=session)),
        )

    with translate_mongo_errors("Reading what a gallery names"):
        images, crops, groups = run_in_transaction(database.client, read)
    previews = {key for image in images if (key := _read_preview(image))}
    editions: dict[str, int] = {}
    for slot, edition in chain.from_iterable(group.get("editions", {}).items() for group in groups):
        editions[slot] = min(edition, editions.get(slot, edition))
    return NamedPictures(frozenset({*crops, *previews}), editions)


def _read_preview(image: Document) -> str | None:
    try:
        return read_image_record(image).preview_key
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableRecord(
            f"The record {image['_id']} can't be read ({error!r:.100}), so nobody knows which pictures it names."
        ) from error
