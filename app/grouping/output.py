"""`groups.json`, version 1: the format that customers read. Its JSON Schema is in docs/schemas."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.core.records import ImageStatus


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupedFace(_Part):
    """A face. `box` is x1 y1 x2 y2 in pixels of the upright original; `unified` in `quality` is 0 to 100."""

    face_id: str
    digest: str | None = Field(None, description="Tells the face from another one that has its id later. For edits.")
    image_id: str
    box: tuple[float, float, float, float]
    det_score: float = Field(ge=0, le=1)
    quality: dict[str, float]
    why_alone: str | None = Field(None, description="Of an unassigned face: the reason, in a sentence.")


class GroupedPerson(_Part):
    person_id: str
    name: str | None = None
    face_count: int = Field(ge=1)
    photo_count: int = Field(ge=1)
    cover_face_id: str
    cover_key: str | None = Field(None, description="Key of the person's cover, a WebP, in the results bucket.")
    faces: list[GroupedFace]


class SkippedPhoto(_Part):
    """A photo without faces in this result, or a file that is not a photo, and why."""

    image_id: str
    key: str | None = Field(None, description="S3 key of the file.")
    status: ImageStatus
    reason: str


class Groups(_Part):
    """All people of one gallery under one model. `generated_at`, ISO 8601 in UTC, is when a run last changed any of
    it, or made it anew on request."""

    version: Literal[1] = 1
    gallery_id: str
    model: str
    generated_at: str
    people: list[GroupedPerson]
    merged: dict[str, str] = Field({}, description="Former ids of people who were merged: the id of each one now.")
    unassigned: list[GroupedFace]
    skipped: list[SkippedPhoto]
