"""Known bugs, put into the core one at a time: the simulation must catch each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from qaic_sched.core.admission import Admission
from qaic_sched.core.deadlines import Deadlines
from qaic_sched.core.health import Health
from qaic_sched.core.outliers import Outliers
from qaic_sched.core.priority_levels import PriorityLevels
from qaic_sched.core.request_queue import RequestQueue
from qaic_sched.core.retries import Retries, RetryBudget
from qaic_sched.core.slot_ledger import SlotLedger
from qaic_sched.core.stalls import Stalls
from qaic_sched.core.state import SchedulerState
from qaic_sched.core.timeout_watch import TimeoutWatch
from tests.simulation.bugs import (
    Mutant,
    blames_a_device_for_bad_values,
    blames_a_device_for_each_retry,
    counts_a_hedge_twice,
    counts_a_stall_against_devices,
    counts_in_flight_wrong,
    drops_a_completion,
    fails_the_company_of_a_culprit,
    forgets_a_deadline,
    forgets_a_partial_batch,
    forgets_the_retry_budget,
    forgets_waiting_requests,
    frees_a_slot_at_the_timeout,
    hedges_after_a_stall,
    ignores_a_reported_loss,
    keeps_a_loss_to_itself,
    keeps_queues_that_ran_empty,
    learns_from_a_stall,
    lets_requests_share,
    loses_a_retried_part,
    loses_half_of_a_split,
    miscounts_the_samples_above,
    mixes_an_isolated_tenant,
    never_looks_for_stuck_batches,
    never_probes,
    reloads_an_outlier_at_work,
    resolves_twice,
    retries_bad_values,
    splits_whole_requests,
    takes_one_slow_answer_for_many,
    uses_a_late_answer,
    uses_a_quarantined_device,
    uses_retiring_activations,
    waits_past_a_deadline,
)
from tests.simulation.driver import find_violation

__all__ = ["MUTANTS", "mutated", "seeds_until_caught"]


MUTANTS: dict[str, Mutant] = {
    "drop one completion": (SchedulerState, "_part_done", drops_a_completion),
    "free a timed-out slot": (SchedulerState, "_give_up_on", frees_a_slot_at_the_timeout),
    "resolve twice": (SchedulerState, "_cancelled", resolves_twice),
    "lose a retried part": (Retries, "add", loses_a_retried_part),
    "lose half of a split": (SchedulerState, "_retry_inference", loses_half_of_a_split),
    "fail a culprit's company": (
        SchedulerState,
        "_retry_inference",
        fails_the_company_of_a_culprit,
    ),
    "blame a device for bad values": (
        SchedulerState,
        "_batch_failed",
        blames_a_device_for_bad_values,
    ),
    "blame a device for each retry": (
        SchedulerState,
        "_batch_failed",
        blames_a_device_for_each_retry,
    ),
    "retry bad values": (SchedulerState, "_retry_inference", retries_bad_values),
    "mix an isolated tenant": (RequestQueue, "_queue_beside", mixes_an_isolated_tenant),
    "dispatch to a quarantined device": (SlotLedger, "park", uses_a_quarantined_device),
    "forget a deadline": (Deadlines, "add", forgets_a_deadline),
    "count in flight wrong": (SchedulerState, "_resolve", counts_in_flight_wrong),
    "count a hedge twice": (SchedulerState, "_completed", counts_a_hedge_twice),
    "use a late answer": (SchedulerState, "_give_up_on", uses_a_late_answer),
    "forget a partial batch": (SchedulerState, "next_wakeup", forgets_a_partial_batch),
    "never probe a device": (Health, "next_probe_at", never_probes),
    "never look for stuck batches": (TimeoutWatch, "add", never_looks_for_stuck_batches),
    "use retiring activations": (SlotLedger, "retire", uses_retiring_activations),
    "reload an outlier at work": (
        SchedulerState,
        "_probe_devices",
        reloads_an_outlier_at_work,
    ),
    "quarantine a device after one slow answer": (
        Outliers,
        "is_outlier",
        takes_one_slow_answer_for_many,
    ),
    "retry without end": (RetryBudget, "spend", forgets_the_retry_budget),
    "let requests share an inference": (SchedulerState, "_send", lets_requests_share),
    "split requests that run whole": (RequestQueue, "take", splits_whole_requests),
    "forget waiting requests": (Admission, "admit_waiting", forgets_waiting_requests),
    "count a stall against devices": (
        SchedulerState,
        "_excuse_devices",
        counts_a_stall_against_devices,
    ),
    "hedge what only stood still": (SchedulerState, "_loop_stalled", hedges_after_a_stall),
    "learn from a stall": (Stalls, "correct", learns_from_a_stall),
    "ignore a reported loss": (SchedulerState, "_take_news", ignores_a_reported_loss),
    "keep a loss to itself": (SchedulerState, "_report", keeps_a_loss_to_itself),
    "wait for company past a deadline": (
        RequestQueue,
        "earliest_deadline",
        waits_past_a_deadline,
    ),
    "miscount what is above": (PriorityLevels, "_rotate_up", miscounts_the_samples_above),
    "keep queues that ran empty": (
        RequestQueue,
        "_compact_if_stale",
        keeps_queues_that_ran_empty,
    ),
}
"""Name of the bug -> the class, the method, and a function that makes the method buggy."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Put a known bug into the core inside the context."""
    owner, method, mutate = MUTANTS[name]
    with patch.object(owner, method, mutate(getattr(owner, method))):
        yield


def seeds_until_caught(
    name: str, most: int, *, checks_invariants: bool = True
) -> tuple[int, str] | None:
    """Return how many seeds it takes to catch a known bug, and the violation; None if over `most`.

    A seed that has a violation without the bug as well does not count.
    """
    for seed in range(most):
        with mutated(name):
            violation = find_violation(seed, checks_invariants=checks_invariants)
        if violation is not None and find_violation(seed) is None:
            return seed + 1, violation
    return None
