import threading
import time
from contextlib import suppress

from app.detection.budget import Budget

PATIENCE_S = 20.0


def test_holders_share_the_budget_and_the_next_waits_until_one_is_done() -> None:
    budget, held, may_end = Budget(10), threading.Event(), threading.Event()

    def second() -> None:
        with budget.hold(6):
            held.set()

    with budget.hold(6):
        thread = threading.Thread(target=second)
        thread.start()
        until = time.monotonic() + PATIENCE_S
        while not budget.is_exhausted and time.monotonic() < until:
            time.sleep(0.005)
        assert budget.is_exhausted
        assert not held.is_set()
        may_end.set()
    assert held.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not budget.is_exhausted


def test_what_is_larger_than_the_budget_is_held_alone() -> None:
    budget = Budget(10)
    with budget.hold(1_000):
        pass
    with budget.hold(10), budget.hold(0):
        pass


def test_the_budget_is_free_again_after_an_error() -> None:
    budget = Budget(10)
    with suppress(ZeroDivisionError), budget.hold(10):
        _ = 1 / 0
    with budget.hold(10):
        assert not budget.is_exhausted
