"""The keys of all objects that this system writes: they lie below one prefix of the results bucket."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from app.core.records import PersonRecord, PhotoRef
from app.core.tombstones import name_folder

MAX_KEY_BYTES = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""
MAX_FILE_BYTES = 160
"""The longest last part of a picture's key."""
CONTENT_DIGITS = 12
_TOMBSTONE = re.compile(r"[0-9a-f]{32}/[0-9a-f]{32}-[0-9a-f]{32}\.json")
_FORMER_CROP = re.compile(r"[^/]+/faces/.+/[^/]+-[0-9a-f]{12}-[0-9]+\.webp")


@dataclass(frozen=True)
class ResultKeys:
    """The keys of a gallery's results.

    A picture's key has digits of its photo's content, so that it is never replaced by one of other content, and the
    photo's edition, so that whoever removes it as a former one can't remove a new one.
    """

    prefix: str = "face-worker/"

    def groups(self, gallery_id: str) -> str:
        return f"{self.prefix}{gallery_id}/groups.json"

    def folder(self, gallery_id: str) -> str:
        """The prefix of all results of a gallery."""
        return f"{self.prefix}{gallery_id}/"

    def shards(self, gallery_id: str) -> str:
        """The prefix of the files that `groups.json` names (app/grouping/shards.py)."""
        return f"{self.folder(gallery_id)}groups/"

    def shorten(self, gallery_id: str, key: str) -> str:
        """A key's path below the gallery's folder; with a slash before it, for a key that is not below it."""
        folder = self.folder(gallery_id)
        return key.removeprefix(folder) if key.startswith(folder) else f"/{key}"

    def page(self, gallery_id: str) -> str:
        return f"{self.prefix}{gallery_id}/people.html"

    def vectors(self, gallery_id: str) -> str:
        """The published vectors of the gallery (app/core/gallery_vectors.py). Private: it is biometric data."""
        return f"{self.prefix}{gallery_id}/people.vectors"

    def finds(self, gallery_id: str) -> str:
        """The prefix of all answers to requests to find a guest."""
        return f"{self.prefix}{gallery_id}/finds/"

    def find(self, gallery_id: str, request_id: str) -> str:
        return f"{self.finds(gallery_id)}{request_id}.json"

    def crops(self, photo: PhotoRef, edition: int, content: str, model_id: str) -> str:
        """The object that holds the crops of a photo's faces, one JPEG file after the other; former
        versions wrote WebP files."""
        return f"{self._start('faces', photo)}{edition}-{content[:CONTENT_DIGITS]}-{model_id}.crops"

    def preview(self, photo: PhotoRef, edition: int, content: str) -> str:
        """The photo's preview, which the people page shows."""
        return f"{self._start('previews', photo)}{edition}-{content[:CONTENT_DIGITS]}.jpg"

    def pictures_of(self, photo: PhotoRef) -> tuple[str, str]:
        """The prefixes with which all keys of a photo's crops and previews begin."""
        return self._start("faces", photo), self._start("previews", photo)

    def choose_former(self, keys: Iterable[str], photo: PhotoRef, edition: int) -> list[str]:
        """Of a photo's pictures, those of this edition and of former ones."""
        starts = self.pictures_of(photo)
        rests = ((key, key.removeprefix(start)) for key in keys for start in starts if key.startswith(start))
        return [key for key, rest in rests if (number := rest.partition("-")[0]).isdigit() and int(number) <= edition]

    def picture_folders(self, gallery_id: str) -> tuple[str, str]:
        """The prefixes of all crops and previews of a gallery."""
        return f"{self.prefix}{gallery_id}/faces/", f"{self.prefix}{gallery_id}/previews/"

    def covers(self, gallery_id: str) -> str:
        """The prefix of the covers of a gallery's people."""
        return f"{self.prefix}{gallery_id}/covers/"

    def cover(self, gallery_id: str, person: PersonRecord, digest: str) -> str:
        """A person's cover. `digest` is that of its face, so that another cover has another key."""
        return f"{self.covers(gallery_id)}{person.person_id}-{digest}.jpg"

    def tombstones(self, gallery_id: str) -> str:
        """The prefix of the copies of a gallery's tombstones; it does not name the gallery."""
        return f"{self.tombstone_folder}{name_folder(gallery_id)}/"

    @property
    def tombstone_folder(self) -> str:
        """The prefix of all tombstones' copies."""
        return f"{self.prefix}tombstones/"

    def is_tombstone(self, key: str) -> bool:
        """A gallery may be called `tombstones`, and its results lie beside the copies."""
        return bool(_TOMBSTONE.fullmatch(key.removeprefix(self.tombstone_folder)))

    def is_result(self, key: str) -> bool:
        """Whether a key of the results bucket is one that this system writes or its former versions wrote."""
        return key.startswith(self.prefix) or bool(_FORMER_CROP.fullmatch(key))

    def make_url(self, gallery_id: str, key: str) -> str:
        """The path from a gallery's page to another object of the bucket."""
        folder = f"{self.prefix}{gallery_id}/"
        return quote(key.removeprefix(folder) if key.startswith(folder) else "../" * folder.count("/") + key)

    def _start(self, folder: str, photo: PhotoRef) -> str:
        name = _name_folder(photo)
        if len(f"{self.prefix}{photo.gallery_id}/{folder}/{name}/".encode()) + MAX_FILE_BYTES > MAX_KEY_BYTES:
            name = hashlib.sha256(name.encode()).hexdigest()[:16]
        return f"{self.prefix}{photo.gallery_id}/{folder}/{name}/{photo.slot}-"


def _name_folder(photo: PhotoRef) -> str:
    """The photo's name as its gallery knows it; it stays while the photo's id changes."""
    return photo.key.removeprefix(f"{photo.gallery_id}/") if photo.name is not None else photo.plain_id
