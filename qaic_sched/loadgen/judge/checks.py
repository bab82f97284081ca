"""Laws that the numbers of a run must obey, and predictions to compare them with.

Rules of this file:
- Each check compares two numbers from independent sources: events with averages, the devices'
  metrics with the requests, measurement with theory.
- A check that cannot be computed does not fail; its note says why.
- A law holds within 1 %. A prediction is information only and neither holds nor fails.
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

LAW_TOLERANCE = 0.01
"""Relative error within which a law holds."""
CLOCK_ROUNDING_NS = 1_000
"""Rounding error of the difference of two clock readings."""
SAME_SPEED_TOLERANCE = 0.05
"""Devices whose mean execution times differ by less are equally fast."""
NO_INFERENCES = (
    "the target does not report the inference of every request, or requests span several"
)
NO_ACTIVATIONS = "the target does not report its number of activations"


def all_checks(evidence: Evidence) -> tuple[Check, ...]:
    """Make all checks, in the order in which they are shown."""
    return (
        littles_law(evidence),
        flow_balance(evidence),
        utilisation_law(evidence),
        closed_loop_bound(evidence),
        predicted_wait(evidence),
        ideal_replay(evidence),
    )


def littles_law(evidence: Evidence) -> Check:
    """Little's law: average requests in flight = rate x mean latency, from sent and from planned.

    The left side counts events without pairing them, the right side pairs them per request. When
    all requests are answered both are equal; a request that was lost, never answered or counted
    twice makes them differ.
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
        holds=all(abs(error) <= LAW_TOLERANCE for error in errors),
        note=f"average requests in flight against rate times mean response time; from the planned"
        f" instant {planned[0]:.5g} against {planned[1]:.5g}",
    )


