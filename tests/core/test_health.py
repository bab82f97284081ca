"""A device's way through quarantine: causes, probes, probation and readmission."""

from __future__ import annotations

import math

import pytest

from qaic_sched.core.health import DeviceState, Health
from qaic_sched.core.model import Failure, Fault

READY, PROBATION, QUARANTINED = DeviceState


def _health(devices: int = 1) -> Health:
    health = Health()
    for device_id in range(devices):
        assert health.opened(device_id) is READY
    return health


def _on_probation() -> Health:
    """Return the health of device 0: lost at 0, probed at 0.1, and back since."""
    health = _health()
    assert health.failed(0, Fault.LOST, 0.0)
    assert health.due_probes(0.1) == [0]
    assert health.opened(0) is PROBATION
    return health


def test_the_third_failure_in_a_row_ends_in_quarantine() -> None:
    """The first two failures are forgiven."""
    health = _health()

    assert [health.failed(0, Fault.INFERENCE, 1.0) for _ in range(3)] == [False, False, True]
    assert health.state_of(0) is QUARANTINED


def test_a_success_between_failures_starts_the_count_anew() -> None:
    """Two failures, an answer and two failures are not three in a row."""
    health = _health()
    for _ in range(5):
        assert not health.failed(0, Fault.INFERENCE, 0.0)
        assert not health.failed(0, Fault.INFERENCE, 0.0)
        assert not health.succeeded(0)

    assert health.state_of(0) is READY


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.RESTARTED, Fault.STUCK])
def test_a_device_that_went_away_is_in_quarantine_at_once(fault: Fault) -> None:
    """A lost, restarted or stuck device is not forgiven: new batches would fail as well."""
    health = _health()

    assert health.failed(0, fault, 1.0)
    assert health.state_of(0) is QUARANTINED


def test_failures_are_counted_per_device() -> None:
    """Failures of several devices are not added up."""
    health = _health(devices=3)
    for device_id in range(3):
        assert not health.failed(device_id, Fault.INFERENCE, 0.0)
    assert health.failed(1, Fault.LOST, 0.0)

    assert [health.state_of(each) for each in range(3)] == [READY, QUARANTINED, READY]


def test_answers_in_quarantine_change_nothing() -> None:
    """Failures of batches held from before move no probe, and answers bring no device back."""
    health = _health()
    health.failed(0, Fault.LOST, 1.0)
    for fault in Fault:
        assert not health.failed(0, fault, 1.05)
        assert not health.succeeded(0)

    assert (health.state_of(0), health.next_probe_at()) == (QUARANTINED, 1.1)


def test_each_probe_is_due_once() -> None:
    """It is due at its instant, not before, and not again until its reload has ended."""
    health = _health()
    assert health.next_probe_at() == math.inf
    health.failed(0, Fault.LOST, 1.0)
    assert (health.next_probe_at(), health.due_probes(1.0999)) == (1.1, [])

    assert health.due_probes(1.1) == [0]
    assert (health.due_probes(9.0), health.next_probe_at()) == ([], math.inf)


def test_devices_that_are_due_are_probed_together() -> None:
    """The next instant is the first probe of the other devices."""
    health = _health(devices=4)
    for device_id, at in ((2, 1.0), (0, 1.05), (3, 2.0)):
        health.failed(device_id, Fault.STUCK, at)

    assert health.due_probes(1.5) == [0, 2]
    assert health.next_probe_at() == 2.1


def test_failed_probes_come_ever_later_up_to_a_bound() -> None:
    """Each wait is twice the previous one, counted from the failure, and at most 30 s."""
    health = _health()
    health.failed(0, Fault.LOST, 0.0)
    now, waits = 0.0, []
    for _ in range(12):
        waits.append(health.next_probe_at() - now)
        now = health.next_probe_at()
        assert health.due_probes(now) == [0]
        now += 5.0  # so long it takes to fail
        health.probe_failed(0, now)

    assert waits == pytest.approx([0.1 * 2**each for each in range(9)] + [30.0] * 3)


