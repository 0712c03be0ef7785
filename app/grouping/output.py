"""What applications read: `groups.json` and the files that it names. Their JSON Schemas are in docs/schemas.

Version 1 is one file, `Groups`. Version 2 is an index, `GroupsIndex`, with a file for each person, and files for parts
of the unassigned faces and the skipped photos. app/grouping/shards.py makes the latter of the former.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.core.records import ImageStatus


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupedFace(_Part):
    """A face. `box` is x1 y1 x2 y2 in pixels of the upright original; `unified` in `quality` is 0 to 100. In version 1
    there always is a `det_score`."""

    face_id: str
    digest: str | None = Field(None, description="Tells the face from another one that has its id later. For edits.")
    image_id: str
    box: tuple[float, float, float, float]
    det_score: float | None = Field(None, ge=0, le=1)
    quality: dict[str, float]
    why_alone: str | None = Field(None, description="Of an unassigned face: the reason, in a sentence.")


class _Person(_Part):
    person_id: str
    number: int | None = Field(
        None, description="Shown until the person has a name. It stays, and nobody else gets it."
    )
    name: str | None = None
    hidden: bool = Field(False, description="An owner said not to show this person.")
    face_count: int = Field(ge=1)
    photo_count: int = Field(ge=1)
    cover_face_id: str


class GroupedPerson(_Person):
    cover_key: str | None = Field(None, description="Key of the person's cover, a JPEG, in the results bucket.")
    faces: list[GroupedFace]


class SkippedPhoto(_Part):
    """A photo without faces in this result, or a file that is not a photo, and why."""

    image_id: str
    key: str | None = Field(None, description="S3 key of the file.")
    status: ImageStatus
    reason: str


class Groups(_Part):
    """All people of one gallery under one model, in one file: version 1.

    `generated_at`, ISO 8601 in UTC, is when a run last changed any of it, or made it anew on request.
    """

    version: Literal[1] = 1
    gallery_id: str
    model: str
    generated_at: str
    people: list[GroupedPerson]
    merged: dict[str, str] = Field({}, description="Former ids of people who were merged: the id of each one now.")
    unassigned: list[GroupedFace]
    skipped: list[SkippedPhoto]


_Path = Annotated[
    str, Field(description="Below `folder`. With a slash before it, it is a key of the bucket as it stands.")
]


class PhotoFace(_Part):
    """A face on a photo. `box` is x1 y1 x2 y2 in whole pixels of the upright original. `crop` is the first byte and the
    length in bytes of the face's crop, a JPEG, in the photo's `crops`. `quality` is 0 to 100."""

    face_id: str
    digest: str | None = Field(None, description="Tells the face from another one that has its id later. For edits.")
    box: tuple[int, int, int, int]
    crop: tuple[int, int] | None = None
    quality: float | None = Field(None, ge=0, le=100)
    why_alone: str | None = Field(None, description="Of an unassigned face: the reason, in a sentence.")


class PhotoFaces(_Part):
    """A photo, and those of its faces that the file is about. `size` is width and height of the upright original in
    pixels. `preview` is a small JPEG, `crops` the object with the photo's crops."""

    key: str | None = Field(None, description="S3 key of the photo, in the bucket of the photos.")
    size: tuple[int, int] | None = None
    preview: _Path | None = None
    crops: _Path | None = None
    faces: list[PhotoFace]


class _Shard(_Part):
    version: Literal[2] = 2
    gallery_id: str
    model: str
    folder: str = Field(description="Prefix of the gallery's results in the results bucket; paths are below it.")


class PersonFile(_Shard):
    """A person's photos, by image id, with this person's faces alone. Fields without a value are left out."""

    person_id: str
    number: int | None = None
    name: str | None = None
    photos: dict[str, PhotoFaces]


class UnassignedFile(_Shard):
    """Some of the photos with faces that have no person, by image id, with these faces alone."""

    photos: dict[str, PhotoFaces]


class SkippedFile(_Shard):
    """Some of the files without a face in this result, and why."""

    skipped: list[SkippedPhoto]


class Suggestion(_Part):
    """Two people who may be one. `person_id` is in more photos; a merge into it keeps its id and name."""

    person_id: str
    other: str
    similarity: float = Field(ge=-1, le=1, description="Of their mean faces, a cosine.")
    cover: _Path | None = None
    other_cover: _Path | None = None