def _little(
    entered_ns: NDArray[np.int64], records: Records, rows: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """Return time average and rate x mean latency of the requests from entry to answer."""
    left = records.done_ns >= 0
    if not (rows & left).any():
        return None
    begin = int(entered_ns[rows].min())
    end = int(records.done_ns.max())
    if (rows & ~left).any():  # requests without an answer stay until the end
        end = max(end, records.ended_ns)
    if end <= begin:
        return None
    inside = time_out(entered_ns[rows], records.done_ns[left], np.array([begin, end]))
    latency = (records.done_ns - entered_ns)[rows & left]
    rate = len(latency) / (end - begin)
    return float(inside[1] - inside[0]) / (end - begin), rate * float(latency.mean())


def flow_balance(evidence: Evidence) -> Check:
    """Flow balance: each request has one outcome that fits its instants, and devices ran them all.

    Devices may run more inferences than were answered, for retries and hedges, but not fewer. If
    they ran more, the note says so and the numbers are those of the requests.
    """
    rows = len(evidence.records.planned_ns)
    wrong = int(np.count_nonzero(_contradictory(evidence.records)))
    answered = len(evidence.inferences) if evidence.inferences is not None else 0
    by_devices = sum(each.inferences for each in evidence.totals.values())
    error = _relative(by_devices, answered) if answered and by_devices else None
    measured, expected, unit = float(rows - wrong), float(rows), "requests"
    note = f"{rows - wrong} of {rows} requests have an outcome that fits their instants; "
    if error is None:
        note += "the devices' inferences could not be compared"
    elif error > LAW_TOLERANCE:
        note += f"the devices ran {by_devices} inferences, of which {answered} answered requests:"
        note += " the others were failures, retries, hedges or for other callers"
    else:
        note += "inferences by the devices' metrics against inferences that answered requests"
        if not wrong:
            measured, expected, unit = float(by_devices), float(answered), "inferences"
    return Check(
        name="flow_balance",
        measured=measured,
        expected=expected,
        unit=unit,
        error=_relative(measured, expected),
        holds=wrong == 0 and (error is None or error >= -LAW_TOLERANCE),
        note=note,
    )


def _contradictory(records: Records) -> NDArray[np.bool_]:
    """Return the rows whose instants and outcome contradict each other."""
    sent, done = records.sent_ns, records.done_ns
    is_sent, is_answered = sent >= 0, done >= 0
    wrong: NDArray[np.bool_] = (
        (is_answered & ~is_sent)
        | (is_answered == (records.outcome == Outcome.UNRESOLVED))
        | (is_sent & (sent < records.planned_ns - CLOCK_ROUNDING_NS))
        | (is_answered & (done < sent - CLOCK_ROUNDING_NS))
        | (is_answered & (done > records.ended_ns + CLOCK_ROUNDING_NS))
    )
    return wrong


def utilisation_law(evidence: Evidence) -> Check:
    """Utilisation law: a device's busy time = its inferences x mean execution time of requests.

    Inferences that answered no request, such as hedged ones, may have taken any time. If they may
    explain a busier device, the law is not judged.
    """
    if evidence.inferences is None:
        return _unknown("utilisation_law", "s", NO_INFERENCES)
    pairs = list(_busy(evidence, evidence.inferences))
    if not pairs:
        return _unknown(
            "utilisation_law", "s", "the target does not report the busy time of its devices"
        )
    device, measured, expected, unanswered = max(pairs, key=lambda pair: abs(_relative(*pair[1:3])))
    error = _relative(measured, expected)
    note = (
        f"busy time of device {device} (largest error of {len(pairs)}) against its inferences times"
        " the mean execution time of requests"
    )
    holds: bool | None = abs(error) <= LAW_TOLERANCE
    if error > LAW_TOLERANCE and unanswered > 0:
        holds = None
        note += f"; {unanswered} inferences that answered no request kept it busy as well"
    elif error > LAW_TOLERANCE:
        note += "; other callers kept it busy as well, or its metrics are wrong"
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
    """Yield device, busy time by metrics and by requests, inferences that answered none."""
    means = _mean_execute_s(inferences)
    for device, totals in evidence.totals.items():
        if device in means:
            answered = int(np.count_nonzero(inferences.device == device))
            expected = totals.inferences * means[device]
            yield device, totals.busy_s, expected, totals.inferences - answered


def _mean_execute_s(inferences: Inferences) -> dict[int, float]:
    """Return device id -> mean execution time in seconds."""
    devices, index = np.unique(inferences.device, return_inverse=True)
    means = np.bincount(index, inferences.execute_ns) / np.bincount(index) / 1e9
    return dict(zip(devices.tolist(), means.tolist(), strict=True))


def closed_loop_bound(evidence: Evidence) -> Check:
    """Bound a closed loop's rate by its callers without waits, and by all activations."""
    plan, records, done = evidence.plan, evidence.records, evidence.done
    if plan.scenario not in ("closed", "single_stream", "multi_stream"):
        return _unknown("closed_loop_bound", "requests/s", "not a closed loop")
    if not done.any():
        return _unknown("closed_loop_bound", "requests/s", "no request was done")
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
        holds=rate <= bound * (1 + LAW_TOLERANCE),
        note=f"a bound, not a prediction: {plan.concurrency} callers that never wait make"
        f" {callers:.5g}/s"
        + (f", all activations complete {capacity:.5g}/s" if capacity < math.inf else ""),
    )


def _alone_s(evidence: Evidence) -> float:
    """Return a request's time without waits: the mean execution time, else the shortest answer."""
    records, rows = evidence.records, evidence.done
    if evidence.inferences is None:
        return float((records.done_ns - records.sent_ns)[rows].min()) / 1e9
    return float(_execute_s(records, rows).mean())


def _capacity(evidence: Evidence) -> float:
    """Return the requests per second of all activations; infinite if not known."""
    inferences = evidence.inferences
    if inferences is None or not evidence.activations:
        return math.inf
    means = _mean_execute_s(inferences)
    fastest = min(means.values())  # assumed for a device that answered nothing
    if fastest <= 0:
        return math.inf
    rates = [
        activations / means.get(device, fastest)
        for device, activations in evidence.info.activations.items()
    ]
    return sum(rates) * inferences.requests / len(inferences)


