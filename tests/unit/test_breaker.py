import pytest

from app.core.errors import RetryLater, StoreUnavailable
from app.worker import breaker as breaker_module
from app.worker.breaker import OPEN_AFTER, Breaker


class Store:
    def __init__(self) -> None:
        self.away = True
        self.make_probes = 0

    def probe(self) -> None:
        self.make_probes += 1
        if self.away:
            raise StoreUnavailable("S3", "no answer")


def opened(store: Store) -> Breaker:
    breaker = Breaker({"S3": store.probe})
    for _ in range(OPEN_AFTER):
        breaker.record_failure(StoreUnavailable("S3", "no answer"))
    return breaker


def test_it_opens_after_some_failures_in_a_row_and_names_the_store() -> None:
    breaker = opened(Store())
    assert breaker.waiting_for == "S3"
    assert not breaker.is_closed()


def test_a_success_between_starts_the_count_anew() -> None:
    breaker = Breaker({"S3": lambda: None})
    for _ in range(OPEN_AFTER - 1):
        breaker.record_failure(StoreUnavailable("S3", "no answer"))
    breaker.record_success()
    breaker.record_failure(StoreUnavailable("S3", "no answer"))
    assert breaker.waiting_for is None


def test_troubles_of_single_messages_do_not_open_it() -> None:
    breaker = Breaker({"S3": lambda: None})
    for _ in range(10 * OPEN_AFTER):
        breaker.record_failure(RetryLater("throttled"))
    assert breaker.is_closed()


def test_it_closes_once_the_store_answers_and_does_not_ask_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    breaker = opened(store)
    for _ in range(5):
        assert not breaker.is_closed()
    assert store.make_probes == 1
    store.away = False
    monkeypatch.setattr(breaker_module, "PROBE_EVERY_S", 0.0)
    assert breaker.is_closed()
    assert breaker.waiting_for is None
