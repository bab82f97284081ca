"""The interface of backends: whether the demands of models fit on a device."""

from __future__ import annotations

import pytest

from qaic_sched.backends.base import CoreDemand, DeviceInfo, check_fit_together
from qaic_sched.errors import ConfigError

DEVICE = DeviceInfo(3, "aic", "ready", cores=16, cores_free=14)


@pytest.mark.parametrize(
    "wants", [[CoreDemand(14)], [CoreDemand(2, 4), CoreDemand(6)], [CoreDemand(1, 14)], []]
)
def test_demands_that_fit_pass(wants: list[CoreDemand]) -> None:
    """Models may demand every free core."""
    check_fit_together(DEVICE, {str(index): want for index, want in enumerate(wants)}, 14)


def test_the_error_lists_demands_and_what_would_fit() -> None:
    """The error lists each model's cores, and how many activations of it would fit."""
    with pytest.raises(ConfigError) as raised:
        check_fit_together(DEVICE, {"a": CoreDemand(3, 4), "b": CoreDemand(3)})
    assert str(raised.value) == (
        "num_activations: the models want 15 cores together: a 12 (3 activations of 4), "
        "b 3 (3 activations of 1); device 3 has 14 of 16 cores free; "
        "2 of a or 2 of b would fit beside the rest"
    )


def test_activations_may_be_bounded_too() -> None:
    """A device may have enough cores, but room for fewer activations."""
    with pytest.raises(ConfigError, match=r"and room for 4 activations at most; 1 of a or 2 of b"):
        check_fit_together(DEVICE, {"a": CoreDemand(2, 4), "b": CoreDemand(3)}, 4)


def test_the_error_says_if_several_models_must_shrink() -> None:
    """If shrinking one model is not enough, the error says to reduce more than one."""
    with pytest.raises(ConfigError, match="reduce more than one of them"):
        check_fit_together(DEVICE, {"a": CoreDemand(20), "b": CoreDemand(20)})
