"""Roles of faces by their quality, in DBSCAN's words: core faces form people, border faces join one, noise faces don't.

Blurred and dark faces are similar whoever they show, so as core faces they would connect different people. But when
they are compared with core faces, most of them are recognised.
"""

from collections.abc import Iterable, Mapping
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
"""What may be wrong with a face, by the score that measures it."""
_LOW = 45.0
_LOW_BY_SCORE = {"sharpness_score": 52.0, "inter_eye_score": 12.0}
"""A score is low below _LOW, or below its own bar: sharp faces of average size have 70 and 22 in these two."""
_SHARP_ENOUGH = 40.0
"""Covers are measured by edges, so in a face less sharp than this they are not to be trusted."""


FORMER_NAMES = {"found": "core", "join": "border"}


class QualityBars(BaseModel):
    """The unified quality (0 to 100) that a core face and a border face must reach; all others are noise faces."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    core: float = Field(default=55, ge=0, le=100)
    border: float = Field(default=20, ge=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, fields: object) -> object:
        # Older manifests and documents have these names.
        return (
            {FORMER_NAMES.get(name, name): bar for name, bar in fields.items()} if isinstance(fields, dict) else fields
        )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.border > self.core:
            raise ValueError(f"border ({self.border:g}) must not be above core ({self.core:g})")
        return self


class Role(IntEnum):
    """The role of a face; the higher, the better its quality."""

    NOISE = 0
    BORDER = 1
    CORE = 2


def assign_roles(unified: NDArray[np.float32], bars: QualityBars) -> Roles:
    """(N,) unified scores → (N,) roles. A face that was stored before there were scores (NaN) is a core face."""
    return (2 - (unified < bars.border).astype(np.int8) - (unified < bars.core).astype(np.int8)).astype(np.int8)


def explain_left_out(qualities: Iterable[Mapping[str, float]], bars: QualityBars) -> tuple[str, ...]:
    """Of the faces with these measures, the reason of each noise face, whose quality is too low for any person."""
    noise = (one for one in qualities if np.float32(one.get("unified", np.nan)) < bars.border)
    return tuple(explain_unassigned(one, bars) for one in noise)


def assign_core(count: int) -> Roles:
    """(N,) roles where quality does not matter: all faces are core faces."""
    return np.full(count, Role.CORE, np.int8)


def explain_unassigned(quality: Mapping[str, float], bars: QualityBars) -> str:
    """Why a face is unassigned, in a sentence."""
    unified = quality.get("unified", 100.0)
    scores = {name: quality[name] for name in WEAKNESSES if name in quality}
    if scores.get("sharpness_score", 100.0) < _SHARP_ENOUGH:
        scores = {name: score for name, score in scores.items() if "covered" not in name}
    low = [name for name, score in scores.items() if score < _LOW_BY_SCORE.get(name, _LOW)]
    # Where no score is low, the lowest one gives the reason.
    names = low or sorted(scores, key=scores.__getitem__)[:1]
    weakness = " and ".join(WEAKNESSES[name] for name in names) or "it is poor"
    if unified < bars.border:
        return f"Its quality is {unified:.0f} of 100, below {bars.border:g}: {weakness}."
    return f"Its quality is {unified:.0f} of 100 ({weakness}), and it is not clearly like a better face."
