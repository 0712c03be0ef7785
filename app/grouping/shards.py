"""Version 2 of `groups.json`: an index, and the files that it names, of which a run writes those that have changed.

A file's path has the fence of the run that wrote it and a digest of its content. So no file is ever replaced, whoever
reads the index finds the files of that index, and a run that wakes late can't put an old file, nor remove a new one.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from app.clustering.suggestions import Suggestion as SuggestedPair
from app.core.ports import ObjectStore
from app.core.records import FaceBatch, ImageRecord
from app.core.result_keys import ResultKeys
from app.grouping.output import (
    Counts,
    GroupedFace,
    GroupedPerson,
    Groups,
    GroupsIndex,
    IndexedPerson,
    PersonFile,
    PhotoFace,
    PhotoFaces,
    ShardOfMany,
    SkippedFile,
    SkippedPhoto,
    Suggestion,
    SuggestionsFile,
    UnassignedFile,
    dump,
)

MOST_OF_A_SHARD = 500
"""Faces or skipped photos that a file has on average, at most."""
QUALITY_DECIMALS = 1
TRANSFERS = 16
"""Most of the time of a put is spent waiting for S3."""
_PATH = re.compile(r"groups/(?P<name>.+)-(?P<fence>\d+)-(?P<digest>[0-9a-f]{12})\.json")

_Item = TypeVar("_Item", GroupedFace, SkippedPhoto)


@dataclass(frozen=True)
class Shards:
    """The index, with names in place of paths, and name → maker of the file's content and digest of that content."""

    index: GroupsIndex
    files: Mapping[str, Callable[[], bytes]]
    digests: Mapping[str, str]

    @property
    def digest(self) -> str:
        """A digest that is equal for equal output, whenever it was made."""
        text = self.index.model_dump_json(exclude={"generated_at"})
        return hashlib.sha256(f"{text}\n{sorted(self.digests.items())}".encode()).hexdigest()


def make_shards(
    groups: Groups,
    suggestions: Sequence[SuggestedPair],
    faces: FaceBatch,
    images: Sequence[ImageRecord],
    keys: ResultKeys,
    base_url: str | None,
) -> Shards:
    """The gallery's people, unassigned faces, skipped photos and suggestions as an index and its files.

    The contents of all files together may take more memory than the gallery, so each is made when it is needed.
    """
    gallery_id = groups.gallery_id
    folder = keys.folder(gallery_id)
    header: dict[str, Any] = {"gallery_id": gallery_id, "model": groups.model, "folder": folder}
    pictures = _Pictures(faces, images, keys)

    def make_person(person: GroupedPerson) -> bytes:
        photos = pictures.list_photos(person.faces)
        about = {"person_id": person.person_id, "number": person.number, "name": person.name}
        return dump(PersonFile(**header, **about, photos=photos))

    def make_unassigned(some: list[GroupedFace]) -> bytes:
        return dump(UnassignedFile(**header, photos=pictures.list_photos(some)))

    def make_skipped(some: list[SkippedPhoto]) -> bytes:
        return dump(SkippedFile(**header, skipped=some))

    covers = {one.person_id: keys.shorten(gallery_id, one.cover_key) for one in groups.people if one.cover_key}

    def make_suggestions() -> bytes:
        pairs = [
            Suggestion(
                person_id=pair.person_id,
                other=pair.other,
                similarity=pair.similarity,
                cover=covers.get(pair.person_id),
                other_cover=covers.get(pair.other),
            )
            for pair in suggestions
        ]
        return dump(SuggestionsFile(**header, suggestions=pairs))

    files: dict[str, Callable[[], bytes]] = {
        f"people/{person.person_id}": partial(make_person, person) for person in groups.people
    }
    unassigned, skipped = _split("unassigned", groups.unassigned), _split("skipped", groups.skipped)
    files |= {name: partial(make_unassigned, some) for name, some in unassigned.items()}
    files |= {name: partial(make_skipped, some) for name, some in skipped.items()}
    if suggestions:
        files["suggestions/1"] = make_suggestions
    grouped = [face for person in groups.people for face in person.faces]
    index = GroupsIndex(
        gallery_id=gallery_id,
        model=groups.model,
        generated_at=groups.generated_at,
        folder=folder,
        folder_url=f"{base_url}{quote(folder)}" if base_url else None,
        counts=Counts(
            photos=len({face.image_id for some in (grouped, groups.unassigned) for face in some}),
            faces=len(grouped) + len(groups.unassigned),
            people=len(groups.people),
            unassigned=len(groups.unassigned),
            skipped=len(groups.skipped),
        ),
        people=[
            IndexedPerson(
                **person.model_dump(exclude={"cover_key", "faces"}),
                cover=covers.get(person.person_id),
                shard=f"people/{person.person_id}",
            )
            for person in groups.people
        ],
        merged=groups.merged,
        unassigned=[ShardOfMany(shard=name, count=len(some)) for name, some in unassigned.items()],
        skipped=[ShardOfMany(shard=name, count=len(photos)) for name, photos in skipped.items()],
        suggestions=[ShardOfMany(shard="suggestions/1", count=len(suggestions))] if suggestions else [],
    )
    digests = {name: hashlib.blake2b(make(), digest_size=6).hexdigest() for name, make in files.items()}
    return Shards(index, files, digests)


