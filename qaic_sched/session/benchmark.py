"""Keeps every slot of a loaded program busy, and measures its rate."""

from __future__ import annotations

from functools import partial
from threading import Lock, Semaphore
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from qaic_sched.session.loaded import own_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.program import Tensors
    from qaic_sched.session.loaded import LoadedProgram, Result

__all__ = ["Benchmark", "BenchmarkResult", "Claim"]

Claim: TypeAlias = "tuple[LoadedProgram, int, Tensors, int]"
"""A program, the activation of a slot held on it, inputs, and the number of their rows."""


class BenchmarkResult(NamedTuple):
    """The vendor's tuple; `inf_rate * batch_size` is in samples per second."""

    inf_completed: int
    """Inferences completed."""
    inf_rate: float
    """Inferences per second."""
    inf_time: float
    """Seconds from the first submit to the last completion."""
    batch_size: int
    """Samples per inference."""


class Benchmark:
    """Runs one input repeatedly, for `num_inferences`, for `inf_time` seconds, or until stopped.

    Each slot is a lane: the completion of one inference starts the next on the same activation, on
    the thread of the completion. `claim` gives the first slot and the input.
    """

    def __init__(self, claim: Callable[[], Claim], num_inferences: float, inf_time: float) -> None:
        self._claim = claim
        self._num_wanted = num_inferences
        self._inf_time = inf_time
        self._lock = Lock()
        self._num_started = 0
        self._num_completed = 0
        self._started_at = self._completed_at = 0.0
        self._error: Exception | None = None
        self._lanes_ended = Semaphore(0)

    def run(self) -> BenchmarkResult:
        """Run to the end; call it once. The result is all 0 if it was stopped before it began.

        Raises the first error of an inference once all have completed.
        """
        self._loaded, activation, self._inputs, batch_size = self._claim()
        self._started_at = monotonic()
        try:
            num_lanes = self._open_lanes(activation)
            for _ in range(num_lanes):
                self._lanes_ended.acquire()
        except BaseException:
            self.stop()
            raise
        if self._error is not None:
            raise own_error(self._error)
        if not self._num_completed:
            return BenchmarkResult(0, 0.0, 0.0, batch_size)
        elapsed = self._completed_at - self._started_at
        rate = self._num_completed / elapsed
        return BenchmarkResult(self._num_completed, rate, elapsed, batch_size)

    def stop(self) -> None:
        """Start no more inferences, so that `run` ends; safe in any thread and signal handler."""
        self._num_wanted = 0

    def _open_lanes(self, activation: int) -> int:
        """Start a lane on every slot that can be acquired; the number of lanes."""
        slots = self._loaded.slots
        num_lanes = 1
        self._next(activation)
        while self._has_more() and num_lanes < slots.num_slots:
            another = slots.acquire()
            if another is None:
                break
            num_lanes += 1
            self._next(another)
        return num_lanes

    def _has_more(self) -> bool:
        """Whether to start another inference; the first always starts, however short the time."""
        if self._num_started >= self._num_wanted:
            return False
        return self._num_started == 0 or monotonic() - self._started_at < self._inf_time

    def _next(self, activation: int) -> None:
        with self._lock:
            starts = self._has_more()
            self._num_started += starts
        if starts:
            self._loaded.submit(activation, self._inputs, partial(self._on_completed, activation))
        else:
            self._loaded.slots.release(activation)
            self._lanes_ended.release()

    def _on_completed(self, activation: int, result: Result, completed_at: float) -> None:
        with self._lock:
            if isinstance(result, Exception):
                self._error = self._error or result
                self.stop()
            else:
                self._num_completed += 1
                self._completed_at = max(self._completed_at, completed_at)
        self._next(activation)
