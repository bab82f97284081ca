"""Helpers that read the text of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["texts", "ticks"]


def texts(figure: Figure) -> set[str]:
    """Every legend's entry and every axis' label and title."""
    found = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    for axes in figure.axes:
        found |= {axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")}
    return found - {""}


def ticks(figure: Figure, axis: str) -> list[str]:
    """The labels of the first axes' ticks."""
    return [label.get_text() for label in getattr(figure.axes[0], f"get_{axis}ticklabels")()]
