"""From records to findings: everything that can be computed about one run.

Rules of this file:
- Latencies cover the requests planned after the warm-up, the completed rate covers the answers
  that came after it; counts, laws, devices and time series cover the whole run.
- No request is left out for being slow or late; a request without an answer counts against the
  SLO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from qaic_sched.loadgen.judge.checks import all_checks
from qaic_sched.loadgen.judge.evidence import Evidence, balance, device_reports
from qaic_sched.loadgen.judge.over_time import over_time
from qaic_sched.loadgen.judge.percentiles import early_stopping, latency
from qaic_sched.loadgen.judge.warm_up import find
from qaic_sched.loadgen.plan.plan import Burst, Constant, Gamma, Mmpp, Poisson, Ramp, Step
from qaic_sched.loadgen.report.report import Counts, Findings, WarmUp
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.targets.base import TargetInfo

__all__ = ["analyse"]


def analyse(
    plan: Plan,
    info: TargetInfo,
    records: Records,
    planned: str | None,
    *,
    correctness: dict[str, Any] | None = None,
    ended_early: str = "",
) -> Findings:
    """Analyse the records of a run; `planned` is the hash of its schedule, None without one."""
    warm_up = _warm_up(plan, records)
    evidence = Evidence.of(plan, info, records, round(warm_up.until_s * 1e9))
    duration_s = _duration_s(plan, records)
    devices = device_reports(evidence, duration_s)
    rows = evidence.measured
    scheduled = (records.done_ns - records.planned_ns)[rows]
    slo = plan.rules.slo
    return Findings(
        target=info.name,
        plan=plan,
        schedule_hash=planned,
        duration_s=duration_s,
        counts=_counts(evidence),
        asked_rate=_asked_rate(plan),
        scheduled_rate=_scheduled_rate(plan, records, duration_s),
        completed_rate=_completed_rate(evidence),
        scheduled=latency(scheduled),
        response=latency((records.done_ns - records.sent_ns)[rows]),
        lag=latency((records.sent_ns - records.planned_ns)[rows]),
        early_stopping=early_stopping(
            scheduled,
            slo.percentile if slo else plan.rules.percentile,
            unanswered=_unanswered(evidence),
        ),
        warm_up=warm_up,
        devices=devices,
        balance=balance(devices),
        checks=all_checks(evidence),
        series=over_time(records, info),
        problems=dict(records.problems),
        ended_early=ended_early,
        correctness=correctness or {},
        config=dict(info.config),
    )


def _warm_up(plan: Plan, records: Records) -> WarmUp:
    """Find where the measured part begins; a burst is planned at one instant and has no warm-up."""
    done = records.outcome == Outcome.DONE
    planned = records.planned_ns[done]
    if plan.scenario == "offline" or isinstance(plan.arrivals, Burst):
        text = "all requests were planned at one instant"
        return WarmUp(until_s=0.0, excluded=0, rule="none", is_steady=True, trend=text)
    found = find(planned, (records.done_ns - records.planned_ns)[done])
    excluded = np.searchsorted(records.planned_ns, round(found.until_s * 1e9))
    return msgspec.structs.replace(found, excluded=int(excluded))


def _duration_s(plan: Plan, records: Records) -> float:
    """Seconds to the last answer, or to the end of a schedule that ends with a pause."""
    ended_s = records.ended_ns / 1e9
    is_whole = plan.max_requests is None and bool((records.sent_ns >= 0).all())
    if is_whole and isinstance(plan.arrivals, Constant | Poisson | Gamma | Mmpp | Step | Ramp):
        return max(ended_s, plan.duration_s)
    return ended_s


def _counts(evidence: Evidence) -> Counts:
    by_outcome = np.bincount(evidence.records.outcome, minlength=len(Outcome)).tolist()
    return Counts(
        planned=len(evidence.records.planned_ns),
        sent=int(np.count_nonzero(evidence.records.sent_ns >= 0)),
        done=by_outcome[Outcome.DONE],
        failed=by_outcome[Outcome.FAILED],
        expired=by_outcome[Outcome.EXPIRED],
        rejected=by_outcome[Outcome.REJECTED],
        cancelled=by_outcome[Outcome.CANCELLED],
        unresolved=by_outcome[Outcome.UNRESOLVED],
        measured=int(np.count_nonzero(evidence.measured)),
    )


def _unanswered(evidence: Evidence) -> int:
    """Count the requests planned after the warm-up that were not done."""
    is_after = evidence.records.planned_ns >= evidence.until_ns
    return int(np.count_nonzero(is_after & ~evidence.done))


def _asked_rate(plan: Plan) -> float | None:
    """Return the plan's samples per second; None if it has no rate."""
    match plan.arrivals:
        case Constant(rate) | Poisson(rate) | Gamma(rate) | Mmpp(rate):
            return rate * plan.samples_per_request
        case Step(rates):
            return sum(rates) / len(rates) * plan.samples_per_request
        case Ramp(from_rate, to_rate):
            return (from_rate + to_rate) / 2 * plan.samples_per_request
    return None


def _scheduled_rate(plan: Plan, records: Records, duration_s: float) -> float:
    """Divide by the time from the first planned instant to the last; for a burst, by the run's."""
    count = len(records.planned_ns)
    span_s = float(records.planned_ns[-1] - records.planned_ns[0]) / 1e9 if count else 0.0
    if span_s > 0:
        return (count - 1) / span_s * plan.samples_per_request
    return count / duration_s * plan.samples_per_request if duration_s > 0 else 0.0


def _completed_rate(evidence: Evidence) -> float:
    """Divide all answers after the warm-up by the time from its end to the last answer.

    Counting only the measured requests would be wrong: a backlog from the warm-up delays them, so
    their rate would be below the target's.
    """
    done_ns = evidence.records.done_ns[evidence.done]
    if not len(done_ns):
        return 0.0
    begin_ns = evidence.until_ns or int(evidence.records.planned_ns[0])
    span_s = (int(done_ns.max()) - begin_ns) / 1e9
    samples = int(np.count_nonzero(done_ns >= begin_ns)) * evidence.plan.samples_per_request
    return samples / span_s if span_s > 0 else 0.0