class SuggestionsFile(_Shard):
    """Pairs of people for an owner to say yes (`merge`) or no (`keep_apart`) to, most similar first."""

    suggestions: list[Suggestion]


class IndexedPerson(_Person):
    """A person. `shard` is the file with the person's photos (PersonFile)."""

    cover: _Path | None = Field(None, description="The person's cover, a JPEG.")
    shard: _Path


class ShardOfMany(_Part):
    """A file with a part of a list that has no bounds; `count` is that of its faces, or of its skipped photos."""

    shard: _Path
    count: int = Field(ge=1)


class Counts(_Part):
    """`photos` are those with faces; `faces` are all of them, `unassigned` those without a person."""

    photos: int
    faces: int
    people: int
    unassigned: int
    skipped: int


class GroupsIndex(_Part):
    """All people of one gallery under one model, and the files with the rest: version 2.

    A file's path changes with its content, and what this index names is there when the index is. A file that is gone
    was named by a former index: read this one again. `generated_at`, ISO 8601 in UTC, is when a run last changed any of
    it, or made it anew on request. Fields without a value are left out.
    """

    version: Literal[2] = 2
    gallery_id: str
    model: str
    generated_at: str
    folder: str = Field(description="Prefix of the gallery's results in the results bucket; paths are below it.")
    folder_url: str | None = Field(None, description="URL of `folder`, from RESULTS_BASE_URL. Paths need quoting.")
    counts: Counts
    people: list[IndexedPerson]
    merged: dict[str, str] = Field({}, description="Former ids of people who were merged: the id of each one now.")
    unassigned: list[ShardOfMany]
    skipped: list[ShardOfMany]
    suggestions: list[ShardOfMany] = Field([], description="One file at most.")


_AnyVersion: TypeAdapter[Groups | GroupsIndex] = TypeAdapter(
    Annotated[Groups | GroupsIndex, Field(discriminator="version")]
)


def read_groups(data: bytes, read: Callable[[str], bytes]) -> Groups:
    """A `groups.json` of either version as one. `read` gets the path of a file below the gallery's folder.

    Raises pydantic.ValidationError for anything else, and what `read` raises. Of what was measured of a face,
    version 2 has `unified` alone, and its numbers are rounded more.
    """
    groups = _AnyVersion.validate_json(data)
    if isinstance(groups, Groups):
        return groups

    def locate(path: str) -> str:
        return path[1:] if path.startswith("/") else groups.folder + path

    def read_person(person: IndexedPerson) -> GroupedPerson:
        file = PersonFile.model_validate_json(read(person.shard))
        fields = person.model_dump(exclude={"cover", "shard"})
        key = locate(person.cover) if person.cover else None
        return GroupedPerson(**fields, cover_key=key, faces=_list_faces(file.photos))

    unassigned = [
        face
        for part in groups.unassigned
        for face in _list_faces(UnassignedFile.model_validate_json(read(part.shard)).photos)
    ]
    skipped = [photo for part in groups.skipped for photo in SkippedFile.model_validate_json(read(part.shard)).skipped]
    return Groups(
        gallery_id=groups.gallery_id,
        model=groups.model,
        generated_at=groups.generated_at,
        people=list(map(read_person, groups.people)),
        merged=groups.merged,
        unassigned=sorted(unassigned, key=lambda face: face.face_id),
        skipped=sorted(skipped, key=lambda photo: photo.image_id),
    )


def _list_faces(photos: dict[str, PhotoFaces]) -> list[GroupedFace]:
    return [
        GroupedFace(
            face_id=face.face_id,
            digest=face.digest,
            image_id=image_id,
            box=face.box,
            quality={} if face.quality is None else {"unified": face.quality},
            why_alone=face.why_alone,
        )
        for image_id, photo in photos.items()
        for face in photo.faces
    ]


def dump(part: _Part) -> bytes:
    """As JSON, without the fields that have no value."""
    return part.model_dump_json(exclude_none=True).encode()


def make_json_schemas() -> dict[str, dict[str, Any]]:
    """Name → JSON Schema of each kind of file."""
    models: dict[str, type[BaseModel]] = {
        "groups": GroupsIndex,
        "groups_version_1": Groups,
        "groups_person": PersonFile,
        "groups_skipped": SkippedFile,
        "groups_suggestions": SuggestionsFile,
        "groups_unassigned": UnassignedFile,
    }
    return {name: model.model_json_schema() for name, model in models.items()}
