import os
import signal
import threading
import time

import pytest

from app.worker.shutdown import SIGNALS, Shutdown


def test_nothing_is_asked_for_at_first() -> None:
    shutdown = Shutdown()
    assert (shutdown.requested, shutdown.at_once, shutdown.exit_code) == (False, False, 0)


def test_the_first_exit_code_that_is_not_zero_stays() -> None:
    shutdown = Shutdown()
    for code in (0, 10, 3, 0):
        shutdown.request(code)
    assert shutdown.requested
    assert shutdown.exit_code == 10


def test_waiting_ends_with_the_time_or_with_a_request() -> None:
    shutdown = Shutdown()
    assert not shutdown.wait(0.01)
    threading.Timer(0.05, shutdown.request).start()
    begin = time.monotonic()
    assert shutdown.wait(60)
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_to_finish_and_the_second_to_leave_at_once(number: signal.Signals) -> None:
    shutdown = Shutdown()
    with shutdown.handle_signals():
        os.kill(os.getpid(), number)
        assert shutdown.wait(5)
        assert not shutdown.at_once
        os.kill(os.getpid(), number)
        until = time.monotonic() + 5
        while not shutdown.at_once and time.monotonic() < until:
            time.sleep(0.001)
        assert shutdown.at_once
    assert shutdown.exit_code == 0


def test_a_signal_does_not_hide_the_exit_code_of_what_went_wrong() -> None:
    shutdown = Shutdown()
    with shutdown.handle_signals():
        shutdown.request(10)
        os.kill(os.getpid(), signal.SIGTERM)
    assert shutdown.exit_code == 10


def test_the_signal_handlers_of_before_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError), Shutdown().handle_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_first_signal_after_a_stop_from_within_still_lets_work_finish() -> None:
    shutdown = Shutdown()
    with shutdown.handle_signals():
        shutdown.request(3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert not shutdown.at_once
