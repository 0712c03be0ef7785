import threading
import time

from app.grouping.slot import RunSlot


def test_the_slot_is_one_callers_until_it_is_given_back() -> None:
    slot = RunSlot(0)
    with slot.hold() as first, slot.hold() as second:
        assert (first, second) == (True, False)
    with slot.hold() as again:
        assert again


def test_one_caller_waits_and_the_others_go_on_at_once() -> None:
    slot, got = RunSlot(30), threading.Event()

    def wait() -> None:
        with slot.hold() as has_it:
            if has_it:
                got.set()

    waiter = threading.Thread(target=wait)
    with slot.hold():
        waiter.start()
        while not slot._waiting.locked():
            time.sleep(0.001)
        began = time.monotonic()
        with slot.hold() as has_it:
            assert not has_it
        assert time.monotonic() - began < 5
        assert not got.is_set()
    waiter.join(30)
    assert got.is_set()
