"""Keeps every slot of a loaded program busy and measures its rate, without Python in between."""

from __future__ import annotations

from functools import partial
from threading import Lock, Semaphore
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from qaic_sched.session.loaded import own_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.program import Tensors
    from qaic_sched.session.loaded import Answer, LoadedProgram

__all__ = ["Benchmark", "BenchmarkResult", "Claim"]

Claim: TypeAlias = "tuple[LoadedProgram, int, Tensors, int]"
"""A program, the activation of a slot that is held there, and inputs for it with their rows."""


class BenchmarkResult(NamedTuple):
    """The vendor's tuple: samples per second are `inf_rate` times `batch_size`."""

    inf_completed: int
    """Inferences completed."""
    inf_rate: float
    """Inferences per second."""
    inf_time: float
    """From the first submit to the device's last answer, in seconds."""
    batch_size: int
    """Samples per inference."""


class Benchmark:
    """Runs one input again and again, so many times or so many seconds, or until it is stopped.

    Each slot is a lane: the answer to one inference starts the next on the same activation, on
    the thread that brings the answer. `claim` gives the first slot and the input.
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
        """Run to the end; once. All 0 where it was stopped before its first inference.

        Raises the first error of an inference, once all are answered.
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
        """Start nothing more, from any thread or signal handler; `run` ends with what there is."""
        self._num_wanted = 0

    def _open_lanes(self, activation: int) -> int:
        """Start on every slot that can be had; how many lanes there are."""
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
        """Whether another inference is wanted; the first is, however short the time."""
        if self._num_started >= self._num_wanted:
            return False
        return self._num_started == 0 or monotonic() - self._started_at < self._inf_time

    def _next(self, activation: int) -> None:
        with self._lock:
            starts = self._has_more()
            self._num_started += starts
        if starts:
            self._loaded.submit(activation, self._inputs, partial(self._answered, activation))
        else:
            self._loaded.slots.release(activation)
            self._lanes_ended.release()

    def _answered(self, activation: int, answer: Answer, completed_at: float) -> None:
        with self._lock:
            if isinstance(answer, Exception):
                self._error = self._error or answer
                self.stop()
            else:
                self._num_completed += 1
                self._completed_at = max(self._completed_at, completed_at)
        self._next(activation)
