"""Running estimates of execution times."""

from __future__ import annotations

import pytest

from qaic_sched.core.execute_times import ExecuteTimes, size_class
from qaic_sched.core.speed_group import DeviceSpeed, SpeedGroup


def test_nothing_is_expected_before_anything_was_measured() -> None:
    """The mean of no times is 0, which stands for unknown."""
    assert ExecuteTimes().mean_s(8) == 0.0


def test_the_mean_is_that_of_the_size() -> None:
    """Each compiled size has its own mean; an unmeasured one takes that of the nearest size."""
    times = ExecuteTimes()
    for execute_s in (1.0, 2.0, 3.0):
        times.record(1, execute_s)
    times.record(8, 10.0)

    assert times.mean_s(1) == pytest.approx(2.0)
    assert times.mean_s(8) == 10.0
    assert times.mean_s(2) == times.mean_s(1)
    assert times.mean_s(5) == 10.0


def test_the_cost_of_a_size_is_known_after_a_few_answers() -> None:
    """`measured_s` counts answers of exactly this size."""
    times = ExecuteTimes()
    for _ in range(3):
        times.record(4, 2.0)
    assert (times.mean_s(4), times.measured_s(4)) == (2.0, None)
    times.record(4, 2.0)

    assert (times.measured_s(4), times.measured_s(8)) == (2.0, None)


def test_old_times_are_forgotten() -> None:
    """The mean follows a device that throttles after some tens of inferences."""
    times = ExecuteTimes()
    for _ in range(1000):
        times.record(1, 1.0)
    for _ in range(150):
        times.record(1, 2.0)

    assert times.mean_s(1) == pytest.approx(1.95, rel=0.02)


def test_a_single_hang_hardly_changes_the_mean() -> None:
    """One second among milliseconds raises the mean by a fifth, not by a factor of 500."""
    times = ExecuteTimes()
    speed = DeviceSpeed(SpeedGroup(times))
    for _ in range(100):
        times.record(1, 0.002)
        speed.record(1.0)
    ratio = times.record(1, 1.0)
    speed.record(ratio)

    assert ratio == pytest.approx(500)
    assert times.mean_s(1) == pytest.approx(0.002 * 1.18)
    assert times.cv2 == pytest.approx(0.02 * 81)
    assert speed.ratio == pytest.approx(1.18)


def test_a_lasting_slowdown_is_learned() -> None:
    """The mean goes from one millisecond to one second within a few dozen answers."""
    times = ExecuteTimes()
    for _ in range(100):
        times.record(1, 0.001)
    for _ in range(150):
        times.record(1, 1.0)

    assert times.mean_s(1) == pytest.approx(1.0, rel=0.2)


def test_variation_is_measured_against_the_mean() -> None:
    """Constant times have none; times of 1 and 3 vary by half of their mean."""
    times = ExecuteTimes()
    for _ in range(50):
        times.record(1, 1.0)
    assert times.cv2 == 0.0

    other = ExecuteTimes()
    for execute_s in (1.0, 3.0) * 500:
        other.record(1, execute_s)
    assert other.cv2 == pytest.approx(0.25, rel=0.2)


def test_an_inference_that_takes_no_time_is_as_expected() -> None:
    """A mean of zero causes no division by zero."""
    times = ExecuteTimes()
    assert times.record(1, 0.0) == 1.0
    assert times.record(1, 0.0) == 1.0


def test_scaled_times_keep_their_proportions() -> None:
    """Scaling multiplies the mean of every size."""
    times = ExecuteTimes()
    times.record(1, 1.0)
    times.record(8, 4.0)
    slower = times.scaled(3.0)

    assert (slower.mean_s(1), slower.mean_s(8)) == (3.0, 12.0)


def test_times_of_any_size_are_kept_by_classes_of_sizes() -> None:
    """However many sizes there are, the memory for them is bounded."""
    times = ExecuteTimes(takes_any_size=True)
    for size in range(1, 5000):
        times.record(size, float(size))

    assert len(times._means) < 50
    for size in (1, 8, 10, 100, 4999):
        assert times.mean_s(size) == pytest.approx(size, rel=0.25)
        assert times.scaled(2.0).measured_s(size) in (None, 2 * times.mean_s(size))


def test_an_unmeasured_size_is_in_proportion_to_the_nearest() -> None:
    """Where any size may come, the nearest measured one may be far away."""
    times = ExecuteTimes(takes_any_size=True)
    times.record(4, 1.0)

    assert (times.mean_s(2), times.mean_s(4), times.mean_s(400)) == (0.5, 1.0, 112.0)
    assert times.measured_s(4) is None


@pytest.mark.parametrize(
    ("size", "largest"), [(1, 1), (7, 7), (8, 8), (9, 10), (16, 16), (17, 20), (1000, 1024)]
)
def test_classes_of_sizes_are_named_by_their_largest(size: int, largest: int) -> None:
    """Sizes up to 8 are classes of their own."""
    assert size_class(size) == size_class(largest) == largest
