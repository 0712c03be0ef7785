"""What share of a GPU is used: the formula that `make gpu` prints, and that it says nothing without a GPU."""

import pytest

from benchmarks.speed.arithmetic import BusyShare, compute_fp16_share


@pytest.mark.parametrize(
    ("gpu", "gflop", "a_second"),
    [("Tesla T4", 26.64, 2_440), ("Tesla T4", 12.6, 5_160), ("NVIDIA H100 80GB HBM3", 26.64, 37_125)],
)
def test_at_the_limit_of_the_tensor_cores_the_share_is_one(gpu: str, gflop: float, a_second: float) -> None:
    share = compute_fp16_share(gflop / 2 * 1e9 * a_second, gpu)
    assert share == pytest.approx(1, abs=0.001)


def test_a_gpu_whose_limit_is_not_known_has_no_share() -> None:
    assert compute_fp16_share(1e9, "Quadro P400") is None


def test_without_a_gpu_nothing_is_busy() -> None:
    with BusyShare() as busy:
        pass
    assert busy.share is None or 0 <= busy.share <= 1
