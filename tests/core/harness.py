"""Helpers of the core's tests: short ways to drive the state machine and read its commands.

Every step goes through `drive`, which checks every invariant: each test is an invariant test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from qaic_sched.core.commands import Commands
from qaic_sched.core.events import Completed, DeviceOpened, Event
from qaic_sched.core.execute_times import ExecuteTimes
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Activation, Batch, Fault, Part, Policy, Request
from qaic_sched.core.speed_group import DeviceSpeed, SpeedGroup
from qaic_sched.core.state import SchedulerState

__all__ = [
    "answer",
    "answer_all",
    "attempts_of",
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
    """Return a state under `Policy(**policy)`, by default without hedges, with devices open."""
    policy.setdefault("hedge_after", None)
    state = SchedulerState(Policy(**policy))
    drive(state, 0.0, *(DeviceOpened(each, num_activations, set_size) for each in range(devices)))
    return state


def make_activation(device_id: int = 0, index: int = 0) -> Activation:
    """Return an activation outside any ledger, on a device without measured times."""
    return Activation(device_id, index, DeviceSpeed(SpeedGroup(ExecuteTimes())))


def drive(state: SchedulerState, now: float, *events: Event) -> Commands:
    """Handle the events, check every invariant, return the commands."""
    commands = state.handle(now, events)
    check_invariants(state)
    return commands


def requests(count: int, first_id: int = 0, samples: int = 1, **fields: Any) -> list[Request]:
    """Return requests with consecutive ids and equal fields, accepted at 0 by default."""
    fields.setdefault("accepted_at", 0.0)
    return [Request(first_id + index, samples, **fields) for index in range(count)]


def answer(batch: Batch, at: float, failed: bool = False) -> Completed:
    """Return the device's answer to a batch."""
    return Completed(batch.id, at, Fault.INFERENCE if failed else None)


def answer_all(state: SchedulerState, now: float) -> Commands:
    """Answer all batches that devices hold, in the order of dispatch."""
    return drive(state, now, *(answer(batch, now) for batch in list(state.batches.values())))


def attempts_of(part: Part) -> int:
    """Return the attempts of a part by itself."""
    return part.group.attempts if part.group is not None else 0


def cargo(batch: Batch) -> Cargo:
    """Return (request id, offset, samples) of each part of a batch."""
    return [(part.request.id, part.offset, part.samples) for part in batch.parts]


def places(commands: Commands) -> list[tuple[int, int]]:
    """Return (device id, index of the activation) of each dispatched batch."""
    return [(each.activation.device_id, each.activation.index) for each in commands.dispatch]


def outcomes(resolved: Iterable[Request]) -> list[tuple[int, str]]:
    """Return (request id, value of the final state) of each resolved request."""
    return [(request.id, request.state.value) for request in resolved]


def lost(batch: Batch, at: float, fault: Fault = Fault.LOST) -> Completed:
    """Return a device's answer to a batch with a fault."""
    return Completed(batch.id, at, fault)


def health_of(state: SchedulerState, device_id: int = 0) -> str:
    """Return the state of a device in the statistics."""
    return state.statistics().devices[device_id].state


def held_by(state: SchedulerState, device_id: int) -> list[Batch]:
    """Return all batches that a device holds, the oldest first."""
    return [each for each in state.batches.values() if each.activation.device_id == device_id]


def lose(state: SchedulerState, now: float, device_id: int = 0) -> Commands:
    """Lose a device that has work, with all its batches."""
    return drive(state, now, *(lost(each, now) for each in held_by(state, device_id)))


def serve_one(state: SchedulerState, now: float, request_id: int, fault: Fault | None) -> str:
    """Dispatch one request and answer it at once; return its final state."""
    (batch,) = drive(state, now, Request(request_id, 1, now)).dispatch
    (request,) = drive(state, now, Completed(batch.id, now, fault)).resolve
    return request.state.value


def on_probation(devices: int = 1, num_activations: int = 3, **policy: Any) -> SchedulerState:
    """Return a state whose device 0 was lost at 1.0 with request 0, and came back at 1.1."""
    state = make_state(devices, num_activations, **policy)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    answer_all(state, 1.0)
    assert drive(state, 1.1).reload == [0]
    drive(state, 1.1, DeviceOpened(0, num_activations, 1))
    return state


def state_at_work() -> SchedulerState:
    """Return a state with two requests in flight, one half dispatched, one waiting and one done."""
    state = make_state(devices=2, batch_sizes=(1, 2), max_samples=4, max_queue_delay_s=0.5)
    (batch,) = drive(state, 1.0, Request(0, 2, 1.0)).dispatch
    drive(state, 2.0, answer(batch, 2.0))
    drive(state, 2.0, *requests(2, first_id=1, samples=3, accepted_at=2.0, deadline=9.0))
    drive(state, 2.0, Request(3, 3, 2.0, priority=1))
    return state


def snapshot(state: SchedulerState) -> list[object]:
    """Return everything that the state reports to the outside."""
    return [state.statistics(), state.next_wakeup(), len(state.batches), list(state.requests)]
