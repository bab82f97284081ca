"""Passes on what one model has learned about a device to the other models of the host.

A card that is lost, slow or back is so for every model on it. Each model has a core of its own, and
the cores know nothing of each other: this connects their shells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qaic_sched.core.model import DeviceNews
    from qaic_sched.scheduler.shell import Shell

__all__ = ["share_news"]


def share_news(shells: Sequence[Shell]) -> None:
    """Have each shell tell all others what its core has learned about devices, at once."""
    for shell in shells:
        shell.tell = _teller([each for each in shells if each is not shell])


def _teller(others: Sequence[Shell]) -> Callable[[int, DeviceNews], None]:
    def tell(device_id: int, news: DeviceNews) -> None:
        for shell in others:
            shell.hear(device_id, news)

    return tell
