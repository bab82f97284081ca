"""The core's promises about devices: quarantine, reloads, releases and closes."""

from __future__ import annotations

from qaic_sched.core.commands import Commands
from qaic_sched.core.model import DeviceNews, Statistics
from tests.simulation.books import Books, DeviceBook, name_of, require

__all__ = ["DevicePromises"]

_LEAST_TIMEOUT_S = 1.0
"""An inference never counts as stuck sooner, unless the policy says so."""
_LEAST_ERRORS = 3
"""A ready device goes into quarantine after this many failed inferences of new requests in a row,
never sooner. Requests that failed before, and rejected values, are no sign against it."""
_LEAST_SLOW = 3
"""A device never counts as too slow after fewer slow answers in a row."""


class DevicePromises(Books):
    """Checks the commands and statistics that concern devices."""

    def _check_reload(self, device_id: int) -> None:
        device = self._devices[device_id]
        require(not self._is_closed, f"device {device_id}: a reload after the close")
        require(device.has_failed, f"device {device_id}: a reload though it never failed")
        require(not device.is_reloading, f"device {device_id}: a reload during another")
        is_unwanted = device.is_leaving and device_id not in self._retired_now
        require(not is_unwanted, f"device {device_id}: a reload of a device to be removed")
        busy = device.is_too_slow and not all(each.is_abandoned for each in device.held.values())
        require(not busy, f"device {device_id}: slow, and not allowed to finish")
        device.is_out = device.is_reloading = True

    def _check_wanted(self, name: str, device_id: int, index: int) -> None:
        """Capacity being removed gets no work while other capacity is ready."""
        if self._devices[device_id].wants(index) or device_id in self._retired_now:
            return
        ready = {each for each in self._ready_before if each in self._devices}
        ready = {each for each in ready if not self._devices[each].is_out} - self._retired_now
        # A device that failed in this step may be out by now.
        require(not ready or self._has_failed_now, f"{name}: it was to be removed")

    def _check_unload(self, device_id: int, indexes: tuple[int, ...]) -> None:
        device, name = self._devices[device_id], f"unloading {device_id}/{indexes}"
        require(not self._was_closed, f"{name}: after the close")
        # The removal of the whole device may have been asked for later in this step.
        is_whole = device.is_leaving and device_id not in self._retired_now
        require(device.retiring == {*indexes} and not is_whole, f"{name}: unasked")
        held = {each.batch.activation.index for each in device.held.values()}
        require(held.isdisjoint(indexes), f"{name}: at work")
        device.retiring.clear()
        for index in indexes:
            del device.last_answers[index]

    def _check_close(self, device_id: int) -> None:
        device, name = self._devices[device_id], f"closing device {device_id}"
        require(not self._was_closed, f"{name}: after the close")
        require(device.is_leaving and not device.is_closing, f"{name}: unasked")
        require(not device.is_reloading, f"{name}: while it is being reloaded")
        require(not device.held or device.is_out, f"{name}: at work")
        device.is_closing = True

    def _forget_closed(self) -> None:
        if self._was_closed:
            return
        closed = [each for each, its in self._devices.items() if its.is_closing and not its.held]
        for device_id in closed:
            del self._devices[device_id]

    def _check_retirement(self, statistics: Statistics) -> None:
        """Capacity being removed is released once it holds nothing, if other capacity is ready."""
        ready = {
            each
            for each, its in self._devices.items()
            if statistics.devices[each].state == "ready" and any(map(its.wants, its.last_answers))
        }
        self._ready_before = ready
        if not ready or self._is_closed:
            return
        for device_id, device in self._devices.items():
            busy = {each.batch.activation.index for each in device.held.values()}
            may_go = not (device.is_reloading or device.is_out)
            if device.is_leaving:
                is_kept = may_go and not busy
            else:
                is_kept = may_go and bool(device.retiring) and busy.isdisjoint(device.retiring)
            require(not is_kept, f"device {device_id} keeps idle activations: {device.retiring}")

    def _note_quarantines(self, statistics: Statistics) -> None:
        require(statistics.devices.keys() == self._devices.keys(), "which devices there are")
        for device_id, its in statistics.devices.items():
            is_out = its.state == "quarantined"
            device = self._devices[device_id]
            require(is_out or not device.is_out, f"device {device_id} is out and {its.state}")
            least = 1 if device.is_on_probation else _LEAST_ERRORS
            has_errors = device.most_errors_in_a_row >= least
            if is_out and not device.is_out and not has_errors:
                self._check_too_slow(device_id, device)
            device.is_out = is_out
            device.is_on_probation &= its.state != "ready"
            device.most_errors_in_a_row = device.errors_in_a_row
            device.most_slow_in_a_row = device.slow_in_a_row

    def _check_too_slow(self, device_id: int, device: DeviceBook) -> None:
        is_reported = DeviceNews.SLOW in self._reported_now.get(device_id, ())
        many = is_reported or device.most_slow_in_a_row >= _LEAST_SLOW
        require(many, f"device {device_id}: in quarantine, and neither failed nor slow")
        others = self._devices.keys() - self._out_before - {device_id}
        require(
            bool(others), f"device {device_id}: in quarantine for being slow, and the last device"
        )
        device.has_failed = device.is_too_slow = True
        self.num_too_slow += 1

    def _is_stuck(self, device: DeviceBook) -> bool:
        limits = [each.dispatch_timeout_s or _LEAST_TIMEOUT_S for each in self._policies]
        timeout_s = min(limits)
        since: dict[int, float] = {}
        for held in device.held.values():
            index = held.batch.activation.index
            since.setdefault(index, max(held.sent_at, device.last_answers[index]))
        ran_s = (self._now - each - self._stalled_s(each, self._now) for each in since.values())
        return any(each >= timeout_s - 1e-9 for each in ran_s)

    def _check_times(self) -> None:
        """No measured time has a stall of the loop in it."""
        for batch, most_s in self._answered_now:
            is_right = batch.execute_s <= most_s + 1e-9
            require(is_right, f"{name_of(batch)} took {batch.execute_s}, not {most_s}")

    def _check_news(self, commands: Commands) -> None:
        """What this model has found out is told, and what it was told is not."""
        lost = {
            device_id
            for device_id, news in commands.news
            if news in (DeviceNews.LOST, DeviceNews.RESTARTED)
        }
        require(lost == self._lost_now, f"{lost} reported lost, in truth {self._lost_now}")
        loaded = {each for each, news in commands.news if news is DeviceNews.RELOADED}
        require(loaded <= self._opened_now, f"{loaded} reported as loaded again")
