"""Answers and faults: execution times, outcomes, retries on other devices."""

from __future__ import annotations

import pytest

from qaic_sched.core.events import Cancelled, Completed
from qaic_sched.core.model import Fault, Request, RequestState
from tests.core.harness import (
    answer,
    answer_all,
    cargo,
    drive,
    make_state,
    outcomes,
    places,
    requests,
)


def test_a_batch_starts_when_the_one_before_it_was_answered() -> None:
    """`started_at` is the later of its submission and the previous answer on that activation."""
    state = make_state(set_size=2)
    first, second = drive(state, 1.0, *requests(2)).dispatch
    (third,) = drive(state, 2.25, answer(first, 2.0), Request(2, 1, 2.25)).dispatch
    drive(state, 3.5, answer(second, 3.5))
    drive(state, 5.0, answer(third, 4.5))
    (fourth,) = drive(state, 6.0, Request(3, 1, 6.0)).dispatch
    drive(state, 7.0, answer(fourth, 7.0))

    assert [each.submitted_at for each in (first, second, third, fourth)] == [1.0, 1.0, 2.25, 6.0]
    assert [each.started_at for each in (first, second, third, fourth)] == [1.0, 2.0, 3.5, 6.0]
    assert [each.completed_at for each in (first, second, third, fourth)] == [2.0, 3.5, 4.5, 7.0]
    assert [each.execute_s for each in (first, second, third, fourth)] == [1.0, 1.5, 1.0, 1.0]


def test_a_failed_answer_counts_as_an_answer_for_the_next_start() -> None:
    """A failed batch kept the activation busy, so the next batch starts at its answer."""
    state = make_state(set_size=2, max_attempts=1)
    first, second = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    drive(state, 3.0, answer(second, 3.0))

    assert second.execute_s == 2.0


def test_execute_times_are_averaged_with_a_short_memory() -> None:
    """The newest time weighs a tenth in the mean behind `retry_after_s`."""
    state = make_state(max_samples=1, waits_when_full=False)
    (first,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    (second,) = drive(state, 1.0, answer(first, 1.0), Request(1, 1, 1.0)).dispatch
    drive(state, 4.0, answer(second, 4.0))
    drive(state, 4.0, Request(2, 1, 4.0))
    (rejected,) = drive(state, 4.0, *requests(2, first_id=3)).resolve

    assert rejected.retry_after_s == pytest.approx(0.9 * 1.0 + 0.1 * 3.0)


def test_the_last_batch_is_the_one_whose_answer_resolved_the_request() -> None:
    """It is the last part's batch of a done request, and the failed part's of a failed one."""
    state = make_state(devices=2, max_attempts=1)
    large, split = Request(0, 2, 0.0), Request(1, 2, 0.0)
    first, second = drive(state, 0.0, large).dispatch
    drive(state, 2.0, answer(second, 2.0), answer(first, 2.0))
    third, fourth = drive(state, 2.0, split).dispatch
    drive(state, 3.0, answer(fourth, 3.0, failed=True), answer(third, 3.0))

    assert (large.state, large.last_batch) == (RequestState.DONE, first)
    assert (split.state, split.last_batch) == (RequestState.FAILED, fourth)


# Failures and further attempts


def test_a_failed_part_is_retried_on_another_device() -> None:
    """The first failure does not resolve the request."""
    state = make_state(devices=2, num_activations=2)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    commands = drive(state, 1.0, answer(batch, 1.0, failed=True))
    assert (commands.resolve, places(commands)) == ([], [(1, 0)])

    assert outcomes(drive(state, 2.0, answer(commands.dispatch[0], 2.0)).resolve) == [(0, "done")]


def test_the_second_failure_fails_the_request() -> None:
    """With `max_attempts` 2 a request fails with the second failed batch."""
    state = make_state(devices=2)
    request = Request(0, 1, 0.0)
    drive(state, 0.0, request)
    drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE))

    assert outcomes(drive(state, 2.0, Completed(1, 2.0, Fault.INFERENCE)).resolve) == [
        (0, "failed")
    ]
    assert request.last_batch is not None
    assert request.last_batch.activation.device_id == 1


