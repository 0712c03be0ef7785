import threading
import time
from contextlib import suppress

import pytest

from app.core.errors import BadPhoto
from app.detection import budget as budget_module
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


def test_what_is_larger_than_the_budget_is_refused_by_its_need() -> None:
    budget = Budget(2_000_000)
    with pytest.raises(BadPhoto, match=r"too large for this worker's memory \(needs 3 MB\)"), budget.hold(2_000_001):
        pass
    with budget.hold(2_000_000), budget.hold(0):
        assert not budget.is_exhausted


def test_waiting_for_the_budget_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "_PROGRESS_EVERY_S", 0.01)
    budget, told = Budget(10), threading.Event()

    def wait() -> None:
        with budget.hold(6, told.set):
            pass

    with budget.hold(6):
        thread = threading.Thread(target=wait)
        thread.start()
        assert told.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_whoever_gives_up_waiting_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "_PROGRESS_EVERY_S", 0.01)
    budget = Budget(10)

    def give_up() -> None:
        raise ZeroDivisionError

    with budget.hold(6), suppress(ZeroDivisionError), budget.hold(6, give_up):
        pass
    assert not budget.is_exhausted
    with budget.hold(10):
        pass


def test_the_budget_is_free_again_after_an_error() -> None:
    budget = Budget(10)
    with suppress(ZeroDivisionError), budget.hold(10):
        _ = 1 / 0
    with budget.hold(10):
        assert not budget.is_exhausted