def test_three_answers_in_a_row_end_a_probation() -> None:
    """The third one returns True, once; failures are forgiven again from then on."""
    health = _on_probation()

    assert [health.succeeded(0) for _ in range(4)] == [False, False, True, False]
    assert health.state_of(0) is READY
    assert not health.failed(0, Fault.INFERENCE, 2.0)


@pytest.mark.parametrize("fault", list(Fault))
def test_the_first_failure_on_probation_ends_it_for_longer(fault: Fault) -> None:
    """Any failure does, after any number of answers; the wait is twice as long."""
    health = _on_probation()
    health.succeeded(0)
    health.succeeded(0)

    assert health.failed(0, fault, 1.0)
    assert (health.state_of(0), health.next_probe_at()) == (QUARANTINED, 1.2)


def test_a_device_that_fails_every_probation_comes_back_ever_later() -> None:
    """The wait doubles with each failed probation up to the bound, although reloads succeed."""
    health = _health()
    health.failed(0, Fault.LOST, 0.0)
    waits = []
    for number in range(11):
        waits.append(health.next_probe_at() - 100.0 * number)
        health.due_probes(health.next_probe_at())
        health.opened(0)
        health.failed(0, Fault.INFERENCE, 100.0 * (number + 1))

    assert waits == pytest.approx([0.1 * 2**each for each in range(9)] + [30.0] * 2)


def test_answers_of_an_earlier_probation_do_not_count() -> None:
    """Each probation takes three answers of its own."""
    health = _on_probation()
    health.succeeded(0)
    health.succeeded(0)
    health.failed(0, Fault.INFERENCE, 1.0)
    health.opened(0)

    assert [health.succeeded(0) for _ in range(3)] == [False, False, True]


def test_a_completed_probation_resets_the_wait() -> None:
    """The next quarantine is as short as the first."""
    health = _on_probation()
    health.failed(0, Fault.LOST, 1.0)
    health.probe_failed(0, 2.0)
    health.opened(0)
    for _ in range(3):
        health.succeeded(0)
    health.failed(0, Fault.LOST, 5.0)

    assert health.next_probe_at() == 5.1


def test_a_device_that_came_back_is_not_probed() -> None:
    """This holds even if it came back before its probe was due."""
    health = _health()
    health.failed(0, Fault.LOST, 1.0)
    health.opened(0)

    assert (health.next_probe_at(), health.due_probes(9.0)) == (math.inf, [])


def test_failures_that_may_be_requests_count_less() -> None:
    """Three proven ones in a row mean quarantine, or twelve of any kind; acquitted ones do not."""
    health = _health()
    failures = [Failure(0) for _ in range(14)]
    for failure in failures[:4]:
        assert not health.suspect(failure, 1.0)
    for failure in failures[:2]:
        assert not health.blame(failure, 1.0)
        health.acquit(failure)
    for failure in failures[4:13]:
        assert not health.suspect(failure, 1.0)

    assert health.suspect(failures[13], 1.0)
    assert health.state_of(0) is QUARANTINED


def test_what_came_before_an_answer_or_a_quarantine_is_no_longer_held_against_a_device() -> None:
    """It may be proven late: by then the device has answered, was shut, or has gone."""
    health = _health(devices=2)
    failures = [Failure(0) for _ in range(3)]
    for failure in failures:
        health.suspect(failure, 1.0)
    health.succeeded(0)
    assert not any(health.blame(failure, 1.0) for failure in failures)
    assert health.state_of(0) is READY

    health.suspect(failures[0], 1.0)
    health.failed(0, Fault.LOST, 1.0)
    assert not health.suspect(failures[1], 1.0)
    assert not health.blame(failures[0], 1.0)
    health.forget(0)
    assert not health.is_suspected_of(failures[0])
    health.acquit(failures[0])


def test_one_failure_of_its_own_ends_a_probation_and_so_do_three_of_any_kind() -> None:
    """Until it is known whose fault it was, a device on probation goes on."""
    health = _on_probation()
    failure = Failure(0)
    assert not health.suspect(failure, 1.0)
    assert health.blame(failure, 1.0)

    health = _on_probation()
    assert [health.suspect(Failure(0), 1.0) for _ in range(3)] == [False, False, True]