def test_with_one_attempt_the_first_failure_fails_the_request() -> None:
    """`max_attempts` 1 allows no retry."""
    state = make_state(devices=2, max_attempts=1)
    drive(state, 0.0, Request(0, 1, 0.0))
    commands = drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE))

    assert (outcomes(commands.resolve), commands.dispatch) == ([(0, "failed")], [])


def test_a_third_attempt_avoids_the_device_of_the_last_failure() -> None:
    """With two devices a part alternates between them."""
    state = make_state(devices=2, max_attempts=3)
    drive(state, 0.0, Request(0, 1, 0.0))
    second = drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE))
    third = drive(state, 2.0, Completed(1, 2.0, Fault.INFERENCE))

    assert places(second) + places(third) == [(1, 0), (0, 0)]
    assert outcomes(drive(state, 3.0, Completed(2, 3.0, Fault.INFERENCE)).resolve) == [
        (0, "failed")
    ]


def test_a_single_device_retries_its_own_failures() -> None:
    """Without another device, the second attempt runs on the same one."""
    state = make_state()
    drive(state, 0.0, Request(0, 1, 0.0))
    commands = drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE))

    assert places(commands) == [(0, 0)]
    assert outcomes(answer_all(state, 2.0).resolve) == [(0, "done")]


def test_retries_go_before_the_queue() -> None:
    """Retries are the longest waiting; meanwhile their request counts as queued."""
    state = make_state(devices=2)
    first, second = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 0.0, Request(2, 1, 0.0, priority=9), Request(3, 1, 0.0, priority=9))
    commands = drive(state, 1.0, answer(first, 1.0, failed=True))
    assert [cargo(each) for each in commands.dispatch] == [[(2, 0, 1)]]
    assert state.statistics().queued == 2

    commands = drive(state, 2.0, answer(second, 2.0))
    assert [cargo(each) for each in commands.dispatch] == [[(0, 0, 1)]]
    assert (state.statistics().queued, state.statistics().in_flight) == (1, 2)


def test_a_retry_that_waits_for_another_device_delays_no_other_retry() -> None:
    """No activation idles while a retry that may go there waits."""
    state = make_state(devices=2)
    first, second = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    (third,) = drive(state, 1.0, Request(2, 1, 1.0)).dispatch
    drive(state, 2.0, answer(third, 2.0, failed=True))
    # 0 and 2 failed on device 0 and wait for device 1, where 1 now fails: it may go to device 0.
    commands = drive(state, 3.0, answer(second, 3.0, failed=True))

    assert sorted(zip(places(commands), map(cargo, commands.dispatch), strict=True)) == [
        ((0, 0), [(1, 0, 1)]),
        ((1, 0), [(0, 0, 1)]),
    ]


def test_a_retry_of_a_resolved_request_is_dropped() -> None:
    """Of two retries that wait for a device, the one of the resolved request is not sent."""
    state = make_state(devices=2, set_size=2, batch_sizes=(2,))
    held = drive(state, 0.0, *requests(4, samples=2)).dispatch
    first, second = (each for each in held if each.activation.device_id == 0)
    answers = [answer(first, 1.0, failed=True), answer(second, 1.0, failed=True)]
    assert drive(state, 1.0, *answers).dispatch == []
    drive(state, 1.0, Cancelled(second.parts[0].request.id))

    commands = answer_all(state, 2.0)
    assert [cargo(each) for each in commands.dispatch] == [cargo(first)]
    assert outcomes(answer_all(state, 3.0).resolve) == [(0, "done")]


