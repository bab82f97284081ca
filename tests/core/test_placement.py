"""The choice of the next activation: idle before busy, fast before slow, late binding, turns."""

from __future__ import annotations

from qaic_sched.core.events import DeviceOpened
from qaic_sched.core.model import Activation, Batch, Request
from qaic_sched.core.placement import choose, choose_elsewhere, has_faster
from qaic_sched.core.slot_ledger import SlotLedger
from tests.core.harness import (
    answer,
    drive,
    make_state,
    places,
    requests,
)


def _ledger_of(devices: int, num_activations: int = 1, set_size: int = 1) -> SlotLedger:
    ledger = SlotLedger()
    for device_id in range(devices):
        ledger.add_device(device_id, num_activations, set_size)
    return ledger


def _take(ledger: SlotLedger, activation: Activation, now: float) -> None:
    ledger.take(activation, now, Batch(0, activation, 1, 1, [], now))


def _release(ledger: SlotLedger, activation: Activation, at: float) -> None:
    ledger.release(activation.held[0], at)


def take_all(ledger: SlotLedger) -> list[tuple[int, int]]:
    """Fill every slot, in the order of the choice."""
    order = []
    while (activation := choose(ledger, 0.0, 1, 1)[0]) is not None:
        _take(ledger, activation, 0.0)
        ledger.check()
        order.append((activation.device_id, activation.index))
    return order


def test_an_empty_ledger_has_nothing_to_choose() -> None:
    """Before a device opens there is no activation."""
    ledger = SlotLedger()
    ledger.check()

    assert choose(ledger, 0.0, 1, 1)[0] is None
    assert ledger.num_activations == 0
    assert list(ledger) == []


def test_work_spreads_over_devices_before_activations_before_slots() -> None:
    """First activations of all devices come first, then second ones, then second slots."""
    first = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]

    assert take_all(_ledger_of(3, num_activations=2, set_size=2)) == first + first


def test_devices_may_differ_in_activations() -> None:
    """A device with more activations gets more work, once each other device has some."""
    ledger = SlotLedger()
    ledger.add_device(7, 1, 1)
    ledger.add_device(3, 3, 1)

    assert take_all(ledger) == [(7, 0), (3, 0), (3, 1), (3, 2)]


def test_an_idle_activation_is_preferred_to_a_busy_one() -> None:
    """The longest idle one is next, whatever slots the busy ones have free."""
    ledger = _ledger_of(3, set_size=3)
    assert len(take_all(ledger)) == 9

    for device_id in (2, 1, 1, 1):
        _release(ledger, ledger.devices[device_id][0], 1.0)
        ledger.check()
    activation, _ = choose(ledger, 1.0, 1, 1)
    assert activation is ledger.devices[1][0]


def test_equals_take_turns() -> None:
    """The activation that answered last is chosen last."""
    state = make_state(devices=3)
    order = []
    for number in range(7):
        now = float(number)
        commands = drive(state, now, Request(number, 1, now))
        order += places(commands)
        drive(state, now + 0.5, answer(commands.dispatch[0], now + 0.5))

    assert [device_id for device_id, _ in order] == [0, 1, 2, 0, 1, 2, 0]


def test_the_same_events_give_the_same_choices() -> None:
    """Two states with equal events decide equally."""

    def run() -> list[tuple[int, int]]:
        state = make_state(devices=3, num_activations=2, set_size=2, batch_sizes=(1, 2))
        order = places(drive(state, 0.0, *requests(40)))
        for step in range(1, 30):
            held = sorted(state.batches.values(), key=lambda each: each.id * 7 % 5)
            if held:
                order += places(drive(state, float(step), answer(held[0], float(step))))
        return order

    assert run() == run()
    assert len(run()) == 20


def test_a_slot_counts_as_held_until_it_is_released() -> None:
    """A full activation is not chosen; one release makes room for exactly one batch."""
    ledger = _ledger_of(1, set_size=2)
    assert take_all(ledger) == [(0, 0), (0, 0)]
    _release(ledger, ledger.devices[0][0], 0.0)

    assert take_all(ledger) == [(0, 0)]


def test_a_device_to_avoid_is_avoided_even_if_it_is_the_emptiest() -> None:
    """The least loaded other activation is chosen; None if all others are full."""
    ledger = _ledger_of(3, set_size=2)
    other, last = ledger.devices[1][0], ledger.devices[2][0]
    _take(ledger, other, 0.0)
    assert choose_elsewhere(ledger, 0) is last

    for activation in (last, last, other):
        _take(ledger, activation, 0.0)
    assert choose_elsewhere(ledger, 0) is None
    assert choose(ledger, 0.0, 1, 1)[0] is ledger.devices[0][0]


