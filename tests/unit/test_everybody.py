"""The figures by which one setting is judged for everybody, on faces whose result is known."""

import numpy as np
import pytest

from app.core.thresholds import Threshold
from benchmarks.accuracy.everybody import ADULTS, BANDS, GROUPS, Crowd, measure_events, measure_strangers

THRESHOLD = Threshold(0.5)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_crowd(per_kind: int, sameness: float, twins: list[tuple[int, int]]) -> Crowd:
    """So many faces of each band and group; with `sameness` all are near one direction."""
    kinds = [(band, "other") for band in BANDS] + [(ADULTS, group) for group in GROUPS]
    bands, groups = (np.array([kind[place] for kind in kinds for _ in range(per_kind)]) for place in (0, 1))
    random = np.random.default_rng(0)
    rows = random.normal(size=(len(bands), 256))
    rows[:, 0] += sameness * 16
    return Crowd(unit_rows(rows), bands, groups, np.array(twins, np.intp).reshape(-1, 2))


def test_strangers_that_differ_are_grouped_with_nobody() -> None:
    result = measure_strangers(make_crowd(30, 0.0, [(0, 1)]), THRESHOLD, draws=3)
    assert result["strangers_0_2"] == result["20_strangers_asian"] == 0
    assert set(result["false_match_rates"].values()) == {0}
    assert result["pairs_kept_0_2"] == 0


def test_strangers_that_are_similar_are_counted() -> None:
    result = measure_strangers(make_crowd(30, 2.0, [(0, 1)]), THRESHOLD, draws=3)
    assert result["strangers_3_7"] > 0.9
    assert result["strangers_3_7_interval"][1] == 1
    assert result["false_match_rates"]["black"] > 0.5
    assert result["pairs_kept_0_2"] == 1


def test_of_twins_the_second_is_no_stranger() -> None:
    crowd = make_crowd(3, 0.0, [(0, 1), (1, 2), (4, 6)])
    babies = crowd.bands == BANDS[0]
    assert crowd.list_singles(babies).tolist() == [0, 2]
    assert crowd.list_singles(crowd.bands == BANDS[1]).tolist() == [3, 4, 5]


@pytest.mark.parametrize(("noise", "is_perfect"), [(0.1, True), (3.0, False)])
def test_an_event_is_scored_over_people_with_enough_photos(noise: float, is_perfect: bool) -> None:
    random = np.random.default_rng(1)
    names = np.array([f"p{person}" for person in range(25) for _ in range(6)] + ["rare"])
    centres = {name: random.normal(size=64) for name in np.unique(names)}
    rows = np.stack([centres[name] + noise * random.normal(size=64) for name in names])
    result = measure_events(names, unit_rows(rows), THRESHOLD, draws=2)
    assert (result["event20_bcubed"] == 1) is is_perfect
    assert result["event60_precision"] == pytest.approx(1, abs=0.05)