def write_shards(shards: Shards, keys: ResultKeys, objects: ObjectStore, fence: int) -> tuple[GroupsIndex, list[str]]:
    """Write the files that the stored index doesn't name yet.

    Returns the index with paths, and the keys of the files that it doesn't name: to be removed once it is stored.
    """
    gallery_id = shards.index.gallery_id
    there = _list_stored(gallery_id, keys, objects)
    # Nobody else removes a file that the stored index names, unless with a newer index; then this run's is refused.
    stored = _list_named(objects.fetch(keys.groups(gallery_id))) & there
    known = {(found["name"], found["digest"]): path for path in stored if (found := _PATH.fullmatch(path))}
    paths = {}
    new = []
    for name, digest in shards.digests.items():
        path = known.get((name, digest))
        if path is None:
            path = f"groups/{name}-{fence}-{digest}.json"
            new.append((name, path))
        paths[name] = path

    def put(file: tuple[str, str]) -> None:
        name, path = file
        objects.put(keys.folder(gallery_id) + path, shards.files[name](), "application/json")

    with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="shards") as pool:
        list(pool.map(put, new))
    index = _name_paths(shards.index, paths)
    return index, _list_left_over(there - _list_paths(index), gallery_id, keys, fence)


def list_shards(gallery_id: str, keys: ResultKeys, objects: ObjectStore, fence: int) -> list[str]:
    """The keys of all files of version 2 that this run or a former one wrote."""
    return _list_left_over(_list_stored(gallery_id, keys, objects), gallery_id, keys, fence)


class _Pictures:
    """What a gallery's photos and faces have beyond their groups."""

    def __init__(self, faces: FaceBatch, images: Iterable[ImageRecord], keys: ResultKeys) -> None:
        self._faces, self._keys = faces, keys
        self._rows = {face_id: row for row, face_id in enumerate(faces.face_ids)}
        self._images = {image.photo.image_id: image for image in images}

    def list_photos(self, faces: Iterable[GroupedFace]) -> dict[str, PhotoFaces]:
        """Image id → the photo with these of its faces."""
        on_photo: dict[str, list[GroupedFace]] = {}
        for face in faces:
            on_photo.setdefault(face.image_id, []).append(face)
        return {image_id: self._make_photo(image_id, some) for image_id, some in on_photo.items()}

    def _make_photo(self, image_id: str, faces: Sequence[GroupedFace]) -> PhotoFaces:
        # A photo that was removed while the run went on has faces and no record: another run follows.
        image = self._images.get(image_id)
        # Former versions wrote an object for each crop, without ranges; `admin repair` has such crops made anew.
        rows = [self._rows[face.face_id] for face in faces]
        ranges = [self._faces.crop_ranges[row] for row in rows]
        shared = next((self._faces.crop_keys[row] for row, part in zip(rows, ranges, strict=True) if part), None)
        return PhotoFaces(
            key=image.photo.key if image else None,
            size=(image.width_px, image.height_px) if image else None,
            preview=self._shorten(image, image.preview_key) if image else None,
            crops=self._shorten(image, shared) if image else None,
            faces=[_make_face(face, part) for face, part in zip(faces, ranges, strict=True)],
        )

    def _shorten(self, image: ImageRecord, key: str | None) -> str | None:
        return self._keys.shorten(image.photo.gallery_id, key) if key else None


def _make_face(face: GroupedFace, crop: tuple[int, int] | None) -> PhotoFace:
    x1, y1, x2, y2 = (round(value) for value in face.box)
    unified = face.quality.get("unified")
    return PhotoFace(
        face_id=face.face_id,
        digest=face.digest,
        box=(x1, y1, x2, y2),
        crop=crop,
        quality=None if unified is None else round(unified, QUALITY_DECIMALS),
        why_alone=face.why_alone,
    )


def _split(name: str, items: Sequence[_Item]) -> dict[str, list[_Item]]:
    """Name of a file → its part of the items. The number of parts is a power of two, so it seldom changes, and while it
    doesn't, a photo that comes or goes changes one part."""
    bits = max(math.ceil(math.log2(len(items) / MOST_OF_A_SHARD)), 0) if items else 0
    parts: dict[str, list[_Item]] = {}
    for item in items:
        digest = hashlib.blake2b(item.image_id.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        number = int.from_bytes(digest, "big") >> (32 - bits) if bits else 0
        parts.setdefault(f"{name}/{1 << bits}-{number}", []).append(item)
    return dict(sorted(parts.items()))


def _name_paths(index: GroupsIndex, paths: Mapping[str, str]) -> GroupsIndex:
    def name(parts: Sequence[IndexedPerson] | Sequence[ShardOfMany]) -> list[IndexedPerson | ShardOfMany]:
        return [part.model_copy(update={"shard": paths[part.shard]}) for part in parts]

    lists = {"unassigned": index.unassigned, "skipped": index.skipped, "suggestions": index.suggestions}
    return index.model_copy(update={"people": name(index.people), **{one: name(parts) for one, parts in lists.items()}})


def _list_stored(gallery_id: str, keys: ResultKeys, objects: ObjectStore) -> set[str]:
    """The paths of all files that are there."""
    return {keys.shorten(gallery_id, key) for key, _ in objects.list_keys(keys.shards(gallery_id))}


def _list_left_over(paths: Iterable[str], gallery_id: str, keys: ResultKeys, fence: int) -> list[str]:
    """The keys of those files that no later run can have written."""
    found = ((path, _PATH.fullmatch(path)) for path in sorted(paths))
    return [keys.folder(gallery_id) + path for path, match in found if match is None or int(match["fence"]) <= fence]


def _list_named(data: bytes | None) -> set[str]:
    try:
        return _list_paths(GroupsIndex.model_validate_json(data or b""))
    except ValidationError:
        return set()  # There is none, or it is of version 1.


def _list_paths(index: GroupsIndex) -> set[str]:
    parts = (index.people, index.unassigned, index.skipped, index.suggestions)
    return {part.shard for some in parts for part in some}
