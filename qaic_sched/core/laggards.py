"""Devices that answer, and every time far later than the others would: they are failing, too.

Rules of this file:
- An answer is slow if it took many times what the fastest devices take for the same compiled size.
  Never below a few milliseconds: that may be the host, and a device cannot mend it.
- A device lags after several slow answers in a row, during which others gave as many that were
  not: what befalls all of them is no device's fault.
- The first answer of an activation counts for nothing: a program may have to warm up.
- Devices that are merely slower are none of this file's business: placement knows how to use them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FAR", "Laggards"]

FAR: Final = 10.0
"""Times what the fastest devices take, from which on an answer is slow."""
_LEAST_S = 0.010
"""An answer is never slow that took less."""
_ENOUGH = 5
"""Slow answers in a row after which a device lags: few, as placement sends it hardly any ..."""
_ENOUGH_ON_PROBATION = 3
"""... and one that just came back, and was to show that it is well."""


class Laggards:
    """Counts slow answers in a row; to be told of all answers while `streaks` has any device."""

    __slots__ = ("_num_prompt", "streaks")

    def __init__(self) -> None:
        #: Device -> its slow answers in a row, and how many prompt ones there were before them.
        self.streaks: dict[int, tuple[int, int]] = {}
        self._num_prompt = 0

    def note(self, device_id: int, lag: float, execute_s: float) -> bool:
        """Take in an answer that took `lag` times what the fastest take; whether it was slow."""
        is_slow = lag >= FAR and execute_s >= _LEAST_S
        if is_slow:
            count, before = self.streaks.get(device_id, (0, self._num_prompt))
            self.streaks[device_id] = count + 1, before
        else:
            self._num_prompt += 1
            self.forget(device_id)
        return is_slow

    def lags(self, device_id: int, *, is_on_probation: bool) -> bool:
        """Whether a device whose last answer was slow lags."""
        count, before = self.streaks[device_id]
        enough = _ENOUGH_ON_PROBATION if is_on_probation else _ENOUGH
        return count >= enough and self._num_prompt - before >= enough

    def forget(self, device_id: int) -> None:
        """Begin anew with a device."""
        self.streaks.pop(device_id, None)
