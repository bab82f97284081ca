"""The slots of one device for blocking callers: acquiring, waiting in order, and draining.

Rules of the file:
- A released slot goes to the caller that has waited longest, so no caller starves.
- Every wait can be interrupted; an interrupted caller does not lose a slot that it was given.
"""

from __future__ import annotations

from collections import deque
from threading import Event, Lock
from typing import Generic, TypeVar

__all__ = ["Handover", "SlotGate"]

T = TypeVar("T")


class Handover(Generic[T]):
    """Passes one value from one thread to another that waits: a future at the cost of a lock."""

    __slots__ = ("_given", "_value")

    def __init__(self) -> None:
        self._given = Lock()
        self._given.acquire()

    def give(self, value: T) -> None:
        """Give the value and wake the waiting thread; call it once."""
        self._value = value
        self._given.release()

    def take(self) -> T:
        """Wait for the value; call it once."""
        self._given.acquire()
        return self._value


class SlotGate:
    """`set_size` slots on each of `num_activations` activations; thread-safe."""

    def __init__(self, num_activations: int, set_size: int) -> None:
        self.num_slots = num_activations * set_size
        self._lock = Lock()
        self._held = [0] * num_activations
        self._num_free = self.num_slots
        self._num_released = 0
        self._waiting: deque[Handover[int | None]] = deque()
        self._is_open = True
        self._is_idle = Event()

    @property
    def is_open(self) -> bool:
        """Whether slots can still be acquired."""
        return self._is_open

    def acquire(self) -> int | None:
        """Wait for a slot on the least loaded activation; returns that, or None once closed."""
        with self._lock:
            if not self._is_open:
                return None
            if self._num_free:  # then no caller waits
                self._num_free -= 1
                activation = self._held.index(min(self._held))
                self._held[activation] += 1
                return activation
            place: Handover[int | None] = Handover()
            self._waiting.append(place)
        try:
            return place.take()
        except BaseException:
            self._leave(place)
            raise

    def release(self, activation: int) -> None:
        """Release a slot of this activation, after its inference has completed."""
        with self._lock:
            self._num_released += 1
            if self._waiting:
                self._waiting.popleft().give(activation)
                return
            self._held[activation] -= 1
            self._num_free += 1
            if self._num_free == self.num_slots and not self._is_open:
                self._is_idle.set()

    def drain(self, silence_s: float) -> bool:
        """Close, then wait until callers that hold a slot, or already wait for one, are done.

        False if no slot is released for `silence_s` seconds: the device hangs. May be repeated.
        """
        with self._lock:
            self._is_open = False
            if self._num_free == self.num_slots:
                self._is_idle.set()
            before = self._num_released
        while not self._is_idle.wait(silence_s):
            if self._num_released == before:
                return False
            before = self._num_released
        return True

    def dismiss(self) -> None:
        """End every wait for a slot, with the result of `acquire` after closing."""
        with self._lock:
            while self._waiting:
                self._waiting.popleft().give(None)

    def _leave(self, place: Handover[int | None]) -> None:
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                return
        activation = place.take()
        if activation is not None:
            self.release(activation)
