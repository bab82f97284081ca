"""The slot gate: acquiring and waiting in order, draining and interruptions."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from qaic_sched.session.slots import Handover, SlotGate
from tests.session.scripted_device import PATIENCE_S, interrupted_when, until


def waiting(slots: SlotGate, count: int = 1) -> None:
    """Wait until `count` callers wait for a slot."""
    until(lambda: len(slots._waiting) == count)


def test_the_least_loaded_activation_is_chosen() -> None:
    """Slots spread over the activations before any activation holds a second inference."""
    slots = SlotGate(3, 2)
    assert [slots.acquire() for _ in range(3)] == [0, 1, 2]
    slots.release(1)
    assert slots.acquire() == 1
    assert [slots.acquire() for _ in range(3)] == [0, 1, 2]


def test_a_released_slot_goes_to_the_longest_waiting_caller() -> None:
    """Waiting callers get slots in the order in which they came."""
    slots = SlotGate(1, 1)
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


def test_drain_waits_for_holders_and_earlier_waiters() -> None:
    """Callers that wait when draining begins still get a slot; later ones get none."""
    slots = SlotGate(1, 1)
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


def test_an_idle_gate_drains_at_once_and_again() -> None:
    """Draining with nothing in flight returns at once, and may be repeated."""
    slots = SlotGate(2, 2)
    assert slots.drain(PATIENCE_S)
    assert slots.drain(PATIENCE_S)
    assert not slots.is_open


def test_drain_gives_up_on_silence_only() -> None:
    """Draining waits while slots are released, and gives up after `silence_s` without one."""
    slots = SlotGate(1, 3)
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
    """Callers that wait when the device is given up get no slot."""
    slots = SlotGate(1, 1)
    slots.acquire()
    with ThreadPoolExecutor(1) as threads:
        late: Future[int | None] = threads.submit(slots.acquire)
        waiting(slots)
        slots.dismiss()
        assert late.result(PATIENCE_S) is None


def test_ctrl_c_ends_the_wait_for_a_slot() -> None:
    """An interrupted caller leaves the queue, and the next one gets the slot."""
    slots = SlotGate(1, 1)
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
    """A slot given to an interrupted caller is released; a dismissal releases none."""
    slots = SlotGate(1, 1)
    slots.acquire()
    place: Handover[int | None] = Handover()
    place.give(granted)
    slots._leave(place)
    assert slots._num_free == num_free
