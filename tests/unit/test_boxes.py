"""IoU of boxes."""

import numpy as np
import pytest

from app.core.boxes import compute_ious, match_boxes


def test_the_iou_of_each_pair() -> None:
    some = np.array([[0, 0, 10, 10], [0, 0, 5, 10]], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    assert compute_ious(some, others) == pytest.approx(np.array([[1, 1 / 3, 0], [0.5, 0, 0]]))


def test_boxes_without_an_area_have_an_iou_of_0() -> None:
    empty = np.array([[3, 3, 3, 3], [5, 5, 2, 2]], np.float32)
    assert not compute_ious(empty, empty).any()


def test_no_boxes_give_no_ious() -> None:
    none, one = np.empty((0, 4), np.float32), np.ones((1, 4), np.float32)
    assert compute_ious(none, one).shape == (0, 1)
    assert compute_ious(one, none).shape == (1, 0)


def test_boxes_at_one_place_are_matched_once_and_the_best_first() -> None:
    some = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    others = np.array([[50, 50, 60, 60], [1, 0, 11, 10]], np.float32)
    assert match_boxes(some, others, 0.4) == [(1, 1), (2, 0)]
    assert match_boxes(some, others[1:], 0.4) == [(1, 0)]
    assert match_boxes(some, others, 0.4, np.array([[1, 1], [0, 0], [0, 0]], np.bool_)) == [(0, 1)]
    assert match_boxes(some[:1], np.array([[6, 0, 16, 10]], np.float32), 0.4) == []
    assert match_boxes(some, others[:0], 0.4) == match_boxes(some[:0], others, 0.4) == []
