"""Detects outliers: devices whose every answer takes far longer than on the other devices.

Rules of this file:
- An answer is slow if it took many times as long as on the fastest devices, for the same compiled
  size. An answer of a few milliseconds is never slow: the host may have caused the delay.
- A device is an outlier after several slow answers in a row, if the other devices gave as many
  prompt ones meanwhile. A slowdown of all devices makes none of them an outlier.
- The first answer of an activation does not count: the program may have to warm up.
- A device that is merely slower is not an outlier. `placement` gives it the work that it can do.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SLOW_RATIO", "Outliers"]

SLOW_RATIO: Final = 10.0
"""An answer is slow if it took this many times the fastest devices' mean execution time."""
_LEAST_SLOW_S = 0.010
"""An answer that took less is never slow."""
_OUTLIER_STREAK = 5
"""Slow answers in a row that make an outlier. Few: a slow device gets hardly any work."""
_OUTLIER_STREAK_ON_PROBATION = 3
"""Slow answers in a row that make an outlier of a device on probation."""


class Outliers:
    """Counts slow answers in a row.

    Call `record` for each answer that may be slow, and for every answer while `streaks` is not
    empty.
    """

    __slots__ = ("_num_prompt", "streaks")

    def __init__(self) -> None:
        self.streaks: dict[int, tuple[int, int]] = {}
        """Device -> (its slow answers in a row, `_num_prompt` when the first of them came)."""
        self._num_prompt = 0
        """Prompt answers of all devices, counted only while `record` is called for them."""

    def record(self, device_id: int, slowness: float, execute_s: float) -> bool:
        """Record an answer, `slowness` times the fastest mean; return whether it was slow."""
        is_slow = slowness >= SLOW_RATIO and execute_s >= _LEAST_SLOW_S
        if is_slow:
            count, before = self.streaks.get(device_id, (0, self._num_prompt))
            self.streaks[device_id] = count + 1, before
        else:
            self._num_prompt += 1
            self.forget(device_id)
        return is_slow

    def is_outlier(self, device_id: int, *, is_on_probation: bool) -> bool:
        """Return whether a device whose last answer was slow is an outlier."""
        count, before = self.streaks[device_id]
        streak = _OUTLIER_STREAK_ON_PROBATION if is_on_probation else _OUTLIER_STREAK
        return count >= streak and self._num_prompt - before >= streak

    def forget(self, device_id: int) -> None:
        """Forget a device's slow answers."""
        self.streaks.pop(device_id, None)