def test_retries_of_resolved_requests_take_no_memory() -> None:
    """With one device stuck and the other failing half its batches, expired retries are removed."""
    state = make_state(devices=2, retry_max_extra=1.0, dispatch_timeout_s=1e9)
    first, _hung = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 0.0, answer(first, 0.0, failed=True))
    for number in range(2, 400, 2):
        now = float(number)
        (batch,) = drive(state, now, Request(number, 1, now, deadline=now + 0.5)).dispatch
        drive(state, now, answer(batch, now, failed=True))
        (batch,) = drive(state, now + 0.5, Request(number + 1, 1, now + 0.5)).dispatch
        drive(state, now + 0.5, answer(batch, now + 0.5))  # or it would go into quarantine

    assert state.statistics().expired == 199
    assert len(state.retries) <= 3


def test_a_part_is_retried_while_the_rest_is_in_flight() -> None:
    """The request is done with its last part, in any order of the parts."""
    state = make_state(devices=2)
    request = Request(0, 2, 0.0)
    first, second = drive(state, 0.0, request).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    assert (request.state, len(request.retrying), request.in_flight) == (RequestState.QUEUED, 1, 1)
    assert (state.statistics().queued, state.statistics().queued_samples) == (1, 0)

    commands = drive(state, 2.0, answer(second, 2.0))
    assert (commands.resolve, [cargo(each) for each in commands.dispatch]) == ([], [[(0, 0, 1)]])
    assert (request.state, request.retrying, request.in_flight) == (RequestState.IN_FLIGHT, (), 1)
    assert outcomes(answer_all(state, 3.0).resolve) == [(0, "done")]


def test_a_half_dispatched_request_with_retries_is_queued_once() -> None:
    """Samples never dispatched and samples to be retried count as one queued request."""
    state = make_state(devices=2, batch_sizes=(2,))
    request = Request(0, 6, 0.0)
    first, second = drive(state, 0.0, request).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))

    assert (request.cursor, request.in_flight) == (6, 4)
    assert [part.samples for part in request.retrying] == [2]
    drive(state, 1.0, Request(1, 2, 1.0), Request(2, 2, 1.0))
    assert state.statistics().queued == 3
    (retry,) = drive(state, 2.0, answer(second, 2.0)).dispatch
    assert (cargo(retry), request.state) == ([(0, 0, 2)], RequestState.IN_FLIGHT)


def test_one_failed_part_fails_the_whole_request_once() -> None:
    """The rest leaves the queue, and the answers to its other parts are ignored."""
    state = make_state(devices=3, batch_sizes=(2,), max_attempts=1)
    first, second, third = drive(state, 0.0, Request(0, 20, 0.0), Request(1, 1, 0.0)).dispatch
    commands = drive(state, 1.0, answer(first, 1.0, failed=True), answer(second, 1.0, failed=True))
    assert outcomes(commands.resolve) == [(0, "failed")]
    assert [cargo(each) for each in commands.dispatch] == [[(1, 0, 1)]]

    assert drive(state, 2.0, answer(third, 2.0)).resolve == []
    assert outcomes(answer_all(state, 3.0).resolve) == [(1, "done")]


def test_a_part_of_a_failed_request_is_not_retried() -> None:
    """One part uses up its attempts while another waits for its second one."""
    state = make_state(devices=2)
    first, second = drive(state, 0.0, Request(0, 2, 0.0)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    (again,) = drive(state, 2.0, answer(second, 2.0, failed=True)).dispatch[:1]
    commands = drive(state, 3.0, answer(again, 3.0, failed=True))

    assert outcomes(commands.resolve) == [(0, "failed")]
    assert answer_all(state, 4.0).resolve == []
    assert (len(state.retries), state.batches) == (0, {})


def test_a_late_failure_of_a_resolved_request_is_ignored() -> None:
    """The other request of its batch is retried, the resolved one is not."""
    state = make_state(batch_sizes=(2,))
    (batch,) = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 0.5, Cancelled(0))
    commands = drive(state, 1.0, answer(batch, 1.0, failed=True))

    assert (commands.resolve, [cargo(each) for each in commands.dispatch]) == ([], [[(1, 0, 1)]])
