"""Laws that the numbers of a run must obey, and predictions to hold them against.

Rules of this file:
- Each check compares two numbers that come by different ways: events against averages, devices'
  metrics against requests, measurement against theory.
- What cannot be computed is not a failure; the note says why.
- A law holds within 1 %; a prediction is information and holds or fails nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.loadgen.judge.over_time import time_out
from qaic_sched.loadgen.judge.queueing import fcfs_waits, mgc_wait
from qaic_sched.loadgen.plan.plan import Poisson
from qaic_sched.loadgen.report.report import Check
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.judge.evidence import Evidence, Inferences

__all__ = [
    "all_checks",
    "closed_loop_bound",
    "flow_balance",
    "ideal_replay",
    "littles_law",
    "predicted_wait",
    "utilisation_law",
]

TOLERANCE = 0.01
CLOCK_NS = 1_000
"""Two readings of the clock may contradict each other by so much: rounding."""
ONE_SPEED = 0.05
"""Devices whose mean service times differ by less are equally fast."""
NO_INFERENCES = (
    "the target does not tell of every request where it ran, or requests span several inferences"
)
NO_ACTIVATIONS = "the target does not tell how many activations it has"


def all_checks(evidence: Evidence) -> tuple[Check, ...]:
    """Each of them once, in the order in which a reader wants them."""
    return (
        littles_law(evidence),
        flow_balance(evidence),
        utilisation_law(evidence),
        closed_loop_bound(evidence),
        predicted_wait(evidence),
        ideal_replay(evidence),
    )


def littles_law(evidence: Evidence) -> Check:
    """Requests out on average = rate x mean latency, sent and planned, from first in to last out.

    The left side counts events, whoever they belong to, the right side pairs them: once all are
    back both are the same, and a request that was lost, never came back or was counted twice
    parts them.
    """
    records = evidence.records
    answered = records.done_ns >= 0
    sent = _little(records.sent_ns, records, records.sent_ns >= 0)
    planned = _little(records.planned_ns, records, np.ones_like(answered))
    if sent is None or planned is None:
        return _unknown("littles_law", "requests", "no time passed between sending and answers")
    errors = [_relative(*sent), _relative(*planned)]
    return Check(
        name="littles_law",
        measured=sent[0],
        expected=sent[1],
        unit="requests",
        error=max(errors, key=abs),
        holds=all(abs(error) <= TOLERANCE for error in errors),
        note=f"time average of the requests out against their rate times the mean latency; from the"
        f" planned instant {planned[0]:.5g} against {planned[1]:.5g}",
    )


def _little(
    entered_ns: NDArray[np.int64], records: Records, rows: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """(Time average, rate x mean) of the requests between entering and their answer."""
    left = records.done_ns >= 0
    if not (rows & left).any():
        return None
    begin = int(entered_ns[rows].min())
    end = int(records.done_ns.max())
    if (rows & ~left).any():  # who never left is in until the run gave up
        end = max(end, records.ended_ns)
    if end <= begin:
        return None
    inside = time_out(entered_ns[rows], records.done_ns[left], np.array([begin, end]))
    latency = (records.done_ns - entered_ns)[rows & left]
    rate = len(latency) / (end - begin)
    return float(inside[1] - inside[0]) / (end - begin), rate * float(latency.mean())


def flow_balance(evidence: Evidence) -> Check:
    """Everything planned has one end that its instants agree with; devices did what was answered.

    Devices may do more than that, as retries and hedges do, but not less: more is told, and the
    numbers are then those of requests alone.
    """
    rows = len(evidence.records.planned_ns)
    wrong = int(np.count_nonzero(_contradictory(evidence.records)))
    answered = len(evidence.inferences) if evidence.inferences is not None else 0
    by_devices = sum(each.inferences for each in evidence.totals.values())
    error = _relative(by_devices, answered) if answered and by_devices else None
    measured, expected, unit = float(rows - wrong), float(rows), "requests"
    note = f"{rows - wrong} of {rows} requests have one end that their instants agree with; "
    if error is None:
        note += "the devices' inferences were not compared"
    elif error > TOLERANCE:
        note += f"the devices ran {by_devices} inferences, {answered} answered: what failed,"
        note += " retries, hedges or other callers are the rest"
    else:
        note += "inferences by the devices' metrics against those that answered"
        if not wrong:
            measured, expected, unit = float(by_devices), float(answered), "inferences"
    return Check(
        name="flow_balance",
        measured=measured,
        expected=expected,
        unit=unit,
        error=_relative(measured, expected),
        holds=wrong == 0 and (error is None or error >= -TOLERANCE),
        note=note,
    )


def _contradictory(records: Records) -> NDArray[np.bool_]:
    """Rows whose instants and outcome cannot all be true."""
    sent, done = records.sent_ns, records.done_ns
    is_sent, is_answered = sent >= 0, done >= 0
    wrong: NDArray[np.bool_] = (
        (is_answered & ~is_sent)
        | (is_answered == (records.outcome == Outcome.UNRESOLVED))
        | (is_sent & (sent < records.planned_ns - CLOCK_NS))
        | (is_answered & (done < sent - CLOCK_NS))
        | (is_answered & (done > records.ended_ns + CLOCK_NS))
    )
    return wrong


def utilisation_law(evidence: Evidence) -> Check:
    """Busy time by each device's metrics = its inferences x the mean service that requests saw.

    Inferences that answered nobody may have taken any time, as those that were hedged because they
    were late: where they may have kept a device busier than that, nothing can be said.
    """
    if evidence.inferences is None:
        return _unknown("utilisation_law", "s", NO_INFERENCES)
    pairs = list(_busy(evidence, evidence.inferences))
    if not pairs:
        return _unknown("utilisation_law", "s", "the target does not tell how busy its devices are")
    device, measured, expected, nobodys = max(pairs, key=lambda pair: abs(_relative(*pair[1:3])))
    error = _relative(measured, expected)
    note = (
        f"busy time of device {device}, the furthest off of {len(pairs)}, against its inferences"
        " times the mean service of those that answered"
    )
    holds: bool | None = abs(error) <= TOLERANCE
    if error > TOLERANCE and nobodys > 0:
        holds = None
        note += f"; {nobodys} that failed or answered nobody kept it busy, too"
    elif error > TOLERANCE:
        note += "; other callers kept it busy too, or its metrics are wrong"
    return Check(
        name="utilisation_law",
        measured=measured,
        expected=expected,
        unit="s",
        error=error,
        holds=holds,
        note=note,
    )


def _busy(evidence: Evidence, inferences: Inferences) -> Iterator[tuple[int, float, float, int]]:
    """(Device, busy time by metrics, by requests, inferences that answered nobody)."""
    means = _mean_execute_s(inferences)
    for device, totals in evidence.totals.items():
        if device in means:
            answered = int(np.count_nonzero(inferences.device == device))
            expected = totals.inferences * means[device]
            yield device, totals.busy_s, expected, totals.inferences - answered


def _mean_execute_s(inferences: Inferences) -> dict[int, float]:
    """Seconds, by device."""
    devices, index = np.unique(inferences.device, return_inverse=True)
    means = np.bincount(index, inferences.execute_ns) / np.bincount(index) / 1e9
    return dict(zip(devices.tolist(), means.tolist(), strict=True))


def closed_loop_bound(evidence: Evidence) -> Check:
    """No more than so many callers can ask for, nor than all activations can do."""
    plan, records, done = evidence.plan, evidence.records, evidence.done
    if plan.scenario not in ("closed", "single_stream", "multi_stream"):
        return _unknown("closed_loop_bound", "requests/s", "this was not a closed loop")
    if not done.any():
        return _unknown("closed_loop_bound", "requests/s", "nothing was done")
    span_s = (int(records.done_ns[done].max()) - int(records.planned_ns[0])) / 1e9
    alone_s = _alone_s(evidence)
    if span_s <= 0 or alone_s <= 0:
        return _unknown("closed_loop_bound", "requests/s", "requests took no time")
    rate, callers = int(done.sum()) / span_s, plan.concurrency / alone_s
    capacity = _capacity(evidence)
    bound = min(callers, capacity)
    return Check(
        name="closed_loop_bound",
        measured=rate,
        expected=bound,
        unit="requests/s",
        error=_relative(rate, bound),
        holds=rate <= bound * (1 + TOLERANCE),
        note=f"a bound, not a prediction: {plan.concurrency} callers without any wait can make"
        f" {callers:.5g}/s"
        + (f", all activations {capacity:.5g}/s" if capacity < math.inf else ""),
    )


def _alone_s(evidence: Evidence) -> float:
    """A request's time without any wait: its inference's, else the shortest that there was."""
    records, rows = evidence.records, evidence.done
    if evidence.inferences is None:
        return float((records.done_ns - records.sent_ns)[rows].min()) / 1e9
    return float(_execute_s(records, rows).mean())


def _capacity(evidence: Evidence) -> float:
    """Requests per second of all activations; infinite where that is not known."""
    inferences = evidence.inferences
    if inferences is None or not evidence.activations:
        return math.inf
    means = _mean_execute_s(inferences)
    fastest = min(means.values())  # a device that answered nothing could have been as fast
    if fastest <= 0:
        return math.inf
    rates = [
        activations / means.get(device, fastest)
        for device, activations in evidence.info.activations.items()
    ]
    return sum(rates) * inferences.requests / len(inferences)


def predicted_wait(evidence: Evidence) -> Check:
    """Mean wait by Kimura's formula, which is Cosmetatos' where service times are all the same."""
    problem = _unpredictable(evidence)
    if problem is not None:
        return _unknown("predicted_wait", "s", problem)
    records, rows = evidence.records, evidence.measured
    planned, services = records.planned_ns[rows], _execute_s(records, rows)
    rate = (len(planned) - 1) / float(planned[-1] - planned[0]) * 1e9
    mean_s, cv = float(services.mean()), float(services.std() / services.mean())
    load = rate * mean_s / evidence.activations
    text = f"{rate:.5g}/s on {evidence.activations} activations, load {load:.1%}, service time"
    text += f" {mean_s * 1e3:.4g} ms with CV {cv:.3f}"
    if cv > 1 or load >= 1:
        return _unknown("predicted_wait", "s", f"no formula holds for {text}")
    expected = mgc_wait(rate, mean_s, evidence.activations, cv)
    measured = float((records.started_ns - records.planned_ns)[rows].mean()) / 1e9
    return Check(
        name="predicted_wait",
        measured=measured,
        expected=expected,
        unit="s",
        error=_relative(measured, expected),
        holds=None,
        note=f"mean wait from the planned instant to the start; by Kimura for {text}",
    )


def _execute_s(records: Records, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return (records.completed_ns - records.started_ns)[rows] / 1e9


def _unpredictable(evidence: Evidence) -> str | None:
    """Why no formula holds, if none does."""
    if not isinstance(evidence.plan.arrivals, Poisson):
        return "only Poisson arrivals have a formula; the ideal replay holds for all"
    if evidence.info.max_batch_size != 1 or evidence.plan.samples_per_request != 1:
        return "no formula knows batches"
    if not evidence.activations:
        return NO_ACTIVATIONS
    if evidence.inferences is None:
        return NO_INFERENCES
    means = _mean_execute_s(evidence.inferences).values()
    if min(means) <= 0:
        return "inferences took no time"
    if max(means) > min(means) * (1 + ONE_SPEED):
        return "no formula knows devices of several speeds"
    planned = evidence.records.planned_ns[evidence.measured]
    if not len(planned) or planned[0] == planned[-1]:
        return "too few requests were done"
    return None


def ideal_replay(evidence: Evidence) -> Check:
    """The run's own requests through a pool that loses no time: what is above is the loss.

    Each inference is ready when the last of its requests was due, and takes as long as it took. A
    device's pause between two inferences is in its service time where the second came too late to
    hide it; so the loss leaves that out.
    """
    inferences = evidence.inferences
    if inferences is None or not evidence.activations:
        problem = NO_INFERENCES if inferences is None else NO_ACTIVATIONS
        return _unknown("ideal_replay", "s", problem)
    order = np.lexsort((inferences.started_ns, inferences.ready_ns))
    ready, services = inferences.ready_ns[order], inferences.execute_ns[order]
    ideal = fcfs_waits(ready.astype(np.float64), services.astype(np.float64), evidence.activations)
    measured = inferences.started_ns[order] - ready
    loss_s = float((measured - ideal).mean()) / 1e9
    mean_s = float(services.mean()) / 1e9
    left_out = int(np.count_nonzero(~evidence.done))
    return Check(
        name="ideal_replay",
        measured=float(measured.mean()) / 1e9,
        expected=float(ideal.mean()) / 1e9,
        unit="s",
        error=loss_s / mean_s if mean_s > 0 else None,
        holds=None,
        note=f"mean wait of {len(ready)} inferences against {evidence.activations} ideal servers:"
        f" {loss_s * 1e6:.4g} us are lost, of a mean service of {mean_s * 1e3:.4g} ms"
        + (f"; {left_out} requests without an answer left out" if left_out else ""),
    )


def _relative(measured: float, expected: float) -> float:
    if measured == expected:
        return 0.0
    return (measured - expected) / expected if expected else math.copysign(math.inf, measured)


def _unknown(name: str, unit: str, note: str) -> Check:
    return Check(
        name=name, measured=None, expected=None, unit=unit, error=None, holds=None, note=note
    )
