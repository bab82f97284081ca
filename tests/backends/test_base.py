"""The seam: whether what models want fits on a device."""

from __future__ import annotations

import pytest

from qaic_sched.backends.base import CoreDemand, DeviceInfo, check_fit_together
from qaic_sched.errors import ConfigError

DEVICE = DeviceInfo(3, "aic", "ready", cores=16, cores_free=14)


@pytest.mark.parametrize(
    "wants", [[CoreDemand(14)], [CoreDemand(2, 4), CoreDemand(6)], [CoreDemand(1, 14)], []]
)
def test_what_fits_is_let_through(wants: list[CoreDemand]) -> None:
    """Up to the last core that is free."""
    check_fit_together(DEVICE, {str(index): want for index, want in enumerate(wants)}, 14)


def test_the_error_says_what_each_wants_and_what_would_fit() -> None:
    """Each model's share of the cores, and the activations that it could have beside the others."""
    with pytest.raises(ConfigError) as raised:
        check_fit_together(DEVICE, {"a": CoreDemand(3, 4), "b": CoreDemand(3)})
    assert str(raised.value) == (
        "num_activations: the models want 15 cores together: a 12 (3 activations of 4), "
        "b 3 (3 activations of 1); device 3 has 14 of 16 cores free; "
        "2 of a or 2 of b would fit beside the rest"
    )


def test_activations_may_be_bounded_too() -> None:
    """Where a device has enough cores, but room for fewer activations."""
    with pytest.raises(ConfigError, match=r"and room for 4 activations at most; 1 of a or 2 of b"):
        check_fit_together(DEVICE, {"a": CoreDemand(2, 4), "b": CoreDemand(3)}, 4)


def test_models_that_must_all_want_less_are_told_so() -> None:
    """No number of one of them fits while the others want so much."""
    with pytest.raises(ConfigError, match="more than one of them must want less"):
        check_fit_together(DEVICE, {"a": CoreDemand(20), "b": CoreDemand(20)})
