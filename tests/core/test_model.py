"""The nouns: final states, derived values, and how they read in a log."""

from __future__ import annotations

import pytest

from qaic_sched.core.model import Batch, Part, Policy, Request, RequestState
from tests.core.harness import make_activation


@pytest.mark.parametrize("state", RequestState)
def test_a_request_is_resolved_in_the_five_final_states(state: RequestState) -> None:
    """Waiting, queued and in flight are not final, all others are."""
    request = Request(0, 1, 0.0)
    request.state = state

    assert request.is_resolved == (state.value not in ("waiting", "queued", "in_flight"))


def test_a_request_reads_as_its_counts() -> None:
    """Its `repr` has the id, the state and the progress."""
    request = Request(7, 9, 0.0)
    request.state, request.cursor, request.in_flight = RequestState.QUEUED, 6, 3
    request.retrying = (Part(request, 0, 2),)

    assert repr(request) == "<Request 7 queued: 6 of 9 dispatched, 3 in flight, 1 parts retrying>"


def test_requests_are_compared_by_identity() -> None:
    """Two requests with equal fields are counted and looked up as two."""
    assert len({Request(0, 1, 0.0), Request(0, 1, 0.0)}) == 2
    assert len({RequestState.DONE: 1, RequestState.FAILED: 2}) == 2


def test_a_batch_measures_from_start_to_answer() -> None:
    """`execute_s` excludes the wait behind another batch."""
    batch = Batch(0, make_activation(0, 0), 8, 4, [], submitted_at=1.0)
    batch.started_at, batch.completed_at = 1.5, 4.0

    assert batch.execute_s == 2.5


def test_an_activation_reads_as_its_place_and_load() -> None:
    """Its `repr` has the device, the index and the batches in flight."""
    activation = make_activation(3, 1)
    activation.held.append(Batch(0, activation, 8, 4, [], submitted_at=1.0))

    assert repr(activation) == "<Activation 3/1: 1 in flight>"


def test_the_largest_compiled_size_is_the_most_in_one_inference() -> None:
    """`max_batch_size` is the last of the ascending sizes."""
    assert Policy(batch_sizes=(1, 4, 16)).max_batch_size == 16
