"""The answer to a `find_person`, version 1. Its JSON Schema is in docs/schemas. It has nothing of the selfies."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FindStatus(StrEnum):
    """How a find ended."""

    FOUND = "found"
    UNSURE = "unsure"
    NOBODY = "nobody"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    LOW_QUALITY_FACE = "low_quality_face"
    NOT_READY = "not_ready"
    UNKNOWN_GALLERY = "unknown_gallery"
    FORGOTTEN = "forgotten"

    @property
    def may_change(self) -> bool:
        """Whether the same request is looked at again: the gallery may have come or have been grouped meanwhile."""
        return self in (FindStatus.NOT_READY, FindStatus.UNKNOWN_GALLERY)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class FoundPerson(_Part):
    person_id: str
    similarity: float


class FoundPhoto(_Part):
    """A photo with the guest. `box` is x1 y1 x2 y2 of the face in pixels of the upright original."""

    image_id: str
    key: str = Field(description="S3 key of the photo.")
    box: tuple[float, float, float, float]
    similarity: float


class SelfieResult(_Part):
    """How a selfie was used, in the order of the request."""

    status: Literal["used", "no_face", "several_faces", "low_quality_face"]
    reason: str | None = Field(None, description="Why it was not used, in a sentence.")


class FindAnswer(_Part):
    """Where `unsure`, `people` are the most similar ones and there are no photos: ask for a better selfie.

    `photo_count` counts all photos; `photos` are the most similar of them, `max_photos` at most. In a reply there may
    be fewer, since a queue takes no long messages: the object `key` in the results bucket has them all.
    """

    type: Literal["find_answer"] = "find_answer"
    version: Literal[1] = 1
    request_id: str
    gallery_id: str
    status: FindStatus
    reason: str | None = Field(None, description="Why nobody could be looked for, in a sentence.")
    people: list[FoundPerson] = []
    photos: list[FoundPhoto] = []
    photo_count: int = 0
    selfies: list[SelfieResult] = []
    model: str
    published: int | None = Field(None, description="Version of the gallery's people that was searched.")
    key: str
