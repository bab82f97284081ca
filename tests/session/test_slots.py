"""The slot ledger: who gets a slot, who waits, and what draining and interruption leave behind."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from qaic_sched.session.slots import Handover, SlotLedger
from tests.session.scripted_device import PATIENCE_S, interrupted_when, until


def waiting(slots: SlotLedger, count: int = 1) -> None:
    """Wait until so many wait for a slot."""
    until(lambda: len(slots._waiting) == count)


def test_the_least_loaded_activation_is_chosen() -> None:
    """Slots spread over the activations before any activation holds a second inference."""
    slots = SlotLedger(3, 2)
    assert [slots.acquire() for _ in range(3)] == [0, 1, 2]
    slots.release(1)
    assert slots.acquire() == 1
    assert [slots.acquire() for _ in range(3)] == [0, 1, 2]


def test_a_released_slot_goes_to_who_waited_longest() -> None:
    """Waiting callers are served in the order of their coming."""
    slots = SlotLedger(1, 1)
    slots.acquire()
    order: list[str] = []

    def hold(name: str) -> None:
        assert slots.acquire() == 0
        order.append(name)
        slots.release(0)

    with ThreadPoolExecutor(3) as threads:
        for count, name in enumerate("abc", 1):
            threads.submit(hold, name)
            waiting(slots, count)
        slots.release(0)
    assert order == ["a", "b", "c"]
    assert slots.acquire() == 0


def test_drain_waits_for_holders_and_for_who_waited_already() -> None:
    """Those who came before the closing still get their slot; later ones get none."""
    slots = SlotLedger(1, 1)
    slots.acquire()
    with ThreadPoolExecutor(2) as threads:
        early = threads.submit(slots.acquire)
        waiting(slots)
        drained = threads.submit(slots.drain, PATIENCE_S)
        until(lambda: not slots.is_open)
        assert slots.acquire() is None
        slots.release(0)
        assert early.result(PATIENCE_S) == 0
        assert not drained.done()
        slots.release(0)
        assert drained.result(PATIENCE_S) is True


def test_an_idle_ledger_drains_at_once_and_again() -> None:
    """Draining with nothing in flight returns without waiting, as often as it is asked."""
    slots = SlotLedger(2, 2)
    assert slots.drain(PATIENCE_S)
    assert slots.drain(PATIENCE_S)
    assert not slots.is_open


def test_drain_gives_up_on_silence_only() -> None:
    """While slots come back it goes on waiting; once none does for the time given, it says so."""
    slots = SlotLedger(1, 3)
    for _ in range(3):
        slots.acquire()
    waits: list[bool] = []
    original = slots._is_idle.wait

    def releasing_wait(timeout: float | None = None) -> bool:
        waits.append(original(0))
        if len(waits) <= 2:
            slots.release(0)
        return waits[-1]

    slots._is_idle.wait = releasing_wait  # type: ignore[method-assign]
    assert slots.drain(PATIENCE_S) is False
    assert len(waits) == 3


def test_dismissed_waiters_get_no_slot() -> None:
    """Who waits when the device is given up is sent away."""
    slots = SlotLedger(1, 1)
    slots.acquire()
    with ThreadPoolExecutor(1) as threads:
        late: Future[int | None] = threads.submit(slots.acquire)
        waiting(slots)
        slots.dismiss()
        assert late.result(PATIENCE_S) is None


def test_ctrl_c_ends_the_wait_for_a_slot() -> None:
    """An interrupted caller leaves the queue, and the slot is free for the next."""
    slots = SlotLedger(1, 1)
    slots.acquire()
    with interrupted_when(lambda: slots._waiting):
        slots.acquire()
    assert not slots._waiting
    slots.release(0)
    assert slots.acquire() == 0


@pytest.mark.parametrize(("granted", "num_free"), [(0, 1), (None, 0)])
def test_a_slot_granted_while_being_interrupted_is_not_lost(
    granted: int | None, num_free: int
) -> None:
    """A slot handed over to a caller who was interrupted is given back; a dismissal is not."""
    slots = SlotLedger(1, 1)
    slots.acquire()
    place: Handover[int | None] = Handover()
    place.give(granted)
    slots._leave(place)
    assert slots._num_free == num_free
