"""IoU of boxes."""

import numpy as np
import pytest

from app.core.boxes import compute_ious


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
