"""The table of devices that `print_metrics` and the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["format_device_table"]

_COLUMNS = (
    "device",
    "state",
    "activations",
    "batches",
    "samples",
    "fill %",
    "util %",
    "P50 ms",
    "P99 ms",
    "errors",
    "retries",
    "hedges",
)


def format_device_table(metrics: Mapping[str, Any]) -> str:
    """Format a snapshot as an aligned text table: a line per device, then a line of totals.

    If the snapshot has `models`, the table has these lines for each model and then for all.
    """
    columns: tuple[str, ...] = _COLUMNS
    rows = _rows(metrics)
    if "models" in metrics:
        parts = {**metrics["models"], "all": metrics}
        columns = ("model", *columns)
        rows = [(name, *row) for name, part in parts.items() for row in _rows(part)]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (columns, *rows)
    )


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    devices = metrics["devices"]
    rows = [_row(str(device_id), device) for device_id, device in devices.items()]
    return [*rows, _row("total", {**metrics, **_totals(list(devices.values()))})]


def _row(name: str, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        metrics["state"],
        str(metrics["activations"]),
        str(metrics["batches"]),
        str(metrics["samples"]),
        f"{100 * metrics['fill']:.1f}",
        f"{100 * metrics['utilisation']:.1f}",
        f"{1e3 * metrics['P50']:.3f}",
        f"{1e3 * metrics['P99']:.3f}",
        str(metrics["errors"]),
        str(metrics["retries"]),
        str(metrics["hedges"]),
    )


def _totals(devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums over devices; fill is weighted by batch sizes, utilisation by activations."""
    summed = ("activations", "batches", "samples", "errors", "retries", "hedges")
    totals: dict[str, Any] = {key: sum(device[key] for device in devices) for key in summed}
    room = sum(device["samples"] / device["fill"] for device in devices if device["fill"])
    used = sum(device["utilisation"] * device["activations"] for device in devices)
    return {
        **totals,
        "state": "",
        "fill": _ratio(totals["samples"], room),
        "utilisation": _ratio(used, totals["activations"]),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
