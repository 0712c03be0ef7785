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


class QualityBars(BaseModel):
    """What a face's unified quality (0 to 100) must reach to found a person, and to join one; the rest is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    found: float = Field(default=55, ge=0, le=100)
    join: float = Field(default=20, ge=0, le=100)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.join > self.found:
            raise ValueError(f"join ({self.join:g}) must not be above found ({self.found:g})")
        return self


class Role(IntEnum):
    """In order of trust."""

    LEFT_OUT = 0
    JOINS = 1
    FOUNDS = 2


def roles_of(unified: NDArray[np.float32], bars: QualityBars) -> Roles:
    """(N,) unified scores → (N,) roles. A face that was stored without one (NaN) founds, as it always did."""
    return (2 - (unified < bars.join).astype(np.int8) - (unified < bars.found).astype(np.int8)).astype(np.int8)


def all_found(count: int) -> Roles:
    """(N,) roles where quality is of no account."""
    return np.full(count, Role.FOUNDS, np.int8)


def why_alone(quality: Mapping[str, float], bars: QualityBars) -> str:
    """Why a face is nobody's, in a sentence."""
    unified = quality.get("unified", 100.0)
    scores = {name: quality[name] for name in WEAKNESSES if name in quality}
    low = next((name for name, score in scores.items() if score < _LOW), None)
    # Where nothing is low by itself, the lowest.
    name = low or min(scores, key=scores.__getitem__, default=None)
    weakness = WEAKNESSES[name] if name else "it is poor"
    if unified < bars.join:
        return f"Its quality is {unified:.0f} of 100, below {bars.join:g}: {weakness}."
    return f"Its quality is {unified:.0f} of 100 ({weakness}), and it is not clearly like a better face."
