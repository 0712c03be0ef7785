"""Roles of faces by their quality."""

import numpy as np
import pytest

from app.core.records import GROUPING_MEASURES
from app.core.roles import WEAKNESSES, QualityBars, Role, assign_roles, explain_unassigned
from app.grouping.publish import PUBLISHED_MEASURES

BARS = QualityBars(core=50, border=20)


@pytest.mark.parametrize(
    ("unified", "role"),
    [(0, Role.NOISE), (19.9, Role.NOISE), (20, Role.BORDER), (49.9, Role.BORDER), (50, Role.CORE)],
)
def test_a_bar_is_reached_by_what_equals_it(unified: float, role: Role) -> None:
    assert assign_roles(np.array([unified], np.float32), BARS).tolist() == [role]


def test_a_face_that_was_stored_before_there_was_a_unified_score_is_a_core_face() -> None:
    assert assign_roles(np.array([np.nan], np.float32), BARS).tolist() == [Role.CORE]


def test_bars_that_nothing_can_pass_between_are_refused() -> None:
    with pytest.raises(ValueError, match=r"border \(60\) must not be above core \(50\)"):
        QualityBars(core=50, border=60)


def test_the_names_that_the_bars_had_before_are_read() -> None:
    assert QualityBars.model_validate({"found": 50, "join": 20}) == BARS


def test_all_that_is_read_of_a_stored_face_is_read_with_it() -> None:
    assert {"unified", *WEAKNESSES, *PUBLISHED_MEASURES} <= set(GROUPING_MEASURES)


@pytest.mark.parametrize("name", WEAKNESSES)
def test_the_reason_names_what_is_the_matter(name: str) -> None:
    assert WEAKNESSES[name] in explain_unassigned({"unified": 5.0, name: 3.0}, BARS)


def test_where_nothing_is_low_the_reason_names_the_lowest() -> None:
    scores = dict.fromkeys(WEAKNESSES, 90.0) | {"inter_eye_score": 60.0}
    assert explain_unassigned({"unified": 50.0, **scores}, BARS).startswith("Its quality is 50 of 100 (it is small)")
