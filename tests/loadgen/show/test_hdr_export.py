"""Percentile distributions in HdrHistogram's format."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from qaic_sched.loadgen.show.hdr_export import write_percentiles


def _read(path: Path) -> tuple[dict[float, float], dict[str, float], list[int]]:
    """Return milliseconds by quantile, the footer's numbers and the running counts."""
    values, counts = {}, []
    for line in path.read_text().splitlines():
        cells = line.split()
        if cells and cells[0][0].isdigit():
            values[float(cells[1])] = float(cells[0])
            counts.append(int(cells[2]))
    foot = re.findall(r"(\w+) += +([\d.]+)", path.read_text())
    return values, {name: float(number) for name, number in foot}, counts


def test_the_distribution_is_that_of_the_latencies(tmp_path: Path) -> None:
    """The distribution is in milliseconds, with three exact digits, and counts every latency."""
    latencies = (np.random.default_rng(1).lognormal(1, 1, 50_000) * 1e6).astype(np.int64)

    write_percentiles(latencies, tmp_path / "run.hgrm")

    values, foot, counts = _read(tmp_path / "run.hgrm")
    for quantile, value_ms in values.items():
        exact = np.quantile(latencies, quantile, method="inverted_cdf") / 1e6
        assert value_ms == pytest.approx(exact, rel=0.002, abs=0.001)
    assert len(values) > 50
    assert counts == sorted(counts)
    assert counts[-1] == foot["TotalCount"] == 50_000
    assert foot["Mean"] == pytest.approx(latencies.mean() / 1e6, rel=0.001)
    assert foot["StdDeviation"] == pytest.approx(latencies.std() / 1e6, rel=0.001)
    assert foot["Max"] == pytest.approx(latencies.max() / 1e6, rel=0.001)


def test_it_begins_as_plotters_expect(tmp_path: Path) -> None:
    """The file begins with the header that plotters expect."""
    write_percentiles(np.array([1_000_000, 3_000_000]), tmp_path / "run.hgrm")

    header = (tmp_path / "run.hgrm").read_text().splitlines()[0].split()
    assert header == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]


@pytest.mark.parametrize("latencies", [[], [0], [5], [2**40 + 1]])
def test_ends_of_the_scale(tmp_path: Path, latencies: list[int]) -> None:
    """No latency, 0, very short and very long latencies are written."""
    write_percentiles(np.array(latencies, np.int64), tmp_path / "run.hgrm")

    _, foot, _ = _read(tmp_path / "run.hgrm")
    assert foot["TotalCount"] == len(latencies)
    assert foot["Max"] == pytest.approx(max(latencies, default=0) / 1e6, rel=0.001, abs=1e-3)
