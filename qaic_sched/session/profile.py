"""Profiles the first runs of a session separately, and prints them as the vendor does.

`cProfile` cannot do this: from Python 3.12 on it profiles all threads at once. A function set by
`sys.setprofile` sees only the calls of the thread that set it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Profiler"]

T = TypeVar("T")

MAX_RUNS = 1000
"""The most runs that are profiled, so that a session can stay open for ever."""

HEADING = "|  File-Line-Function  | |  num calls  | |  func time  | |  tot time  |"

Function: TypeAlias = "tuple[str, int, str]"
"""File, line and name as in cProfile: functions written in C have file `~`, line 0."""


class Profiler:
    """The profiles of a session's first runs; thread-safe."""

    def __init__(self) -> None:
        self._profiles: list[tuple[float, _RunProfile]] = []
        """(start, profile) of each run that succeeded."""

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call the function, and keep its profile if this is one of the first runs.

        A thread that has another profiler is not profiled.
        """
        if len(self._profiles) >= MAX_RUNS or sys.getprofile() is not None:
            return function(*arguments)
        calls = _RunProfile()
        started_at = perf_counter()
        sys.setprofile(calls)
        try:
            result = function(*arguments)
        finally:
            sys.setprofile(None)
        self._profiles.append((started_at, calls))
        return result

    def table(self, num_runs: int) -> str:
        """Format a table of each of the first runs, in the order of their starts; in seconds.

        Assumption (not verified on hardware): the vendor's sample, which shows one run, is repeated
        for each. Its functions have no evident order; here the longest comes first.
        """
        first = sorted(self._profiles, key=lambda profile: profile[0])[:num_runs]
        return "\n\n".join("\n\n".join([HEADING, *calls.rows()]) for _, calls in first)


@dataclass(slots=True)
class _FunctionTotal:
    """The number of calls of one function, and their time."""

    num_calls: int = 0
    own_s: float = 0.0
    total_s: float = 0.0


@dataclass(slots=True)
class _OpenCall:
    """A call that has not returned yet."""

    function: Function
    started_at: float
    inner_s: float = 0.0
    """The time of the functions that it called."""


class _RunProfile:
    """The calls of one run, which the interpreter reports as they begin and end."""

    __slots__ = ("_stack", "_totals")

    def __init__(self) -> None:
        self._totals: dict[Function, _FunctionTotal] = {}
        self._stack: list[_OpenCall] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        now = perf_counter()
        if event == "call":
            code = frame.f_code
            self._stack.append(
                _OpenCall((code.co_filename, code.co_firstlineno, code.co_name), now)
            )
        elif event == "c_call":
            self._stack.append(_OpenCall(("~", 0, _name_in_c(argument)), now))
        elif self._stack:  # some versions of Python report the return of `sys.setprofile`
            self._returned(self._stack.pop(), now)

    def rows(self) -> list[str]:
        """One line per function: its name, number of calls, own time and total time."""
        totals = sorted(self._totals.items(), key=lambda item: -item[1].total_s)
        return [
            f"{function} {total.num_calls} {total.own_s:.6g} {total.total_s:.6g}"
            for function, total in totals
        ]

    def _returned(self, call: _OpenCall, now: float) -> None:
        elapsed_s = now - call.started_at
        total = self._totals.setdefault(call.function, _FunctionTotal())
        total.num_calls += 1
        total.own_s += elapsed_s - call.inner_s
        if all(outer.function != call.function for outer in self._stack):
            total.total_s += elapsed_s
        if self._stack:
            self._stack[-1].inner_s += elapsed_s


def _name_in_c(function: Any) -> str:
    """The name of a function or method written in C, as in cProfile."""
    owner = function.__self__
    if owner is None or isinstance(owner, ModuleType):
        return f"<built-in method {function.__module__}.{function.__name__}>"
    kind = type(owner)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"<method {function.__name__!r} of '{module}{kind.__qualname__}' objects>"
