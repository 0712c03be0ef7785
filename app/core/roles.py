"""What a face may do in its gallery, by its quality: found people, join one, or be left out.

Blurred and dark faces are alike whoever they show, so they would chain people together; but beside good faces most of
them are known again.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Roles = NDArray[np.int8]

WEAKNESSES = {
    "eyes_covered_score": "its eyes are covered",
    "mouth_covered_score": "its mouth is covered",
    "under_exposure_score": "it is dark",
    "over_exposure_score": "it is over-exposed",
    "inside_score": "the photo's edge cuts it off",
    "yaw_score": "it is turned aside",
    "sharpness_score": "it is blurred",
    "inter_eye_score": "it is small",
}
"""What may be the matter with a face, by the score that says so; the first of those that are low is named."""
_LOW = 45.0


FORMER_NAMES = {"found": "core", "join": "border"}


class QualityBars(BaseModel):
    """What a face's unified quality (0 to 100) must reach to found a person, and to join one; the rest is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    core: float = Field(default=55, ge=0, le=100)
    border: float = Field(default=20, ge=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, fields: object) -> object:
        # Manifests and documents that were written before have these names.
        return (
            {FORMER_NAMES.get(name, name): bar for name, bar in fields.items()} if isinstance(fields, dict) else fields
        )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.border > self.core:
            raise ValueError(f"border ({self.border:g}) must not be above core ({self.core:g})")
        return self


class Role(IntEnum):
    """In order of trust."""

    NOISE = 0
    BORDER = 1
    CORE = 2


def assign_roles(unified: NDArray[np.float32], bars: QualityBars) -> Roles:
    """(N,) unified scores → (N,) roles. A face that was stored without one (NaN) is a core face, as it always was."""
    return (2 - (unified < bars.border).astype(np.int8) - (unified < bars.core).astype(np.int8)).astype(np.int8)


def assign_core(count: int) -> Roles:
    """(N,) roles where quality is of no account."""
    return np.full(count, Role.CORE, np.int8)


def explain_unassigned(quality: Mapping[str, float], bars: QualityBars) -> str:
    """Why a face is nobody's, in a sentence."""
    unified = quality.get("unified", 100.0)
    scores = {name: quality[name] for name in WEAKNESSES if name in quality}
    low = next((name for name, score in scores.items() if score < _LOW), None)
    # Where nothing is low by itself, the lowest.
    name = low or min(scores, key=scores.__getitem__, default=None)
    weakness = WEAKNESSES[name] if name else "it is poor"
    if unified < bars.border:
        return f"Its quality is {unified:.0f} of 100, below {bars.border:g}: {weakness}."
    return f"Its quality is {unified:.0f} of 100 ({weakness}), and it is not clearly like a better face."
