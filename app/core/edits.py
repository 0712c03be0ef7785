"""What owners say of people, as messages: each edit is a list of operations that are applied together or not at all."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.core.ids import FaceId, Name, PersonId, RequestId
from app.core.records import FaceRef

MOST_OPERATIONS = 100
MOST_FACES = 1_000

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]


class _Operation(BaseModel):
    # A field that this version doesn't know may change what is meant, so it is refused.
    model_config = ConfigDict(extra="forbid", frozen=True)


class EditedFace(_Operation):
    """A face that is meant. With its digest, as in groups.json, the edit is refused where the photo was replaced."""

    face_id: FaceId
    digest: Digest | None = None

    def refer(self) -> FaceRef:
        return FaceRef(self.face_id, self.digest)


Faces = Annotated[list[EditedFace], Field(min_length=1, max_length=MOST_FACES)]
People = Annotated[list[PersonId], Field(min_length=1, max_length=MOST_FACES)]


class NamePerson(_Operation):
    """Name a person; null takes the name away."""

    op: Literal["name"] = "name"
    person_id: PersonId
    name: Name | None


class MergePeople(_Operation):
    """The others are this person. Their ids lead to it from then on."""

    op: Literal["merge"] = "merge"
    person_id: PersonId
    others: People


class SplitPerson(_Operation):
    """These faces of the person are somebody else, who becomes a person of its own."""

    op: Literal["split"] = "split"
    person_id: PersonId
    faces: Faces
    name: Name | None = None


class MoveFaces(_Operation):
    """These faces are this person, and not the one that each of them has now."""

    op: Literal["move"] = "move"
    person_id: PersonId
    faces: Faces


class ConfirmFaces(_Operation):
    """These faces are this person, whatever the clustering finds."""

    op: Literal["confirm"] = "confirm"
    person_id: PersonId
    faces: Faces


class RejectFaces(_Operation):
    """These faces are not this person."""

    op: Literal["reject"] = "reject"
    person_id: PersonId
    faces: Faces


class HidePerson(_Operation):
    """Don't show this person. Its faces stay grouped."""

    op: Literal["hide"] = "hide"
    person_id: PersonId


class ShowPerson(_Operation):
    """Show a hidden person again."""

    op: Literal["show"] = "show"
    person_id: PersonId


class ChooseCover(_Operation):
    """Show the person by this face, for as long as the face is the person's."""

    op: Literal["cover"] = "cover"
    person_id: PersonId
    face: EditedFace


class KeepApart(_Operation):
    """These two are not one person: the answer "no" to a suggestion. It is kept for ever."""

    op: Literal["keep_apart"] = "keep_apart"
    person_id: PersonId
    other: PersonId


class UndoEdit(_Operation):
    """Undo all operations of a former edit."""

    op: Literal["undo"] = "undo"
    edit_id: RequestId


Operation = Annotated[
    NamePerson
    | MergePeople
    | SplitPerson
    | MoveFaces
    | ConfirmFaces
    | RejectFaces
    | HidePerson
    | ShowPerson
    | ChooseCover
    | KeepApart
    | UndoEdit,
    Field(discriminator="op"),
]
