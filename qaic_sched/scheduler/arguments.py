"""Checks the arguments of a call: a value of the wrong kind is an `InputError` that names it.

Rules of this file:
- What leaves it is of the plain type, whatever numbers or strings the caller uses: it is hashed,
  compared and written to the event log later, where a failure would hurt every other caller.
- The usual types pass with one comparison: these functions run for every request.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from math import inf
from operator import index
from typing import Final

from qaic_sched.errors import InputError, shown

__all__ = ["check_stream", "priority_of", "tenant_of", "timeout_of"]

_USUAL: Final = 1 << 40
_LARGEST: Final = 1 << 63
_NUMBERS: Final = "biuf"
"""The kinds of numpy's types that are numbers; strings and complex numbers convert to float too."""


def priority_of(value: object) -> int:
    """Return a priority as a plain integer of at most 64 bits."""
    if type(value) is int and -_USUAL < value < _USUAL:
        return value
    return _unusual_priority(value)


def timeout_of(value: object) -> float | None:
    """Return the seconds of a `timeout_s` that was given; None for infinity, which is no limit.

    0 and less are valid: such a request expires at once.
    """
    if type(value) is float:
        seconds = value
    elif type(value) is int and -_USUAL < value < _USUAL:
        seconds = float(value)
    else:
        seconds = _unusual_seconds(value)
    if seconds != seconds:
        raise InputError("timeout_s: got nan; wanted a number of seconds")
    return None if seconds == inf else seconds


def tenant_of(value: object) -> str:
    """Return the name of a tenant that was given as a plain string that UTF-8 can encode."""
    if type(value) is str and value.isascii():
        return value
    return _unusual_tenant(value)


def check_stream(stream: object, *, may_be_async: bool = True) -> None:
    """Raise `InputError` unless `stream` can be iterated over, with `for` or `async for`."""
    is_async = isinstance(stream, AsyncIterable)
    if not (may_be_async and is_async) and not hasattr(type(stream), "__iter__"):
        raise InputError(f"stream: got {shown(stream)}; wanted an iterable of inputs")


def _unusual_priority(value: object) -> int:
    try:
        priority = int(index(value))  # type: ignore[arg-type]
    except Exception:
        raise InputError(f"priority: got {shown(value)}; wanted an integer") from None
    if not -_LARGEST <= priority < _LARGEST:
        bits = priority.bit_length() + 1
        raise InputError(f"priority: got {bits} bits; wanted an integer of at most 64 bits")
    return priority


def _unusual_seconds(value: object) -> float:
    try:
        is_number = hasattr(value, "__float__") or hasattr(value, "__index__")
        kind = getattr(getattr(value, "dtype", None), "kind", "f")
        if is_number and kind in _NUMBERS:
            return float(value)  # type: ignore[arg-type]
    except Exception:
        raise InputError(f"timeout_s: got {shown(value)}; wanted a number of seconds") from None
    raise InputError(f"timeout_s: got {shown(value)}; wanted a number of seconds")


def _unusual_tenant(value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"tenant: got {shown(value)}; wanted a str")
    name: str = str.__str__(value)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"tenant: got {shown(name)}, which has a surrogate; wanted text that UTF-8 can encode"
        ) from None
    return name