def predicted_wait(evidence: Evidence) -> Check:
    """Predict the mean wait by Kimura's formula: Cosmetatos' for constant execution times."""
    problem = _unpredictable(evidence)
    if problem is not None:
        return _unknown("predicted_wait", "s", problem)
    records, rows = evidence.records, evidence.measured
    planned, execute_s = records.planned_ns[rows], _execute_s(records, rows)
    rate = (len(planned) - 1) / float(planned[-1] - planned[0]) * 1e9
    mean_s, cv = float(execute_s.mean()), float(execute_s.std() / execute_s.mean())
    load = rate * mean_s / evidence.activations
    text = f"{rate:.5g}/s on {evidence.activations} activations, load {load:.1%}, execution time"
    text += f" {mean_s * 1e3:.4g} ms with CV {cv:.3f}"
    if cv > 1 or load >= 1:
        return _unknown("predicted_wait", "s", f"no formula applies to {text}")
    expected = mgc_wait(rate, mean_s, evidence.activations, cv)
    measured = float((records.started_ns - records.planned_ns)[rows].mean()) / 1e9
    return Check(
        name="predicted_wait",
        measured=measured,
        expected=expected,
        unit="s",
        error=_relative(measured, expected),
        holds=None,
        note=f"mean wait from the planned instant to the start, by Kimura's formula for {text}",
    )


def _execute_s(records: Records, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return (records.completed_ns - records.started_ns)[rows] / 1e9


def _unpredictable(evidence: Evidence) -> str | None:
    """Return why no formula applies, or None if one does."""
    if not isinstance(evidence.plan.arrivals, Poisson):
        return "only Poisson arrivals have a formula; the ideal replay covers all arrivals"
    if evidence.info.max_batch_size != 1 or evidence.plan.samples_per_request != 1:
        return "no formula covers batches"
    if not evidence.activations:
        return NO_ACTIVATIONS
    if evidence.inferences is None:
        return NO_INFERENCES
    means = _mean_execute_s(evidence.inferences).values()
    if min(means) <= 0:
        return "inferences took no time"
    if max(means) > min(means) * (1 + SAME_SPEED_TOLERANCE):
        return "no formula covers devices of several speeds"
    planned = evidence.records.planned_ns[evidence.measured]
    if not len(planned) or planned[0] == planned[-1]:
        return "too few requests were done"
    return None


def ideal_replay(evidence: Evidence) -> Check:
    """Replay the run's inferences through an ideal pool; a longer measured wait is the loss.

    An inference is ready when the last of its requests was due, and takes its measured time. A
    device's pause between two inferences is part of the execution time if the second one arrived
    too late to hide it, so the loss does not include that pause.
    """
    inferences = evidence.inferences
    if inferences is None or not evidence.activations:
        problem = NO_INFERENCES if inferences is None else NO_ACTIVATIONS
        return _unknown("ideal_replay", "s", problem)
    order = np.lexsort((inferences.started_ns, inferences.ready_ns))
    ready, execute = inferences.ready_ns[order], inferences.execute_ns[order]
    ideal = fcfs_waits(ready.astype(np.float64), execute.astype(np.float64), evidence.activations)
    measured = inferences.started_ns[order] - ready
    loss_s = float((measured - ideal).mean()) / 1e9
    mean_s = float(execute.mean()) / 1e9
    left_out = int(np.count_nonzero(~evidence.done))
    return Check(
        name="ideal_replay",
        measured=float(measured.mean()) / 1e9,
        expected=float(ideal.mean()) / 1e9,
        unit="s",
        error=loss_s / mean_s if mean_s > 0 else None,
        holds=None,
        note=f"mean wait of {len(ready)} inferences against that on {evidence.activations} ideal"
        f" activations: the loss is {loss_s * 1e6:.4g} us, the mean execution time"
        f" {mean_s * 1e3:.4g} ms"
        + (f"; {left_out} requests that were not done are left out" if left_out else ""),
    )


def _relative(measured: float, expected: float) -> float:
    if measured == expected:
        return 0.0
    return (measured - expected) / expected if expected else math.copysign(math.inf, measured)


def _unknown(name: str, unit: str, note: str) -> Check:
    return Check(
        name=name, measured=None, expected=None, unit=unit, error=None, holds=None, note=note
    )