def test_the_only_device_cannot_be_avoided() -> None:
    """A second attempt on the only device is better than none."""
    ledger = _ledger_of(1)

    assert choose_elsewhere(ledger, 0) is ledger.devices[0][0]


def _learned(slow: float = 1.0, devices: int = 3, set_size: int = 2) -> SlotLedger:
    """Return a ledger whose devices take 10 s, and the last one `slow` times as long."""
    ledger = _ledger_of(devices, set_size=set_size)
    for _ in range(300):
        for device_id in range(devices):
            is_last = device_id == devices - 1
            ledger.learn(device_id, 1, 10.0 * (slow if is_last else 1.0))
    ledger.check()
    return ledger


def test_a_batch_is_committed_behind_a_running_one_only_when_that_is_about_to_end() -> None:
    """It is committed a quarter of the mean before the first expected end; without one, never."""
    ledger = _learned(devices=3)
    first, *others = ledger
    _take(ledger, first, 100.0)
    for each in others:
        _take(ledger, each, 101.0)

    assert choose(ledger, 102.0, 1, 1) == (None, 107.5)
    assert choose(ledger, 107.5, 1, 1)[0] is first
    assert choose(ledger, 107.5, 1, 0) == (None, float("inf"))


def test_with_a_batch_for_every_activation_nothing_is_held_back() -> None:
    """Each activation gets one more at once; a third waits until the end is near."""
    ledger = _learned(devices=2, set_size=3)
    for each in ledger:
        _take(ledger, each, 100.0)

    for _ in range(2):
        activation, _ = choose(ledger, 101.0, 1, 2)
        assert activation is not None
        _take(ledger, activation, 101.0)
    assert [each.in_flight for each in ledger] == [2, 2]
    assert choose(ledger, 101.0, 1, 9)[0] is None


def test_behind_times_that_vary_nothing_is_committed_early() -> None:
    """An overdue inference is not about to end if its time cannot be predicted."""
    ledger = _ledger_of(2, set_size=2)
    for execute_s in (1.0, 30.0) * 20:
        for device_id in (0, 1):
            ledger.learn(device_id, 1, execute_s)
    for each in ledger:
        _take(ledger, each, 100.0)

    assert choose(ledger, 10_000.0, 1, 1) == (None, float("inf"))


def test_a_slow_device_is_left_alone_until_waiting_takes_longer() -> None:
    """A short queue waits for a fast device; of a long one, the slow device takes its share."""
    ledger = _learned(slow=3.0, devices=4)
    *fast, slow = (activations[0] for activations in ledger.devices.values())
    assert has_faster(ledger, slow)
    assert not any(has_faster(ledger, each) for each in fast)

    _take(ledger, slow, 99.0)
    _release(ledger, slow, 99.0)
    for each in fast:
        _take(ledger, each, 100.0)
    assert choose(ledger, 101.0, 1, 1)[0] is None
    assert choose(ledger, 101.0, 1, 3)[0] in fast, "there is one for every fast activation"
    for each in fast:
        _take(ledger, each, 101.0)
    assert choose(ledger, 101.0, 1, 1)[0] is None
    assert choose(ledger, 101.0, 1, 2)[0] is slow


def test_a_busy_slow_device_is_judged_with_its_backlog() -> None:
    """Behind its running batch a new one would end twice as late as on an idle device."""
    ledger = _learned(slow=3.0, devices=4)
    *fast, slow = (activations[0] for activations in ledger.devices.values())
    for each in (*fast, *fast, slow):
        _take(ledger, each, 100.0)

    assert choose(ledger, 101.0, 1, 4)[0] is None
    assert choose(ledger, 101.0, 1, 6)[0] is slow


def test_a_slow_device_that_was_not_used_for_long_is_tried_again() -> None:
    """Otherwise nothing would show that it has become faster."""
    ledger = _learned(slow=4.0)
    slow = ledger.devices[2][0]
    _take(ledger, slow, 0.0)
    _release(ledger, slow, 40.0)
    for device_id in (0, 1):
        _take(ledger, ledger.devices[device_id][0], 7900.0)

    assert choose(ledger, 7900.0, 1, 0)[0] is None
    assert choose(ledger, 8100.0, 1, 0)[0] is slow


def test_a_device_that_opens_later_joins_with_all_its_slots() -> None:
    """It is emptier than the others and gets the next batches."""
    state = make_state(set_size=2)
    drive(state, 0.0, *requests(2))
    drive(state, 0.0, *requests(3, first_id=2))

    assert places(drive(state, 1.0, DeviceOpened(5, 2, 2))) == [(5, 0), (5, 1), (5, 0)]
    assert [each.in_flight for each in state.statistics().devices.values()] == [2, 3]
