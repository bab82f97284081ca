"""Sweeps over shapes: the best, impossible ones, and the scaling."""

from __future__ import annotations

import asyncio
import re

import pytest

from qaic_sched.errors import ConfigError, DeviceError
from qaic_sched.loadgen.report.report import Report, Search
from qaic_sched.loadgen.search.sweep import Grid, Shape, best_by_devices, sweep_shapes
from tests.loadgen.reports import make_report, verdict

CORES = 4


def gain(shape: Shape, contention: float = 0.0, coherency: float = 0.0) -> float:
    """Return the rate of a host that obeys the scalability law exactly."""
    count = shape.devices
    scaled = count / (1 + contention * (count - 1) + coherency * count * (count - 1))
    filled = min(shape.set_size, 2) / 2
    return 100.0 * scaled * shape.num_activations * filled * shape.batch**0.5


async def measure(shape: Shape) -> Report:
    """Make the report of a run on cards with four cores."""
    if shape.num_activations > CORES:
        raise ConfigError(f"{shape.num_activations} activations: only {CORES} fit")
    return make_report(completed_rate=gain(shape), asked_rate=None)


def sweep(grid: Grid) -> Search:
    """Sweep over those cards."""
    return asyncio.run(sweep_shapes(measure, grid))


def test_every_shape_of_the_grid_is_run_once_and_the_best_is_found() -> None:
    """Every combination is run once, and the best is found."""
    grid = Grid(devices=(1, 2), num_activations=(1, 4), set_size=(1, 2), batch=(1, 4))
    search = sweep(grid)

    assert len(search.points) == len({*grid.shapes()}) == 16
    best = Shape(2, 4, 2, 4)
    assert search.best_rate == gain(best) == 1_600.0
    assert search.note.startswith(f"Best: 1,600/s with {best}.\n")
    assert search.points[0].shape == {
        "devices": 1,
        "num_activations": 1,
        "set_size": 1,
        "batch": 1,
    }


def test_the_best_of_each_value_is_noted() -> None:
    """The note has a line for each value of a field with several."""
    note = sweep(Grid(devices=(1,), num_activations=(1, 2), batch=(1, 4))).note

    assert "Best with num_activations 1: 200/s with devices 1, num_activations 1" in note
    assert "Best with num_activations 2: 400/s" in note
    assert "Best with batch 1: 200/s" in note
    assert "Best with devices" not in note


def test_a_shape_that_does_not_fit_is_skipped_and_named() -> None:
    """An impossible shape is skipped, and named with its error."""
    search = sweep(Grid(num_activations=(4, 5, 8)))

    assert [point.shape["num_activations"] for point in search.points] == [4]
    skipped = [line for line in search.note.splitlines() if line.startswith("Skipped")]
    assert skipped == [
        "Skipped devices 1, num_activations 5, set_size 2, batch 1: 5 activations: only 4 fit",
        "Skipped devices 1, num_activations 8, set_size 2, batch 1: 8 activations: only 4 fit",
    ]


def test_a_grid_of_which_nothing_fits_has_no_best() -> None:
    """A grid of impossible shapes has no best rate, and names the reasons."""
    search = sweep(Grid(num_activations=(9,)))

    assert search.points == ()
    assert search.best_rate is None
    assert search.note.startswith("No shape could be run.\nSkipped")


def test_other_errors_end_the_sweep() -> None:
    """Errors other than `ConfigError` end the sweep."""

    async def broken(shape: Shape) -> Report:
        raise DeviceError(f"lost with {shape}", 0, kind="lost")

    with pytest.raises(DeviceError, match="lost with devices 1"):
        asyncio.run(sweep_shapes(broken, Grid()))


def test_a_run_that_does_not_pass_is_not_the_best() -> None:
    """A failed run is not the best, unless all failed, which is noted."""

    async def measure_wrong(shape: Shape) -> Report:
        broken = ["errors"] if shape.devices in wrong else []
        return make_report(completed_rate=gain(shape), verdict=verdict(*broken))

    wrong = {2}
    search = asyncio.run(sweep_shapes(measure_wrong, Grid(devices=(1, 2))))
    assert search.best_rate == 100.0
    assert "Failed: devices 2" in search.note

    wrong = {1, 2}
    search = asyncio.run(sweep_shapes(measure_wrong, Grid(devices=(1, 2))))
    assert search.best_rate == 200.0
    assert search.note.startswith("No run passed")


def test_scaling_is_noted_per_device() -> None:
    """Scaling is per device, relative to the fewest devices."""

    async def measure_cards(shape: Shape) -> Report:
        return make_report(completed_rate={2: 200.0, 4: 380.0, 8: 600.0}[shape.devices])

    search = asyncio.run(sweep_shapes(measure_cards, Grid(devices=(2, 4, 8))))

    assert "Rate per device, relative to 2: 2 × 100 %, 4 × 95 %, 8 × 75 %." in search.note
    assert "at least four numbers of devices" in search.note


@pytest.mark.parametrize(
    ("contention", "coherency", "peak"),
    [(0.05, 0.002, "21.8 devices"), (0.2, 0.01, "8.94 devices"), (0.03, 0.0, None)],
)
def test_the_scalability_law_is_found_again(
    contention: float, coherency: float, peak: str | None
) -> None:
    """The fitted law has the contention, coherency and peak of the simulated host."""

    async def measure_law(shape: Shape) -> Report:
        return make_report(completed_rate=gain(shape, contention, coherency))

    grid = Grid(devices=(1, 2, 4, 8, 16, 32))
    note = asyncio.run(sweep_shapes(measure_law, grid)).note
    found = re.search(r"law: (\S+)/s .*contention (\S+), coherency (\S+), (.*); within", note)

    assert found
    assert float(found[1]) == pytest.approx(100.0, rel=1e-3)
    assert float(found[2]) == pytest.approx(contention, rel=0.02)
    assert float(found[3]) == pytest.approx(coherency, rel=0.02, abs=1e-5)
    assert found[4] == (f"a peak at {peak}" if peak else "no peak")


def test_the_best_by_devices_is_the_best_shape_of_each_number() -> None:
    """The best points are ordered by the number of devices."""
    search = sweep(Grid(devices=(4, 1), num_activations=(2, 1)))
    best = best_by_devices(search.points)

    assert [*best] == [1, 4]
    assert {point.shape["num_activations"] for point in best.values()} == {2}
