"""Profiles the first runs of a session, each by itself, and shows them as the vendor does.

`cProfile` will not do: from Python 3.12 on it watches all threads at once. A function given to
`sys.setprofile` sees the calls of the thread that gave it, and no others.
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
"""Runs that are profiled; all later ones are not, so that a session can stay open for ever."""

HEADING = "|  File-Line-Function  | |  num calls  | |  func time  | |  tot time  |"

Function: TypeAlias = "tuple[str, int, str]"
"""File, line and name as cProfile has them: what is written in C is in file `~`, line 0."""


class Profiler:
    """The profiles of a session's first runs; thread-safe."""

    def __init__(self) -> None:
        self._profiles: list[tuple[float, _Calls]] = []
        """Of each run that succeeded: when it began, and its calls."""

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call the function and keep its profile, if this is one of the first runs.

        A thread that somebody else profiles already is left to them.
        """
        if len(self._profiles) >= MAX_RUNS or sys.getprofile() is not None:
            return function(*arguments)
        calls = _Calls()
        started_at = perf_counter()
        sys.setprofile(calls)
        try:
            result = function(*arguments)
        finally:
            sys.setprofile(None)
        self._profiles.append((started_at, calls))
        return result

    def table(self, num_runs: int) -> str:
        """A table for each of the first runs, in the order in which they began; times in seconds.

        Assumption (not verified on hardware): the vendor's sample, which is of one run, is
        repeated for each. There the functions have no evident order; here the longest comes first.
        """
        first = sorted(self._profiles, key=lambda profile: profile[0])[:num_runs]
        return "\n\n".join("\n\n".join([HEADING, *calls.rows()]) for _, calls in first)


@dataclass(slots=True)
class _Total:
    """What all calls of one function took."""

    num_calls: int = 0
    own_s: float = 0.0
    total_s: float = 0.0


@dataclass(slots=True)
class _Call:
    """A call that has not returned yet."""

    function: Function
    started_at: float
    inner_s: float = 0.0
    """How much of it other functions took that it called."""


class _Calls:
    """The calls on one thread, told by the interpreter as they begin and end."""

    __slots__ = ("_stack", "_totals")

    def __init__(self) -> None:
        self._totals: dict[Function, _Total] = {}
        self._stack: list[_Call] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        now = perf_counter()
        if event == "call":
            code = frame.f_code
            self._stack.append(_Call((code.co_filename, code.co_firstlineno, code.co_name), now))
        elif event == "c_call":
            self._stack.append(_Call(("~", 0, _name_in_c(argument)), now))
        elif self._stack:  # some Pythons tell that `sys.setprofile` itself has returned
            self._returned(self._stack.pop(), now)

    def rows(self) -> list[str]:
        """One line per function: what it is, its calls, and its own and its whole time."""
        totals = sorted(self._totals.items(), key=lambda item: -item[1].total_s)
        return [
            f"{function} {total.num_calls} {total.own_s:.6g} {total.total_s:.6g}"
            for function, total in totals
        ]

    def _returned(self, call: _Call, now: float) -> None:
        elapsed_s = now - call.started_at
        total = self._totals.setdefault(call.function, _Total())
        total.num_calls += 1
        total.own_s += elapsed_s - call.inner_s
        if all(outer.function != call.function for outer in self._stack):
            total.total_s += elapsed_s
        if self._stack:
            self._stack[-1].inner_s += elapsed_s


def _name_in_c(function: Any) -> str:
    """The name that cProfile gives to a function or method that is written in C."""
    owner = function.__self__
    if owner is None or isinstance(owner, ModuleType):
        return f"<built-in method {function.__module__}.{function.__name__}>"
    kind = type(owner)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"<method {function.__name__!r} of '{module}{kind.__qualname__}' objects>"
