"""Random schedules against a model: each request ends once, whatever devices and callers do.

The model knows nothing of queues and policies. It records which samples were sent and answered, and
checks the promises: exactly one outcome per request, every sample of a done request answered once
(by a batch that was not abandoned), no slot taken twice, no partial batch behind another, no work
for a device in quarantine, one reload per probe, no release of capacity that holds a batch. In the
end either every device answers, or none ever does again, and each request still has an outcome.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qaic_sched.core.events import (
    ActivationsAdded,
    ActivationsRetired,
    Cancelled,
    Closed,
    Completed,
    DeviceOpened,
    DeviceRetired,
    DrainStarted,
    Event,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.model import Batch, Fault, Part, Policy, Request, RequestState, Tenant
from qaic_sched.core.placement import choose_elsewhere, has_faster
from qaic_sched.core.state import SchedulerState
from qaic_sched.core.tenant_queue import urgency
from tests.core.harness import drive

POLICIES = st.builds(
    Policy,
    batch_sizes=st.sampled_from([(1,), (4,), (1, 2, 4, 8)]),
    max_samples=st.sampled_from([1, 8, 1000]),
    max_bytes=st.sampled_from([None, 40]),
    waits_when_full=st.booleans(),
    max_queue_delay_s=st.sampled_from([0.0, 0.5]),
    max_attempts=st.integers(1, 3),
    hedge_after=st.sampled_from([None, 3.0]),
    hedge_max_extra=st.sampled_from([0.01, 0.5]),
    dispatch_timeout_s=st.sampled_from([None, 2.0]),
    tenants=st.sampled_from([{}, {"a": Tenant(3.0), "b": Tenant(0.5, 0.3)}]),
)
ARRIVALS = st.lists(
    st.fixed_dictionaries(
        {
            "samples": st.integers(1, 20),
            "priority": st.integers(-1, 1),
            "num_bytes": st.integers(0, 20),
            "tenant": st.sampled_from([None, "a", "b", "c"]),
            "stay_s": st.none() | st.sampled_from([0.0, 0.25, 1.0, 4.0]),
        }
    ),
    min_size=1,
    max_size=4,
)
FAULTS = st.sampled_from([None, None, None, *Fault])
ANSWERS = st.lists(st.tuples(st.integers(0, 30), FAULTS), min_size=1, max_size=3)


def line_of(request: Request) -> tuple[int, str | None]:
    """Return the priority and tenant, in which requests are ordered by urgency."""
    return request.priority, request.tenant


class Schedules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.arrived: dict[int, Request] = {}
        self.resolved: dict[int, RequestState] = {}
        self.held: dict[int, Batch] = {}
        self.answered: dict[int, list[tuple[int, int]]] = {}
        self.dispatched: set[Part] = set()
        self.hedged: set[Part] = set()
        self.settled: set[Part] = set()
        self.reloading: set[int] = set()
        self.closing: set[int] = set()

    @initialize(policy=POLICIES, set_size=st.integers(1, 3), falls_silent=st.booleans())
    def start(self, policy: Policy, set_size: int, falls_silent: bool) -> None:
        self.policy, self.set_size, self.falls_silent = policy, set_size, falls_silent
        self.state = SchedulerState(policy)

    def step(self, *events: Event) -> None:
        """Take a step, and check its commands against the model."""
        commands = drive(self.state, self.now, *events)
        for batch in commands.dispatch:
            self.check_dispatch(batch)
            self.held[batch.id] = batch
        for request in commands.resolve:
            self.check_outcome(request)
            self.resolved[request.id] = request.state
        for device_id in commands.reload:
            assert device_id not in self.reloading, "reloaded twice for one probe"
            assert self.health_of(device_id) == "quarantined"
            self.reloading.add(device_id)
        for device_id, indexes in commands.unload:
            here = {each.activation.index for each in self.held_on(device_id)}
            assert here.isdisjoint(indexes), "released, and holds a batch"
        for device_id in commands.close:
            assert device_id not in {*self.reloading, *self.closing}, "closed twice, or reloading"
            if device_id in self.state.ledger.devices:
                assert self.held_on(device_id), "closed, holds nothing, and is still there"
                self.closing.add(device_id)

    def held_on(self, device_id: int) -> list[Batch]:
        return [each for each in self.held.values() if each.activation.device_id == device_id]

    def health_of(self, device_id: int) -> str:
        return self.state.statistics().devices[device_id].state

    def check_dispatch(self, batch: Batch) -> None:
        load = sum(each.activation is batch.activation for each in self.held.values())
        assert batch.id not in self.held
        assert load < self.set_size
        assert self.health_of(batch.activation.device_id) != "quarantined"
        if batch.is_hedge:
            assert self.dispatched.issuperset(batch.parts)
            self.hedged.update(batch.parts)
        elif not self.dispatched.isdisjoint(batch.parts):
            groups = {id(part.group) for part in batch.parts}
            assert len(groups) == 1, "a retry with parts of another batch"
        else:
            self.check_new(batch, load)
        self.dispatched.update(batch.parts)

    def check_new(self, batch: Batch, load: int) -> None:
        is_slow = has_faster(self.state.ledger, batch.activation)
        for line in {(it.request.priority, it.request.tenant) for it in batch.parts}:
            of_line = [it.request for it in batch.parts if line_of(it.request) == line]
            order = [(urgency(it), it.id) for it in of_line]
            assert order == sorted(set(order)) or (is_slow and order == sorted(set(order))[::-1])
        isolated = self.state.admission.queued.tenants.isolated
        if batch.samples < self.policy.max_batch_size and not (is_slow or isolated):
            assert load == 0, "a partial batch behind another"
        tenants = {part.request.tenant for part in batch.parts}
        assert len(tenants) == 1 or tenants.isdisjoint(isolated), "isolated, with others"

    def check_outcome(self, request: Request) -> None:
        assert request.id not in self.resolved, "resolved twice"
        state, parts = request.state, sorted(self.answered[request.id])
        if state is RequestState.DONE:
            ends = [offset + samples for offset, samples in parts]
            assert [offset for offset, _ in parts] == [0, *ends[:-1]], "samples lost or doubled"
            assert ends[-1] == request.samples
        elif state is RequestState.EXPIRED:
            assert request.deadline is not None
        elif state is RequestState.FAILED and request.last_batch is None:
            devices = self.state.statistics().devices
            assert all(each.state == "quarantined" for each in devices.values())
        elif state is RequestState.REJECTED:
            is_for_its_deadline = request.wait_s is not None and request.deadline is not None
            assert is_for_its_deadline or not self.policy.waits_when_full

    def answer(self, batch: Batch, fault: Fault | None) -> Completed:
        del self.held[batch.id]
        if fault is None and not batch.is_abandoned:
            for part in batch.parts:
                if part in self.settled:
                    assert part in self.hedged, "done, and sent again"
                    continue
                self.settled.add(part)
                self.answered[part.request.id].append((part.offset, part.samples))
        return Completed(batch.id, self.now, fault)

    def unused_ids(self) -> list[int]:
        used = {*self.state.ledger.devices, *self.closing}
        return [] if self.state.is_closed else [each for each in range(3) if each not in used]

    @precondition(lambda self: self.unused_ids())
    @rule(num_activations=st.integers(1, 2))
    def open_device(self, num_activations: int) -> None:
        """Open a device, possibly one that was closed and forgotten."""
        self.step(DeviceOpened(self.unused_ids()[0], num_activations, self.set_size))

    @precondition(lambda self: not self.state.is_draining)
    @rule(arrivals=ARRIVALS)
    def arrive(self, arrivals: list[dict[str, Any]]) -> None:
        new = []
        for fields in arrivals:
            stay_s: float | None = fields["stay_s"]
            request = Request(
                len(self.arrived),
                fields["samples"],
                self.now,
                deadline=None if stay_s is None else self.now + stay_s,
                priority=fields["priority"],
                num_bytes=fields["num_bytes"],
                tenant=fields["tenant"],
            )
            self.arrived[request.id] = request
            self.answered[request.id] = []
            new.append(request)
        self.step(*new)

    @precondition(lambda self: self.arrived)
    @rule(choice=st.integers(0, 200))
    def cancel(self, choice: int) -> None:
        self.step(Cancelled(choice % len(self.arrived)))

    @precondition(lambda self: self.held)
    @rule(choices=ANSWERS)
    def answer_some(self, choices: list[tuple[int, Fault | None]]) -> None:
        events: list[Event] = []
        for choice, fault in choices:
            if self.held:
                batch = list(self.held.values())[choice % len(self.held)]
                events.append(self.answer(batch, fault))
        self.step(*events)

    @precondition(lambda self: self.reloading)
    @rule(choice=st.integers(0, 30), num_activations=st.integers(0, 3))
    def end_a_reload(self, choice: int, num_activations: int) -> None:
        """Answer all batches of the device; then it is open again, or its reload fails."""
        device_id = sorted(self.reloading)[choice % len(self.reloading)]
        self.reloading.remove(device_id)
        events: list[Event] = [self.answer(it, Fault.LOST) for it in self.held_on(device_id)]
        if num_activations and not self.state.is_closed:
            events.append(DeviceOpened(device_id, num_activations, self.set_size))
        else:
            events.append(ReloadFailed(device_id))
        self.step(*events)

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 30))
    def lose_a_device(self, choice: int) -> None:
        """Answer all batches of one device with a fault."""
        device_id = list(self.held.values())[choice % len(self.held)].activation.device_id
        self.step(*(self.answer(each, Fault.LOST) for each in self.held_on(device_id)))

    @precondition(lambda self: self.closing)
    @rule()
    def end_a_close(self) -> None:
        """Answer all batches of the device, and forget it."""
        device_id = self.closing.pop()
        self.step(*(self.answer(each, Fault.LOST) for each in self.held_on(device_id)))
        assert self.state.is_closed or device_id not in self.state.ledger.devices

    def devices_to_change(self) -> list[int]:
        ledger = self.state.ledger
        is_over = self.state.is_closed
        return [] if is_over else [each for each in ledger.devices if each not in ledger.leaving]

    @precondition(lambda self: self.devices_to_change())
    @rule(choice=st.integers(0, 2), count=st.integers(1, 2))
    def add_activations(self, choice: int, count: int) -> None:
        devices = self.devices_to_change()
        device_id = devices[choice % len(devices)]
        if self.health_of(device_id) != "quarantined":
            top = 1 + max(each.index for each in self.state.ledger.devices[device_id])
            self.step(ActivationsAdded(device_id, tuple(range(top, top + count))))

    @precondition(lambda self: self.devices_to_change())
    @rule(choice=st.integers(0, 2))
    def retire_an_activation(self, choice: int) -> None:
        """Retire the last activation that is to stay, unless it is the only one."""
        devices = self.devices_to_change()
        device_id = devices[choice % len(devices)]
        activations = self.state.ledger.devices[device_id]
        stay = [
            each
            for each in activations
            if each not in self.state.ledger.retiring.get(device_id, ())
        ]
        if len(stay) > 1:
            self.step(ActivationsRetired(device_id, (stay[-1].index,)))

    @precondition(lambda self: len(self.devices_to_change()) > 1)
    @rule(choice=st.integers(0, 2))
    def retire_a_device(self, choice: int) -> None:
        """Retire a device while another one stays, possibly in quarantine."""
        devices = self.devices_to_change()
        self.step(DeviceRetired(devices[choice % len(devices)]))

    @precondition(lambda self: self.state.ledger.devices and not self.state.is_closed)
    @rule(set_size=st.integers(1, 3))
    def change_the_set_size(self, set_size: int) -> None:
        self.set_size = set_size
        self.step(SetSizeChanged(set_size))

    @precondition(lambda self: not self.state.is_closed)
    @rule(policy=POLICIES)
    def change_the_policy(self, policy: Policy) -> None:
        """Change every parameter but the compiled sizes."""
        self.policy = replace(policy, batch_sizes=self.policy.batch_sizes)
        self.step(PolicyChanged(self.policy))

    @rule(seconds=st.sampled_from([0.0, 0.125, 0.5, 3.0, 70.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    @precondition(lambda self: self.state.next_wakeup() is not None)
    @rule()
    def wake_up(self) -> None:
        self.now = self.state.next_wakeup() or self.now
        self.step()

    @precondition(lambda self: len(self.arrived) > 12 and not self.state.is_draining)
    @rule()
    def drain(self) -> None:
        self.step(DrainStarted())

    @precondition(lambda self: len(self.arrived) > 20 and not self.state.is_closed)
    @rule()
    def close(self) -> None:
        self.step(Closed())
        assert set(self.resolved) == set(self.arrived)

    @precondition(lambda self: hasattr(self, "state"))
    @invariant()
    def the_ledger_knows_what_devices_hold(self) -> None:
        held = Counter(each.activation.device_id for each in self.held.values())
        devices = self.state.statistics().devices
        assert {key: each.in_flight for key, each in devices.items() if each.in_flight} == held

    @precondition(lambda self: hasattr(self, "state"))
    @invariant()
    def no_part_waits_that_could_be_tried_again(self) -> None:
        for group in self.state.retries:
            assert choose_elsewhere(self.state.ledger, group.failed_on) is None

    def teardown(self) -> None:
        """Drain: every request is resolved by answers, or by time alone."""
        if not hasattr(self, "state"):
            return
        if not self.state.is_closed and not self.state.ledger.devices:
            self.open_device(1)
        self.step(DrainStarted())
        if self.falls_silent:
            self.wait_for_all_to_end()
        while self.held:
            self.now += 1.0
            self.step(*(self.answer(batch, None) for batch in list(self.held.values())))
        assert set(self.resolved) == set(self.arrived)
        assert not self.state.requests
        statistics, ends = self.state.statistics(), Counter(self.resolved.values())
        assert statistics.accepted + statistics.rejected == len(self.arrived)
        for state, total in ends.items():
            assert getattr(statistics, state.value) == total
        self.step(Closed())
        assert self.state.next_wakeup() is None

    def wait_for_all_to_end(self) -> None:
        """Let time pass without any answer or reload."""
        while self.state.requests:
            wakeup = self.state.next_wakeup()
            assert wakeup is not None, "unresolved requests, and no wakeup"
            self.now = wakeup
            self.step()


@pytest.mark.long
def test_random_schedules_keep_every_promise() -> None:
    """Arrivals, cancels, answers, faults, reloads, live changes, drain and close in any order."""
    run_state_machine_as_test(
        Schedules,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
