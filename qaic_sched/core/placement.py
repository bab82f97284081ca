"""The slot ledger, and the choice of the activation that gets the next batch.

Rules of this file:
- A batch goes to an idle activation if there is one, the longest idle of the fastest first.
- With none idle, it is committed behind the inference that is expected to end first, but not
  before it is about to end: late enough that another cannot be free much sooner, early enough that
  the activation does not idle while the host turns around. Where times vary too much to tell, and
  where there is work for every activation anyway, that is as soon as the work is there.
- A slower device gets a batch only if it is expected to finish it before the faster ones could,
  with all that is queued before them: so a slow card gets its share, and under load no less. Now
  and then it gets one all the same, or nobody would notice that it is slow no longer.
- Equals take turns, and the choice depends on nothing but the events.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import Activation
from qaic_sched.core.service_times import DeviceSpeed, ServiceTimes
from qaic_sched.core.speed_group import SpeedGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qaic_sched.core.model import Batch

__all__ = ["SlotLedger", "least_loaded"]

_NEVER: Final = float("inf")
_JOINS: Final = 1.15
"""A device joins a speed group whose times differ by no more than this factor from its own."""
_MARGIN: Final = 2.0
"""Standard deviations beyond the mean within which an inference is expected, against a deadline."""
_RELIEF: Final = 0.49
"""A slow device is used once waiting for a faster one takes this part of the time until it would
be done: less than all of it, as what it takes off the queue shortens the wait of those behind."""
_PRESSED: Final = 0.5
"""With so many full batches queued per activation, one is committed behind each at once."""
_FORGOTTEN: Final = 200.0
"""After so many of its mean service times without work, a slow group is tried again."""


class SlotLedger:
    """Who holds how much. Each activation has `set_size` slots, the same number on every device."""

    __slots__ = (
        "_order",
        "_speeds",
        "commit_at",
        "devices",
        "leaving",
        "narrowed_at",
        "retiring",
        "set_size",
    )

    def __init__(self) -> None:
        self.set_size = 0
        self.devices: dict[int, list[Activation]] = {}
        self.retiring: dict[int, list[Activation]] = {}
        """By device, the activations that are to be given back."""
        self.leaving: dict[int, bool] = {}
        """Devices to be given back with all their activations; whether they are being closed."""
        self.narrowed_at = -_NEVER
        """When `set_size` became less: who held more may do so until it has answered."""
        self.commit_at = _NEVER
        """When `choose` may find an activation, where it found none, even if nothing happens."""
        self._speeds: dict[int, DeviceSpeed] = {}
        self._order: list[SpeedGroup] = []

    @property
    def num_activations(self) -> int:
        """Activations of all devices."""
        return sum(map(len, self.devices.values()))

    def add_device(self, device_id: int, num_activations: int, set_size: int) -> None:
        """Bring in a device, all its slots free."""
        if not self._order:
            # What devices that are parked now took is the best guess, and groups stay comparable.
            known = (each.group for each in self._speeds.values())
            self._order.append(next(known, SpeedGroup(ServiceTimes())))
        group = self._order[0]
        speed = self._speeds[device_id] = DeviceSpeed(group)
        activations = [Activation(device_id, index, speed) for index in range(num_activations)]
        self.devices[device_id] = activations
        self.set_size = set_size
        group.num_activations += num_activations
        # First activations of all devices before second ones: work spreads over devices first.
        group.idle.update(dict.fromkeys(activations))
        for activation in sorted(group.idle, key=lambda each: each.index):
            group.idle.move_to_end(activation)

    def park(self, device_id: int) -> None:
        """Choose nothing on a device any more; what it holds may still be released."""
        group = self._speeds[device_id].group
        for activation in self.devices[device_id]:
            group.forget(activation)
            group.num_activations -= not activation.is_parked
            activation.is_parked = True
        self._drop_empty_groups()

    def reopen(self, device_id: int, num_activations: int, *, as_fast: bool = False) -> None:
        """Bring a parked device back, with new activations of which only the first is chosen.

        `as_fast` forgets what it took before: it is expected to be as fast as the fastest.
        """
        speed = self._speeds[device_id]
        speed.join(self._order[0] if as_fast and self._order else speed.group)
        first, *others = (Activation(device_id, index, speed) for index in range(num_activations))
        for activation in others:
            activation.is_parked = True
        self.devices[device_id] = [first, *others]
        self.retiring.pop(device_id, None)
        if device_id in self.leaving:
            self.retiring[device_id] = self.devices[device_id]
        self._admit([first])

    def admit(self, device_id: int, most: int | None = None) -> None:
        """Choose all activations of a device again, or the first so many; not retiring ones."""
        able = [each for each in self.devices[device_id] if not each.is_retiring]
        self._admit([each for each in able[:most] if each.is_parked])

    def add_activations(self, device_id: int, indexes: Iterable[int]) -> None:
        """Bring in more activations of a device; they are parked until `admit`."""
        speed = self._speeds[device_id]
        new = [Activation(device_id, index, speed, is_parked=True) for index in indexes]
        self.devices[device_id] += new

    def may_retire(self) -> bool:
        """Whether an activation may be chosen that is not to be given back."""
        leave = [each for activations in self.retiring.values() for each in activations]
        return self.num_live > sum(not each.is_parked for each in leave)

    def retire(self) -> None:
        """Choose nothing any more of what is to be given back."""
        for device_id, activations in self.retiring.items():
            group = self._speeds[device_id].group
            for activation in activations:
                group.forget(activation)
                group.num_activations -= not activation.is_parked
                activation.is_parked = activation.is_retiring = True
        self._drop_empty_groups()

    def forget_retired(self, device_id: int) -> tuple[int, ...]:
        """Take out what a device was to give back, and holds nothing; the indexes."""
        gone = self.retiring.pop(device_id)
        self.devices[device_id] = [each for each in self.devices[device_id] if each not in gone]
        return tuple(each.index for each in gone)

    def forget_device(self, device_id: int) -> None:
        """Take out a device that holds nothing."""
        del self.devices[device_id], self.retiring[device_id], self.leaving[device_id]
        del self._speeds[device_id]

    def change_set_size(self, set_size: int, now: float) -> None:
        """Let every activation hold so many; what it holds beyond that drains away."""
        if set_size < self.set_size:
            self.narrowed_at = now
        self.set_size = set_size
        for activation in self:
            if 0 < activation.in_flight < set_size and not activation.is_parked:
                activation.speed.group.add_busy(activation)

    def is_last_live(self, device_id: int) -> bool:
        """Whether all activations that may be chosen are on this device."""
        own = sum(not each.is_parked for each in self.devices[device_id])
        return own == self.num_live

    @property
    def num_live(self) -> int:
        """Activations that may be chosen, now or when they have room."""
        return sum(group.num_activations for group in self._order)

    def has_live(self) -> bool:
        """Whether any activation may be chosen, now or when it has room."""
        return bool(self._order)

    def _admit(self, activations: list[Activation]) -> None:
        for activation in activations:
            group = activation.speed.group
            if group not in self._order:
                self._order.append(group)
                self._order.sort(key=lambda each: each.times.mean_s(1))
            activation.is_parked = False
            group.num_activations += 1
            if not activation.held:
                group.idle[activation] = None
            elif activation.in_flight < self.set_size:
                group.add_busy(activation)

    def _drop_empty_groups(self) -> None:
        self._order = [each for each in self._order if each.num_activations]

    def choose(self, now: float, size: int, batches: int) -> Activation | None:
        """The activation to get a batch of this size now; None where none should have it yet.

        `batches` is how many full ones are queued; with none, only an idle activation will do.
        """
        self.commit_at = _NEVER
        if self._order and self._order[0].idle:
            return next(iter(self._order[0].idle))
        rate = fastest_s = waiting_s = 0.0
        for group in self._order:
            mean_s = group.times.mean_s(size)
            if rate:
                is_forgotten = now - group.used_at > _FORGOTTEN * mean_s
                waiting_s = fastest_s + max(batches, 1) / rate
                if _RELIEF * mean_s > waiting_s and not is_forgotten:
                    break
            else:
                fastest_s = mean_s
            if group.idle:
                return next(iter(group.idle))
            if batches:
                # Before anything was measured nobody is expected at any time, so nobody is overdue.
                overdue_at = now - group.grace_s(mean_s) if mean_s else -_NEVER
                activation = group.soonest(self.set_size, overdue_at)
                if activation is not None and (
                    not rate or _RELIEF * (activation.free_at - now + mean_s) <= waiting_s
                ):
                    ready_at = group.ready_at(activation, mean_s)
                    is_pressed = batches >= _PRESSED * group.num_activations
                    if ready_at <= now or (is_pressed and activation.in_flight == 1):
                        return activation
                    self.commit_at = min(self.commit_at, ready_at)
            if not mean_s:
                break
            rate += group.num_activations / mean_s
        return None

    def mean_s(self, device_id: int, size: int) -> float:
        """Seconds that an inference of this size takes; 0 while nobody knows."""
        return self._speeds[device_id].group.times.mean_s(size)

    def likely_s(self, device_id: int, size: int) -> float:
        """Seconds within which most inferences of this size are done; 0 while nobody knows."""
        times = self._speeds[device_id].group.times
        return times.mean_s(size) * (1 + _MARGIN * sqrt(times.cv2))

    def fastest_s(self, size: int) -> float:
        """Seconds that an inference of a size takes where it takes least; 0 while nobody knows."""
        return next((group.times.mean_s(size) for group in self._order), 0.0)

    def rate(self, size: int) -> float:
        """Inferences of a size that all can do in a second; 0 while nobody knows."""
        times = ((each.num_activations, each.times.mean_s(size)) for each in self._order)
        return sum((count / mean_s for count, mean_s in times if mean_s), 0.0)

    def measured_s(self, device_id: int, size: int) -> float | None:
        """Mean seconds of an inference of this size; None while it is hardly known."""
        return self._speeds[device_id].group.times.measured_s(size)

    def is_idle_beside(self, activation: Activation) -> bool:
        """Whether another activation of like speed than this idle one is idle, too."""
        return len(activation.speed.group.idle) > 1

    def is_slow(self, activation: Activation) -> bool:
        """Whether there are faster devices than the activation's."""
        return activation.speed.group is not self._order[0]

    def with_room(self) -> list[Activation]:
        """Activations with a free slot that may be chosen, by device."""
        return [each for each in self if each.in_flight < self.set_size and not each.is_parked]

    def choose_elsewhere(self, avoid: int) -> Activation | None:
        """The least loaded activation with a free slot on another device than `avoid`.

        On that one where it is the only one.
        """
        able = self.with_room()
        elsewhere = least_loaded(able, avoid)
        others = (each for each in self if each.device_id != avoid)
        if elsewhere is not None or any(not each.is_parked for each in others):
            return elsewhere
        return least_loaded(able)

    def take(self, activation: Activation, now: float, batch: Batch) -> None:
        """Fill one slot of an activation that has a free one."""
        group = activation.speed.group
        batch.expected_s = expected_s = group.times.mean_s(batch.size)
        if not activation.held:
            del group.idle[activation]
            activation.free_at = activation.busy_since = now
        group.used_at = now
        activation.held.append(batch)
        activation.backlog_s += expected_s
        activation.free_at += expected_s
        if activation.in_flight < self.set_size:
            group.add_busy(activation)

    def release(self, batch: Batch, at: float) -> None:
        """Free the slot of a batch that was answered."""
        activation = batch.activation
        group = activation.speed.group
        activation.held.remove(batch)
        # The answer may be older than what was submitted meanwhile.
        activation.busy_since = max(at, activation.held[0].submitted_at) if activation.held else at
        if activation.is_parked:
            return
        if activation.held:
            activation.backlog_s -= batch.expected_s
            activation.free_at = at + activation.backlog_s
            group.add_busy(activation)
        else:
            activation.backlog_s = 0.0
            activation.free_at = at
            group.idle[activation] = None

    def learn(self, device_id: int, size: int, execute_s: float) -> float:
        """Take in how long an inference took; devices change groups where it shows.

        Returns how many times as long that is as the fastest devices take, 1 if nobody knows.
        """
        speed = self._speeds[device_id]
        group = speed.group
        lag = ratio = group.times.record(size, execute_s)
        if self._order and group is not self._order[0]:
            fastest_s = self._order[0].times.measured_s(size)
            lag = execute_s / fastest_s if fastest_s else 1.0
        speed.record(ratio)
        if speed.is_apart(group.times.cv2):
            mean_s = speed.ratio * group.times.mean_s(size)
            other = self._alike(group, size, mean_s) or SpeedGroup(group.times.scaled(speed.ratio))
            self._move([device_id], other, size)
        elif len(self._order) > 1:
            other_or_none = self._alike(group, size, group.times.mean_s(size))
            if other_or_none is not None:
                devices = [each for each, its in self._speeds.items() if its.group is group]
                self._move(devices, other_or_none, size)
        return lag

    def _alike(self, group: SpeedGroup, size: int, mean_s: float) -> SpeedGroup | None:
        """Another group of devices that take about so long."""
        for other in self._order:
            other_s = other.times.mean_s(size)
            if other is not group and other_s and 1 / _JOINS <= mean_s / other_s <= _JOINS:
                return other
        return None

    def _move(self, device_ids: list[int], group: SpeedGroup, size: int) -> None:
        for device_id in device_ids:
            speed = self._speeds[device_id]
            old = speed.group
            speed.join(group)
            for activation in self.devices[device_id]:
                if activation.is_parked:
                    continue
                old.num_activations -= 1
                group.num_activations += 1
                if not activation.in_flight:
                    del old.idle[activation]
                    group.idle[activation] = None
                elif activation.in_flight < self.set_size:
                    group.add_busy(activation)
        self._order = list(dict.fromkeys((*self._order, group)))
        self._drop_empty_groups()
        self._order.sort(key=lambda each: each.times.mean_s(size))

    def __iter__(self) -> Iterator[Activation]:
        """All activations, by device, in the order they came."""
        for activations in self.devices.values():
            yield from activations

    def check(self) -> None:
        """Assert that every activation stands where it belongs, once."""
        for device_id, activations in self.devices.items():
            group = self._speeds[device_id].group
            for each in activations:
                assert each.is_parked or group in self._order, "a device of no group"
                fits = len(each.held) <= self.set_size
                fits = fits or each.held[-1].submitted_at <= self.narrowed_at
                assert fits, "a slot taken twice"
                is_idle = not (each.held or each.is_parked)
                assert (each in group.idle) == is_idle, f"{each} is lost"
        live = [each for each in self if not each.is_parked]
        for group in self._order:
            members = sum(each.speed.group is group for each in live)
            assert group.num_activations == members > 0, "a group miscounts its activations"
        idle = sum(len(group.idle) for group in self._order)
        assert idle == sum(not each.held for each in live), "idle in two groups"


def least_loaded(able: Iterable[Activation], avoid: int | None = None) -> Activation | None:
    """The one that holds least, on another device than `avoid`, and will be free first."""
    others = (each for each in able if each.device_id != avoid)
    return min(others, key=lambda each: (each.in_flight, each.free_at), default=None)
