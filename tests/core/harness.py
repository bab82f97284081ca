"""What the tests of the core share: short ways to drive the state machine and to read its commands.

Every step goes through `drive`, which checks every invariant: each test is an invariant test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from qaic_sched.core.commands import Commands
from qaic_sched.core.events import Completed, DeviceOpened, Event
from qaic_sched.core.execute_times import ExecuteTimes
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Activation, Batch, Fault, Policy, Request
from qaic_sched.core.speed_group import DeviceSpeed, SpeedGroup
from qaic_sched.core.state import SchedulerState

__all__ = [
    "answer",
    "answer_all",
    "cargo",
    "drive",
    "health_of",
    "held_by",
    "lose",
    "lost",
    "make_activation",
    "make_state",
    "on_probation",
    "outcomes",
    "places",
    "requests",
    "serve_one",
    "snapshot",
    "state_at_work",
]

Cargo: TypeAlias = list[tuple[int, int, int]]


def make_state(
    devices: int = 1, num_activations: int = 1, set_size: int = 1, **policy: Any
) -> SchedulerState:
    """A state under `Policy(**policy)`, by default without hedges; devices open at time 0."""
    policy.setdefault("hedge_after", None)
    state = SchedulerState(Policy(**policy))
    drive(state, 0.0, *(DeviceOpened(each, num_activations, set_size) for each in range(devices)))
    return state


def make_activation(device_id: int = 0, index: int = 0) -> Activation:
    """An activation of no ledger, on a device of which nothing is known."""
    return Activation(device_id, index, DeviceSpeed(SpeedGroup(ExecuteTimes())))


def drive(state: SchedulerState, now: float, *events: Event) -> Commands:
    """Hand over the events, check every invariant, return the commands."""
    commands = state.handle(now, events)
    check_invariants(state)
    return commands


def requests(count: int, first_id: int = 0, samples: int = 1, **fields: Any) -> list[Request]:
    """Requests with ids in a row, equal in everything else, accepted at 0 unless told."""
    fields.setdefault("accepted_at", 0.0)
    return [Request(first_id + index, samples, **fields) for index in range(count)]


def answer(batch: Batch, at: float, failed: bool = False) -> Completed:
    """The device's answer to a batch."""
    return Completed(batch.id, at, Fault.INFERENCE if failed else None)


def answer_all(state: SchedulerState, now: float) -> Commands:
    """Answer everything that devices hold, in the order of dispatch."""
    return drive(state, now, *(answer(batch, now) for batch in list(state.batches.values())))


def cargo(batch: Batch) -> Cargo:
    """What travels in a batch: (request id, offset, samples) of each part."""
    return [(part.request.id, part.offset, part.samples) for part in batch.parts]


def places(commands: Commands) -> list[tuple[int, int]]:
    """Where the dispatched batches go: (device id, index of the activation)."""
    return [(each.activation.device_id, each.activation.index) for each in commands.dispatch]


def outcomes(resolved: Iterable[Request]) -> list[tuple[int, str]]:
    """Who is resolved how: (request id, value of the final state)."""
    return [(request.id, request.state.value) for request in resolved]


def lost(batch: Batch, at: float, fault: Fault = Fault.LOST) -> Completed:
    """A fault instead of outputs, of whatever kind."""
    return Completed(batch.id, at, fault)


def health_of(state: SchedulerState, device_id: int = 0) -> str:
    """What the statistics say of a device."""
    return state.statistics().devices[device_id].state


def held_by(state: SchedulerState, device_id: int) -> list[Batch]:
    """All batches that a device holds, the oldest first."""
    return [each for each in state.batches.values() if each.activation.device_id == device_id]


def lose(state: SchedulerState, now: float, device_id: int = 0) -> Commands:
    """A device that has work is lost with all that it holds."""
    return drive(state, now, *(lost(each, now) for each in held_by(state, device_id)))


def serve_one(state: SchedulerState, now: float, request_id: int, fault: Fault | None) -> str:
    """One request comes and is answered at once; how that ended."""
    (batch,) = drive(state, now, Request(request_id, 1, now)).dispatch
    (request,) = drive(state, now, Completed(batch.id, now, fault)).resolve
    return request.state.value


def on_probation(devices: int = 1, num_activations: int = 3, **policy: Any) -> SchedulerState:
    """Device 0 was lost at 1.0 with request 0, and is back since 1.1."""
    state = make_state(devices, num_activations, **policy)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    answer_all(state, 1.0)
    assert drive(state, 1.1).reload == [0]
    drive(state, 1.1, DeviceOpened(0, num_activations, 1))
    return state


def state_at_work() -> SchedulerState:
    """Two in flight, a large one half dispatched, one waiting, one done, deadlines ahead."""
    state = make_state(devices=2, batch_sizes=(1, 2), max_samples=4, max_queue_delay_s=0.5)
    (batch,) = drive(state, 1.0, Request(0, 2, 1.0)).dispatch
    drive(state, 2.0, answer(batch, 2.0))
    drive(state, 2.0, *requests(2, first_id=1, samples=3, accepted_at=2.0, deadline=9.0))
    drive(state, 2.0, Request(3, 3, 2.0, priority=1))
    return state


def snapshot(state: SchedulerState) -> list[object]:
    """All that the state says to the outside."""
    return [state.statistics(), state.next_wakeup(), len(state.batches), list(state.requests)]
